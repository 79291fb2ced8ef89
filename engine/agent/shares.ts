// The shares of a node: makes what runs equal to what the manager ordered last. Orders are whole: what is not in them is ended.
// Before the first order of this life nothing is touched, so that a restart of the agent interrupts nobody.
import { existsSync, readdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { backoffMs, sleep } from '../async/wait.js';
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import type { ShareOrder, ShareStatus } from '../nfs/share-types.js';
import { growFilesystem } from '../filesystem/filesystem.js';
import type { ProcessHost } from './process-host.js';
import { endShare, runShare } from './share.js';

export type SharesOptions = {
  /** Holds one folder per share, by volume id. */
  readonly directory: string;
  readonly address: string;
  readonly host: ProcessHost;
  readonly logger: Logger;
  readonly onChange: () => void;
  /** Ends the block device of a volume that is served elsewhere by now; its I/O fails from then on. */
  readonly dropDevice: (volumeId: string) => Promise<void>;
  readonly isFenced: (volumeId: string) => Promise<boolean>;
};

type Running = { readonly order: ShareOrder; readonly stop: AbortController; readonly done: Promise<void> };

export class Shares {
  readonly #options: SharesOptions;
  readonly #running = new Map<string, Running>();
  readonly #statuses = new Map<string, ShareStatus>();
  #wanted: ReadonlyMap<string, ShareOrder> | null = null;
  #turn: Promise<void> = Promise.resolve();
  #closed = new AbortController();

  constructor(options: SharesOptions) {
    this.#options = options;
  }

  statuses(): readonly ShareStatus[] {
    return [...this.#statuses.values()];
  }

  order(orders: readonly ShareOrder[]): void {
    this.#wanted = new Map(orders.map((order) => [order.volumeId, order]));
    this.#turn = this.#turn.then(() => this.#apply());
  }

  /** Stops looking after them; what runs keeps running. */
  async close(): Promise<void> {
    this.#closed.abort();
    for (const { stop } of this.#running.values()) stop.abort();
    await Promise.all([this.#turn, ...[...this.#running.values()].map(({ done }) => done)]);
  }

  async #apply(): Promise<void> {
    const wanted = this.#wanted;
    if (wanted === null || this.#closed.signal.aborted) return;
    const gone = [...new Set([...this.#running.keys(), ...this.#onDisk()])].filter((id) => !wanted.has(id));
    await Promise.all(gone.map((id) => this.#end(id)));
    for (const order of wanted.values()) {
      if (order.device !== '') await this.#serve(order);
    }
  }

  async #serve(order: ShareOrder): Promise<void> {
    const present = this.#running.get(order.volumeId);
    if (present !== undefined) {
      if (sameShare(present.order, order)) {
        if (present.order.sizeBytes !== order.sizeBytes) await this.#grow(order);
        this.#running.set(order.volumeId, { ...present, order });
        return;
      }
      present.stop.abort();
      await present.done;
    }
    const stop = new AbortController();
    const { address, host, logger } = this.#options;
    const context = {
      directory: this.#directoryOf(order.volumeId),
      address,
      host,
      isFenced: this.#options.isFenced,
      logger: logger.child({ share: order.volume }),
      onStatus: (status: ShareStatus) => {
        this.#set(status);
      },
    };
    this.#running.set(order.volumeId, { order, stop, done: runShare(order, context, stop.signal) });
  }

  async #grow(order: ShareOrder): Promise<void> {
    try {
      await growFilesystem(order.device);
    } catch (error) {
      this.#options.logger.error('a share could not be grown', { share: order.volume, ...errorFields(error) });
    }
  }

  async #end(volumeId: string): Promise<void> {
    const present = this.#running.get(volumeId);
    const status = this.#statuses.get(volumeId);
    if (status !== undefined) this.#set({ ...status, state: 'stopping' });
    present?.stop.abort();
    await present?.done;
    this.#running.delete(volumeId);
    const directory = this.#directoryOf(volumeId);
    // Not served by this life of the agent: the volume may be elsewhere by now, and what is mounted here hang for ever.
    const stale = present === undefined;
    for (let attempt = 1; !this.#closed.signal.aborted; attempt++) {
      try {
        await endShare(directory, this.#options.host, stale);
        if (stale) await this.#options.dropDevice(volumeId);
        removeFolders(directory);
        break;
      } catch (error) {
        this.#options.logger.warn('a share could not be ended yet', { volumeId, ...errorFields(error) });
        await sleep(backoffMs(attempt, 200, 5_000), this.#closed.signal);
      }
    }
    this.#statuses.delete(volumeId);
    this.#options.onChange();
  }

  #set(status: ShareStatus): void {
    this.#statuses.set(status.volumeId, status);
    this.#options.onChange();
  }

  #directoryOf(volumeId: string): string {
    return join(this.#options.directory, volumeId);
  }

  #onDisk(): readonly string[] {
    const { directory } = this.#options;
    return existsSync(directory) ? readdirSync(directory) : [];
  }
}

/** Ends all shares of a node whose agent has stopped for good. What cannot be ended stays, and waits for its next start. */
export async function endAllShares(directory: string, host: ProcessHost): Promise<void> {
  const shares = existsSync(directory) ? readdirSync(directory) : [];
  await Promise.all(shares.map((volumeId) => endShare(join(directory, volumeId), host, false).catch(() => undefined)));
}

// Empty ones only: were a file system still mounted there, its files would be somebody's.
function removeFolders(directory: string): void {
  for (const folder of [join(directory, 'fs'), directory]) {
    if (existsSync(folder)) rmdirSync(folder);
  }
}

// The size may change while it is served, and the port is only where to begin looking for one.
function sameShare(a: ShareOrder, b: ShareOrder): boolean {
  const key = ({ device, fs, options }: ShareOrder) => JSON.stringify([device, fs, options]);
  return key(a) === key(b);
}
