// What the API shows, made of records and of what was observed. Pure. The types are the JSON shapes of REST and of the CLI's
// `--json` output (docs/cli.md); gRPC answers are made of the same objects. Absent is null.
import type { SmartHealth } from '../os/smart.js';
import type { DiskStatus, ReplicaStatus, VolumeStatus } from './data-plane.js';
import { replicaAddress, replicaProcess, runningTarget } from './observed.js';
import type { ObservedProcess, Share } from './observed.js';
import { diskKey, iqnOf } from './reconcile.js';
import type { Nodes } from './reconcile.js';
import type {
  Constraints,
  DiskClass,
  DiskRecord,
  NodeRecord,
  Qos,
  ReplicaRecord,
  ScrubRecord,
  VolumeRecord,
} from './records.js';

export type IscsiView = {
  readonly portal: string;
  readonly iqn: string;
  readonly lun: number;
  readonly url: string;
};

export type TakeoverView = {
  readonly from: string;
  readonly former: 'detached' | 'unreachable';
  readonly leaseWaitMs: number;
  readonly leftOut: readonly string[];
  readonly waitedFor: string;
};

export type AttachmentView = {
  readonly volume: string;
  readonly epoch: number;
  readonly node: string;
  /** null for shared volumes */
  readonly iscsi: IscsiView | null;
  /** Of shared volumes. */
  readonly nfs: NfsView | null;
  /** When it was attached on another node before. */
  readonly takeover: TakeoverView | null;
  /** The replica whose older data is served now, because the loss was accepted. */
  readonly servedFrom: string | null;
};

export type ScrubView = {
  readonly state: 'running' | 'idle';
  readonly chunksTotal: number | null;
  readonly chunksChecked: number | null;
  readonly verifiedAt: string | null;
  readonly checkedBlocks: number;
  readonly damagedBlocks: number;
  readonly repairedBlocks: number;
  readonly unrepairableBlocks: number;
  readonly differingChunks: number;
  readonly failure: string | null;
};

export type NfsView = {
  readonly server: string;
  readonly port: number;
  readonly path: string;
  /** Arguments of mount(8), without the directory. */
  readonly mount: string;
};

export type MappingView = {
  readonly volume: string;
  readonly epoch: number;
  readonly node: string;
  readonly iscsi: IscsiView;
  readonly via: 'fuse' | 'iscsi';
  /** Of the host of `node`; null when an initiator is to make one. */
  readonly device: string | null;
};

export type DeviceView = { readonly via: 'fuse' | 'iscsi'; readonly node: string; readonly path: string | null };

export type RebuildView = {
  readonly chunksTotal: number;
  readonly chunksExamined: number;
  readonly bytesCopied: number;
  readonly bytesPerSecond: number;
  /** Null while it cannot be told. */
  readonly remainingSeconds: number | null;
};

export type ReplicaView = {
  readonly id: string;
  readonly node: string;
  readonly disk: string;
  readonly state: 'in-sync' | 'rebuilding' | 'failed' | 'set-aside';
  readonly reason: string | null;
  /** Of its replica process: where it runs, else where it last ran. */
  readonly address: string | null;
  readonly rebuild: RebuildView | null;
};

export type VolumeView = {
  readonly id: string;
  readonly name: string;
  readonly size: number;
  readonly blockSize: number;
  readonly state: 'creating' | 'detached' | 'attaching' | 'attached';
  readonly health: 'healthy' | 'degraded' | 'faulted';
  readonly reason: string | null;
  readonly epoch: number;
  readonly node: string | null;
  readonly iscsi: IscsiView | null;
  readonly access: 'rwo' | 'rwx';
  /** Of a shared volume that is served. */
  readonly nfs: NfsView | null;
  /** When it is mapped as a block device. */
  readonly device: DeviceView | null;
  readonly inSync: readonly string[];
  readonly replicas: readonly ReplicaView[];
  readonly usedBytes: number | null;
  readonly createdAt: string;
  /** How many replicas are wanted. */
  readonly copies: number;
  readonly writesPaused: boolean;
  readonly maintenance: string | null;
  readonly scrub: ScrubView | null;
  readonly rebuildBytesPerSecond: number | null;
  readonly foregroundPercent: number | null;
  /** VOLUME or VOLUME@SNAPSHOT as it was called when this linked clone was made. */
  readonly linkedTo: string | null;
  /** That it was made with. */
  readonly policy: string | null;
  readonly constraints: Constraints;
  readonly qos: Qos | null;
  /** Who may log in over iSCSI; null: everybody. */
  readonly chapUser: string | null;
  /** As who the target answers. */
  readonly mutualChapUser: string | null;
  /** Names of initiators that may log in; empty: all. */
  readonly initiators: readonly string[];
};

