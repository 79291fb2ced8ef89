// Snapshots that were left between their record and the log of their volume: by a manager that ended there, by a request that failed
// halfway. One that the log has is there, and its record says so from then on. One that the log does not have, or that was to go, is taken
// out of the log, in case it gets there late, and its record is removed. A volume goes before the records of its snapshots do, in
// several transactions: those of volumes that are gone are removed here, too.
import { backoffMs } from '../async/wait.js';
import { errorFields } from '../log/logger.js';
import { replicaAddress } from './observed.js';
import type { ManagerContext } from './context.js';
import type { SnapshotRecord, VolumeRecord } from './records.js';
import { dropSnapshot } from './snapshot-operations.js';

// By then the request of a former manager has been carried out, or never will be: its own deadline is over.
const lateAfterMs = 90_000;

const retryFirstMs = 1_000;
const retryMaxMs = 30_000;

export class UnfinishedSnapshots {
  #left: Map<string, SnapshotRecord> | null = null;
  #added: SnapshotRecord[] = [];
  readonly #goneVolumes = new Set<string>();
  #attempts = 0;
  #notBefore = 0;
  #settling: Promise<void> | null = null;
  #stopped = false;

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
  const inLog = snapshot.phase === 'creating' ? await isInLog(context, found.record, snapshot.id) : false;
  return await locks.run(snapshot.volume, async () => {
    const volume = (await repository.findVolumeById(snapshot.volume))?.record;
    const latest = await repository.findSnapshot(snapshot.volume, snapshot.name);
    if (volume === undefined) return false;
    if (latest?.id !== snapshot.id || latest.phase === 'ready') return true;
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

// Every in-sync replica has all that was acknowledged. Null: none can be asked.
async function isInLog(
  { observed, dataPlane }: ManagerContext,
  volume: VolumeRecord,
  snapshotId: string,
): Promise<boolean | null> {
  for (const { id, node, disk } of volume.replicas) {
    const address = replicaAddress(observed.node(node), disk);
    if (!volume.inSync.includes(id) || address === null) continue;
    try {
      return (await dataPlane.settledSnapshots(address, id)).has(snapshotId);
    } catch {
      continue;
    }
  }
  return null;
}

function byId(snapshots: readonly SnapshotRecord[]): Map<string, SnapshotRecord> {
  return new Map(snapshots.map((snapshot) => [snapshot.id, snapshot]));
}
