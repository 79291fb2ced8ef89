// What people ask for about snapshots: create, list, delete, revert, and clones of volumes. A snapshot is an entry of its volume's
// log; its record gives it a name. Both are made and removed in an order that a crash in between leaves visible, and that
// can be tried again.
import { validateSnapshotName, validateVolumeName } from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import { withEngine } from './attachment.js';
import type { WorkingEngine } from './attachment.js';
import type { ManagerContext } from './context.js';
import type { ReplicaSnapshot } from './data-plane.js';
import { randomId } from './ids.js';
import { replicaAddress } from './observed.js';
import { recordVersion } from './records.js';
import type { SnapshotRecord, VolumeRecord } from './records.js';
import type { SnapshotView } from './views.js';
import { createVolume, deleteVolume, withVolume } from './volume-operations.js';

/** `wanted` null: a name made of the time. */
export async function createSnapshot(
  context: ManagerContext,
  volume: string,
  wanted: string | null,
): Promise<SnapshotView> {
  const name = validateSnapshotName(wanted ?? timedName(context.now()));
  return await withVolume(context, volume, async ({ record }) => {
    requireReady(record);
    const snapshot = await withEngine(context, record, null, (engine) => takeSnapshot(context, record, engine, name));
    return await viewOf(context, record, snapshot);
  });
}

/** Oldest first. */
export async function listSnapshots(context: ManagerContext, volume: string): Promise<readonly SnapshotView[]> {
  const { record } = await context.repository.volume(volume);
  const [records, found] = await Promise.all([
    context.repository.listSnapshots(record.id),
    replicaSnapshots(context, record),
  ]);
  return snapshotViews(record, records, found);
}

export async function deleteSnapshot(context: ManagerContext, volume: string, name: string): Promise<void> {
  await withVolume(context, volume, async ({ record }) => {
    const snapshot = await requireSnapshot(context, record, name);
    await context.repository.putSnapshot({ ...snapshot, phase: 'deleting' });
    await withEngine(context, record, null, ({ control }) =>
      context.dataPlane.changeSnapshot(control, record.id, 'delete', snapshot.id),
    );
    await context.repository.removeSnapshots([snapshot]);
  });
}

export async function revertVolume(context: ManagerContext, volume: string, name: string): Promise<VolumeRecord> {
  return await withVolume(context, volume, async ({ record }) => {
    if (record.attachment !== null) {
      throw new HoldfastError(
        'VOLUME_ATTACHED',
        `volume "${volume}" is attached on ${record.attachment.node}: hosts would not notice that its content changes; ` +
          `detach it first ("holdfast volume detach ${volume}")`,
      );
    }
    const snapshot = await requireSnapshot(context, record, name);
    requireComplete(volume, snapshot);
    await withEngine(context, record, null, ({ control }) =>
      context.dataPlane.changeSnapshot(control, record.id, 'revert', snapshot.id),
    );
    return record;
  });
}

export type CloneInput = { readonly source: string; readonly snapshot: string | null; readonly name: string };

/**
 * A new volume with what the snapshot holds; null: with what the volume holds now. Everything is copied. When it fails,
 * nothing is left behind.
 */
export async function cloneVolume(context: ManagerContext, input: CloneInput): Promise<VolumeRecord> {
  const { repository, locks } = context;
  validateVolumeName(input.name);
  const source = await withVolume(context, input.source, async ({ record }) => {
    requireReady(record);
    if (input.snapshot !== null) requireComplete(input.source, await requireSnapshot(context, record, input.snapshot));
    return await Promise.resolve(record);
  });
  // Only a detached source is kept from being attached meanwhile; one that is attached goes on as ever.
  const whileHeld = async <T>(task: (record: VolumeRecord) => Promise<T>): Promise<T> => {
    const current = await repository.volume(input.source);
    if (current.record.attachment !== null) return await task(current.record);
    return await locks.run(source.id, async () => await task((await repository.volume(input.source)).record));
  };
  return await whileHeld(async (record) => {
    if (record.id !== source.id) {
      throw new HoldfastError('CONFLICT', `volume "${input.source}" was replaced by another one meanwhile: try again`);
    }
    return await withEngine(context, record, null, async (engine) => {
      const taken = input.snapshot === null ? await takeSnapshot(context, record, engine, cloneName(input.name)) : null;
      const snapshot = taken ?? (await requireSnapshot(context, record, input.snapshot ?? ''));
      try {
        return await copyToNew(context, record, engine, snapshot, input.name);
      } finally {
        if (taken !== null) await dropQuietly(context, engine, taken);
      }
    });
  });
}

// ---- steps ----

async function takeSnapshot(
  { repository, dataPlane, random, now }: ManagerContext,
  record: VolumeRecord,
  engine: WorkingEngine,
  name: string,
): Promise<SnapshotRecord> {
  const snapshot: SnapshotRecord = {
    version: recordVersion,
    id: randomId(random),
    volume: record.id,
    name,
    createdAt: now().toISOString(),
    phase: 'creating',
  };
  if (!(await repository.insertSnapshot(snapshot))) {
    throw new HoldfastError('ALREADY_EXISTS', `volume "${record.name}" has a snapshot "${name}" already`);
  }
  let outcome: Awaited<ReturnType<typeof dataPlane.changeSnapshot>>;
  try {
    outcome = await dataPlane.changeSnapshot(engine.control, record.id, 'create', snapshot.id);
  } catch (error) {
    // Whether it is in the log is not known; a name must not lead to something that may not be there.
    await dataPlane.changeSnapshot(engine.control, record.id, 'delete', snapshot.id).then(
      () => repository.removeSnapshots([snapshot]),
      () => undefined,
    );
    throw error;
  }
  const { frozen, note } = outcome;
  const ready: SnapshotRecord = { ...snapshot, phase: 'ready', frozen, ...(note === '' ? {} : { note }) };
  await repository.putSnapshot(ready);
  return ready;
}

