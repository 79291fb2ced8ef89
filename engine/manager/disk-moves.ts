// A disk that shows up in another place: its drive was put into another node, or its folder is mounted elsewhere. It is known by the
// identity that was written into it when it was formatted (docs/on-disk-format.md).
//
// Invariants: at any time one place at most counts as the disk, and only that one's address is told to engines. The place changes in
// one transaction, and only when nothing serves the disk where it was. A disk that shows up while the other one is served is a copy: it is
// never taken into use, not even when the other one goes.
//
// What a disk brings from elsewhere may be older than what it held last. So its replicas of volumes that no engine has leave the in-sync
// set while another copy can be reached, and come back by a delta. An engine checks that by itself when it opens a replica.
import { HoldfastError, isHoldfastError } from '../errors/holdfast-error.js';
import type { Place } from '../placement/place-replicas.js';
import type { ManagerContext } from './context.js';
import { engineNode, goodCopies, isUp } from './maintenance.js';
import { replicaProcess } from './observed.js';
import type { ObservedProcess } from './observed.js';
import type { Nodes } from './reconcile.js';
import type { DiskRecord, ReplicaRecord, VolumeRecord } from './records.js';

export type DiskMove = { readonly kind: 'move-disk'; readonly diskId: string; readonly to: Place };

/** The lock under which it is decided which place counts as a disk. */
export const disksLock = 'disks';

/** An agent that is away for less may be restarting, with the disk in its place. */
const agentAwayMs = 10_000;
const relocationsAtOnce = 32;

/** Disks that have shown up in another place, and moves that a crash has cut short. Pure. */
export function planDiskMoves(disks: readonly DiskRecord[], nodes: Nodes): readonly DiskMove[] {
  const moves: DiskMove[] = [];
  for (const { node, name, diskId, movedFrom } of disks) {
    if (movedFrom !== undefined && diskId !== null) moves.push({ kind: 'move-disk', diskId, to: { node, disk: name } });
  }
  for (const { name: node, processes } of nodes.values()) {
    for (const { disk, withheld } of processes) {
      const diskId = withheld?.diskId ?? null;
      if (diskId === null || disk === null) continue;
      const record = disks.find((each) => each.node === node && each.name === disk);
      if (record?.diskId !== null || record.copyOf === diskId) continue;
      moves.push({ kind: 'move-disk', diskId, to: { node, disk } });
    }
  }
  return moves;
}

/** What an agent reports of a disk that counts as being elsewhere: not to be used. `holder`: where it is. */
export function withhold(process: ObservedProcess, record: DiskRecord | null, holder: DiskRecord): ObservedProcess {
  const { diskId } = process;
  const where = `${holder.name} of ${holder.node}`;
  if (process.state !== 'running') {
    const message = `disk ${diskId ?? ''} is ${where} now`;
    return process.failure === null ? process : { ...process, failure: { code: 'WRONG_DISK', message } };
  }
  const place = record === null ? '' : `${record.node} ${record.name}`;
  const message =
    record?.copyOf === undefined
      ? `disk ${diskId ?? ''} was ${where}: it is taken over as soon as it is certain that nothing serves it there`
      : `it is a copy of disk ${diskId ?? ''}, which is served as ${where}: "holdfast disk rm ${place}" lets it go; ` +
        `if it was the other one that is the copy, remove that first and add this one again`;
  return { ...process, state: 'failed', address: null, failure: { code: 'WRONG_DISK', message }, withheld: process };
}

export async function moveDisk(context: ManagerContext, { diskId, to }: DiskMove): Promise<void> {
  const { repository, observed, locks, disksChanged } = context;
  const find = async (wanted: (disk: DiskRecord) => boolean) => (await repository.listDisks()).find(wanted);
  const isTarget = ({ node, name }: DiskRecord) => node === to.node && name === to.disk;
  const holder = await find((disk) => disk.diskId === diskId && !isTarget(disk));
  if (holder !== undefined) {
    const standing = await standingOf(context, holder);
    if (standing === 'unknown') {
      throw new HoldfastError(
        'IN_USE',
        `disk ${diskId} has shown up as ${to.disk} of ${to.node}, and it is not certain yet that nothing serves it as ${holder.name} of ${holder.node}`,
      );
    }
    if (standing === 'served') {
      await locks.run(disksLock, () => refuse(context, diskId, to, holder));
      return;
    }
  }
  await locks.run(disksLock, async () => {
    const target = await find(isTarget);
    const withheld = replicaProcess(observed.node(to.node), to.disk)?.withheld;
    if (target?.diskId !== null || withheld?.diskId !== diskId) return;
    const present = await find((disk) => disk.diskId === diskId);
    if (present?.node !== holder?.node || present?.name !== holder?.name) return;
    await repository.claimDisk(target, present ?? null, diskId, withheld);
  });
  const claimed = await find(isTarget);
  if (claimed?.diskId !== diskId) return;
  observed.reinstate(to.node, to.disk, diskId);
  if (claimed.movedFrom !== undefined) await relocate(context, claimed.movedFrom, to, diskId);
  disksChanged();
}

