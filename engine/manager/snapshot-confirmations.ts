// Snapshots that are in the log of their volume while the metadata store still calls them "creating". Whoever asked has been answered: the
// stored record and the log are all that it takes, and a manager that finds such a record looks into the log (snapshot-settling.ts). So the
// record's second half need not be waited for. It is stored along with the records of the next snapshots, in commits that are made anyway;
// what is left when no more are taken is stored for many at once.
//
// Until then this is where the truth is: readers of records look through `of`. A record that was changed since is left alone.
import type { Change, Compare, Metastore } from '../metastore/metastore.js';
import type { SnapshotRecord } from './records.js';

export type Confirmation = { readonly record: SnapshotRecord; readonly compare: Compare; readonly change: Change };

const atOnce = 32;
// With each new record: more than one, so that what a failure left behind becomes less.
const atOnceAlong = 2;

export class SnapshotConfirmations {
  readonly #store: Pick<Metastore, 'transact'>;
  readonly #afterMs: number;
  // By id of the snapshot, in order of arrival.
  readonly #waiting = new Map<string, Confirmation>();
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> = Promise.resolve();

  constructor(store: Pick<Metastore, 'transact'>, afterMs = 1_000) {
    this.#store = store;
    this.#afterMs = afterMs;
  }

  add(confirmation: Confirmation): void {
    this.#waiting.set(confirmation.record.id, confirmation);
    if (this.#timer === null) this.#writeLater();
    else this.#timer.refresh();
  }

  /** To be called with a transaction that is waited for: the store commits both together. */
  writeAlong(): void {
    if (this.#waiting.size === 0) return;
    this.#inTurn(async () => {
      const part: Confirmation[] = [];
      for (const one of this.#waiting.values()) {
        if (part.length === atOnceAlong) break;
        part.push(one);
      }
      if (part.length > 0) await this.#writePart(part);
    }).catch(() => undefined);
  }

  /** What the record says, or will. */
  of(record: SnapshotRecord): SnapshotRecord {
    return this.#waiting.get(record.id)?.record ?? record;
  }

  forget(snapshotId: string): void {
    this.#waiting.delete(snapshotId);
  }

  /** Stores all there are; those that cannot be stored are tried again later. */
  async write(): Promise<void> {
    await this.#inTurn(() => this.#writeAll());
  }

  /** Nothing is tried again after this. */
  async stop(): Promise<void> {
    await this.write().catch(() => undefined);
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #writeLater(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.write().catch(() => {
        this.#writeLater();
      });
    }, this.#afterMs);
  }

  // One at a time, so that none is written twice.
  async #inTurn(write: () => Promise<void>): Promise<void> {
    const written = this.#writing.then(write);
    this.#writing = written.catch(() => undefined);
    await written;
  }

  async #writeAll(): Promise<void> {
    const all = [...this.#waiting.values()];
    const parts = Array.from({ length: Math.ceil(all.length / atOnce) }, (_, n) =>
      all.slice(n * atOnce, (n + 1) * atOnce),
    );
    await Promise.all(parts.map((part) => this.#writePart(part)));
  }

  async #writePart(part: readonly Confirmation[]): Promise<void> {
    const outcome = await this.#store.transact(
      part.map(({ compare }) => compare),
      part.map(({ change }) => change),
    );
    // One of them was changed meanwhile: each by itself.
    if (!outcome.succeeded && part.length > 1) {
      for (const one of part) await this.#writePart([one]);
      return;
    }
    for (const one of part) {
      if (this.#waiting.get(one.record.id) === one) this.#waiting.delete(one.record.id);
    }
  }
}
