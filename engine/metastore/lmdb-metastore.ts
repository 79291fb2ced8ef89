// The embedded metadata store: one manager, one lmdb environment. Every commit is synced before its promise resolves.
//
// Databases: entries (key -> [createRevision, modRevision, lease or null, value]), leases (id -> {ttlMs, keys}),
// meta (format, revision, lease counter). After a restart every lease starts anew with its full time to live.
import { mkdirSync } from 'node:fs';
import { open } from 'lmdb';
import type { Database, RootDatabase } from 'lmdb';
import { z } from 'zod';
import { HoldfastError } from '../errors/holdfast-error.js';
import type {
  Change,
  Compare,
  LeaseId,
  Metastore,
  RangeOutcome,
  StoredEntry,
  TransactionOutcome,
  WatchEvent,
} from './metastore.js';
import { WatchHub } from './watch-hub.js';

const formatVersion = 1;

type Row = readonly [createRevision: number, modRevision: number, lease: LeaseId | null, value: string];
type Applied = { readonly outcome: TransactionOutcome; readonly events: readonly WatchEvent[] };
type LeaseRow = { readonly ttlMs: number; readonly keys: readonly string[] };

const rowSchema = z.tuple([z.number(), z.number(), z.string().nullable(), z.string()]);

export type Clock = {
  /** Monotonic, ms. */
  readonly now: () => number;
  readonly after: (ms: number, task: () => void) => { readonly cancel: () => void };
};

export const systemClock: Clock = {
  now: () => performance.now(),
  after: (ms, task) => {
    const timer = setTimeout(task, ms);
    timer.unref();
    return {
      cancel: () => {
        clearTimeout(timer);
      },
    };
  },
};

/** Opens or makes the store in this folder. FORMAT_TOO_NEW when a later version wrote it. */
export async function openLmdbMetastore(directory: string, clock: Clock = systemClock): Promise<Metastore> {
  mkdirSync(directory, { recursive: true });
  const root = open({
    path: directory,
    noSubdir: false,
    // A commit is durable when it is visible: no window in which an answer could be lost.
    overlappingSync: false,
    encoding: 'json',
    maxDbs: 4,
  });
  const store = new LmdbMetastore(root, clock);
  try {
    await store.start();
  } catch (error) {
    await root.close();
    throw error;
  }
  return {
    get: (key) => Promise.resolve(store.get(key)),
    range: (prefix, options) => Promise.resolve(store.range(prefix, options)),
    transact: (compares, changes) => store.transact(compares, changes),
    watch: (prefix, signal) => store.watch(prefix, signal),
    grantLease: (ttlMs) => store.grantLease(ttlMs),
    renewLease: (lease) =>
      Promise.resolve().then(() => {
        store.renewLease(lease);
      }),
    revokeLease: (lease) => store.revokeLease(lease),
    close: () => store.close(),
  };
}