// Whether anything serves the disk where the records have it.
async function standingOf(
  { observed, dataPlane }: ManagerContext,
  { node, name, diskId, address }: DiskRecord,
): Promise<'served' | 'gone' | 'unknown'> {
  const seen = observed.node(node);
  const process = replicaProcess(seen, name);
  const connected = seen?.agentPid != null;
  const awaySince = seen === undefined ? observed.startedAt : (seen.agentAwaySince ?? observed.now());
  const lastAddress = process?.address ?? address;
  if (lastAddress !== null) {
    const answer = await dataPlane.disk(lastAddress).catch(() => null);
    if (answer?.diskId === diskId) return answer.failure === '' ? 'served' : 'gone';
  }
  if (!connected) return observed.now() - awaySince >= agentAwayMs ? 'gone' : 'unknown';
  const mayCome = process !== null && process.state !== 'failed' && process.failure === null;
  return mayCome ? 'unknown' : 'gone';
}

async function refuse(context: ManagerContext, diskId: string, to: Place, holder: DiskRecord): Promise<void> {
  const { repository, observed, events } = context;
  const marked = await repository.updateDisk(to.node, to.disk, (latest) =>
    latest?.diskId !== null || latest.copyOf === diskId ? null : { ...latest, copyOf: diskId },
  );
  const process = replicaProcess(observed.node(to.node), to.disk)?.withheld;
  if (marked?.copyOf !== diskId || process?.diskId !== diskId) return;
  const shown = withhold(process, marked, holder);
  observed.replaceProcess(to.node, shown);
  events.emit({
    severity: 'error',
    object: `disk ${to.disk} of ${to.node}`,
    message: `not taken into use: ${shown.failure?.message ?? ''}`,
  });
}

// Everything that names the former place, until nothing does.
async function relocate(context: ManagerContext, from: Place, to: Place, diskId: string): Promise<void> {
  const { repository, observed, locks, events } = context;
  const isThere = (replica: Place) => replica.node === from.node && replica.disk === from.disk;
  const moved = <T extends Place>(replica: T): T => (isThere(replica) ? { ...replica, ...to } : replica);
  const volumes = (await repository.listVolumes()).filter(({ replicas }) => replicas.some(isThere));
  for (let first = 0; first < volumes.length; first += relocationsAtOnce) {
    await Promise.all(
      volumes.slice(first, first + relocationsAtOnce).map(({ id }) =>
        locks.run(id, () =>
          repository
            .updateVolume(id, (latest) => relocatedVolume(latest, isThere, moved, observed.nodes))
            .catch((error: unknown) => {
              if (!isHoldfastError(error, 'NOT_FOUND')) throw error;
            }),
        ),
      ),
    );
  }
  for (const { volume } of await repository.listTrash()) {
    if (!volume.replicas.some(isThere)) continue;
    await repository.updateTrashed(volume.id, (latest) => ({
      ...latest,
      volume: { ...latest.volume, replicas: latest.volume.replicas.map(moved) },
    }));
  }
  for (const replica of await repository.listDoomedReplicas()) {
    if (isThere(replica)) await repository.updateDoomedReplica(replica.id, moved);
  }
  // What was deleted or created meanwhile: everything is looked at again.
  const left = (await repository.listVolumes()).some(({ replicas }) => replicas.some(isThere));
  const doomedLeft = (await repository.listDoomedReplicas()).some(isThere);
  if (left || doomedLeft) {
    throw new HoldfastError(
      'CONFLICT',
      `replicas of disk ${diskId} changed while it moved to ${to.disk} of ${to.node}`,
    );
  }
  await locks.run(disksLock, () => repository.finishDiskMove(from, to));
  const count = `${volumes.length} ${volumes.length === 1 ? 'volume' : 'volumes'}`;
  events.emit({
    severity: 'info',
    object: `disk ${to.disk} of ${to.node}`,
    message: `disk ${diskId} is here now, with replicas of ${count}; it was ${from.disk} of ${from.node}`,
  });
}

function relocatedVolume(
  volume: VolumeRecord,
  isThere: (replica: ReplicaRecord) => boolean,
  moved: (replica: ReplicaRecord) => ReplicaRecord,
  nodes: Nodes,
): VolumeRecord | null {
  const came = volume.replicas.find(isThere);
  if (came === undefined) return null;
  const others = goodCopies(volume).some((copy) => copy.id !== came.id && isUp(nodes, copy));
  const doubted = engineNode(volume) === null && others;
  return {
    ...volume,
    replicas: volume.replicas.map(moved),
    inSync: doubted ? volume.inSync.filter((id) => id !== came.id) : volume.inSync,
  };
}
