// Snapshots that were left between their record and the log of their volume: by a manager that ended there, by a request that failed
// halfway. One that the log has is there, and its record says so from then on. One that the log does not have, or that was to go, is taken
// out of the log, in case it gets there late, and its record is removed. One that the log has without a record, of a manager that ended
// before it had stored one, or of a store that was restored from an older copy, is never dropped: it gets a name, and an event tells of it.
// A volume goes before the records of its snapshots do, in several transactions: those of volumes that are gone are removed here, too.
import { backoffMs } from '../async/wait.js';
import { errorFields } from '../log/logger.js';
import { replicaAddress } from './observed.js';
import type { ManagerContext } from './context.js';
import type { SnapshotRecord, VolumeRecord } from './records.js';
import { recordVersion } from './records.js';
import { cloneSnapshotsKey, dropFromLog, dropSnapshot } from './snapshot-operations.js';

// By then the request of a former manager has been carried out, or never will be: its own deadline is over.
const lateAfterMs = 90_000;

const retryFirstMs = 1_000;
const retryMaxMs = 30_000;

export class UnfinishedSnapshots {
  #left: Map<string, SnapshotRecord> | null = null;
  #added: SnapshotRecord[] = [];
  readonly #goneVolumes = new Set<string>();
  // Of the volumes there were at the start: those whose logs were not looked at yet for snapshots without a record.
  #unsearched: Set<string> | null = null;
  readonly #searchAt: number;
  #attempts = 0;
  #notBefore = 0;
  #settling: Promise<void> | null = null;
  #stopped = false;

  /** `lateMs`: after so long no request of a former manager can be under way. */
  constructor(lateMs = lateAfterMs) {
    this.#searchAt = performance.now() + lateMs;
  }

  add(snapshot: SnapshotRecord): void {
    this.#added.push(snapshot);
    this.#attempts = 0;
  }

  volumeIsGone(volumeId: string): void {
    this.#goneVolumes.add(volumeId);
    this.#attempts = 0;
  }

