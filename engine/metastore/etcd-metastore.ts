// The metadata store in an etcd cluster, for several managers. Keys get a prefix, so that a cluster of etcd can be shared.
//
// A watch begins after the newest revision that this client has seen in any answer: whatever the caller does not know yet is
// delivered. Leases have whole seconds (rounded up), and etcd raises very short ones.
import { HoldfastError } from '../errors/holdfast-error.js';
import { sleep } from '../async/wait.js';
import type {
  KeyValue,
  LeaseGrantResponse,
  LeaseKeepAliveResponse,
  RangeResponse,
  RequestOp,
  TxnResponse,
} from '../generated/etcd/rpc.js';
import type { Change, LeaseId, Metastore, RangeOutcome, StoredEntry, TransactionOutcome } from './metastore.js';
import { EtcdEndpoints } from './etcd-endpoints.js';
import type { EtcdOptions } from './etcd-endpoints.js';
import { watchEtcd } from './etcd-watch.js';

const modTarget = 2;
const equal = 0;
// So that no answer becomes too large; a whole range is read at one revision.
const pageEntries = 5_000;

/** STORE_UNAVAILABLE when no member answers within a moment. */
export async function openEtcdMetastore(options: EtcdOptions): Promise<Metastore> {
  const endpoints = new EtcdEndpoints(options);
  const store = new EtcdMetastore(endpoints, options.prefix);
  try {
    await store.get('/');
  } catch (error) {
    endpoints.close();
    throw error;
  }
  return {
    get: (key) => store.get(key),
    range: (prefix, rangeOptions) => store.range(prefix, rangeOptions),
    transact: (compares, changes) => store.transact(compares, changes),
    watch: (prefix, signal) => store.watch(prefix, signal),
    grantLease: (ttlMs) => store.grantLease(ttlMs),
    renewLease: (lease) => store.renewLease(lease),
    revokeLease: (lease) => store.revokeLease(lease),
    close: () => store.close(),
  };
}

class EtcdMetastore {
  readonly #endpoints: EtcdEndpoints;
  readonly #prefix: string;
  readonly #closed = new AbortController();
  #seenRevision = 0n;

  constructor(endpoints: EtcdEndpoints, prefix: string) {
    this.#endpoints = endpoints;
    this.#prefix = prefix;
  }

  async get(key: string): Promise<StoredEntry | null> {
    const { kvs } = await this.#range({ key: this.#bytes(key), rangeEnd: Buffer.alloc(0), limit: 1, revision: 0n });
    const [found] = kvs;
    return found === undefined ? null : this.#entry(found);
  }

