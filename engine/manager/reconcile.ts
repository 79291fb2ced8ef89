// What has to happen so that the world becomes what the records want: a pure function of both. Level-triggered: it
// looks at states, never at events, so a lost event or a restart of the manager loses nothing.
import { iqnPrefix } from '../config/volume-input.js';
import { configurationKey, redirectsKey } from './data-plane.js';
import type { EngineSettings, Endpoint, Redirect } from './data-plane.js';
import { replicaAddress, runningTarget } from './observed.js';
import type { ObservedNode, ServedVolume } from './observed.js';
import type { DiskRecord, DoomedReplicaRecord, VolumeRecord } from './records.js';

export type Desired = {
  readonly volumes: readonly VolumeRecord[];
  readonly disks: readonly DiskRecord[];
  readonly doomed: readonly DoomedReplicaRecord[];
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
    }
  | { readonly kind: 'delete-replica'; readonly replica: DoomedReplicaRecord; readonly address: string }
  /** Undo a creation that a crash interrupted. */
  | { readonly kind: 'abandon-creation'; readonly volumeId: string };

export type Nodes = ReadonlyMap<string, ObservedNode>;

export function reconcile(desired: Desired, nodes: Nodes): readonly Action[] {
  const actions: Action[] = [];
  const addresses = lastAddressesOf(desired.disks);
  const byNode = new Map<string, VolumeRecord[]>();
  for (const volume of desired.volumes) {
    if (volume.phase === 'creating') actions.push({ kind: 'abandon-creation', volumeId: volume.id });
    else if (volume.attachment !== null) pushTo(byNode, volume.attachment.node, volume);
  }
  for (const node of nodes.values()) {
    actions.push(...reconcileTarget(node, byNode.get(node.name) ?? [], nodes, addresses));
    actions.push(...reconcileRedirects(node, byNode, nodes));
  }
  for (const replica of desired.doomed) {
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
    case 'delete-replica':
      return `${action.kind} ${action.replica.id}`;
    case 'abandon-creation':
      return `${action.kind} ${action.volumeId}`;
  }
}

/** How an engine on `node` reaches the volume's replicas: where they run now, else where they last ran. */
export function endpointsOf(
  volume: VolumeRecord,
  node: string,
  nodes: Nodes,
  lastAddresses: ReadonlyMap<string, string | null>,
): readonly Endpoint[] {
  return volume.replicas.flatMap((replica) => {
    const address =
      replicaAddress(nodes.get(replica.node), replica.disk) ??
      lastAddresses.get(diskKey(replica.node, replica.disk)) ??
      null;
    if (address === null) return [];
    return [
      { replicaId: replica.id, address, local: replica.node === node, inSync: volume.inSync.includes(replica.id) },
    ];
  });
}

/** Where replica processes last ran, by diskKey. */
export function lastAddressesOf(disks: readonly DiskRecord[]): ReadonlyMap<string, string | null> {
  return new Map(disks.map((disk) => [diskKey(disk.node, disk.name), disk.address]));
}

export function settingsOf({ qos }: VolumeRecord): EngineSettings {
  return { qos };
}

export function diskKey(node: string, disk: string): string {
  return `${node}/${disk}`;
}

export function iqnOf(volumeName: string): string {
  return iqnPrefix + volumeName;
}

function reconcileTarget(
  node: ObservedNode,
  wanted: readonly VolumeRecord[],
  nodes: Nodes,
  addresses: ReadonlyMap<string, string | null>,
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
      actions.push({ kind: 'attach', volumeId: volume.id, ...where });
      continue;
    }
    const endpoints = endpointsOf(volume, node.name, nodes, addresses);
    const settings = settingsOf(volume);
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

// An initiator that comes to the wrong portal is sent to the right one.
function reconcileRedirects(
  node: ObservedNode,
  byNode: ReadonlyMap<string, readonly VolumeRecord[]>,
  nodes: Nodes,
): readonly Action[] {
  const target = runningTarget(node);
  if (target === null) return [];
  if (node.servedBy !== target.instanceId) return [];
  const redirects: Redirect[] = [];
  for (const [owner, volumes] of byNode) {
    const elsewhere = owner === node.name ? null : runningTarget(nodes.get(owner));
    if (elsewhere === null) continue;
    for (const volume of volumes) redirects.push({ iqn: iqnOf(volume.name), portal: elsewhere.portal });
  }
  const { instanceId, control } = target;
  if (redirectsKey(redirects) === node.redirectsKey) return [];
  return [{ kind: 'set-redirects', node: node.name, control, instanceId, redirects }];
}

function pushTo<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}
