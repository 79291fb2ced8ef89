// One host of a cluster of several: its agent, and on a server a manager. Ends with them; the data plane stays, and is adopted by the
// next start, so that upgrades and restarts interrupt no I/O. `stopDataPlane` ends that, too.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createProcessHost } from '../agent/process-host.js';
import type { AgentConfig } from '../agent/config.js';
import { readRegistration } from '../agent/registration.js';
import { request } from '../api/rest-client.js';
import { aborted, sleep } from '../async/wait.js';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import type { Logger } from '../log/logger.js';
import type { ManagerConfig } from '../manager/config.js';
import type { NodeView } from '../manager/views.js';
import { lockPath, makeDataFolder } from './cluster-folder.js';
import { lockHolder, takeLock } from './folder-lock.js';
import { authorityFilePath, hostInUse, keepHost, readHostFile } from './host-folder.js';
import type { HostFile, HostPlan } from './host-folder.js';
import { stopDataPlaneOf, stopIn } from './data-plane-end.js';
import { keepRunning } from './up.js';

export type HostEvents = {
  readonly onProgress: (text: string) => void;
  readonly onReady: (file: HostFile) => void;
};

const readyPollMs = 200;
const progressEveryMs = 5_000;

/** Runs until the signal aborts. */
export async function runHost(plan: HostPlan, events: HostEvents, logger: Logger, signal: AbortSignal): Promise<void> {
  const { folder, file } = plan;
  makeDataFolder(folder);
  const release = takeLock(lockPath(folder), folder);
  const host = createProcessHost({ tied: true });
  const stop = new AbortController();
  const [managerDir, agentDir] = [join(folder, 'manager'), join(folder, 'agent')];
  const nothing = () => Promise.resolve();
  try {
    keepHost(plan);
    await stopIn([managerDir, agentDir]);
    const supervised = [
      ...(file.api === null
        ? []
        : [
            keepRunning(
              host,
              'manager',
              managerDir,
              managerConfig(file, folder, managerDir),
              logger,
              stop.signal,
              nothing,
            ),
          ]),
      keepRunning(host, 'agent', agentDir, agentConfig(file, folder), logger, stop.signal, nothing),
    ];
    try {
      await waitUntilOnline(file, agentDir, events, signal);
      if (!signal.aborted) events.onReady(file);
      await aborted(signal);
    } finally {
      stop.abort();
      await Promise.all(supervised);
      await stopIn([agentDir, managerDir]);
    }
  } finally {
    stop.abort();
    release();
  }
}

/** Ends shares, target and replica processes of a host. IN_USE while its agent runs, which would start them again. */
export async function stopDataPlane(folder: string): Promise<void> {
  readHostFile(folder);
  const holder = lockHolder(lockPath(folder));
  if (holder !== null) throw hostInUse(folder, holder.pid);
  await stopDataPlaneOf([folder]);
}

function managerConfig(file: HostFile, folder: string, runDir: string): ManagerConfig {
  return {
    role: 'manager',
    listen: file.api ?? '',
    advertise: null,
    store: file.store ?? { kind: 'lmdb', directory: join(runDir, 'metastore') },
    tokens: file.tokens,
    auditFile: join(runDir, 'audit.log'),
    authorityFile: existsSync(authorityFilePath(folder)) ? authorityFilePath(folder) : null,
    managers: file.managers,
  };
}

function agentConfig(file: HostFile, folder: string): AgentConfig {
  const runDir = join(folder, 'disk1');
  return {
    role: 'agent',
    node: file.node,
    managers: file.managers,
    token: file.token,
    host: file.address,
    target: { runDir: join(folder, 'target'), portal: file.portal },
    disks: [
      {
        name: 'disk1',
        runDir,
        directory: join(runDir, 'data'),
        journalPath: null,
        journalBytes: file.journalBytes,
        cacheBytes: file.cacheBytes,
        capacityBytes: 0,
      },
    ],
  };
}

// The agent's own state says nothing of the cluster; a manager that knows this node as online does, once it has taken this agent for that
// node. IN_USE when it is another agent's.
async function waitUntilOnline(
  file: HostFile,
  agentDir: string,
  { onProgress }: HostEvents,
  signal: AbortSignal,
): Promise<void> {
  let progressAt = performance.now() + progressEveryMs;
  for (let attempt = 0; !signal.aborted; attempt++) {
    const registration = readRegistration(agentDir);
    if (registration?.state === 'refused') throw new HoldfastError(registration.code, registration.message);
    const manager = file.managers[attempt % file.managers.length] ?? '';
    try {
      const node = await request<NodeView>(manager, 'GET', `/v1/nodes/${file.node}`, undefined, file.token);
      if (node.state === 'online' && registration !== null) return;
      if (performance.now() >= progressAt) onProgress(`waiting: ${node.reason ?? node.state}`);
    } catch (error) {
      if (performance.now() >= progressAt) onProgress(`waiting: ${toHoldfastError(error).message}`);
    }
    if (performance.now() >= progressAt) progressAt += progressEveryMs;
    await sleep(readyPollMs, signal);
  }
}