  async range(
    prefix: string,
    options: { readonly limit?: number; readonly after?: string } = {},
  ): Promise<RangeOutcome> {
    const entries: StoredEntry[] = [];
    const limit = options.limit ?? Infinity;
    const rangeEnd = endOf(this.#bytes(prefix));
    let key = options.after === undefined ? this.#bytes(prefix) : next(this.#bytes(options.after));
    let revision = 0n;
    for (;;) {
      const wanted = Math.min(pageEntries, limit - entries.length);
      // etcd takes 0 for "no limit".
      const page = await this.#range({ key, rangeEnd, limit: Math.max(1, wanted), revision });
      if (revision === 0n) revision = page.header?.revision ?? 0n;
      if (wanted > 0) for (const each of page.kvs) entries.push(this.#entry(each));
      const last = page.kvs.at(-1);
      if (!page.more || last === undefined || entries.length >= limit) {
        return { entries, revision: Number(revision) };
      }
      key = next(last.key);
    }
  }

  async transact(
    compares: readonly { readonly key: string; readonly modRevision: number }[],
    changes: readonly Change[],
  ): Promise<TransactionOutcome> {
    this.#assertOpen();
    const request = {
      compare: compares.map(({ key, modRevision }) => ({
        result: equal,
        target: modTarget,
        key: this.#bytes(key),
        modRevision: BigInt(modRevision),
      })),
      success: changes.map((change) => this.#operation(change)),
    };
    const { header, succeeded } = await this.#endpoints.call<TxnResponse>(
      'transaction',
      ({ kv }, metadata, options, done) => kv.txn(request, metadata, options, done),
      { repeatable: changes.length === 0 },
    );
    return { succeeded, revision: this.#saw(header?.revision) };
  }

  watch(prefix: string, signal: AbortSignal): ReturnType<Metastore['watch']> {
    this.#assertOpen();
    const key = this.#bytes(prefix);
    return watchEtcd(this.#endpoints, {
      key,
      rangeEnd: endOf(key),
      after: this.#seenRevision,
      entryOf: (kv) => this.#entry(kv),
      signal: AbortSignal.any([signal, this.#closed.signal]),
    });
  }

  async grantLease(ttlMs: number): Promise<LeaseId> {
    this.#assertOpen();
    const request = { TTL: BigInt(Math.ceil(ttlMs / 1_000)) };
    const { ID } = await this.#endpoints.call<LeaseGrantResponse>(
      'grant a lease',
      ({ lease }, metadata, options, done) => lease.leaseGrant(request, metadata, options, done),
      { repeatable: true },
    );
    return ID.toString();
  }

  async renewLease(lease: LeaseId): Promise<void> {
    this.#assertOpen();
    const request = { ID: BigInt(lease) };
    const { TTL } = await this.#endpoints.call<LeaseKeepAliveResponse>(
      'renew a lease',
      (member, metadata, options, done) => {
        const stream = member.lease.leaseKeepAlive(metadata, options);
        let answered = false;
        stream.on('data', (response: LeaseKeepAliveResponse) => {
          answered = true;
          done(null, response);
          stream.end();
        });
        stream.on('error', (error) => {
          if (!answered) done(error as Parameters<typeof done>[0], { ID: 0n, TTL: 0n });
        });
        stream.write(request);
      },
      { repeatable: true },
    );
    if (TTL <= 0n) throw leaseNotFound(lease);
  }

  async revokeLease(lease: LeaseId): Promise<void> {
    this.#assertOpen();
    const request = { ID: BigInt(lease) };
    try {
      await this.#endpoints.call(
        'revoke a lease',
        (member, metadata, options, done) => member.lease.leaseRevoke(request, metadata, options, done),
        { repeatable: true },
      );
    } catch (error) {
      // Expired, or revoked by an attempt whose answer was lost.
      if (!(error instanceof HoldfastError && error.code === 'NOT_FOUND')) throw error;
    }
  }

  async close(): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    // Watches see the signal before their channel goes.
    await sleep(0);
    this.#endpoints.close();
  }

  async #range(request: {
    readonly key: Buffer;
    readonly rangeEnd: Buffer;
    readonly limit: number;
    readonly revision: bigint;
  }): Promise<RangeResponse> {
    this.#assertOpen();
    const message = { ...request, limit: BigInt(request.limit) };
    const response = await this.#endpoints.call<RangeResponse>(
      'read',
      ({ kv }, metadata, options, done) => kv.range(message, metadata, options, done),
      { repeatable: true },
    );
    this.#saw(response.header?.revision);
    return response;
  }

  #operation(change: Change): RequestOp {
    const key = this.#bytes(change.key);
    if (change.kind === 'delete') return { requestDeleteRange: { key } };
    return { requestPut: { key, value: Buffer.from(change.value), lease: BigInt(change.lease ?? 0) } };
  }

  #saw(revision: bigint | undefined): number {
    if (revision !== undefined && revision > this.#seenRevision) this.#seenRevision = revision;
    return Number(revision ?? 0n);
  }

  #bytes(key: string): Buffer {
    return Buffer.from(this.#prefix + key);
  }

  #entry({ key, value, createRevision, modRevision }: KeyValue): StoredEntry {
    return {
      key: key.toString('utf8').slice(this.#prefix.length),
      value: value.toString('utf8'),
      createRevision: Number(createRevision),
      modRevision: Number(modRevision),
    };
  }

  #assertOpen(): void {
    if (this.#closed.signal.aborted) throw new HoldfastError('STORE_UNAVAILABLE', 'the metadata store is closed');
  }
}

/** The first key after all that begin with `prefix`. No byte of UTF-8 is 0xff, so the last one can be raised. */
function endOf(prefix: Buffer): Buffer {
  const end = Buffer.from(prefix);
  end[end.length - 1] = (end.at(-1) ?? 0) + 1;
  return end;
}

function next(key: Buffer): Buffer {
  return Buffer.concat([key, Buffer.alloc(1)]);
}

function leaseNotFound(lease: LeaseId): HoldfastError {
  return new HoldfastError('NOT_FOUND', `lease ${lease} does not exist or has expired: ask for a new one`);
}