class LmdbMetastore {
  readonly #root: RootDatabase;
  readonly #entries: Database<Row, string>;
  readonly #leases: Database<LeaseRow, string>;
  readonly #meta: Database<number, string>;
  readonly #clock: Clock;
  readonly #watches = new WatchHub();
  readonly #leaseTimers = new Map<LeaseId, { readonly cancel: () => void }>();
  #published: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(root: RootDatabase, clock: Clock) {
    this.#root = root;
    this.#clock = clock;
    this.#entries = root.openDB({ name: 'entries', encoding: 'json' });
    this.#leases = root.openDB({ name: 'leases', encoding: 'json' });
    this.#meta = root.openDB({ name: 'meta', encoding: 'json' });
  }

  async start(): Promise<void> {
    const format = this.#meta.get('format');
    if (format === undefined) await this.#meta.put('format', formatVersion);
    else if (format > formatVersion) {
      throw new HoldfastError(
        'FORMAT_TOO_NEW',
        `the metadata store has format ${format}, this version knows formats up to ${formatVersion}: use a newer Holdfast`,
      );
    }
    for (const lease of this.#leases.getKeys()) this.#armLease(lease);
  }

  get(key: string): StoredEntry | null {
    this.#assertOpen();
    const row = this.#entries.get(key);
    return row === undefined ? null : toEntry(key, row);
  }

  range(prefix: string, options: { readonly limit?: number; readonly after?: string } = {}): RangeOutcome {
    this.#assertOpen();
    const entries: StoredEntry[] = [];
    const start = options.after ?? prefix;
    for (const { key, value } of this.#entries.getRange({ start, end: `${prefix}\u{10ffff}` })) {
      if (entries.length === (options.limit ?? Infinity)) break;
      if (key !== options.after) entries.push(toEntry(key, value));
    }
    return { entries, revision: this.#revision() };
  }

  async transact(compares: readonly Compare[], changes: readonly Change[]): Promise<TransactionOutcome> {
    this.#assertOpen();
    return await this.#commit(() => this.#apply(compares, changes));
  }

  watch(prefix: string, signal: AbortSignal): AsyncIterable<readonly WatchEvent[]> {
    this.#assertOpen();
    return this.#watches.watch(prefix, signal);
  }

  async grantLease(ttlMs: number): Promise<LeaseId> {
    this.#assertOpen();
    const lease = await this.#root.transaction(() => {
      const number = (this.#meta.get('lease') ?? 0) + 1;
      this.#meta.putSync('lease', number);
      this.#leases.putSync(String(number), { ttlMs, keys: [] });
      return String(number);
    });
    this.#armLease(lease);
    return lease;
  }

  renewLease(lease: LeaseId): void {
    this.#assertOpen();
    if (!this.#leaseTimers.has(lease)) throw leaseNotFound(lease);
    this.#armLease(lease);
  }

  async revokeLease(lease: LeaseId): Promise<void> {
    this.#assertOpen();
    this.#leaseTimers.get(lease)?.cancel();
    this.#leaseTimers.delete(lease);
    // The keys are read in the transaction that deletes them: none can be bound in between and stay for ever.
    await this.#commit(() => {
      const keys = this.#leases.get(lease)?.keys ?? [];
      this.#leases.removeSync(lease);
      return this.#apply(
        [],
        keys.map((key) => ({ kind: 'delete', key })),
      );
    });
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const timer of this.#leaseTimers.values()) timer.cancel();
    await this.#published;
    this.#watches.close();
    await this.#root.close();
  }

  // Published in the order of commits, even when promises of one batch were to resolve in another order.
  async #commit(apply: () => Applied): Promise<TransactionOutcome> {
    const committed = this.#root.transaction(apply);
    this.#published = this.#published.then(async () => {
      try {
        this.#watches.publish((await committed).events);
      } catch {
        // The caller of this transaction gets the error; there is nothing to publish.
      }
    });
    return (await committed).outcome;
  }

  // Runs inside a write transaction.
  #apply(compares: readonly Compare[], changes: readonly Change[]): Applied {
    const before = this.#revision();
    const holds = compares.every(({ key, modRevision }) => (this.#entries.get(key)?.[1] ?? 0) === modRevision);
    if (!holds) return { outcome: { succeeded: false, revision: before }, events: [] };
    // Checked before the first change: a transaction that fails must change nothing.
    for (const change of changes) {
      if (change.kind === 'put' && change.lease !== undefined && this.#leases.get(change.lease) === undefined) {
        throw leaseNotFound(change.lease);
      }
    }
    const revision = before + 1;
    const events = changes.flatMap((change) => this.#applyChange(change, revision));
    if (events.length === 0) return { outcome: { succeeded: true, revision: before }, events };
    this.#meta.putSync('revision', revision);
    return { outcome: { succeeded: true, revision }, events };
  }

  #applyChange(change: Change, revision: number): WatchEvent[] {
    const former = this.#entries.get(change.key);
    const formerLease = former?.[2] ?? null;
    const lease = change.kind === 'put' ? (change.lease ?? null) : null;
    if (formerLease !== null && formerLease !== lease)
      this.#bind(formerLease, (keys) => keys.filter((key) => key !== change.key));
    if (change.kind === 'delete') {
      if (former === undefined) return [];
      this.#entries.removeSync(change.key);
      return [{ kind: 'delete', key: change.key, revision }];
    }
    if (lease !== null && formerLease !== lease) this.#bind(lease, (keys) => [...keys, change.key]);
    const row: Row = [former?.[0] ?? revision, revision, lease, change.value];
    this.#entries.putSync(change.key, row);
    return [{ kind: 'put', entry: toEntry(change.key, row) }];
  }

  #bind(lease: LeaseId, edit: (keys: readonly string[]) => readonly string[]): void {
    const row = this.#leases.get(lease);
    if (row !== undefined) this.#leases.putSync(lease, { ttlMs: row.ttlMs, keys: edit(row.keys) });
  }

  #armLease(lease: LeaseId): void {
    const row = this.#leases.get(lease);
    if (row === undefined) return;
    this.#leaseTimers.get(lease)?.cancel();
    const timer = this.#clock.after(row.ttlMs, () => {
      if (!this.#closed) void this.revokeLease(lease);
    });
    this.#leaseTimers.set(lease, timer);
  }

  #revision(): number {
    return this.#meta.get('revision') ?? 0;
  }

  #assertOpen(): void {
    if (this.#closed) throw new HoldfastError('STORE_UNAVAILABLE', 'the metadata store is closed');
  }
}

function toEntry(key: string, row: Row): StoredEntry {
  const [createRevision, modRevision, , value] = rowSchema.parse(row);
  return { key, value, createRevision, modRevision };
}

function leaseNotFound(lease: LeaseId): HoldfastError {
  return new HoldfastError('NOT_FOUND', `lease ${lease} does not exist or has expired: ask for a new one`);
}
