// Clones of volumes: full ones, which are copied and share nothing with their source, and linked ones, whose replicas are made on the
// disks of the source's and share the blocks of a snapshot with them. A linked clone is there at once. A full one has the phase
// "copying" until all is copied: one that a manager's end interrupted is removed and begun again, from the same snapshot.
import { validateVolumeName } from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import { withEngine } from './attachment.js';
import type { WorkingEngine } from './attachment.js';
import type { ManagerContext } from './context.js';
import { randomId } from './ids.js';
import { replicaAddress } from './observed.js';
import { keys } from './records.js';
import type { ReplicaRecord, SnapshotRecord, VolumeRecord } from './records.js';
import { doom, putRecord } from './repository.js';
import {
  dropQuietly,
  replicaSnapshots,
  requireComplete,
  requireReady,
  requireSnapshot,
  takeSnapshot,
} from './snapshot-operations.js';
import { deleteDoomed } from './trash-operations.js';
import { createVolume, withVolume } from './volume-operations.js';

export type CloneInput = {
  readonly source: string;
  /** Null: what the volume holds now. */
  readonly snapshot: string | null;
  readonly name: string;
  readonly linked?: boolean | undefined;
};

/** A new volume with what the snapshot holds. When it fails, nothing is left behind. */
export async function cloneVolume(context: ManagerContext, input: CloneInput): Promise<VolumeRecord> {
  const { repository } = context;
  validateVolumeName(input.name);
  const source = await withVolume(context, input.source, async ({ record }) => {
    requireReady(record);
    if (input.snapshot !== null) requireComplete(input.source, await requireSnapshot(context, record, input.snapshot));
    return await Promise.resolve(record);
  });
  await requireUnused(context, input.name);
  return await whileHeld(context, source, async (record) => {
    return await withEngine(context, record, null, async (engine) => {
      const wanted = input.snapshot;
      const taken =
        wanted === null ? await takeSnapshot(context, record, engine, cloneName(context, input.name)) : null;
      const snapshot = taken ?? (await requireSnapshot(context, record, wanted ?? ''));
      try {
        // A manager that takes over in the middle looks for it.
        await repository.storeConfirmations();
        if (input.linked !== true) return await copyToNew(context, record, engine, snapshot, input.name);
        const label = wanted === null ? record.name : `${record.name}@${wanted}`;
        return await linkToNew(context, (await repository.volume(record.name)).record, snapshot, input.name, label);
      } finally {
        if (taken !== null) await dropQuietly(context, engine, taken);
      }
    });
  });
}

/** Of a copy that a manager which is gone left half done. */
export async function restartCopy(context: ManagerContext, volumeId: string): Promise<void> {
  const { repository, locks, logger } = context;
  const half = await locks.run(volumeId, async () => {
    const found = await repository.findVolumeById(volumeId);
    const { phase, copying } = found?.record ?? {};
    if (found === null || phase !== 'copying' || copying == null || copying.run === context.run) return null;
    await deleteDoomed(context, await repository.removeVolume(found));
    return { name: found.record.name, copying };
  });
  if (half === null) return;
  const { name, copying } = half;
  const source = (await repository.findVolumeById(copying.source))?.record;
  const snapshots = source === undefined ? [] : await repository.listSnapshots(source.id);
  const snapshot = snapshots.find(({ id }) => id === copying.snapshot);
  if (source === undefined || snapshot?.phase !== 'ready') {
    logger.warn('a clone that was interrupted is removed: its source is gone', { volume: name });
    return;
  }
  logger.info('a clone that was interrupted begins again', { volume: name, source: source.name });
  await whileHeld(context, source, async (record) => {
    await withEngine(context, record, null, async (engine) => {
      try {
        await copyToNew(context, record, engine, snapshot, name, copying.temporary);
      } finally {
        if (copying.temporary) await dropQuietly(context, engine, snapshot);
      }
    });
  });
}

// ---- steps ----

// Only a detached source is kept from being attached meanwhile; one that is attached goes on as ever.
async function whileHeld<T>(
  { repository, locks }: ManagerContext,
  source: VolumeRecord,
  task: (record: VolumeRecord) => Promise<T>,
): Promise<T> {
  const current = async (): Promise<VolumeRecord> => {
    const { record } = await repository.volume(source.name);
    if (record.id === source.id) return record;
    throw new HoldfastError('CONFLICT', `volume "${source.name}" was replaced by another one meanwhile: try again`);
  };
  const first = await current();
  if (first.attachment !== null) return await task(first);
  return await locks.run(source.id, async () => await task(await current()));
}

async function requireUnused({ repository }: ManagerContext, name: string): Promise<void> {
  if ((await repository.findVolume(name)) === null) return;
  throw new HoldfastError('ALREADY_EXISTS', `volume "${name}" exists already: choose another name, or delete it first`);
}