export type SnapshotView = {
  readonly id: string;
  readonly name: string;
  readonly volume: string;
  /** The next older one that it builds on; null: none. */
  readonly parent: string | null;
  readonly createdAt: string;
  readonly state: 'creating' | 'ready' | 'deleting';
  /** Of the volume at that time; null: no replica could be asked. */
  readonly size: number | null;
  /** Held, on each replica, by what changed between the parent and it. */
  readonly usedBytes: number | null;
  /** The file system, mounted by Holdfast, was frozen for its instant. */
  readonly frozen: boolean;
  /** Why it was not, although it was mounted. */
  readonly note: string | null;
};

export type NodeView = {
  readonly name: string;
  readonly state: 'online' | 'starting' | 'impaired' | 'offline';
  readonly reason: string | null;
  readonly portal: string | null;
  readonly disks: number;
  readonly volumes: number;
  readonly zone: string | null;
  readonly cordoned: boolean;
  readonly draining: boolean;
};

export type DiskView = {
  readonly node: string;
  readonly name: string;
  readonly id: string | null;
  readonly state: 'online' | 'starting' | 'failed' | 'offline';
  readonly reason: string | null;
  readonly directory: string;
  readonly address: string | null;
  readonly totalBytes: number | null;
  readonly usedBytes: number | null;
  readonly freeBytes: number | null;
  readonly scheduledBytes: number;
  readonly replicas: number;
  /** What its drive says; null: nothing is known. */
  readonly smart: SmartHealth | null;
  readonly class: DiskClass | null;
  readonly tags: readonly string[];
  readonly cordoned: boolean;
  readonly evicting: boolean;
};

export type ProcessView = {
  readonly node: string | null;
  readonly role: 'manager' | 'agent' | 'target' | 'replica' | 'nfs';
  readonly pid: number;
  readonly disk: string | null;
  /** Of an NFS server. */
  readonly volume?: string;
};

/** `engine`: what the target process of the volume's node says of it; null when it says nothing. */
export function volumeView(
  record: VolumeRecord,
  nodes: Nodes,
  lastAddresses: ReadonlyMap<string, string | null>,
  engine: VolumeStatus | null,
  usedBytes: number | null,
  scrub: ScrubView | null = null,
): VolumeView {
  const replicas = record.replicas.map((replica) => replicaView(replica, record, nodes, lastAddresses, engine));
  const state = volumeState(record, engine);
  const node = record.attachment?.node ?? null;
  const portal = node === null ? null : (runningTarget(nodes.get(node))?.portal ?? null);
  return {
    id: record.id,
    name: record.name,
    size: record.size,
    blockSize: record.blockSize,
    state,
    ...volumeHealth(record, state, engine, replicas, nodes),
    epoch: record.epoch,
    node,
    iscsi:
      state === 'attached' && portal !== null && record.share === undefined ? iscsiView(record.name, portal) : null,
    access: record.share === undefined ? 'rwo' : 'rwx',
    nfs: shareView(record, nodes),
    device: deviceView(record, engine),
    inSync: record.inSync,
    replicas,
    usedBytes,
    createdAt: record.createdAt,
    copies: record.copies,
    writesPaused: engine?.writesPaused ?? false,
    maintenance: record.maintenance?.node ?? null,
    scrub,
    rebuildBytesPerSecond: record.rebuildBytesPerSecond,
    foregroundPercent: record.foregroundPercent,
    linkedTo: record.linkedTo?.label ?? null,
    policy: record.policy,
    constraints: record.constraints,
    qos: record.qos,
    chapUser: record.access.chap?.user ?? null,
    mutualChapUser: record.access.mutualChap?.user ?? null,
    initiators: record.access.initiators,
  };
}

export function nfsView({ volume, server, port }: Pick<Share, 'volume' | 'server' | 'port'>): NfsView {
  const path = `/${volume}`;
  const host = server.includes(':') ? `[${server}]` : server;
  return { server, port, path, mount: `-t nfs -o vers=4.2,proto=tcp,port=${port} ${host}:${path}` };
}

function shareView({ id, attachment }: VolumeRecord, nodes: Nodes): NfsView | null {
  const share = nodes.get(attachment?.node ?? '')?.shares?.find(({ volumeId }) => volumeId === id);
  return share?.state === 'serving' ? nfsView(share) : null;
}

function deviceView({ attachment }: VolumeRecord, engine: VolumeStatus | null): DeviceView | null {
  const via = attachment?.device?.via;
  if (attachment === null || via === undefined) return null;
  const path = engine === null || engine.device === '' ? null : engine.device;
  return { via, node: attachment.node, path };
}

