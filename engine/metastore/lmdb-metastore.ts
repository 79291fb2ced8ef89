// The embedded metadata store: one manager, one lmdb environment. Every commit is synced before its promise resolves.
//
// Databases: entries (key -> [createRevision, modRevision, lease or null, value]), leases (id -> {ttlMs, keys}),
// meta (format, revision, lease counter). After a restart every lease starts anew with its full time to live.
//
// A full file system is an error of each transaction that comes to need room (STORE_UNAVAILABLE): it changes nothing, what is stored stays
// readable, and transactions succeed again once there is room. After any other failure of a commit it is not known what the environment holds
// in memory: the process ends (uncaught), and the next one opens it anew.
import { existsSync, renameSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { open } from 'lmdb';
import type { Database, RootDatabase } from 'lmdb';
import { z } from 'zod';
import { HoldfastError } from '../errors/holdfast-error.js';
import { makeFolders } from '../os/folders.js';
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

// ENOSPC and EDQUOT, as lmdb and as Node.js have them.
const noRoom: ReadonlySet<unknown> = new Set([28, 122, 'ENOSPC', 'EDQUOT']);
// EIO: also what lmdb says when only a part of what it wrote found room.
const inputOutputError = 5;
const fullBelowBytes = 2 ** 20;
const leaseRetryMs = 1_000;
// The longest key that lmdb takes, with its pages of 4 KiB. No longer one can be there.
const keyBytesMax = 1_978;
// Room for 126 readers, as lmdb has by default, and more.
const lockFileBytes = 16 * 1024;

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

/** Opens or makes the store in this folder. FORMAT_TOO_NEW when a later version wrote it; STORE_UNAVAILABLE when there is no room for it. */
export async function openLmdbMetastore(directory: string, clock: Clock = systemClock): Promise<Metastore> {
  const store = await openStoreIn(directory, clock);
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

async function openStoreIn(directory: string, clock: Clock): Promise<LmdbMetastore> {
  let root: RootDatabase | null = null;
  try {
    makeFolders(directory);
    makeLockFile(directory);
    root = open({
      path: directory,
      noSubdir: false,
      // A commit is durable when it is visible: no window in which an answer could be lost.
      overlappingSync: false,
      // Batches of a turn have a promise that nobody gets hold of: when the commit fails, it is one more that is rejected, unhandled.
      eventTurnBatching: false,
      encoding: 'json',
      maxDbs: 4,
    });
    const store = new LmdbMetastore(root, directory, clock);
    await store.start();
    return store;
  } catch (error) {
    await root?.close();
    throw isNoRoom(error, directory) ? commitFailure(error, directory) : error;
  }
}

// lmdb makes it sparse and maps it: a page that finds no room when it is touched ends the process (SIGBUS). Zeros are what it begins with.
function makeLockFile(directory: string): void {
  const path = join(directory, 'lock.mdb');
  if (existsSync(path)) return;
  const beside = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(beside, Buffer.alloc(lockFileBytes), { mode: 0o664 });
    renameSync(beside, path);
  } catch (error) {
    rmSync(beside, { force: true });
    throw error;
  }
}

class LmdbMetastore {
  readonly #root: RootDatabase;
  readonly #entries: Database<Row, string>;
  readonly #leases: Database<LeaseRow, string>;
  readonly #meta: Database<number, string>;
  readonly #directory: string;
  readonly #clock: Clock;
  readonly #watches = new WatchHub();
  readonly #leaseTimers = new Map<LeaseId, { readonly cancel: () => void }>();
  #published: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(root: RootDatabase, directory: string, clock: Clock) {
    this.#root = root;
    this.#directory = directory;
    this.#clock = clock;
    this.#entries = root.openDB({ name: 'entries', encoding: 'json' });
    this.#leases = root.openDB({ name: 'leases', encoding: 'json' });
    this.#meta = root.openDB({ name: 'meta', encoding: 'json' });
  }

  async start(): Promise<void> {
    const format = this.#meta.get('format');
    if (format === undefined) {
      await this.#write(() => {
        this.#meta.putSync('format', formatVersion);
      });
    } else if (format > formatVersion) {
      throw new HoldfastError(
        'FORMAT_TOO_NEW',
        `the metadata store has format ${format}, this version knows formats up to ${formatVersion}: use a newer Holdfast`,
      );
    }
    for (const lease of this.#leases.getKeys()) this.#armLease(lease);
  }

  get(key: string): StoredEntry | null {
    this.#assertOpen();
    const row = this.#row(key);
    return row === undefined ? null : toEntry(key, row);
  }

  #row(key: string): Row | undefined {
    return fits(key) ? this.#entries.get(key) : undefined;
  }

  range(prefix: string, options: { readonly limit?: number; readonly after?: string } = {}): RangeOutcome {
    this.#assertOpen();
    const entries: StoredEntry[] = [];
    if (!fits(prefix)) return { entries, revision: this.#revision() };
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
    const lease = await this.#write(() => {
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
    const committed = this.#write(apply);
    this.#published = this.#published.then(async () => {
      try {
        this.#watches.publish((await committed).events);
      } catch {
        // The caller of this transaction gets the error; there is nothing to publish.
      }
    });
    return (await committed).outcome;
  }

  async #write<T>(change: () => T): Promise<T> {
    try {
      return await this.#root.transaction(change);
    } catch (thrown) {
      const cause = await commitErrorOf(thrown);
      if (cause === null) throw thrown;
      const error = commitFailure(cause, this.#directory);
      if (error.code !== 'STORE_UNAVAILABLE') {
        setImmediate(() => {
          throw error;
        });
      }
      throw error;
    }
  }

  // Runs inside a write transaction.
  #apply(compares: readonly Compare[], changes: readonly Change[]): Applied {
    const before = this.#revision();
    const holds = compares.every(({ key, modRevision }) => (this.#row(key)?.[1] ?? 0) === modRevision);
    if (!holds) return { outcome: { succeeded: false, revision: before }, events: [] };
    // Checked before the first change: a transaction that fails must change nothing.
    for (const change of changes) {
      if (change.kind === 'put' && !fits(change.key)) throw keyTooLong(change.key);
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
    const former = this.#row(change.key);
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
    this.#expireAfter(lease, row.ttlMs);
  }

  #expireAfter(lease: LeaseId, ms: number): void {
    const timer = this.#clock.after(ms, () => {
      if (this.#closed) return;
      // Later, when the store can be written again.
      this.revokeLease(lease).catch(() => {
        if (!this.#closed) this.#expireAfter(lease, leaseRetryMs);
      });
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

function fits(key: string): boolean {
  return Buffer.byteLength(key) <= keyBytesMax;
}

function keyTooLong(key: string): HoldfastError {
  return new HoldfastError(
    'INVALID_ARGUMENT',
    `the metadata store takes keys of at most ${keyBytesMax} bytes, not of ${Buffer.byteLength(key)} ("${key.slice(0, 40)}…"): use a shorter name`,
  );
}

function toEntry(key: string, row: Row): StoredEntry {
  const [createRevision, modRevision, , value] = rowSchema.parse(row);
  return { key, value, createRevision, modRevision };
}

// The reason comes beside the error, as a promise that is rejected with it. Null: the error is not about the commit.
async function commitErrorOf(thrown: unknown): Promise<unknown> {
  if (!(thrown instanceof Error) || !('commitError' in thrown)) return null;
  try {
    return await thrown.commitError;
  } catch (cause) {
    return cause;
  }
}

function isNoRoom(error: unknown, directory: string): boolean {
  if (!(error instanceof Error) || !('code' in error)) return false;
  if (error.code !== inputOutputError) return noRoom.has(error.code);
  const { bavail, bsize } = statfsSync(directory);
  return bavail * bsize < fullBelowBytes;
}

/** STORE_UNAVAILABLE when only room is missing, else DISK_IO. */
export function commitFailure(cause: unknown, directory: string): HoldfastError {
  if (isNoRoom(cause, directory)) {
    return new HoldfastError(
      'STORE_UNAVAILABLE',
      `the metadata store in ${directory} cannot be changed: its file system is full. Free space there: what is stored is not harmed, ` +
        `and everything continues by itself`,
      { cause },
    );
  }
  const why = cause instanceof Error ? cause.message : String(cause);
  return new HoldfastError(
    'DISK_IO',
    `the metadata store in ${directory} could not be written (${why}): check the disk and the kernel log`,
    { cause },
  );
}

function leaseNotFound(lease: LeaseId): HoldfastError {
  return new HoldfastError('NOT_FOUND', `lease ${lease} does not exist or has expired: ask for a new one`);
}
