// `holdfast up`: a whole cluster on this machine. Supervises one manager and one agent per node, each a process of its own;
// the agents supervise the data plane. If this process is killed, manager and agents go with it and the data plane stays, and
// the next start takes over from there.
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createProcessHost } from '../agent/process-host.js';
import type { ProcessHost, StartFailure } from '../agent/process-host.js';
import type { AgentConfig } from '../agent/config.js';
import { supervise } from '../agent/supervisor.js';
import { aborted } from '../async/wait.js';
import type { Logger } from '../log/logger.js';
import type { ManagerConfig } from '../manager/config.js';
import { writeJsonAtomic } from '../os/atomic-file.js';
import { formatHostPort, parseHostPort } from '../os/addresses.js';
import { defaultPrefix } from '../metastore/store-options.js';
import { superviseEtcd } from './private-etcd.js';
import { stopDataPlaneOf, stopIn } from './data-plane-end.js';
import { clusterFilePath, etcdRunDir, lockPath, makeDataFolder, managerRunDir } from './cluster-folder.js';
import { takeLock } from './folder-lock.js';
import type { UpNode, UpPlan } from './plan.js';
import { waitUntilReady } from './readiness.js';

export type UpEvents = {
  /** What is going on, for people. */
  readonly onProgress: (text: string) => void;
  readonly onReady: (server: string, warnings: readonly string[]) => void;
};

/** Runs the cluster until the signal aborts, then stops all of it. Throws when it could not be started. */
export async function runUp(plan: UpPlan, events: UpEvents, logger: Logger, signal: AbortSignal): Promise<void> {
  makeDataFolder(plan.folder);
  const release = takeLock(lockPath(plan.folder), plan.folder);
  try {
    writeJsonAtomic(clusterFilePath(plan.folder), plan.file);
    await stopControlPlane(plan);
    await superviseAll(plan, events, logger, signal);
  } finally {
    release();
  }
}

async function superviseAll(plan: UpPlan, events: UpEvents, logger: Logger, signal: AbortSignal): Promise<void> {
  const host = createProcessHost({ tied: true });
  const stop = new AbortController();
  let managerFailure: StartFailure | null = null;
  const supervised = [
    ...privateEtcd(plan, logger, stop.signal),
    keepRunning(host, 'manager', managerRunDir(plan.folder), managerConfig(plan), logger, stop.signal, (failure) => {
      managerFailure = failure;
      return Promise.resolve();
    }),
    ...plan.nodes.map((node) =>
      keepRunning(host, 'agent', node.agent, agentConfig(plan, node), logger, stop.signal, () => Promise.resolve()),
    ),
  ];
  try {
    const warnings = await waitUntilReady(plan, () => managerFailure, events.onProgress, signal);
    if (!signal.aborted) {
      events.onReady(plan.server, [...plan.warnings, ...warnings]);
      await aborted(signal);
    }
  } finally {
    stop.abort();
    await Promise.all(supervised);
    events.onProgress('stopping');
    await stopEverything(plan);
  }
}

function privateEtcd(
  { folder, file: { store } }: UpPlan,
  logger: Logger,
  signal: AbortSignal,
): readonly Promise<void>[] {
  if (store.kind !== 'private-etcd') return [];
  return [superviseEtcd(etcdRunDir(folder), store, logger, signal)];
}

export async function keepRunning(
  host: ProcessHost,
  role: 'manager' | 'agent',
  runDir: string,
  config: Readonly<Record<string, unknown>>,
  logger: Logger,
  signal: AbortSignal,
  onStartFailure: (failure: StartFailure) => Promise<void>,
): Promise<void> {
  const main = fileURLToPath(new URL(`../${role}/main.js`, import.meta.url));
  const supervision = {
    name: role,
    runDir,
    command: [process.execPath, '--max-semi-space-size=4', main, '--run-dir', runDir],
    config: () => Promise.resolve(config),
    // One that is found was left by another `up` and is about to end: it would not notice the end of this one.
    stillRight: () => false,
    onState: () => undefined,
    onStartFailure,
  };
  await supervise(host, supervision, logger.child({ process: role, runDir }), signal);
}

function managerConfig(plan: UpPlan): ManagerConfig {
  return {
    role: 'manager',
    listen: plan.listen,
    advertise: null,
    store: storeSettings(plan),
    tokens: null,
    auditFile: `${managerRunDir(plan.folder)}/audit.log`,
    authorityFile: null,
    managers: [plan.server],
  };
}

function storeSettings({ folder, file }: UpPlan): ManagerConfig['store'] {
  switch (file.store.kind) {
    case 'lmdb':
      return { kind: 'lmdb', directory: `${managerRunDir(folder)}/metastore` };
    case 'private-etcd':
      return {
        kind: 'etcd',
        etcd: {
          urls: [`http://${file.store.client}`],
          ca: null,
          certificate: null,
          key: null,
          user: null,
          passwordFile: null,
          prefix: defaultPrefix,
        },
      };
    case 'etcd':
      return file.store;
  }
}

function agentConfig(plan: UpPlan, node: UpNode): AgentConfig {
  const { journalBytes, cacheBytes } = plan.file;
  return {
    role: 'agent',
    node: node.name,
    managers: [plan.server],
    token: null,
    // All nodes of `up` are this machine: what they tell each other stays on loopback.
    host: '127.0.0.1',
    target: { runDir: node.target, portal: node.portal },
    disks: node.disks.map(({ name, runDir, directory }) => ({
      name,
      runDir,
      directory,
      journalPath: null,
      journalBytes,
      cacheBytes,
      capacityBytes: 0,
    })),
  };
}

/** Ends what an earlier `up` left of manager and agents. The data plane is not touched. */
async function stopControlPlane(plan: UpPlan): Promise<void> {
  await stopIn([managerRunDir(plan.folder), ...plan.nodes.map(({ agent }) => agent)]);
}

/** Agents first, so that nothing is started again; the manager last, because engines that stop may need it. */
async function stopEverything(plan: UpPlan): Promise<void> {
  await stopIn(plan.nodes.map(({ agent }) => agent));
  await stopDataPlaneOf(plan.nodes.map(({ agent }) => dirname(agent)));
  await stopIn([managerRunDir(plan.folder)]);
  await stopIn([etcdRunDir(plan.folder)]);
}

/** Portals as people read them: the first one, and how many follow. */
export function describePortals(plan: UpPlan): string {
  const first = parseHostPort(plan.file.iscsi, 'iscsi');
  return plan.nodes.length === 1
    ? formatHostPort(first)
    : `${formatHostPort(first)} to ${first.port + plan.nodes.length - 1}`;
}
