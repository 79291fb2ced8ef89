// When a cluster that was just started is ready: every node online and every volume that was attached served again. A new cluster
// where something does not start is not ready; an old one is, with a warning, because its other nodes can do their work.
import { request } from '../api/rest-client.js';
import type { StartFailure } from '../agent/process-host.js';
import { sleep } from '../async/wait.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import type { DiskView, NodeView, VolumeView } from '../manager/views.js';
import type { UpPlan } from './plan.js';

const pollMs = 100;
const startTimeoutMs = 120_000;
// For what has failed once to succeed after all, and for volumes to be served again.
const patienceMs = 10_000;
const progressEveryMs = 5_000;

/** Warnings about what does not run. */
export async function waitUntilReady(
  plan: UpPlan,
  managerFailure: () => StartFailure | null,
  onProgress: (text: string) => void,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const began = performance.now();
  let progressAt = began + progressEveryMs;
  for (;;) {
    if (signal.aborted) return [];
    const elapsedMs = performance.now() - began;
    const failure = managerFailure();
    if (failure !== null) throw new HoldfastError(failure.code, `the manager does not start: ${failure.message}`);
    const open = await openMatters(plan);
    if (open.length === 0) return [];
    const settled = open.every(({ hopeless }) => hopeless);
    if (elapsedMs > startTimeoutMs || (settled && elapsedMs > patienceMs)) {
      const what = open.map(({ text }) => text);
      if (!plan.fresh) return what;
      throw new HoldfastError('FAILED_PRECONDITION', `the cluster does not start: ${what.join('; ')}`);
    }
    if (performance.now() >= progressAt) {
      onProgress(`waiting: ${open.map(({ text }) => text).join('; ')}`);
      progressAt += progressEveryMs;
    }
    await sleep(pollMs, signal);
  }
}

type Matter = { readonly text: string; readonly hopeless: boolean };

async function openMatters({ server, nodes }: UpPlan): Promise<readonly Matter[]> {
  let seen: readonly NodeView[];
  let disks: readonly DiskView[];
  let volumes: readonly VolumeView[];
  try {
    [seen, disks, volumes] = await Promise.all([
      request<readonly NodeView[]>(server, 'GET', '/v1/nodes'),
      request<readonly DiskView[]>(server, 'GET', '/v1/disks'),
      request<readonly VolumeView[]>(server, 'GET', '/v1/volumes'),
    ]);
  } catch {
    return [{ text: 'the manager is being started', hopeless: false }];
  }
  const matters: Matter[] = [];
  for (const { name } of nodes) {
    const node = seen.find((each) => each.name === name);
    const failedDisk = disks.find((disk) => disk.node === name && disk.state === 'failed');
    if (node?.state === 'online' && failedDisk === undefined) continue;
    const reason = failedDisk?.reason ?? node?.reason ?? 'its agent is being started';
    matters.push({ text: `${name}: ${reason}`, hopeless: node?.state === 'impaired' || failedDisk !== undefined });
  }
  for (const { name, state, reason } of volumes) {
    if (state === 'attaching')
      matters.push({ text: `volume ${name}: ${reason ?? state}`, hopeless: matters.length > 0 });
  }
  return matters;
}
