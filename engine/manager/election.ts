// Which of several managers leads: the one whose lease holds the key /running/leader. The key carries the address at which the leader is
// reached. A leader that cannot renew its lease stops leading before the lease can have expired; one that is cut off from the
// store's majority therefore never leads beside its successor, and fenced transactions (fence) see to it that not even a
// process that was stopped for a while changes anything. A process that ended is noticed before its lease does: its port, which a
// manager has from its start to its end, refuses connections.
import { sleep } from '../async/wait.js';
import { HoldfastError, isHoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import type { Compare, LeaseId, Metastore } from '../metastore/metastore.js';

export const leaderKey = '/running/leader';
const leaseMs = 3_000;
const renewMs = 700;
// A renewal counts from when it was asked for; the store's clock may be a little faster.
const trustedMs = 2_500;
const retryMs = 200;
const knockMs = 400;
// In a row. One may fall into the moment between a process and its successor.
const refusalsMin = 2;

export type Term = {
  readonly fence: Compare;
  /** Aborts when leadership is lost, or given up. */
  readonly signal: AbortSignal;
  /** Ends the term: somebody noticed that it is over. */
  readonly end: () => void;
};

export type ElectionOptions = {
  readonly store: Metastore;
  /** At which this manager is reached by the others. */
  readonly address: string;
  readonly logger: Logger;
  /** Leads until the term's signal aborts; the lease is given back after that. */
  readonly lead: (term: Term) => Promise<void>;
  /** Who leads; null: nobody, or this one. */
  readonly onLeader: (address: string | null) => void;
  /** Whether somebody listens at another manager's address; "unknown" when no answer comes. */
  readonly knock: (address: string) => Promise<'open' | 'refused' | 'unknown'>;
};

/** Takes part until the signal aborts. */
export async function takePart(options: ElectionOptions, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      await campaign(options, signal);
    } catch (error) {
      options.logger.warn('cannot take part in the election, will try again', errorFields(error));
      options.onLeader(null);
    }
    await sleep(retryMs, signal);
  }
}

async function campaign(options: ElectionOptions, signal: AbortSignal): Promise<void> {
  const { store } = options;
  const stop = new AbortController();
  const changes = store.watch(leaderKey, AbortSignal.any([signal, stop.signal]));
  try {
    const current = await store.get(leaderKey);
    if (current === null) {
      await tryToLead(options, signal);
      return;
    }
    if (current.value === options.address) {
      // This process has the port of that address for itself: whoever led there is gone.
      await store.transact(
        [{ key: leaderKey, modRevision: current.modRevision }],
        [{ kind: 'delete', key: leaderKey }],
      );
      return;
    }
    options.onLeader(current.value);
    void removeTheDead(options, current, AbortSignal.any([signal, stop.signal]));
    for await (const events of changes) {
      if (events.some(({ kind }) => kind === 'delete')) return;
    }
  } finally {
    stop.abort();
  }
}

// Only one whose port was seen open: where managers cannot reach each other, refusals say nothing.
async function removeTheDead(
  { store, logger, knock }: ElectionOptions,
  { value: address, modRevision }: { readonly value: string; readonly modRevision: number },
  signal: AbortSignal,
): Promise<void> {
  let seen = false;
  let refusals = 0;
  while (!signal.aborted) {
    const answer = await knock(address);
    seen ||= answer === 'open';
    refusals = answer === 'refused' ? refusals + 1 : 0;
    if (seen && refusals >= refusalsMin) {
      logger.info('the leader has ended', { address });
      // Whoever leads by now has another revision. If this fails, the lease ends by itself.
      await store
        .transact([{ key: leaderKey, modRevision }], [{ kind: 'delete', key: leaderKey }])
        .catch(() => undefined);
      return;
    }
    await sleep(knockMs, signal);
  }
}

async function tryToLead(options: ElectionOptions, signal: AbortSignal): Promise<void> {
  const { store, address, logger } = options;
  const askedAt = performance.now();
  const lease = await store.grantLease(leaseMs);
  try {
    const outcome = await store.transact(
      [{ key: leaderKey, modRevision: 0 }],
      [{ kind: 'put', key: leaderKey, value: address, lease }],
    );
    if (!outcome.succeeded) return;
    options.onLeader(null);
    logger.info('leads', { address, revision: outcome.revision });
    const term = new AbortController();
    const end = () => {
      term.abort();
    };
    signal.addEventListener('abort', end, { once: true });
    const renewing = renewUntilLost(store, lease, askedAt, term, logger);
    try {
      await options.lead({ fence: { key: leaderKey, modRevision: outcome.revision }, signal: term.signal, end });
    } finally {
      end();
      signal.removeEventListener('abort', end);
      await renewing;
      logger.info('does not lead any more', { address });
    }
  } finally {
    await store.revokeLease(lease).catch(() => undefined);
  }
}

// Aborts the term when the lease may have expired.
async function renewUntilLost(
  store: Metastore,
  lease: LeaseId,
  grantedAt: number,
  term: AbortController,
  logger: Logger,
): Promise<void> {
  let trustedUntil = grantedAt + trustedMs;
  while (!term.signal.aborted) {
    await sleep(renewMs, term.signal);
    const askedAt = performance.now();
    const outcome = await Promise.race([renew(store, lease), sleep(Math.max(0, trustedUntil - askedAt), term.signal)]);
    if (outcome === 'renewed') trustedUntil = askedAt + trustedMs;
    if (outcome === 'gone' || performance.now() >= trustedUntil) {
      logger.warn('the lease of the leadership could not be renewed');
      term.abort();
    }
  }
}

async function renew(store: Metastore, lease: LeaseId): Promise<'renewed' | 'gone' | 'unknown'> {
  try {
    await store.renewLease(lease);
    return 'renewed';
  } catch (error) {
    return isHoldfastError(error, 'NOT_FOUND') ? 'gone' : 'unknown';
  }
}

/** What a manager answers while it does not lead and knows nobody who does. */
export function noLeader(): HoldfastError {
  return new HoldfastError('STORE_UNAVAILABLE', 'no manager leads at this moment: try again');
}