export function iscsiView(volumeName: string, portal: string): IscsiView {
  const iqn = iqnOf(volumeName);
  return { portal, iqn, lun: 0, url: `iscsi://${portal}/${iqn}/0` };
}

function volumeState(record: VolumeRecord, engine: VolumeStatus | null): VolumeView['state'] {
  if (record.phase !== 'ready') return 'creating';
  if (record.attachment === null) return 'detached';
  return engine === null || engine.state === 'opening' || engine.epoch !== record.epoch ? 'attaching' : 'attached';
}

type Health = Pick<VolumeView, 'health' | 'reason'>;

function volumeHealth(
  record: VolumeRecord,
  state: VolumeView['state'],
  engine: VolumeStatus | null,
  replicas: readonly ReplicaView[],
  nodes: Nodes,
): Health {
  if (record.lostData !== null) return { health: 'faulted', reason: record.lostData };
  if (state === 'attaching') {
    return { health: 'faulted', reason: `waits for the target process of ${record.attachment?.node ?? 'its node'}` };
  }
  if (state === 'attached' && engine?.writesPaused === true) {
    return { health: 'degraded', reason: `${engine.failure} (${describeReplicas(record)})` };
  }
  if (state === 'attached' && engine !== null && engine.state !== 'serving') {
    const reason = engine.failure === '' ? `I/O is stopped (${engine.state})` : engine.failure;
    return { health: 'faulted', reason: `${reason} (${describeReplicas(record)})` };
  }
  if (state === 'attached') {
    return copiesHealth(replicas.filter((replica) => replica.state === 'in-sync').length, record);
  }
  const reachable = record.replicas.filter(
    (replica) => record.inSync.includes(replica.id) && replicaAddress(nodes.get(replica.node), replica.disk) !== null,
  );
  return copiesHealth(reachable.length, record);
}

function copiesHealth(good: number, record: VolumeRecord): Health {
  if (good === 0) {
    return { health: 'faulted', reason: `no in-sync replica can be reached: needed is ${describeReplicas(record)}` };
  }
  const present = record.replicas.length - record.setAside.length;
  const wanted = Math.max(record.copies, present);
  if (good >= wanted) return { health: 'healthy', reason: null };
  const missing = record.copies - present;
  const more =
    missing > 0 ? `; no disk takes the ${missing} missing ("holdfast volume explain ${record.name}" says why)` : '';
  return { health: 'degraded', reason: `${good} of ${wanted} replicas are in-sync and reachable${more}` };
}

// The copies that count, by place.
function describeReplicas({ replicas, inSync }: VolumeRecord): string {
  return replicas
    .filter(({ id }) => inSync.includes(id))
    .map(({ id, node, disk }) => `${id} on ${disk} of ${node}`)
    .join(' or ');
}

function replicaView(
  { id, node, disk }: ReplicaRecord,
  record: VolumeRecord,
  nodes: Nodes,
  lastAddresses: ReadonlyMap<string, string | null>,
  engine: VolumeStatus | null,
): ReplicaView {
  const running = replicaAddress(nodes.get(node), disk);
  const address = running ?? lastAddresses.get(diskKey(node, disk)) ?? null;
  const status = engine?.replicas.find(({ replicaId }) => replicaId === id);
  const base = { id, node, disk, address };
  if (record.setAside.includes(id)) {
    const reason = 'it may have writes that were lost when older data was accepted; "holdfast replica rm" deletes it';
    return { ...base, state: 'set-aside', reason, rebuild: null };
  }
  if (status !== undefined) {
    const reason = status.reason === '' ? null : status.reason;
    return { ...base, state: status.phase, reason, rebuild: rebuildView(status) };
  }
  const unreachable = running === null ? `its replica process does not run${describeFailure(nodes, node, disk)}` : null;
  if (record.inSync.includes(id)) return { ...base, state: 'in-sync', reason: unreachable, rebuild: null };
  const reason = unreachable ?? 'it lacks the newest writes; it is rebuilt as soon as a node can do that';
  return { ...base, state: 'failed', reason, rebuild: null };
}

function rebuildView(status: ReplicaStatus): RebuildView | null {
  if (status.phase !== 'rebuilding') return null;
  const { chunksTotal, chunksExamined, bytesCopied, bytesPerSecond } = status;
  // By what was copied per chunk so far: thin volumes and deltas copy less than they examine.
  const left = chunksExamined === 0 ? null : ((chunksTotal - chunksExamined) * bytesCopied) / chunksExamined;
  const remainingSeconds = left === null || bytesPerSecond === 0 ? null : Math.round(left / bytesPerSecond);
  return { chunksTotal, chunksExamined, bytesCopied, bytesPerSecond, remainingSeconds };
}

