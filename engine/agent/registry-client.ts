// The agent's line to the manager: one stream, on which the whole report goes out when it opens and whenever it changed.
// Quiet otherwise; a peer that vanished is noticed by keep-alives of the connection.
import { Metadata } from '@grpc/grpc-js';
import type { ClientDuplexStream, ServiceError } from '@grpc/grpc-js';
import { fromServiceError } from '../errors/grpc-errors.js';
import type { HoldfastError } from '../errors/holdfast-error.js';
import { credentialsFor, tlsChannelOptions } from '../security/tls.js';
import type { IdentitySource } from '../security/identity.js';
import { backoffMs, sleep } from '../async/wait.js';
import { AgentRegistryClient } from '../generated/holdfast/v1/manager.js';
import type { AgentReport, ManagerOrder } from '../generated/holdfast/v1/manager.js';
import type { Logger } from '../log/logger.js';

const channelOptions = {
  'grpc.initial_reconnect_backoff_ms': 50,
  'grpc.max_reconnect_backoff_ms': 500,
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 5_000,
  ...tlsChannelOptions,
};

export type RegistryEvents = {
  /** Whatever a manager says. */
  readonly onOrder: (order: ManagerOrder) => void;
  /** A manager takes this agent for the node that it says it is. */
  readonly onAccepted: () => void;
  /** The name of the node is another agent's. It is asked for again. */
  readonly onRefused: (error: HoldfastError) => void;
};

export class RegistryClient {
  readonly #managers: readonly string[];
  readonly #token: string | null;
  readonly #identity: IdentitySource | null;
  readonly #logger: Logger;
  readonly #events: RegistryEvents;
  #refusal = '';
  #report: AgentReport | null = null;
  #stream: ClientDuplexStream<AgentReport, ManagerOrder> | null = null;

  constructor(
    managers: readonly string[],
    token: string | null,
    identity: IdentitySource | null,
    logger: Logger,
    events: RegistryEvents,
  ) {
    this.#events = events;
    this.#managers = managers;
    this.#token = token;
    this.#identity = identity;
    this.#logger = logger;
  }

  publish(report: AgentReport): void {
    this.#report = report;
    this.#stream?.write(report);
  }

  /** Stays connected to one of the managers until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    for (let attempt = 1; !signal.aborted; attempt++) {
      const manager = this.#managers[attempt % this.#managers.length] ?? '';
      const wasTaken = await this.#session(manager, signal);
      if (wasTaken) attempt = 1;
      await sleep(backoffMs(attempt, 50, this.#refusal === '' ? 1_000 : 2_000), signal);
    }
  }

  /** Whether the manager took in a report before the stream ended. */
  async #session(manager: string, signal: AbortSignal): Promise<boolean> {
    const client = new AgentRegistryClient(manager, credentialsFor(manager, this.#identity, 'manager'), channelOptions);
    const metadata = new Metadata();
    if (this.#token !== null) metadata.set('authorization', `Bearer ${this.#token}`);
    const stream = client.connect(metadata);
    const stop = () => {
      stream.cancel();
    };
    signal.addEventListener('abort', stop, { once: true });
    let taken = false;
    try {
      await new Promise<void>((resolve) => {
        stream.on('data', (order: ManagerOrder) => {
          if (!taken) {
            this.#logger.info('the manager knows this node', { manager });
            this.#refusal = '';
            this.#events.onAccepted();
          }
          taken = true;
          this.#events.onOrder(order);
        });
        stream.on('error', (error) => {
          const cause = fromServiceError(error as ServiceError, manager);
          if (cause.code === 'IN_USE') this.#refuse(cause);
          else if (taken) this.#logger.warn('the line to the manager broke', { manager, error: error.message });
          resolve();
        });
        stream.on('end', resolve);
        this.#stream = stream;
        if (this.#report !== null) stream.write(this.#report);
      });
    } finally {
      signal.removeEventListener('abort', stop);
      this.#stream = null;
      stream.cancel();
      client.close();
    }
    return taken;
  }

  #refuse(error: HoldfastError): void {
    if (error.message !== this.#refusal) this.#logger.error(error.message, { code: error.code });
    this.#refusal = error.message;
    this.#events.onRefused(error);
  }
}
