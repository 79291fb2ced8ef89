// What is to be expected of disks and nodes: whether replicas and attachments can stay there. Pure.
import type { Desired, Moment, Nodes } from './reconcile.js';
import type { ReplicaRecord, VolumeRecord } from './records.js';
import type { Outlook } from './replica-plan.js';

export type Outlooks = {
  readonly ofReplica: (volume: VolumeRecord, replica: ReplicaRecord) => Outlook;
  readonly ofAttachment: (node: string) => 'good' | 'lost' | 'drained';
};

export function outlooks(
  { disks, nodes: records, settings }: Desired,
  nodes: Nodes,
  moment: Omit<Moment, 'run'>,
): Outlooks {
  const leavingDisks = new Set(disks.filter(({ evicting }) => evicting).map(({ node, name }) => `${node}/${name}`));
  const draining = new Set(records.filter((node) => node.draining).map(({ name }) => name));
  const replaceAfterMs = settings.replaceAfterSeconds * 1_000;
  const longAway = (since: number | null | undefined, ms: number) => since != null && moment.now - since >= ms;
  const agentAway = (node: string, ms: number) => {
    const observed = nodes.get(node);
    return longAway(observed === undefined ? moment.startedAt : observed.agentAwaySince, ms);
  };
  // Nearly all nodes are fine, nearly always: those that may not be are found once.
  const suspects = new Set<string>([...draining, ...disks.filter(({ evicting }) => evicting).map(({ node }) => node)]);
  for (const { name } of records) if (!nodes.has(name)) suspects.add(name);
  for (const [name, node] of nodes) {
    if (node.agentAwaySince !== null || node.disksAwaySince.size > 0) suspects.add(name);
  }
  const ofPlace = (volume: VolumeRecord, { id, node, disk }: ReplicaRecord): Outlook => {
    if (!suspects.has(node)) return 'good';
    if (draining.has(node) || leavingDisks.has(`${node}/${disk}`)) return 'leaving';
    if (longAway(nodes.get(node)?.disksAwaySince.get(disk), replaceAfterMs)) return 'lost';
    // An agent that is away says nothing of what it supervised; an engine that dropped the replica does.
    const dropped = volume.attachment === null || !volume.inSync.includes(id);
    return dropped && agentAway(node, replaceAfterMs) ? 'lost' : 'good';
  };
  return {
    ofReplica: (volume, replica) => {
      const outlook = ofPlace(volume, replica);
      return outlook === 'good' && isSecondOfNode(volume, replica, ofPlace) ? 'leaving' : outlook;
    },
    ofAttachment: (node) => {
      if (!suspects.has(node)) return 'good';
      if (draining.has(node)) return 'drained';
      const { failoverSeconds } = settings;
      return failoverSeconds > 0 && agentAway(node, failoverSeconds * 1_000) ? 'lost' : 'good';
    },
  };
}

// After a disk was put into another node it may have two replicas of a volume. The better one stays, else the first.
function isSecondOfNode(
  volume: VolumeRecord,
  replica: ReplicaRecord,
  ofPlace: (volume: VolumeRecord, replica: ReplicaRecord) => Outlook,
): boolean {
  const { replicas, inSync, retiring, setAside } = volume;
  const place = replicas.indexOf(replica);
  for (let index = 0; index < replicas.length; index++) {
    const other = replicas[index];
    if (other === undefined || index === place || other.node !== replica.node) continue;
    if (retiring.includes(other.id) || setAside.includes(other.id) || ofPlace(volume, other) !== 'good') continue;
    const better = Number(inSync.includes(other.id)) - Number(inSync.includes(replica.id));
    if (better > 0 || (better === 0 && index < place)) return true;
  }
  return false;
}

export type AttachmentMove = {
  readonly kind: 'move-attachment';
  readonly volumeId: string;
  readonly from: string;
  readonly reason: 'lost' | 'drained';
};

export function planAttachment(
  { id, phase, attachment }: VolumeRecord,
  { ofAttachment }: Outlooks,
): AttachmentMove | null {
  if (attachment === null || phase !== 'ready') return null;
  const outlook = ofAttachment(attachment.node);
  // What is mapped as a block device of that host is in use there.
  if (outlook === 'drained' && attachment.device != null) return null;
  return outlook === 'good' ? null : { kind: 'move-attachment', volumeId: id, from: attachment.node, reason: outlook };
}
