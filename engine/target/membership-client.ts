// The target's questions to the managers. A question is asked until it is answered: a manager that cannot be reached, or
// cannot reach its store, is no answer, and the I/O that depends on it waits.
import { Metadata } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { backoffMs, sleep } from '../async/wait.js';
import type { Identity, IdentitySource } from '../security/identity.js';
import { credentialsFor, tlsChannelOptions } from '../security/tls.js';
import { fromServiceError } from '../errors/grpc-errors.js';
import type { ErrorCode } from '../errors/error-codes.js';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { MembershipClient } from '../generated/holdfast/v1/target.js';
import type {
  ChangeInSyncSetRequest,
  ReportDamageRequest,
  ReportLostDataRequest,
  SaveReservationsRequest,
} from '../generated/holdfast/v1/target.js';
import type { Logger } from '../log/logger.js';

export type Membership = {
  /** Resolves when stored; throws only what the manager decided, or CANCELLED after close(). */
  readonly changeInSyncSet: (request: ChangeInSyncSetRequest) => Promise<void>;
  readonly saveReservations: (request: SaveReservationsRequest) => Promise<void>;
  readonly reportLostData: (request: ReportLostDataRequest) => Promise<void>;
  readonly reportDamage: (request: ReportDamageRequest) => Promise<void>;
  readonly close: () => void;
};

// What a manager decides about the request itself. Everything else is about the manager, and is tried again.
const decisions: ReadonlySet<ErrorCode> = new Set([
  'EPOCH_SUPERSEDED',
  'INVALID_ARGUMENT',
  'NOT_FOUND',
  'CONFLICT',
  'FAILED_PRECONDITION',
  'UNIMPLEMENTED', // an older manager
]);

const attemptTimeoutMs = 2_000;
const backoffFirstMs = 50;
const backoffMaxMs = 1_000;

// A channel that has failed waits before it connects again; the loop below has its own back-off.
const channelOptions = {
  'grpc.initial_reconnect_backoff_ms': 50,
  'grpc.max_reconnect_backoff_ms': 500,
  ...tlsChannelOptions,
};

type Done = (error: ServiceError | null) => void;
type Ask = (client: MembershipClient, options: { readonly deadline: number }, done: Done) => void;

/** `identity`: shown to managers of other hosts; null: everything is plain. */
export function createMembershipClient(
  managers: readonly string[],
  token: string | null,
  identity: IdentitySource | null,
  log: Logger,
): Membership {
  const connect = (address: string) =>
    new MembershipClient(address, credentialsFor(address, identity, 'manager'), channelOptions);
  const clients = managers.map((address) => ({ address, client: connect(address) }));
  // Connections made from now on show the new certificate; calls that are open end where they are.
  const stopFollowing = identity?.subscribe((_: Identity) => {
    for (const known of clients) {
      known.client.close();
      known.client = connect(known.address);
    }
  });
  const closed = new AbortController();
  const metadata = () => {
    const made = new Metadata();
    if (token !== null) made.set('authorization', `Bearer ${token}`);
    return made;
  };
  let preferred = 0;

  async function attempt(ask: Ask): Promise<void> {
    const chosen = clients[preferred];
    if (chosen === undefined) throw new HoldfastError('INVALID_ARGUMENT', 'no manager is configured');
    const { client, address } = chosen;
    await new Promise<void>((resolve, reject) => {
      ask(client, { deadline: Date.now() + attemptTimeoutMs }, (error) => {
        if (error === null) resolve();
        else reject(fromServiceError(error, `manager at ${address}`));
      });
    });
  }

  async function askUntilAnswered(what: string, ask: Ask): Promise<void> {
    for (let tries = 1; ; tries++) {
      if (closed.signal.aborted) throw new HoldfastError('CANCELLED', `${what}: the target process stops`);
      try {
        await attempt(ask);
        if (tries > 1) log.info(`${what}: answered after ${tries} attempts`);
        return;
      } catch (thrown) {
        const error = toHoldfastError(thrown);
        if (decisions.has(error.code)) throw error;
        // The first failure and then about one a minute: enough to see, not enough to fill a disk.
        if (tries === 1 || tries % 60 === 0) {
          log.warn(`${what}: no manager answers, I/O that depends on it waits`, {
            code: error.code,
            error: error.message,
            tries,
          });
        }
        preferred = (preferred + 1) % clients.length;
        await sleep(backoffMs(tries, backoffFirstMs, backoffMaxMs), closed.signal);
      }
    }
  }

  return {
    changeInSyncSet: (request) =>
      askUntilAnswered(
        `in-sync set of volume ${request.volumeId.toString(16).padStart(16, '0')}`,
        (client, options, done) => {
          client.changeInSyncSet(request, metadata(), options, done);
        },
      ),
    saveReservations: (request) =>
      askUntilAnswered(
        `reservations of volume ${request.volumeId.toString(16).padStart(16, '0')}`,
        (client, options, done) => {
          client.saveReservations(request, metadata(), options, done);
        },
      ),
    reportLostData: (request) =>
      askUntilAnswered(
        `loss of data of volume ${request.volumeId.toString(16).padStart(16, '0')}`,
        (client, options, done) => {
          client.reportLostData(request, metadata(), options, done);
        },
      ),
    reportDamage: (request) =>
      askUntilAnswered(
        `damage of volume ${request.volumeId.toString(16).padStart(16, '0')}`,
        (client, options, done) => {
          client.reportDamage(request, metadata(), options, done);
        },
      ),
    close: () => {
      closed.abort();
      stopFollowing?.();
      for (const { client } of clients) client.close();
    },
  };
}
