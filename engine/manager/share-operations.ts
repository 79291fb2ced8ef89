// Volumes that are shared over NFS: attaching one means that its node maps it, mounts its file system and exports it. What is wanted
// is in the records; the node's agent is ordered by the reconciler (shareOrdersOf), and says how far it got.
import { HoldfastError, isHoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import { ensureAttached, ensureDetached } from './attachment.js';
import type { EngineAt } from './attachment.js';
import { attachPlainly } from './attach-operation.js';
import type { ManagerContext } from './context.js';
import { endDevice } from './device-operations.js';
import { runningTarget } from './observed.js';
import type { Share } from './observed.js';
import type { ShareRecord, VolumeRecord } from './records.js';
import { requireNode, withVolume } from './volume-operations.js';

export type SharedAt = EngineAt & { readonly share: Share };
type Kick = () => void;

// A file system that was not unmounted replays its log first.
const serveWaitMs = 60_000;
const endWaitMs = 45_000;
// Somebody who has just begun to use it, such as a mount namespace that began as a copy, lets go of it soon.
const endInUseWaitMs = 8_000;

/** Serves the volume over NFS. Served already: the same answer. */
export async function attachShared(
  context: ManagerContext,
  name: string,
  node: string | null,
  kick: Kick,
): Promise<SharedAt> {
  const before = (await context.repository.volume(name)).record;
  await attachPlainly(context, name, node);
  return await withVolume(context, name, async ({ record }) => {
    try {
      return await serveShare(context, record, kick);
    } catch (error) {
      // What was asked for first and never worked is undone; what has worked is tried again by itself.
      if (before.attachment === null) {
        await endShare(context, record.id, true, kick).catch((undoError: unknown) => {
          context.logger.warn('cannot undo the attach of a share', { volume: name, ...errorFields(undoError) });
        });
      }
      throw error;
    }
  });
}

/** Ends the export, unmounts, detaches. `force`: also when its node cannot be reached. */
export async function detachShared(
  context: ManagerContext,
  name: string,
  force: boolean,
  kick: Kick,
): Promise<VolumeRecord> {
  return await withVolume(context, name, async ({ record }) => {
    if (record.attachment === null) return record;
    return await endShare(context, record.id, force, kick);
  });
}

/** A planned move: clients go on at the new place, with their locks. */
export async function moveShared(context: ManagerContext, name: string, node: string, kick: Kick): Promise<SharedAt> {
  await requireNode(context, node);
  return await withVolume(context, name, async ({ record }) => {
    if (record.attachment === null) {
      throw new HoldfastError('VOLUME_DETACHED', `volume "${name}" is not attached: attach it with --node ${node}`);
    }
    if (record.attachment.node === node) return await serveShare(context, record, kick);
    if (runningTarget(context.observed.node(node)) === null) {
      throw new HoldfastError(
        'CONNECTION_LOST',
        `the target process of ${node} does not run: volume "${name}" stays where it is`,
      );
    }
    try {
      await endShare(context, record.id, false, kick);
    } catch (error) {
      await serveAgain(context, record, kick);
      throw error;
    }
    return await serveAt(context, record.id, node, kick);
  });
}

/** The node of the share is gone: another one takes over. The new engine's epoch fences the old one. */
export async function failOver(context: ManagerContext, volumeId: string, from: string, kick: Kick): Promise<void> {
  const { repository, locks, logger } = context;
  await locks.run(volumeId, async () => {
    const found = await repository.findVolumeById(volumeId);
    if (found?.record.attachment?.node !== from || found.record.share?.wanted !== true) return;
    const to = await otherNode(context, found.record, from);
    logger.warn('the node of a share is gone: another one takes over', { volume: found.record.name, from, to });
    await serveAt(context, volumeId, to, kick);
  });
}

// ---- steps, under the volume's lock ----

async function serveAt(context: ManagerContext, volumeId: string, node: string, kick: Kick): Promise<SharedAt> {
  const moved = await context.repository.updateVolume(volumeId, (latest) => ({ ...latest, attachment: { node } }));
  return await serveShare(context, moved, kick);
}

// Its move has failed: clients go on where it was.
async function serveAgain(context: ManagerContext, record: VolumeRecord, kick: Kick): Promise<void> {
  await serveShare(context, record, kick).catch((error: unknown) => {
    context.logger.error('a share that could not be moved is not served yet', {
      volume: record.name,
      ...errorFields(error),
    });
  });
}

async function serveShare(context: ManagerContext, { id, name }: VolumeRecord, kick: Kick): Promise<SharedAt> {
  const { repository, observed } = context;
  const record = await repository.updateVolume(id, (latest) => {
    if (latest.share === undefined || latest.attachment === null) return null;
    const device = { via: 'fuse', implicit: true } as const;
    return { ...latest, attachment: { ...latest.attachment, device }, share: { ...latest.share, wanted: true } };
  });
  const engine = await ensureAttached(context, id);
  kick();
  const share = await observed.waitFor(() => {
    const seen = shareOf(context, engine.node, id);
    if (seen?.device !== engine.device) return null;
    return seen.state === 'serving' || isRefusal(seen) ? seen : null;
  }, serveWaitMs);
  if (share?.state !== 'serving')
    throw notServed(name, engine.node, share ?? shareOf(context, engine.node, id) ?? null);
  if (record.share?.port !== share.port) {
    await repository.updateVolume(id, (latest) => withShare(latest, { port: share.port }));
  }
  return { ...engine, share };
}

async function endShare(context: ManagerContext, volumeId: string, force: boolean, kick: Kick): Promise<VolumeRecord> {
  const { repository, logger } = context;
  const record = await repository.updateVolume(volumeId, (latest) => withShare(latest, { wanted: false }));
  const node = record.attachment?.node;
  if (node === undefined) return record;
  kick();
  const failure = await endExport(context, record, node);
  if (failure !== null && !force) throw failure;
  try {
    if (failure === null) await endUnmountedDevice(context, record, node, force);
    else await endDevice(context, record, node, true);
    await ensureDetached(context, record, node);
  } catch (error) {
    if (!force || !isHoldfastError(error, 'CONNECTION_LOST')) throw error;
    logger.warn('detached by force', { volume: record.name, node, ...errorFields(error) });
  }
  return await repository.updateVolume(volumeId, (latest) => ({ ...latest, attachment: null }));
}

// Null: its agent has ended the server and unmounted the file system.
async function endExport(
  context: ManagerContext,
  { id, name }: VolumeRecord,
  node: string,
): Promise<HoldfastError | null> {
  const { observed } = context;
  const began = performance.now();
  const ended = await observed.waitFor(() => {
    const seen = observed.node(node);
    // An agent that has not been told yet says nothing about shares of an earlier life.
    const told = seen !== undefined && seen.agentPid !== null && typeof seen.shareOrdersKey === 'string';
    if (!told) return null;
    const share = shareOf(context, node, id);
    if (share === undefined) return 'ended';
    return isInUse(share) && performance.now() - began > endInUseWaitMs ? 'in use' : null;
  }, endWaitMs);
  if (ended === 'ended') return null;
  const share = shareOf(context, node, id);
  if (share !== undefined && isInUse(share)) {
    return new HoldfastError(
      'IN_USE',
      `the file system of shared volume "${name}" cannot be unmounted on ${node}: ${share.failure?.message ?? ''}, ` +
        `then try again; "holdfast volume detach ${name} --force" gives it errors instead`,
    );
  }
  return new HoldfastError(
    'CONNECTION_LOST',
    `${node} has not ended the share of volume "${name}" yet: see that its agent runs and try again, or use --force`,
  );
}

// Its agent has written everything back and unmounted it. Whoever still has it open has so by accident: a mount namespace that began as a
// copy while it was mounted (a container, ip netns exec).
async function endUnmountedDevice(
  context: ManagerContext,
  record: VolumeRecord,
  node: string,
  force: boolean,
): Promise<void> {
  try {
    await endDevice(context, record, node, force);
  } catch (error) {
    if (!isHoldfastError(error, 'IN_USE')) throw error;
    context.logger.warn('the device of a share is held by others after it was unmounted: ending it by force', {
      volume: record.name,
      node,
    });
    await endDevice(context, record, node, true);
  }
}

// One that has an in-sync replica, else any; in the order of the replicas, so that it is predictable. Of a node that is gone, what
// was known last looks as if it still ran: its agent must be there.
async function otherNode(
  { observed, patienceMs }: ManagerContext,
  record: VolumeRecord,
  from: string,
): Promise<string> {
  const near = record.replicas.filter(({ id }) => record.inSync.includes(id)).map(({ node }) => node);
  const chosen = await observed.waitFor(() => {
    const running = [...observed.nodes.values()]
      .filter((node) => node.name !== from && node.agentPid !== null && runningTarget(node) !== null)
      .map(({ name }) => name);
    return near.find((name) => running.includes(name)) ?? running.sort()[0] ?? null;
  }, patienceMs);
  if (chosen !== null) return chosen;
  throw new HoldfastError('CONNECTION_LOST', `no other node runs a target process that could serve "${record.name}"`);
}

function withShare(record: VolumeRecord, change: Partial<ShareRecord>): VolumeRecord | null {
  return record.share === undefined ? null : { ...record, share: { ...record.share, ...change } };
}

function shareOf({ observed }: ManagerContext, node: string, volumeId: string): Share | undefined {
  return observed.node(node)?.shares?.find((share) => share.volumeId === volumeId);
}

function isInUse({ state, failure }: Share): boolean {
  return state === 'stopping' && failure?.code === 'IN_USE';
}

// Waiting does not help against these.
function isRefusal({ state, failure }: Share): boolean {
  const code = failure?.code;
  return state === 'failed' && (code === 'FAILED_PRECONDITION' || code === 'UNSUPPORTED_SYSTEM');
}

function notServed(name: string, node: string, share: Share | null): HoldfastError {
  const { code, message } = share?.failure ?? {
    code: 'TIMED_OUT' as const,
    message: `its agent has not served it within ${serveWaitMs / 1000} s`,
  };
  return new HoldfastError(code, `volume "${name}" cannot be shared on ${node}: ${message}`);
}