async function copyToNew(
  context: ManagerContext,
  source: VolumeRecord,
  engine: WorkingEngine,
  snapshot: SnapshotRecord,
  name: string,
): Promise<VolumeRecord> {
  const found = (await replicaSnapshots(context, source)).get(snapshot.id);
  const made = await createVolume(context, {
    name,
    size: found?.sizeBytes ?? source.size,
    replicas: source.copies,
    blockSize: source.blockSize,
    constraints: source.constraints,
    qos: source.qos,
    access: source.access,
  });
  try {
    await context.locks.run(made.id, async () => {
      await withEngine(context, made, engine.node, async () => {
        const from = { volumeId: source.id, snapshotId: snapshot.id };
        await context.dataPlane.copySnapshot(engine.control, from, made.id);
      });
    });
    return (await context.repository.volume(name)).record;
  } catch (error) {
    await deleteVolume(context, name, true).catch((deleteError: unknown) => {
      context.logger.warn('a clone that failed could not be removed', { volume: name, ...errorFields(deleteError) });
    });
    throw error;
  }
}

async function dropQuietly(context: ManagerContext, engine: WorkingEngine, snapshot: SnapshotRecord): Promise<void> {
  try {
    await context.dataPlane.changeSnapshot(engine.control, engine.volumeId, 'delete', snapshot.id);
    await context.repository.removeSnapshots([snapshot]);
  } catch (error) {
    context.logger.warn('the snapshot of a clone could not be deleted', {
      snapshot: snapshot.name,
      ...errorFields(error),
    });
  }
}

// ---- looking ----

// As an in-sync replica has them, by id. Empty when none can be asked.
export async function replicaSnapshots(
  { observed, dataPlane }: ManagerContext,
  record: VolumeRecord,
): Promise<ReadonlyMap<string, ReplicaSnapshot>> {
  for (const { id, node, disk } of record.replicas) {
    const address = replicaAddress(observed.node(node), disk);
    if (!record.inSync.includes(id) || address === null) continue;
    try {
      return new Map((await dataPlane.snapshots(address, id)).map((snapshot) => [snapshot.id, snapshot]));
    } catch {
      continue;
    }
  }
  return new Map();
}

export function snapshotViews(
  volume: VolumeRecord,
  records: readonly SnapshotRecord[],
  found: ReadonlyMap<string, ReplicaSnapshot>,
): SnapshotView[] {
  const names = new Map(records.map(({ id, name }) => [id, name]));
  return records
    .map((record) => {
      const seen = found.get(record.id);
      const parent = seen?.parent ?? null;
      return {
        id: record.id,
        name: record.name,
        volume: volume.name,
        parent: parent === null ? null : (names.get(parent) ?? null),
        createdAt: record.createdAt,
        state: record.phase,
        size: seen?.sizeBytes ?? null,
        usedBytes: seen?.usedBytes ?? null,
        frozen: record.frozen ?? false,
        note: record.note ?? null,
      };
    })
    .sort((a, b) => a.createdAt.localeCompare(b.createdAt) || a.name.localeCompare(b.name));
}

// Without the sizes: asking for them takes longer than the snapshot.
async function viewOf(context: ManagerContext, volume: VolumeRecord, record: SnapshotRecord): Promise<SnapshotView> {
  const [view] = snapshotViews(volume, [record], new Map());
  if (view === undefined) throw new HoldfastError('INTERNAL', `snapshot "${record.name}" has no view`);
  return await Promise.resolve(view);
}

export async function requireSnapshot(
  { repository }: ManagerContext,
  record: VolumeRecord,
  name: string,
): Promise<SnapshotRecord> {
  const found = await repository.findSnapshot(record.id, validateSnapshotName(name));
  if (found !== null) return found;
  throw new HoldfastError(
    'NOT_FOUND',
    `volume "${record.name}" has no snapshot "${name}": "holdfast snapshot ls ${record.name}" lists them`,
  );
}

export function requireComplete(volume: string, { name, phase }: SnapshotRecord): void {
  if (phase === 'ready') return;
  throw new HoldfastError(
    'FAILED_PRECONDITION',
    `snapshot "${name}" of volume "${volume}" is ${phase === 'creating' ? 'not complete' : 'being deleted'}: ` +
      `delete it ("holdfast snapshot delete ${volume} ${name}") or use another one`,
  );
}

function requireReady({ name, phase }: VolumeRecord): void {
  if (phase !== 'ready') throw new HoldfastError('FAILED_PRECONDITION', `volume "${name}" is being created`);
}

// "snap-20261123-134755-123"
function timedName(now: Date): string {
  const digits = now.toISOString().replaceAll(/\D/g, '');
  return `snap-${digits.slice(0, 8)}-${digits.slice(8, 14)}-${digits.slice(14)}`;
}

function cloneName(volume: string): string {
  return `clone-${volume}`.slice(0, 63).replace(/-$/, '');
}
