// The metadata store: one small interface, shaped so that an embedded store and etcd can both implement it.
//
// Keys are strings, ordered by their UTF-8 bytes; values are strings. Every successful transaction that changes something
// raises the store's revision by one; a key carries the revision of its creation and of its last change. Invariants that
// every implementation keeps (metastore.test.ts runs on each):
//  1. A transaction is atomic, isolated, and durable before its promise resolves.
//  2. A watch delivers every change after its start, in order of revision, none twice, whole transactions at a time.
//  3. A key bound to a lease disappears at the latest `ttl` + one tick after the lease's last renewal, as a transaction.

export type StoredEntry = {
  readonly key: string;
  readonly value: string;
  readonly createRevision: number;
  readonly modRevision: number;
};

/** Holds when the key's last change has exactly this revision; 0: the key does not exist. */
export type Compare = { readonly key: string; readonly modRevision: number };

export type Change =
  | { readonly kind: 'put'; readonly key: string; readonly value: string; readonly lease?: LeaseId }
  | { readonly kind: 'delete'; readonly key: string };

export type LeaseId = string;

export type TransactionOutcome = {
  /** False: some compare did not hold, and nothing was changed. */
  readonly succeeded: boolean;
  /** Of the store after the transaction. */
  readonly revision: number;
};

export type WatchEvent =
  | { readonly kind: 'put'; readonly entry: StoredEntry }
  | { readonly kind: 'delete'; readonly key: string; readonly revision: number };

export type RangeOutcome = { readonly entries: readonly StoredEntry[]; readonly revision: number };

export type Metastore = {
  readonly get: (key: string) => Promise<StoredEntry | null>;
  /** All keys that begin with `prefix`, ascending; at most `limit`, starting after the key `after` when given. */
  readonly range: (
    prefix: string,
    options?: { readonly limit?: number; readonly after?: string },
  ) => Promise<RangeOutcome>;
  /** When all compares hold, makes all changes. A key is changed at most once per transaction. */
  readonly transact: (compares: readonly Compare[], changes: readonly Change[]) => Promise<TransactionOutcome>;
  /** Changes of keys that begin with `prefix`, from the call on, one array per transaction. Ends when the signal aborts. */
  readonly watch: (prefix: string, signal: AbortSignal) => AsyncIterable<readonly WatchEvent[]>;
  readonly grantLease: (ttlMs: number) => Promise<LeaseId>;
  /** NOT_FOUND when it has expired. */
  readonly renewLease: (lease: LeaseId) => Promise<void>;
  /** Deletes the keys bound to it. */
  readonly revokeLease: (lease: LeaseId) => Promise<void>;
  readonly close: () => Promise<void>;
};
