// A manager, put together: store, observed state, reconciler, API. main.ts runs it as a process; tests run it in theirs.
import { randomBytes } from 'node:crypto';
import { Server } from '@grpc/grpc-js';
import { KeyedMutex } from '../async/keyed-mutex.js';
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import type { Metastore } from '../metastore/metastore.js';
import { startChores } from './chores.js';
import { createAgentSink, DiskChanges } from './agents.js';
import { tokenAccess } from './access-control.js';
import { auditFile, noAudit } from './audit-log.js';
import type { Authority } from './authority.js';
import { createApi } from './api.js';
import type { ManagerApi } from './api.js';
import type { ManagerContext } from './context.js';
import type { DataPlane } from './data-plane.js';
import { openFrontDoor } from './front-door.js';
import type { FrontDoor } from './front-door.js';
import type { IdentitySource } from '../security/identity.js';
import { addServices } from './grpc-services.js';
import type { Entrance } from './entrance.js';
import { keepEvents } from './event-keeper.js';
import { EventLog } from './events.js';
import { createHttpHandler } from './http/http-server.js';
import { failingActions, reportOutcome, watchObserved } from './happenings.js';
import { Observed } from './observed.js';
import { briefAbsenceMs } from './maintenance.js';
import { perform, readDesired } from './perform.js';
import { reconcile } from './reconcile.js';
import { recordVersion } from './records.js';
import type { Role, VolumeRecord } from './records.js';
import { Repository } from './repository.js';
import { Runner } from './runner.js';
import { Scrubber } from './scrubber.js';
import { startShareGuard } from './share-guard.js';
import { SnapshotFiles } from './snapshot-files.js';
import { UnfinishedSnapshots } from './snapshot-settling.js';
import { Statistics } from './statistics.js';

export type ManagerOptions = {
  readonly store: Metastore;
  readonly dataPlane: DataPlane;
  readonly logger: Logger;
  /** HOST:PORT for gRPC and REST, or a front door that is open already and stays so. */
  readonly listen: string | FrontDoor;
  readonly version: string;
  /** Given: everybody needs a token, and these exist from the beginning. Absent: the manager's own user needs none. */
  readonly tokens?: readonly { readonly id: string; readonly hash: string; readonly role: Role }[];
  readonly auditFile?: string;
  /** Absent: everything is plain. */
  readonly authority?: Authority;
  /** Of this manager. */
  readonly identity?: IdentitySource;
  /** At which other hosts reach the managers, for join tokens. */
  readonly managers?: readonly string[];
  /** How long requests after a start wait for the agents of known nodes, ms. */
  readonly settleMs?: number;
  /** How long an operation waits for a process that is being started, ms. */
  readonly patienceMs?: number;
  /** For how long after a start other nodes may be starting too, ms. */
  readonly restartMs?: number;
  /** After how long no request of a former manager can be under way, ms. */
  readonly lateMs?: number;
  /** How often it is looked for what only time brings up: things that were away for too long, the trash. */
  readonly choresEveryMs?: number;
  /** How often target processes are asked whether they still serve what they did. */
  readonly auditEveryMs?: number;
  /** How often disks are compared. */
  readonly balanceEveryMs?: number;
};

export type Manager = {
  readonly address: string;
  readonly api: ManagerApi;
  readonly events: EventLog;
  readonly store: Metastore;
  /** Something outside changed the store. */
  readonly kick: () => void;
  /** For tests: until the reconciler has nothing left to do. */
  readonly settle: () => Promise<void>;
  /** Closes everything that the manager made, and the data plane and store it was given. */
  readonly close: () => Promise<void>;
};

// Agents of hosts that vanish without a word are noticed within ten seconds: their shares go elsewhere soon after.
const serverOptions = {
  'grpc.keepalive_time_ms': 5_000,
  'grpc.keepalive_timeout_ms': 4_000,
  'grpc.http2.min_ping_interval_without_data_ms': 5_000,
};