  /** A chore: begins what is to be done, if nothing is under way; it goes on beside. */
  settle(context: ManagerContext): void {
    if (this.#settling !== null || (performance.now() < this.#notBefore && this.#added.length === 0)) return;
    this.#settling = this.#settleAll(context)
      .catch((error: unknown) => {
        context.logger.warn('unfinished snapshots cannot be looked for', errorFields(error));
      })
      .finally(() => {
        this.#notBefore = performance.now() + backoffMs(++this.#attempts, retryFirstMs, retryMaxMs);
        this.#settling = null;
      });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#settling;
  }

  async #settleAll(context: ManagerContext): Promise<void> {
    await context.ready;
    // Those of this run are added when they fail; a look at all there are shows what former runs left.
    this.#left ??= await this.#lookAtAll(context);
    for (const volumeId of [...this.#goneVolumes]) {
      if (this.#stopped) return;
      await context.repository.removeSnapshotsOfGone(volumeId);
      this.#goneVolumes.delete(volumeId);
    }
    for (const snapshot of this.#added.splice(0)) this.#left.set(snapshot.id, snapshot);
    for (const snapshot of [...this.#left.values()]) {
      if (this.#stopped) return;
      try {
        if (await settleSnapshot(context, snapshot)) this.#left.delete(snapshot.id);
      } catch (error) {
        const { name, volume } = snapshot;
        context.logger.info('a snapshot cannot be finished yet', { snapshot: name, volume, ...errorFields(error) });
      }
    }
    await this.#nameThoseWithout(context);
  }

  // Not those that failed and are to go.
  async #nameThoseWithout(context: ManagerContext): Promise<void> {
    const unsearched = (this.#unsearched ??= new Set((await context.repository.listVolumes()).map(({ id }) => id)));
    if (performance.now() < this.#searchAt) return;
    const unfinished = () => new Set([...(this.#left?.keys() ?? []), ...this.#added.map(({ id }) => id)]);
    for (const volumeId of [...unsearched]) {
      if (this.#stopped) return;
      try {
        if (await nameUnnamed(context, volumeId, unfinished)) unsearched.delete(volumeId);
      } catch (error) {
        context.logger.info('a log cannot be searched for snapshots yet', { volume: volumeId, ...errorFields(error) });
      }
    }
  }

  async #lookAtAll({ repository }: ManagerContext): Promise<Map<string, SnapshotRecord>> {
    const snapshots = await repository.listAllSnapshots();
    const [trash, volumes] = await Promise.all([repository.listTrash(), repository.listVolumes()]);
    const kept = new Set([...volumes, ...trash.map(({ volume }) => volume)].map(({ id }) => id));
    // Those that were on their way between the two are looked at again before anything is removed.
    for (const { volume } of snapshots) if (!kept.has(volume)) this.#goneVolumes.add(volume);
    return byId(snapshots.filter(({ phase }) => phase !== 'ready'));
  }
}

/** True: nothing is left to do. Throws when it cannot be told, or done, at this moment. */
export async function settleSnapshot(context: ManagerContext, snapshot: SnapshotRecord): Promise<boolean> {
  const { repository, locks } = context;
  const found = await repository.findVolumeById(snapshot.volume);
  // In the trash it waits for the volume to be restored; what is purged takes it along.
  if (found === null) return (await repository.findTrashed(snapshot.volume)) === null;
  const inLog =
    snapshot.phase === 'creating' ? ((await snapshotsInLog(context, found.record))?.has(snapshot.id) ?? null) : false;
  return await locks.run(snapshot.volume, async () => {
    const volume = (await repository.findVolumeById(snapshot.volume))?.record;
    const latest = await repository.findSnapshot(snapshot.volume, snapshot.name);
    if (volume === undefined) return false;
    if (latest?.id !== snapshot.id) {
      // It never had a record, or has none any more.
      if (snapshot.phase === 'deleting') await dropFromLog(context, volume, snapshot.id);
      return true;
    }
    if (latest.phase === 'ready') return true;
    const wanted = snapshot.phase === 'creating' && latest.phase === 'creating';
    if (wanted && inLog === true) {
      await repository.putSnapshot({ ...latest, phase: 'ready' });
      context.logger.info('a snapshot was found in the log', { volume: volume.name, snapshot: latest.name });
      return true;
    }
    const age = context.now().getTime() - Date.parse(latest.createdAt);
    if (wanted && (inLog === null || age < lateAfterMs)) return false;
    await dropSnapshot(context, volume, latest);
    context.logger.info('a snapshot that was not finished is gone', { volume: volume.name, snapshot: latest.name });
    return true;
  });
}

/** True: every snapshot that the volume's log has, has a record. `unfinished`: those that are not to get one. */
async function nameUnnamed(
  context: ManagerContext,
  volumeId: string,
  unfinished: () => ReadonlySet<string>,
): Promise<boolean> {
  const { repository, locks, events, logger, now } = context;
  const withoutRecord = async (): Promise<{ readonly volume: VolumeRecord; readonly ids: string[] } | null> => {
    const volume = (await repository.findVolumeById(volumeId))?.record;
    const inLog = volume === undefined ? null : await snapshotsInLog(context, volume);
    if (volume === undefined || inLog === null) return null;
    const known = new Set((await repository.listSnapshots(volumeId)).map(({ id }) => id));
    const failed = unfinished();
    return { volume, ids: [...inLog].filter((id) => !known.has(id) && !failed.has(id)) };
  };
  if ((await repository.findVolumeById(volumeId)) === null) return true;
  const first = await withoutRecord();
  if (first === null || first.ids.length === 0) return first !== null;
  // Again while nothing comes or goes: what was on its way between the two is in both by then, or in neither.
  return await locks.run(volumeId, () =>
    locks.run(cloneSnapshotsKey(volumeId), async () => {
      const found = await withoutRecord();
      if (found === null) return false;
      for (const id of found.ids) {
        const { name: volume } = found.volume;
        const name = `found-${id}`;
        const createdAt = now().toISOString();
        await repository.insertSnapshot({
          version: recordVersion,
          id,
          volume: volumeId,
          name,
          createdAt,
          phase: 'ready',
        });
        logger.warn('a snapshot without a record gets a name', { volume, snapshot: name });
        const message = `has a snapshot that no record names, now "${name}": taken while a manager ended, or before the metadata store was restored`;
        events.emit({ severity: 'warning', object: `volume ${volume}`, message });
      }
      return true;
    }),
  );
}

// Every in-sync replica has all that was acknowledged. Null: none can be asked.
async function snapshotsInLog(
  { observed, dataPlane }: ManagerContext,
  volume: VolumeRecord,
): Promise<ReadonlySet<string> | null> {
  for (const { id, node, disk } of volume.replicas) {
    const address = replicaAddress(observed.node(node), disk);
    if (!volume.inSync.includes(id) || address === null) continue;
    try {
      return await dataPlane.settledSnapshots(address, id);
    } catch {
      continue;
    }
  }
  return null;
}

function byId(snapshots: readonly SnapshotRecord[]): Map<string, SnapshotRecord> {
  return new Map(snapshots.map((snapshot) => [snapshot.id, snapshot]));
}
