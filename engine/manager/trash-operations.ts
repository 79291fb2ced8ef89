// The trash: a deleted volume keeps its replicas, and all that is recorded of it, until it is purged. Its name is free at once.
import { validateVolumeName } from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import type { ManagerContext } from './context.js';
import { replicaAddress } from './observed.js';
import { keys, recordVersion } from './records.js';
import type { DoomedReplicaRecord, TrashRecord, VolumeRecord } from './records.js';
import { deleteKey, doom, putRecord } from './repository.js';
import type { Versioned } from './repository.js';

export type TrashView = {
  readonly id: string;
  readonly volume: string;
  readonly size: number;
  readonly replicas: number;
  readonly deletedAt: string;
  readonly purgeAt: string;
};

export function trashView({ volume, deletedAt, purgeAt }: TrashRecord): TrashView {
  const { id, name, size, replicas } = volume;
  return { id, volume: name, size, replicas: replicas.length, deletedAt, purgeAt };
}

export async function moveToTrash(
  { repository, now }: ManagerContext,
  found: Versioned<VolumeRecord>,
  seconds: number,
): Promise<TrashRecord> {
  const deletedAt = now();
  const record: TrashRecord = {
    version: recordVersion,
    volume: found.record,
    deletedAt: deletedAt.toISOString(),
    purgeAt: new Date(deletedAt.getTime() + seconds * 1_000).toISOString(),
  };
  await repository.replaceVolume(found, [putRecord(keys.trashed(found.record.id), record)]);
  return record;
}

/** Under its old name, or another one. The id, and with it every replica, stays. */
export async function restoreFromTrash(
  { repository }: ManagerContext,
  idOrName: string,
  name: string | null,
): Promise<VolumeRecord> {
  if (name !== null) validateVolumeName(name);
  const { record, modRevision } = await findTrashed(repository, idOrName);
  const volume: VolumeRecord = { ...record.volume, name: name ?? record.volume.name, attachment: null };
  await repository.insertVolume(
    volume,
    [{ key: keys.trashed(volume.id), modRevision }],
    [deleteKey(keys.trashed(volume.id))],
  );
  return volume;
}

/** Ids of the replicas that could not be deleted yet. */
export async function purge(context: ManagerContext, idOrName: string): Promise<readonly string[]> {
  const { record, modRevision } = await findTrashed(context.repository, idOrName);
  return await purgeRecord(context, record, modRevision);
}

/** Whatever has been there for as long as it was to be. When the next one is due, ms since 1970; null: nothing is left. */
export async function purgeExpired(context: ManagerContext): Promise<number | null> {
  const trash = await context.repository.listTrash();
  const now = context.now().getTime();
  const due = trash.filter(({ purgeAt }) => Date.parse(purgeAt) <= now);
  for (const { volume } of due) await purge(context, volume.id);
  const later = trash.filter((each) => !due.includes(each)).map(({ purgeAt }) => Date.parse(purgeAt));
  return later.length === 0 ? null : Math.min(...later);
}

async function purgeRecord(
  context: ManagerContext,
  { volume }: TrashRecord,
  modRevision: number,
): Promise<readonly string[]> {
  const doomed = volume.replicas.map((replica) => doom(replica, volume.name));
  await context.repository.removeTrashed(volume.id, modRevision, doomed);
  return await deleteRemains(context, volume.id, doomed);
}

/**
 * Of a volume whose record has just gone, with what made its replicas doomed. Nothing leads back from here: what a crash leaves of the
 * replicas is the reconciler's, what it leaves of the snapshots' records snapshot-settling.ts finds. Ids of the replicas that remain.
 */
export async function deleteRemains(
  context: ManagerContext,
  volumeId: string,
  doomed: readonly DoomedReplicaRecord[],
): Promise<readonly string[]> {
  await context.repository.removeSnapshotsOfGone(volumeId).catch((error: unknown) => {
    context.unfinishedSnapshots.volumeIsGone(volumeId);
    context.logger.warn('records of snapshots cannot be removed yet', { volume: volumeId, ...errorFields(error) });
  });
  return await deleteDoomed(context, doomed);
}

/** Tries at once; those that remain are deleted by the reconciler when their disks are back. */
export async function deleteDoomed(
  { repository, observed, dataPlane, locks }: ManagerContext,
  doomed: readonly DoomedReplicaRecord[],
): Promise<readonly string[]> {
  const outcomes = await Promise.all(
    doomed.map(async (replica) => {
      const address = replicaAddress(observed.node(replica.node), replica.disk);
      if (address === null) return replica.id;
      try {
        await locks.run(`replica ${replica.id}`, async () => {
          await dataPlane.deleteReplica(address, replica.id);
          await repository.removeDoomedReplica(replica.id);
        });
        return null;
      } catch {
        return replica.id;
      }
    }),
  );
  return outcomes.filter((id) => id !== null);
}

async function findTrashed(
  repository: ManagerContext['repository'],
  idOrName: string,
): Promise<Versioned<TrashRecord>> {
  const byId = await repository.findTrashed(idOrName);
  if (byId !== null) return byId;
  const named = (await repository.listTrash()).filter(({ volume }) => volume.name === idOrName);
  const [only] = named;
  if (only === undefined)
    throw new HoldfastError('NOT_FOUND', `the trash has no volume "${idOrName}": "holdfast trash ls" lists it`);
  if (named.length > 1) {
    const ids = named.map(({ volume }) => volume.id).join(', ');
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `the trash has several volumes "${idOrName}": say which by id (${ids})`,
    );
  }
  const found = await repository.findTrashed(only.volume.id);
  if (found === null) throw new HoldfastError('NOT_FOUND', `volume "${idOrName}" has left the trash meanwhile`);
  return found;
}