export async function startManager(options: ManagerOptions): Promise<Manager> {
  const { store, dataPlane, logger } = options;
  const repository = new Repository(store);
  const cluster = await repository.openCluster({
    version: recordVersion,
    id: randomBytes(16).toString('hex'),
    createdAt: new Date().toISOString(),
  });
  const observed = new Observed();
  const events = new EventLog(() => new Date());
  const eventKeeper = await keepEvents(events, repository, logger);
  const startedMs = performance.now();
  const diskChanges = new DiskChanges();
  const unfinishedSnapshots = new UnfinishedSnapshots(options.lateMs);
  const context: ManagerContext = {
    cluster,
    repository,
    observed,
    dataPlane,
    logger,
    events,
    random: randomBytes,
    run: randomBytes(8).toString('hex'),
    now: () => new Date(),
    locks: new KeyedMutex(),
    unfinishedSnapshots,
    patienceMs: options.patienceMs ?? 10_000,
    restarting: () => performance.now() - startedMs < (options.restartMs ?? 30_000),
    kick: () => {
      runner.kick();
    },
    disksChanged: () => {
      diskChanges.announce();
    },
    ready: agentsReported(repository, observed, options.settleMs ?? 3_000),
  };
  const statistics = new Statistics();
  // As the last pass saw them: those of actions that it planned are among them, also when they are gone since.
  let planned: readonly VolumeRecord[] = [];
  const nameOf = (volumeId: string) => planned.find(({ id }) => id === volumeId)?.name ?? volumeId;
  const runner: Runner = new Runner({
    plan: async () => {
      const desired = await readDesired(context);
      planned = desired.volumes;
      const briefly = observed.leftWithin(briefAbsenceMs);
      const moment = { now: observed.now(), startedAt: observed.startedAt, run: context.run, briefly };
      return reconcile(desired, observed.nodes, moment);
    },
    perform: (action) => perform(context, action),
    onPass: (seconds) => {
      statistics.pass(seconds);
    },
    onOutcome: (action, error) => {
      statistics.outcome(action.kind, error === null);
      reportOutcome(context.events, action, error, nameOf);
    },
    logger,
  });
  const { kick } = context;
  const scrubber = new Scrubber(context);
  const files = new SnapshotFiles(context);
  observed.onChange(kick);
  watchObserved(observed, context.events);
  const guard = startShareGuard(context, kick);
  const api = createApi(context, {
    version: options.version,
    pid: process.pid,
    kick,
    diskChanges,
    managers: options.managers ?? [],
    authority: options.authority ?? null,
    statistics,
    failing: () => failingActions(runner.failing, nameOf),
    scrubber,
    files,
  });
  const ownUser = options.tokens === undefined ? (process.getuid?.() ?? null) : null;
  const access = tokenAccess(repository, () => new Date(), ownUser);
  const auditLost = (line: string, error: unknown) => {
    logger.warn('a line of the audit log could not be written', { line, ...errorFields(error) });
  };
  const audit = options.auditFile === undefined ? noAudit : auditFile(options.auditFile, () => new Date(), auditLost);
  await ensureTokens(repository, options.tokens ?? []);
  const { listen } = options;
  const door = typeof listen === 'string' ? await openFrontDoor(listen, options.identity ?? null, logger) : listen;
  const grpc = new Server(serverOptions);
  const agents = createAgentSink(context, diskChanges);
  const entrance: Entrance = { access, audit, connection: (peer) => door.connection(peer) };
  addServices(grpc, api, context, agents, kick, entrance, logger);
  door.receive({
    kind: 'serve',
    grpc,
    http: createHttpHandler({ api, version: options.version, logger, ...entrance }),
  });
  const stopChores = startChores(context, kick, scrubber, files, unfinishedSnapshots, {
    everyMs: options.choresEveryMs ?? 5_000,
    balanceEveryMs: options.balanceEveryMs ?? 60_000,
    auditEveryMs: options.auditEveryMs ?? 15_000,
  });
  unfinishedSnapshots.settle(context);
  kick();
  return {
    address: door.address,
    api,
    events: context.events,
    store,
    kick,
    settle: () => runner.settle(),
    close: async () => {
      if (typeof listen === 'string') await door.close();
      else door.receive({ kind: 'refuse' });
      await stopChores();
      await unfinishedSnapshots.stop();
      await scrubber.stop();
      await guard.stop();
      await runner.stop();
      await eventKeeper.stop();
      await repository.close();
      dataPlane.close();
      await store.close();
      audit.close();
    },
  };
}

// Those that the first server of a cluster has made for itself.
async function ensureTokens(repository: Repository, tokens: NonNullable<ManagerOptions['tokens']>): Promise<void> {
  for (const token of tokens) {
    if ((await repository.token(token.id)) !== null) continue;
    const createdAt = new Date().toISOString();
    await repository.putToken({
      version: recordVersion,
      ...token,
      note: 'made at the first start',
      createdAt,
      expiresAt: null,
    });
  }
}

// After a start every agent that lives reconnects within a moment; until then its node looks as if it were gone.
async function agentsReported(repository: Repository, observed: Observed, timeoutMs: number): Promise<void> {
  const nodes = await repository.listNodes();
  await observed.waitFor(() => {
    const all = nodes.every(({ name }) => {
      const node = observed.node(name);
      return node?.processes.every(({ state }) => state !== 'starting') === true;
    });
    return all ? true : null;
  }, timeoutMs);
}
