// What has to happen so that the world becomes what the records want: a pure function of both. Level-triggered: it
// looks at states, never at events, so a lost event or a restart of the manager loses nothing.
import { iqnPrefix } from '../config/volume-input.js';
import { configurationKey, redirectsKey } from './data-plane.js';
import type { EngineSettings, Endpoint, Redirect } from './data-plane.js';
import { planDiskMoves } from './disk-moves.js';
import type { DiskMove } from './disk-moves.js';
import type { ShareOrder } from '../nfs/share-types.js';
import { activeReplicas, engineNode, planMaintenance, rebuildsOnHold } from './maintenance.js';
import type { MaintenanceAction } from './maintenance.js';
import { replicaAddress, runningTarget, shareOrdersKey } from './observed.js';
import type { ObservedNode, ServedVolume } from './observed.js';
import { outlooks, planAttachment } from './outlook.js';
import type { DiskRecord, DoomedReplicaRecord, NodeRecord, SettingsRecord, VolumeRecord } from './records.js';
import { planReplicas } from './replica-plan.js';
import type { ReplicaStep } from './replica-plan.js';

export type Desired = {
  readonly volumes: readonly VolumeRecord[];
  readonly disks: readonly DiskRecord[];
  readonly doomed: readonly DoomedReplicaRecord[];
  readonly nodes: readonly NodeRecord[];
  readonly settings: SettingsRecord;
};

/** When it is now, and since when the manager looks, ms. `run`: of this manager. `briefly`: replicas that left in-sync sets a moment ago. */
export type Moment = {
  readonly now: number;
  readonly startedAt: number;
  readonly run: string;
  readonly briefly?: ReadonlySet<string>;
};

export type Action =
  /** Ask a target process what it serves. */
  | { readonly kind: 'observe-target'; readonly node: string; readonly instanceId: string; readonly control: string }
  /** Give the volume a new epoch and an engine. */
  | { readonly kind: 'attach'; readonly volumeId: string; readonly node: string; readonly instanceId: string }
  /** Stop an engine that nobody wants here. */
  | {
      readonly kind: 'detach';
      readonly volumeId: string;
      readonly node: string;
      readonly control: string;
      readonly instanceId: string;
    }
  /** Tell an engine the current addresses of its replicas. */
  | {
      readonly kind: 'configure';
      readonly volumeId: string;
      readonly node: string;
      readonly control: string;
      readonly instanceId: string;
      readonly endpoints: readonly Endpoint[];
      readonly settings: EngineSettings;
    }
  | {
      readonly kind: 'set-redirects';
      readonly node: string;
      readonly control: string;
      readonly instanceId: string;
      readonly redirects: readonly Redirect[];
      /** Of the whole table. */
      readonly key: string;
    }
  /** Tell an agent which volumes it shares over NFS. */
  | {
      readonly kind: 'order-shares';
      readonly node: string;
      readonly agentPid: number;
      readonly orders: readonly ShareOrder[];
    }
  | { readonly kind: 'delete-replica'; readonly replica: DoomedReplicaRecord; readonly address: string }
  | ReplicaStep
  /** Serve a volume elsewhere: its node is lost, or is being drained. */
  | {
      readonly kind: 'move-attachment';
      readonly volumeId: string;
      readonly from: string;
      readonly reason: 'lost' | 'drained';
    }
  /** Undo a creation that a crash interrupted. */
  | { readonly kind: 'abandon-creation'; readonly volumeId: string }
  /** Begin a full clone again that a crash interrupted. */
  | { readonly kind: 'restart-copy'; readonly volumeId: string }
  /** Take a disk into use where it has shown up. */
  | DiskMove
  | MaintenanceAction;

export type Nodes = ReadonlyMap<string, ObservedNode>;

