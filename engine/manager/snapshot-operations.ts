// What people ask for about snapshots: create, list, delete, revert. A snapshot is an entry of its volume's
// log; its record gives it a name. Both are made at the same time, and whoever asked is answered when both are there; the record is removed last.
// The entry decides: a snapshot that is in the log exists, whatever its record says by then, or if there is none. What a crash or a failure leaves
// between the two is finished by snapshot-settling.ts.
import { validateSnapshotName } from '../config/volume-input.js';
import { HoldfastError, isHoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import { withEngine, withKnownEngine } from './attachment.js';
import type { WorkingEngine } from './attachment.js';
import type { ManagerContext } from './context.js';
import type { ReplicaSnapshot } from './data-plane.js';
import { randomId } from './ids.js';
import { replicaAddress } from './observed.js';
import { recordVersion } from './records.js';
import type { SnapshotRecord, VolumeRecord } from './records.js';
import type { SnapshotView } from './views.js';
import { withVolume } from './volume-operations.js';

/** `wanted` null: a name made of the time. */
export async function createSnapshot(
  context: ManagerContext,
  volume: string,
  wanted: string | null,
): Promise<SnapshotView> {
  const name = validateSnapshotName(wanted ?? timedName(context.now()));
  return await withVolume(context, volume, async ({ record }) => {
    requireReady(record);
    return viewOf(
      record,
      await whileTaking(context, record, name, (taking) =>
        withKnownEngine(context, record, (engine) => take(context, engine, taking)),
      ),
    );
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
    await dropSnapshot(context, record, snapshot);
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

// ---- steps ----

// One request for a snapshot, and whether anything may be there of it. `modRevision`: of its record.
type Taking = { record: SnapshotRecord; modRevision: number | null; perhapsThere: boolean };

/** Of a clone, with an engine that the caller has, who need not hold the volume's lock. */
export async function takeSnapshot(
  context: ManagerContext,
  volume: VolumeRecord,
  engine: WorkingEngine,
  name: string,
): Promise<SnapshotRecord> {
  return await context.locks.run(cloneSnapshotsKey(volume.id), () =>
    whileTaking(context, volume, name, (taking) => take(context, engine, taking)),
  );
}

/** Held, with or without the volume's lock, while snapshots of clones come and go. */
export function cloneSnapshotsKey(volumeId: string): string {
  return `${volumeId} snapshots of clones`;
}

// Whoever asked is told that there is no such snapshot when this fails, so in the end there must be none.
async function whileTaking(
  context: ManagerContext,
  volume: VolumeRecord,
  name: string,
  task: (taking: Taking) => Promise<SnapshotRecord>,
): Promise<SnapshotRecord> {
  const { repository, random, now, unfinishedSnapshots } = context;
  if ((await repository.findSnapshot(volume.id, name)) !== null) throw nameIsTaken(volume.name, name);
  const record: SnapshotRecord = {
    version: recordVersion,
    id: randomId(random),
    volume: volume.id,
    name,
    createdAt: now().toISOString(),
    phase: 'creating',
  };
  const taking: Taking = { record, modRevision: null, perhapsThere: false };
  try {
    return await task(taking);
  } catch (error) {
    if (taking.perhapsThere) unfinishedSnapshots.add({ ...taking.record, phase: 'deleting' });
    throw error;
  }
}

// May run again with another engine: the same id is the same snapshot.
async function take(context: ManagerContext, engine: WorkingEngine, taking: Taking): Promise<SnapshotRecord> {
  const { repository, dataPlane } = context;
  const { record } = taking;
  taking.perhapsThere = true;
  const [stored, changed] = await Promise.allSettled([
    taking.modRevision ?? insertRecord(context, record),
    dataPlane.changeSnapshot(engine.control, engine.volumeId, 'create', record.id),
  ]);
  if (stored.status === 'fulfilled') taking.modRevision = stored.value;
  if (stored.status === 'fulfilled' && changed.status === 'fulfilled') {
    const { frozen, note } = changed.value;
    const ready: SnapshotRecord = { ...record, phase: 'ready', frozen, ...(note === '' ? {} : { note }) };
    repository.confirmSnapshot(ready, stored.value);
    return ready;
  }
  // Perhaps it is in the log. A name must not lead to something that may not be there, nor must anything be there without a name.
  const unclear = stored.status === 'rejected' && !isHoldfastError(stored.reason, 'ALREADY_EXISTS');
  await takeBack(context, engine, taking).then(
    () => {
      if (unclear) return;
      taking.record = anew(context, record);
      taking.modRevision = null;
      taking.perhapsThere = false;
    },
    () => undefined,
  );
  for (const outcome of [stored, changed]) if (outcome.status === 'rejected') throw outcome.reason;
  throw new HoldfastError('INTERNAL', 'one of the two has failed');
}

async function takeBack(
  { repository, dataPlane }: ManagerContext,
  engine: WorkingEngine,
  { record, modRevision }: Taking,
): Promise<void> {
  await dataPlane.changeSnapshot(engine.control, engine.volumeId, 'delete', record.id);
  if (modRevision !== null) await repository.removeSnapshots([record]);
}

// An id is never used again.
function anew({ random }: ManagerContext, record: SnapshotRecord): SnapshotRecord {
  return { ...record, id: randomId(random) };
}

// Its revision.
async function insertRecord({ repository }: ManagerContext, record: SnapshotRecord): Promise<number> {
  const modRevision = await repository.insertSnapshot(record);
  if (modRevision !== null) return modRevision;
  const volume = (await repository.findVolumeById(record.volume))?.record.name ?? record.volume;
  throw nameIsTaken(volume, record.name);
}

function nameIsTaken(volume: string, name: string): HoldfastError {
  return new HoldfastError('ALREADY_EXISTS', `volume "${volume}" has a snapshot "${name}" already`);
}

/** Out of the log, and then its record. The caller holds the volume's lock; what fails can be tried again. */
export async function dropSnapshot(
  context: ManagerContext,
  volume: VolumeRecord,
  snapshot: SnapshotRecord,
): Promise<void> {
  const { repository } = context;
  await repository.putSnapshot({ ...snapshot, phase: 'deleting' });
  await dropFromLog(context, volume, snapshot.id);
  await repository.removeSnapshots([snapshot]);
}

/** Also one that is not there. The caller holds the volume's lock. */
export async function dropFromLog(context: ManagerContext, volume: VolumeRecord, snapshotId: string): Promise<void> {
  await withKnownEngine(context, volume, ({ control }) =>
    context.dataPlane.changeSnapshot(control, volume.id, 'delete', snapshotId),
  );
}

export async function dropQuietly(
  context: ManagerContext,
  engine: WorkingEngine,
  snapshot: SnapshotRecord,
): Promise<void> {
  try {
    await context.locks.run(cloneSnapshotsKey(snapshot.volume), async () => {
      await context.dataPlane.changeSnapshot(engine.control, engine.volumeId, 'delete', snapshot.id);
      await context.repository.removeSnapshots([snapshot]);
    });
  } catch (error) {
    context.unfinishedSnapshots.add({ ...snapshot, phase: 'deleting' });
    context.logger.warn('the snapshot of a clone could not be deleted yet', {
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
function viewOf(volume: VolumeRecord, record: SnapshotRecord): SnapshotView {
  const [view] = snapshotViews(volume, [record], new Map());
  if (view === undefined) throw new HoldfastError('INTERNAL', `snapshot "${record.name}" has no view`);
  return view;
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

export function requireReady({ name, phase }: VolumeRecord): void {
  if (phase !== 'ready') throw new HoldfastError('FAILED_PRECONDITION', `volume "${name}" is being created`);
}

// "snap-20261123-134755-123"
function timedName(now: Date): string {
  const digits = now.toISOString().replaceAll(/\D/g, '');
  return `snap-${digits.slice(0, 8)}-${digits.slice(8, 14)}-${digits.slice(14)}`;
}