export function scrubView(
  record: ScrubRecord | null,
  progress: { readonly chunksTotal: number; readonly chunksChecked: number } | null,
): ScrubView | null {
  if (record === null) return null;
  const { verifiedAt, checkedBlocks, damagedBlocks, repairedBlocks, unrepairableBlocks, differingChunks, failure } =
    record;
  return {
    state: record.requestedAt === null ? 'idle' : 'running',
    chunksTotal: progress?.chunksTotal ?? null,
    chunksChecked: progress?.chunksChecked ?? null,
    verifiedAt,
    checkedBlocks,
    damagedBlocks,
    repairedBlocks,
    unrepairableBlocks,
    differingChunks,
    failure,
  };
}

function describeFailure(nodes: Nodes, node: string, disk: string): string {
  const failure = replicaProcess(nodes.get(node), disk)?.failure ?? null;
  return failure === null ? '' : `: ${failure.message}`;
}

export function nodeView(
  record: NodeRecord,
  nodes: Nodes,
  disks: readonly DiskRecord[],
  volumes: readonly VolumeRecord[],
): NodeView {
  const observed = nodes.get(record.name);
  return {
    name: record.name,
    ...nodeState(record, nodes),
    portal: runningTarget(observed)?.portal ?? record.portal,
    disks: disks.filter(({ node }) => node === record.name).length,
    volumes: volumes.filter(({ attachment }) => attachment?.node === record.name).length,
    zone: record.zone,
    cordoned: record.cordoned,
    draining: record.draining,
  };
}

function nodeState(record: NodeRecord, nodes: Nodes): Pick<NodeView, 'state' | 'reason'> {
  const observed = nodes.get(record.name);
  if (observed === undefined || observed.agentPid === null)
    return { state: 'offline', reason: 'no agent is connected' };
  const stopped = observed.processes.filter(({ state }) => state !== 'running');
  const failed = stopped.find(({ failure }) => failure !== null);
  if (failed !== undefined) {
    return { state: 'impaired', reason: `${describeProcess(failed)} does not run: ${failed.failure?.message ?? ''}` };
  }
  const [starting] = stopped;
  if (starting === undefined) return { state: 'online', reason: null };
  return { state: 'starting', reason: `${describeProcess(starting)} is being started` };
}

function describeProcess({ role, disk }: ObservedProcess): string {
  return role === 'target' ? 'its target process' : `the replica process of ${disk ?? 'a disk'}`;
}

export function diskView(
  record: DiskRecord,
  nodes: Nodes,
  volumes: readonly VolumeRecord[],
  status: DiskStatus | null,
  scheduledBytes: number,
): DiskView {
  return {
    node: record.node,
    name: record.name,
    id: record.diskId,
    ...diskState(record, nodes, status),
    directory: record.directory,
    address: replicaAddress(nodes.get(record.node), record.name),
    totalBytes: status?.totalBytes ?? null,
    usedBytes: status?.usedBytes ?? null,
    freeBytes: status?.freeBytes ?? null,
    scheduledBytes,
    replicas: volumes.filter(({ replicas }) =>
      replicas.some((replica) => replica.node === record.node && replica.disk === record.name),
    ).length,
    smart: replicaProcess(nodes.get(record.node), record.name)?.smart ?? null,
    class: record.class,
    tags: record.tags,
    cordoned: record.cordoned,
    evicting: record.evicting,
  };
}

function diskState(record: DiskRecord, nodes: Nodes, status: DiskStatus | null): Pick<DiskView, 'state' | 'reason'> {
  const process = replicaProcess(nodes.get(record.node), record.name);
  if (process === null) return { state: 'offline', reason: `the agent of ${record.node} has not reported it` };
  if (process.failure !== null && process.state !== 'running')
    return { state: 'failed', reason: process.failure.message };
  if (process.state !== 'running') return { state: 'starting', reason: null };
  if (status === null) return { state: 'failed', reason: 'its replica process does not answer' };
  return status.failure === '' ? { state: 'online', reason: null } : { state: 'failed', reason: status.failure };
}

export function processViews(managerPid: number, nodes: Nodes): readonly ProcessView[] {
  const views: ProcessView[] = [{ node: null, role: 'manager', pid: managerPid, disk: null }];
  for (const node of [...nodes.values()].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (node.agentPid !== null) views.push({ node: node.name, role: 'agent', pid: node.agentPid, disk: null });
    for (const { role, pid, disk } of node.processes) {
      if (pid !== null) views.push({ node: node.name, role, pid, disk });
    }
    for (const { volume, pid } of node.shares ?? []) {
      if (pid !== null) views.push({ node: node.name, role: 'nfs', pid, disk: null, volume });
    }
  }
  return views;
}
