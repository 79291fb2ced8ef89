// Service Membership: what engines ask of the metadata store while they do I/O. Takes no lock of the manager: an engine asks in
// the middle of being attached or detached, while that operation holds the volume.
import { HoldfastError } from '../errors/holdfast-error.js';
import { activeReplicas } from './maintenance.js';
import type { VolumeRecord } from './records.js';
import { requireEpoch } from './repository.js';
import type { Repository } from './repository.js';

export type InSyncChange = {
  readonly volumeId: string;
  readonly epoch: number;
  readonly inSync: readonly string[];
  readonly reason: string;
  /** Rises with every new change of an epoch; 0: unchecked. */
  readonly sequence: number;
};

/** The record after the change; throws EPOCH_SUPERSEDED, CONFLICT (delayed duplicate) or INVALID_ARGUMENT (nothing is left). */
export function applyInSyncChange(record: VolumeRecord, change: InSyncChange): VolumeRecord {
  requireEpoch(record, change.volumeId, change.epoch);
  const known = new Set(activeReplicas(record).map(({ id }) => id));
  // A replica that was taken out of the volume a moment ago is still in the engine's set until it has been told.
  const inSync = [...new Set(change.inSync)].filter((id) => known.has(id));
  if (inSync.length === 0) {
    throw new HoldfastError('INVALID_ARGUMENT', `the in-sync set of volume "${record.name}" must not become empty`);
  }
  if (change.sequence !== 0 && change.sequence < record.inSyncSequence) {
    throw new HoldfastError(
      'CONFLICT',
      `a change of volume "${record.name}" arrived after a later one (${change.sequence} after ${record.inSyncSequence})`,
    );
  }
  return { ...record, inSync, inSyncSequence: Math.max(record.inSyncSequence, change.sequence) };
}

export type LostData = { readonly volumeId: string; readonly epoch: number; readonly reason: string };

/** No engine serves what is left before somebody accepts the loss. Again: nothing changes. */
export async function recordLostData(
  repository: Repository,
  { volumeId, epoch, reason }: LostData,
): Promise<VolumeRecord> {
  if ((await repository.findVolumeById(volumeId)) === null) requireEpoch(null, volumeId, epoch);
  return await repository.updateVolume(volumeId, (record) => {
    requireEpoch(record, volumeId, epoch);
    return record.lostData === null ? { ...record, lostData: reason } : null;
  });
}

/** The record after the change, and the replicas that were in the set until then. */
export async function changeInSyncSet(
  repository: Repository,
  change: InSyncChange,
): Promise<{ readonly record: VolumeRecord; readonly left: readonly string[] }> {
  if ((await repository.findVolumeById(change.volumeId)) === null) requireEpoch(null, change.volumeId, change.epoch);
  let former: readonly string[] = [];
  const record = await repository.updateVolume(change.volumeId, (present) => {
    former = present.inSync;
    return applyInSyncChange(present, change);
  });
  return { record, left: former.filter((id) => !record.inSync.includes(id)) };
}