async function copyToNew(
  context: ManagerContext,
  source: VolumeRecord,
  engine: WorkingEngine,
  snapshot: SnapshotRecord,
  name: string,
  temporary = snapshot.name.startsWith('clone-'),
): Promise<VolumeRecord> {
  const { repository, locks, run } = context;
  const found = (await replicaSnapshots(context, source)).get(snapshot.id);
  const made = await createVolume(context, {
    name,
    size: found?.sizeBytes ?? source.size,
    replicas: source.copies,
    blockSize: source.blockSize,
    constraints: source.constraints,
    qos: source.qos,
    access: source.access,
    copying: { run, source: source.id, snapshot: snapshot.id, temporary },
  });
  return await locks.run(made.id, async () => {
    try {
      await withEngine(context, made, engine.node, async () => {
        const from = { volumeId: source.id, snapshotId: snapshot.id };
        await context.dataPlane.copySnapshot(engine.control, from, made.id);
      });
      return await repository.updateVolume(made.id, (latest) => ({ ...latest, phase: 'ready', copying: null }));
    } catch (error) {
      await removeNew(context, made);
      throw error;
    }
  });
}

// One replica for each in-sync one of the source that has the snapshot, on the same disk. What the others should have is rebuilt.
async function linkToNew(
  context: ManagerContext,
  source: VolumeRecord,
  snapshot: SnapshotRecord,
  name: string,
  label: string,
): Promise<VolumeRecord> {
  const { repository, random, locks } = context;
  return await locks.run('create', async () => {
    await requireUnused(context, name);
    const size = (await replicaSnapshots(context, source)).get(snapshot.id)?.sizeBytes;
    if (size === undefined) {
      throw new HoldfastError('CONNECTION_LOST', `no in-sync replica of "${source.name}" can be asked: try again`);
    }
    const pairs = source.replicas
      .filter(({ id }) => source.inSync.includes(id))
      .map(({ id, node, disk }) => ({ from: id, to: { id: randomId(random), node, disk } }));
    const record: VolumeRecord = {
      ...source,
      id: randomId(random),
      name,
      size,
      createdAt: context.now().toISOString(),
      phase: 'creating',
      replicas: pairs.map(({ to }) => to),
      inSync: pairs.map(({ to }) => to.id),
      epoch: 0,
      inSyncSequence: 0,
      attachment: null,
      share: undefined,
      retiring: [],
      setAside: [],
      maintenance: null,
      lostData: null,
      copying: null,
      linkedTo: { volume: source.id, snapshot: snapshot.id, label },
    };
    await repository.insertVolume(record);
    try {
      const outcomes = await Promise.allSettled(
        pairs.map(({ from, to }) => linkReplica(context, record, from, to, snapshot.id)),
      );
      const made = pairs.filter((_, i) => outcomes[i]?.status === 'fulfilled').map(({ to }) => to);
      const failed = outcomes.find((outcome) => outcome.status === 'rejected');
      if (made.length === 0 && failed !== undefined) throw failed.reason;
      const missing = pairs.map(({ to }) => to).filter((replica) => !made.includes(replica));
      return await repository.updateVolume(
        record.id,
        (latest) => ({ ...latest, phase: 'ready', replicas: made, inSync: made.map(({ id }) => id) }),
        missing.map((replica) => putRecord(keys.doomedReplica(replica.id), doom(replica, name))),
      );
    } catch (error) {
      await removeNew(context, record);
      throw error;
    }
  });
}

async function linkReplica(
  { observed, dataPlane }: ManagerContext,
  volume: VolumeRecord,
  sourceReplicaId: string,
  { id, node, disk }: ReplicaRecord,
  snapshotId: string,
): Promise<void> {
  const address = replicaAddress(observed.node(node), disk);
  if (address === null) throw new HoldfastError('CONNECTION_LOST', `the replica process of ${disk} does not run`);
  await dataPlane.createReplica(address, {
    replicaId: id,
    volumeId: volume.id,
    sizeBytes: volume.size,
    complete: true,
    link: { sourceReplicaId, snapshotId },
  });
}

async function removeNew(context: ManagerContext, made: VolumeRecord): Promise<void> {
  try {
    const found = await context.repository.findVolumeById(made.id);
    if (found !== null) await deleteDoomed(context, await context.repository.removeVolume(found));
  } catch (error) {
    context.logger.warn('a clone that failed could not be removed', { volume: made.name, ...errorFields(error) });
  }
}

// Never that of a clone before, whose snapshot a crash may have left.
function cloneName({ random }: ManagerContext, volume: string): string {
  return `clone-${volume}`.slice(0, 55).replace(/-$/, '') + `-${randomId(random).slice(0, 6)}`;
}