export function reconcile(desired: Desired, nodes: Nodes, moment: Moment): readonly Action[] {
  const actions: Action[] = [];
  const addresses = lastAddressesOf(desired.disks);
  const outlook = outlooks(desired, nodes, moment);
  const byNode = new Map<string, VolumeRecord[]>();
  for (const volume of desired.volumes) {
    if (volume.phase === 'creating') actions.push({ kind: 'abandon-creation', volumeId: volume.id });
    else {
      if (volume.phase === 'copying' && volume.copying?.run !== moment.run)
        actions.push({ kind: 'restart-copy', volumeId: volume.id });
      const engineAt = engineNode(volume);
      if (engineAt !== null) pushTo(byNode, engineAt, volume);
      const step = planReplicas(volume, (replica) => outlook.ofReplica(volume, replica));
      if (step !== null) actions.push(step);
      const move = planAttachment(volume, outlook);
      if (move !== null) actions.push(move);
    }
  }
  actions.push(...planDiskMoves(desired.disks, nodes));
  actions.push(...planMaintenance(desired.volumes, nodes));
  const onHold = rebuildsOnHold(desired.volumes, desired.settings.rebuildsPerDisk, moment.briefly);
  const around: Around = { nodes, addresses, onHold, settings: desired.settings };
  const redirects = redirectTable(byNode, nodes);
  for (const node of nodes.values()) {
    for (const action of reconcileTarget(node, byNode.get(node.name) ?? [], around)) actions.push(action);
    actions.push(...reconcileRedirects(node, redirects));
    actions.push(...reconcileShares(node, byNode.get(node.name) ?? []));
  }
  const byName = desired.doomed.length === 0 ? null : new Map(desired.volumes.map((volume) => [volume.name, volume]));
  for (const replica of desired.doomed) {
    if (mayBeInUse(byName?.get(replica.volume), around)) continue;
    const address = replicaAddress(nodes.get(replica.node), replica.disk);
    if (address !== null) actions.push({ kind: 'delete-replica', replica, address });
  }
  return actions;
}

/** Identifies what an action is about, and the process it goes to: one of a key runs at a time, and backs off when it fails. */
export function actionKey(action: Action): string {
  switch (action.kind) {
    case 'observe-target':
    case 'set-redirects':
      return `${action.kind} ${action.node} ${action.instanceId}`;
    case 'attach':
    case 'detach':
    case 'configure':
      return `${action.kind} ${action.volumeId} ${action.node} ${action.instanceId}`;
    case 'remove-replica':
      return `${action.kind} ${action.volumeId} ${action.replicaId}`;
    case 'move-disk':
      return `${action.kind} ${action.diskId} ${action.to.node} ${action.to.disk}`;
    case 'order-shares':
      return `${action.kind} ${action.node} ${action.agentPid}`;
    case 'delete-replica':
      return `${action.kind} ${action.replica.id}`;
    case 'add-replica':
    case 'move-attachment':
    case 'abandon-creation':
    case 'restart-copy':
    case 'begin-maintenance':
    case 'end-maintenance':
      return `${action.kind} ${action.volumeId}`;
  }
}

/** How an engine on `node` reaches the volume's replicas: where they run now, else where they last ran. */
export function endpointsOf(
  volume: VolumeRecord,
  node: string,
  nodes: Nodes,
  lastAddresses: ReadonlyMap<string, string | null>,
  onHold: ReadonlySet<string> = noneOnHold,
): readonly Endpoint[] {
  const endpoints: Endpoint[] = [];
  for (const replica of activeReplicas(volume)) {
    const address =
      replicaAddress(nodes.get(replica.node), replica.disk) ??
      lastAddresses.get(diskKey(replica.node, replica.disk)) ??
      null;
    if (address === null) continue;
    const inSync = volume.inSync.includes(replica.id);
    const holdRebuild = !inSync && onHold.has(replica.id);
    endpoints.push({ replicaId: replica.id, address, local: replica.node === node, inSync, holdRebuild });
  }
  return endpoints;
}

/** Where replica processes last ran, by diskKey. */
export function lastAddressesOf(disks: readonly DiskRecord[]): ReadonlyMap<string, string | null> {
  return new Map(disks.map((disk) => [diskKey(disk.node, disk.name), disk.address]));
}

export function settingsOf(volume: VolumeRecord, settings: SettingsRecord): EngineSettings {
  return {
    qos: volume.qos,
    rebuildBytesPerSecond: volume.rebuildBytesPerSecond ?? settings.rebuildBytesPerSecond,
    foregroundPercent: volume.foregroundPercent ?? settings.foregroundPercent,
  };
}

export function diskKey(node: string, disk: string): string {
  return `${node}/${disk}`;
}

export function iqnOf(volumeName: string): string {
  return iqnPrefix + volumeName;
}

// An engine that was not told yet that the replica left the volume still writes to it.
function mayBeInUse(volume: VolumeRecord | undefined, { nodes, addresses, onHold, settings }: Around): boolean {
  const node = volume === undefined ? null : engineNode(volume);
  if (volume === undefined || node === null) return false;
  const engine = nodes.get(node)?.served?.find(({ volumeId }) => volumeId === volume.id);
  if (engine?.epoch !== volume.epoch) return false;
  return (
    engine.configurationKey !==
    configurationKey(endpointsOf(volume, node, nodes, addresses, onHold), settingsOf(volume, settings))
  );
}

// What engines are told depends on more than their volume.
type Around = {
  readonly nodes: Nodes;
  readonly addresses: ReadonlyMap<string, string | null>;
  readonly onHold: ReadonlySet<string>;
  readonly settings: SettingsRecord;
};

