// A watch on etcd: goes on at another member, after the last transaction it has delivered, when its stream breaks.
// Ends with CONFLICT when that point has been compacted away; the caller reads everything again.
import type { ClientDuplexStream } from '@grpc/grpc-js';
import { sleep } from '../async/wait.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import type { Event, KeyValue, WatchRequest, WatchResponse } from '../generated/etcd/rpc.js';
import type { EtcdEndpoints, Member } from './etcd-endpoints.js';
import type { StoredEntry, WatchEvent } from './metastore.js';

export type EtcdWatchOptions = {
  readonly key: Buffer;
  readonly rangeEnd: Buffer;
  /** Revision that is known already. */
  readonly after: bigint;
  readonly entryOf: (kv: KeyValue) => StoredEntry;
  readonly signal: AbortSignal;
};

const deleted = 1;
const retryMs = 100;

type State = {
  readonly queue: (readonly WatchEvent[])[];
  after: bigint;
  failure: HoldfastError | null;
  wake: () => void;
};

/** Begins at once, before the first `next`. */
export function watchEtcd(endpoints: EtcdEndpoints, options: EtcdWatchOptions): AsyncIterable<readonly WatchEvent[]> {
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const state: State = { queue: [], after: options.after, failure: null, wake: () => undefined };
  signal.addEventListener('abort', () => {
    state.wake();
  });
  void follow(endpoints, options, state, signal);
  return drain(state, signal, () => {
    stop.abort();
  });
}

async function follow(
  endpoints: EtcdEndpoints,
  options: EtcdWatchOptions,
  state: State,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted && state.failure === null) {
    const member = await endpoints.connected();
    if (member !== null) {
      await watchAt(endpoints, member, options, state, signal);
      endpoints.failed(member);
    }
    await sleep(retryMs, signal);
  }
}

async function watchAt(
  endpoints: EtcdEndpoints,
  member: Member,
  options: EtcdWatchOptions,
  state: State,
  signal: AbortSignal,
): Promise<void> {
  let stream: ClientDuplexStream<WatchRequest, WatchResponse>;
  try {
    stream = member.watch.watch(await endpoints.metadata(member));
  } catch {
    return;
  }
  const stop = () => {
    stream.cancel();
  };
  if (signal.aborted) stop();
  signal.addEventListener('abort', stop, { once: true });
  await new Promise<void>((resolve) => {
    stream.on('error', () => {
      resolve();
    });
    stream.on('end', resolve);
    stream.on('data', (response: WatchResponse) => {
      take(response, options, state);
      if (response.canceled) stop();
    });
    stream.write({
      createRequest: { key: options.key, rangeEnd: options.rangeEnd, startRevision: state.after + 1n },
    });
  });
  signal.removeEventListener('abort', stop);
  stream.cancel();
}

function take(response: WatchResponse, { entryOf }: EtcdWatchOptions, state: State): void {
  if (response.compactRevision !== 0n) {
    state.failure = new HoldfastError(
      'CONFLICT',
      'etcd has compacted what a watch had not seen yet: everything is read again',
    );
    state.wake();
    return;
  }
  const transactions = new Map<bigint, Event[]>();
  for (const event of response.events) {
    const revision = event.kv?.modRevision ?? 0n;
    const events = transactions.get(revision);
    if (events === undefined) transactions.set(revision, [event]);
    else events.push(event);
  }
  for (const [revision, events] of transactions) {
    if (revision <= state.after) continue;
    state.after = revision;
    state.queue.push(
      events.flatMap((event) => (event.kv === undefined ? [] : [toWatchEvent(event.type, event.kv, entryOf)])),
    );
  }
  state.wake();
}

function toWatchEvent(type: number, kv: KeyValue, entryOf: (kv: KeyValue) => StoredEntry): WatchEvent {
  const entry = entryOf(kv);
  return type === deleted ? { kind: 'delete', key: entry.key, revision: entry.modRevision } : { kind: 'put', entry };
}

async function* drain(state: State, signal: AbortSignal, end: () => void): AsyncGenerator<readonly WatchEvent[]> {
  try {
    for (;;) {
      const events = state.queue.shift();
      if (events !== undefined) {
        yield events;
        continue;
      }
      if (signal.aborted) return;
      if (state.failure !== null) throw state.failure;
      await new Promise<void>((resolve) => {
        state.wake = resolve;
      });
    }
  } finally {
    end();
  }
}
