// A manager process among several: leads while the others pass connections on to it (election.ts, front-door.ts). With the embedded
// store there is one manager, and it leads from the beginning.
import { HoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import { knock } from '../os/addresses.js';
import { fenceMetastore } from '../metastore/fenced-metastore.js';
import type { Metastore } from '../metastore/metastore.js';
import { takePart } from './election.js';
import type { Term } from './election.js';
import { openFrontDoor } from './front-door.js';
import { startManager } from './manager.js';
import type { ManagerOptions } from './manager.js';

export type CandidateOptions = Omit<ManagerOptions, 'listen' | 'dataPlane' | 'store'> & {
  readonly listen: string;
  /** At which the other managers reach this one. */
  readonly advertise: string | null;
  readonly store: Metastore;
  readonly dataPlane: () => ManagerOptions['dataPlane'];
};

export type Candidate = { readonly address: string; readonly stop: () => Promise<void> };

export async function startCandidate(options: CandidateOptions): Promise<Candidate> {
  const { store, logger } = options;
  const door = await openFrontDoor(options.listen, options.identity ?? null, logger);
  const advertised = options.advertise ?? door.address;
  const stop = new AbortController();
  const lead = async (term: Term) => {
    const fenced = { ...fenceMetastore(store, term.fence, term.end), close: () => Promise.resolve() };
    const manager = await startManager({ ...options, store: fenced, dataPlane: options.dataPlane(), listen: door });
    try {
      await aborted(term.signal);
    } finally {
      await manager.close();
    }
  };
  const taking = takePart(
    {
      store,
      address: advertised,
      logger,
      lead: (term) =>
        lead(term).catch((error: unknown) => {
          logger.error('cannot lead', errorFields(error));
          // What only a newer version can read is not for this manager; the others may be newer.
          if (error instanceof HoldfastError && error.code === 'FORMAT_TOO_NEW') throw error;
        }),
      knock,
      onLeader: (address) => {
        // While it leads, the manager itself decides what happens at the door.
        const usable = address !== null && address !== advertised;
        door.receive(usable ? { kind: 'forward', address } : { kind: 'refuse' });
      },
    },
    stop.signal,
  );
  return {
    address: door.address,
    stop: async () => {
      stop.abort();
      await taking;
      await door.close();
      await store.close();
    },
  };
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    signal.addEventListener('abort', () => {
      resolve();
    });
  });
}