const noneOnHold: ReadonlySet<string> = new Set();

function reconcileTarget(
  node: ObservedNode,
  wanted: readonly VolumeRecord[],
  { nodes, addresses, onHold, settings: cluster }: Around,
): readonly Action[] {
  const target = runningTarget(node);
  if (target === null) return [];
  const { instanceId, control } = target;
  const where = { node: node.name, instanceId };
  if (node.served === null || node.servedBy !== instanceId) return [{ kind: 'observe-target', ...where, control }];
  const served = new Map(node.served.map((volume) => [volume.volumeId, volume]));
  const actions: Action[] = [];
  for (const volume of wanted) {
    const engine = served.get(volume.id);
    served.delete(volume.id);
    if (!isCurrent(engine, volume)) {
      if (volume.lostData !== null) continue;
      actions.push({ kind: 'attach', volumeId: volume.id, ...where });
      continue;
    }
    const endpoints = endpointsOf(volume, node.name, nodes, addresses, onHold);
    const settings = settingsOf(volume, cluster);
    if (engine.configurationKey !== configurationKey(endpoints, settings)) {
      actions.push({ kind: 'configure', volumeId: volume.id, ...where, control, endpoints, settings });
    }
  }
  for (const unwanted of served.values()) actions.push(detachAction(unwanted, where, control));
  return actions;
}

// One that was fenced has stopped by itself; a new epoch takes the volume back.
function isCurrent(engine: ServedVolume | undefined, volume: VolumeRecord): engine is ServedVolume {
  if (engine?.epoch !== volume.epoch || engine.state === 'fenced') return false;
  const lacksDevice = volume.attachment?.device?.via === 'fuse' && (engine.device ?? '') === '';
  return !lacksDevice;
}

function detachAction(
  volume: ServedVolume,
  where: { readonly node: string; readonly instanceId: string },
  control: string,
): Action {
  return { kind: 'detach', volumeId: volume.volumeId, ...where, control };
}

// An initiator that comes to the wrong portal is sent to the right one. One table for all nodes: a target that serves a volume itself
// never redirects. It has a line per attached volume, so it is only made when some node needs it; its key is computed every time.
type RedirectTable = { readonly key: string; readonly lines: () => readonly Redirect[] };

function redirectTable(byNode: ReadonlyMap<string, readonly VolumeRecord[]>, nodes: Nodes): RedirectTable {
  const owners = [...byNode].flatMap(([owner, volumes]) => {
    const target = runningTarget(nodes.get(owner));
    if (target === null) return [];
    // An engine for maintenance serves nobody.
    return [{ portal: target.portal, volumes: volumes.filter(({ attachment }) => attachment !== null) }];
  });
  let made: readonly Redirect[] | null = null;
  return {
    key: redirectsKey(owners.map(({ portal, volumes }) => ({ portal, names: volumes.map(({ name }) => name) }))),
    lines: () => {
      made ??= owners.flatMap(({ portal, volumes }) => volumes.map(({ name }) => ({ iqn: iqnOf(name), portal })));
      return made;
    },
  };
}

function reconcileRedirects(node: ObservedNode, { key, lines }: RedirectTable): readonly Action[] {
  const target = runningTarget(node);
  if (target === null) return [];
  if (node.servedBy !== target.instanceId || node.redirectsKey === key) return [];
  const { instanceId, control } = target;
  return [{ kind: 'set-redirects', node: node.name, control, instanceId, redirects: lines(), key }];
}

function reconcileShares(node: ObservedNode, wanted: readonly VolumeRecord[]): readonly Action[] {
  // Undefined: its agent takes no orders.
  if (node.agentPid === null || node.shareOrdersKey === undefined) return [];
  const orders = wanted.flatMap((volume) => shareOrderOf(volume, node));
  if (node.shareOrdersKey === shareOrdersKey(orders)) return [];
  return [{ kind: 'order-shares', node: node.name, agentPid: node.agentPid, orders }];
}

// Without a device: what there is of the share is left alone until its volume is served.
function shareOrderOf({ id, name, size, share, attachment }: VolumeRecord, node: ObservedNode): readonly ShareOrder[] {
  if (share?.wanted !== true || attachment?.device?.via !== 'fuse') return [];
  const { fs, port, options } = share;
  const served = node.served?.find(({ volumeId }) => volumeId === id)?.device ?? '';
  const device = served !== '' ? served : (node.shares?.find(({ volumeId }) => volumeId === id)?.device ?? '');
  return [{ volumeId: id, volume: name, device, sizeBytes: size, fs, port, options }];
}

function pushTo<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}
