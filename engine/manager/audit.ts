// Asks target processes now and then what they serve: agents report processes, not engines, and an engine may have stopped by itself,
// or an answer may have been lost. What differs from what is known is taken over; the reconciler does the rest.
import { noteLostData } from './attachment.js';
import type { ManagerContext } from './context.js';
import type { VolumeStatus } from './data-plane.js';
import { runningTarget } from './observed.js';
import type { ObservedNode, ServedVolume } from './observed.js';

export async function auditTargets(context: ManagerContext): Promise<void> {
  await Promise.all([...context.observed.nodes.values()].map((node) => auditTarget(context, node)));
}

async function auditTarget(context: ManagerContext, before: ObservedNode): Promise<void> {
  const { observed, dataPlane, logger } = context;
  const { name, served } = before;
  const target = runningTarget(before);
  if (target === null || served === null || before.servedBy !== target.instanceId) return;
  const status = await dataPlane.targetStatus(target.control).catch(() => null);
  if (status === null) return;
  await noteLosses(context, status.volumes);
  // What happened while the question was under way is newer than the answer.
  if (observed.node(name)?.served !== served || !differ(served, status.volumes)) return;
  logger.warn('a target process serves something else than was known', { node: name });
  observed.setServed(name, status.instanceId, status.volumes);
}

async function noteLosses(context: ManagerContext, engines: readonly VolumeStatus[]): Promise<void> {
  for (const { lostData, volumeId, epoch, failure } of engines) {
    if (!lostData) continue;
    const found = await context.repository.findVolumeById(volumeId);
    if (found?.record.epoch !== epoch || found.record.lostData !== null) continue;
    await noteLostData(context, found.record, failure);
  }
}

type Engine = Pick<ServedVolume, 'volumeId' | 'epoch' | 'state'>;

function differ(known: readonly Engine[], now: readonly Engine[]): boolean {
  // Somebody is waiting for the outcome already.
  if (now.some(({ state }) => state === 'opening')) return false;
  return summary(known) !== summary(now);
}

// Of the states only "fenced" means something to the reconciler.
function summary(engines: readonly Engine[]): string {
  return engines
    .map(({ volumeId, epoch, state }) => `${volumeId} ${epoch} ${state === 'fenced' ? state : ''}`)
    .sort()
    .join();
}
