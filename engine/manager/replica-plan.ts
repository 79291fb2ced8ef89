// Which replicas a volume should get and lose. A pure function of its record and of how its disks look; it is asked again after every
// change, so one step at a time is enough.
//
// Never drops a copy before enough others are in-sync: a replica only goes when `copies` in-sync replicas stay that are where they
// should be. What cannot be replaced (no disk has room) therefore stays where it is.
import { activeReplicas } from './maintenance.js';
import type { ReplicaRecord, VolumeRecord } from './records.js';

/** "leaving": the disk or node is being emptied; "lost": it has been away for longer than the settings allow. */
export type Outlook = 'good' | 'leaving' | 'lost';

export type ReplicaStep =
  | { readonly kind: 'add-replica'; readonly volumeId: string; readonly reason: string }
  | { readonly kind: 'remove-replica'; readonly volumeId: string; readonly replicaId: string; readonly reason: string };

export type Standing = ReplicaRecord & {
  readonly outlook: Outlook;
  readonly inSync: boolean;
  readonly retiring: boolean;
};

export function standingOf(volume: VolumeRecord, outlookOf: (replica: ReplicaRecord) => Outlook): readonly Standing[] {
  return activeReplicas(volume).map((replica) => ({
    ...replica,
    outlook: outlookOf(replica),
    inSync: volume.inSync.includes(replica.id),
    retiring: volume.retiring.includes(replica.id),
  }));
}

export function planReplicas(volume: VolumeRecord, outlookOf: (replica: ReplicaRecord) => Outlook): ReplicaStep | null {
  if (volume.phase !== 'ready' || volume.lostData !== null || isSettled(volume, outlookOf)) return null;
  const standing = standingOf(volume, outlookOf);
  const staying = standing.filter(({ outlook, retiring }) => outlook === 'good' && !retiring);
  if (staying.length < volume.copies) {
    return { kind: 'add-replica', volumeId: volume.id, reason: reasonToAdd(standing, volume.copies) };
  }
  const goer = chooseToGo(standing, staying, volume.copies);
  if (goer === null) return null;
  return { kind: 'remove-replica', volumeId: volume.id, replicaId: goer.id, reason: reasonToGo(goer) };
}

// As nearly all are: nothing is made for them.
function isSettled(volume: VolumeRecord, outlookOf: (replica: ReplicaRecord) => Outlook): boolean {
  const { copies, retiring } = volume;
  const replicas = activeReplicas(volume);
  return replicas.length === copies && retiring.length === 0 && replicas.every((each) => outlookOf(each) === 'good');
}

function chooseToGo(standing: readonly Standing[], staying: readonly Standing[], copies: number): Standing | null {
  const inSync = staying.filter((replica) => replica.inSync);
  if (inSync.length < copies) return null;
  const unwanted = standing.filter((replica) => !staying.includes(replica));
  // The least useful first: what is not in-sync anyway.
  const [goer] = [...unwanted].sort((a, b) => Number(a.inSync) - Number(b.inSync));
  if (goer !== undefined) return goer;
  if (staying.length <= copies) return null;
  const surplus = staying.find((replica) => !replica.inSync) ?? staying.at(-1);
  // Without a surplus one that is in-sync there are exactly `copies` others.
  return surplus !== undefined && (!surplus.inSync || inSync.length > copies) ? surplus : null;
}

function reasonToAdd(standing: readonly Standing[], copies: number): string {
  const gone = standing.find(({ outlook, retiring }) => retiring || outlook !== 'good');
  if (gone === undefined) return `${copies} replicas are wanted`;
  return `in place of the one on ${gone.disk} of ${gone.node}`;
}

function reasonToGo({ outlook, retiring, disk, node }: Standing): string {
  if (outlook === 'lost') return `${disk} of ${node} has been away for too long`;
  if (outlook === 'leaving') return `${disk} of ${node} is being emptied`;
  return retiring ? 'it was moved' : 'more replicas than wanted';
}
