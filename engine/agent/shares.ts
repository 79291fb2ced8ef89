// The shares of a node: makes what runs equal to what the manager ordered last. Orders are whole: what is not in them is ended.
// Before the first order of this life nothing is touched, so that a restart of the agent interrupts nobody. Each share has its own turn:
// one that cannot be ended, because somebody works in it, keeps no other from being served.
import { existsSync, readdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { backoffMs, sleep } from '../async/wait.js';
import { toHoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import type { ShareOrder, ShareStatus } from '../nfs/share-types.js';
import { growFilesystem } from '../filesystem/filesystem.js';
import type { ProcessHost } from './process-host.js';
import { endShare, runShare } from './share.js';
import type { Serving } from './target-client.js';

export type SharesOptions = {
  /** Holds one folder per share, by volume id. */
  readonly directory: string;
  readonly address: string;
  readonly host: ProcessHost;
  readonly logger: Logger;
  readonly onChange: () => void;
  /** Ends the block device of a volume that is served elsewhere by now; its I/O fails from then on. */
  readonly dropDevice: (volumeId: string) => Promise<void>;
  /** Whether the target process of this node serves a volume. */
  readonly serving: (volumeId: string) => Promise<Serving>;
  /** How long a volume that is not served here may come back, before what is left of its share is given up. */
  readonly absentMaxMs?: number;
};

const absentMaxMs = 10_000;
const endRetryFirstMs = 200;
const endRetryMaxMs = 5_000;

type Running = { readonly order: ShareOrder; readonly stop: AbortController; readonly done: Promise<void> };

export class Shares {
  readonly #options: SharesOptions;
  readonly #running = new Map<string, Running>();
  readonly #statuses = new Map<string, ShareStatus>();
  #wanted: ReadonlyMap<string, ShareOrder> | null = null;
  // By volume id: what is being done, one after the other.
  readonly #turns = new Map<string, Promise<void>>();
  #closed = new AbortController();

  constructor(options: SharesOptions) {
    this.#options = options;
  }

  statuses(): readonly ShareStatus[] {
    return [...this.#statuses.values()];
  }

  order(orders: readonly ShareOrder[]): void {
    this.#wanted = new Map(orders.map((order) => [order.volumeId, order]));
    for (const id of new Set([
      ...this.#wanted.keys(),
      ...this.#running.keys(),
      ...this.#turns.keys(),
      ...this.#onDisk(),
    ]))
      this.#schedule(id);
  }

  /** Stops looking after them; what runs keeps running. */
  async close(): Promise<void> {
    this.#closed.abort();
    for (const { stop } of this.#running.values()) stop.abort();
    await Promise.all([...this.#turns.values(), ...[...this.#running.values()].map(({ done }) => done)]);
  }

  #schedule(volumeId: string): void {
    const turn = (this.#turns.get(volumeId) ?? Promise.resolve())
      .then(() => this.#apply(volumeId))
      .finally(() => {
        if (this.#turns.get(volumeId) === turn) this.#turns.delete(volumeId);
      });
    this.#turns.set(volumeId, turn);
  }

  // Makes it what was ordered last.
  async #apply(volumeId: string): Promise<void> {
    if (this.#wanted === null || this.#closed.signal.aborted) return;
    const order = this.#wanted.get(volumeId);
    if (order === undefined) await this.#end(volumeId);
    else if (order.device !== '') await this.#serve(order);
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
      serving: this.#options.serving,
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
    this.#stopping(volumeId, null);
    present?.stop.abort();
    await present?.done;
    this.#running.delete(volumeId);
    // Not served by this life of the agent: the volume may be elsewhere by now, and what is mounted here hang for ever.
    const stale = present === undefined;
    const givenUpMs = this.#options.absentMaxMs ?? absentMaxMs;
    let absentAt = performance.now();
    for (let attempt = 1; !this.#closed.signal.aborted; attempt++) {
      // Served again, it goes on as it is.
      if (this.#wanted?.has(volumeId) === true) return;
      const serving = stale ? 'fenced' : await this.#options.serving(volumeId);
      if (serving !== 'absent') absentAt = performance.now();
      const isLost = serving === 'fenced' || (serving === 'absent' && performance.now() - absentAt >= givenUpMs);
      // Whoever writes back what nobody takes would wait as long.
      const ended = (serving === 'serving' || isLost) && (await this.#tryEnd(volumeId, isLost));
      if (ended) break;
      await sleep(backoffMs(attempt, endRetryFirstMs, endRetryMaxMs), this.#closed.signal);
    }
    this.#statuses.delete(volumeId);
    this.#options.onChange();
  }

  // `isLost`: nothing that is written to the volume here will ever reach it.
  async #tryEnd(volumeId: string, isLost: boolean): Promise<boolean> {
    const directory = this.#directoryOf(volumeId);
    try {
      await endShare(directory, this.#options.host, isLost);
      if (isLost) await this.#options.dropDevice(volumeId);
      removeFolders(directory);
      return true;
    } catch (error) {
      this.#options.logger.warn('a share could not be ended yet', { volumeId, ...errorFields(error) });
      const { code, message } = toHoldfastError(error);
      this.#stopping(volumeId, { code, message });
      return false;
    }
  }

  #stopping(volumeId: string, failure: ShareStatus['failure']): void {
    const status = this.#statuses.get(volumeId);
    if (status !== undefined) this.#set({ ...status, state: 'stopping', failure });
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
