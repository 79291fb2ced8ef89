// Engines without a front-end: a detached volume gets one while something of it has to be rebuilt, and rebuilds take turns. Pure, and
// looked at again with every pass.
import { runningTarget } from './observed.js';
import type { ObservedNode } from './observed.js';
import type { Nodes } from './reconcile.js';
import type { ReplicaRecord, VolumeRecord } from './records.js';

export type MaintenanceAction =
  | { readonly kind: 'begin-maintenance'; readonly volumeId: string; readonly node: string; readonly reason: string }
  | { readonly kind: 'end-maintenance'; readonly volumeId: string };

/** Detached volumes that are rebuilt at a time. */
const maintenanceMax = 16;

/** Why an engine serves a detached volume: somebody reads files in a snapshot (snapshot-files.ts). */
export const filesReason = 'files';

/** Where an engine of the volume is wanted, with or without a front-end. */
export function engineNode({ attachment, maintenance, lostData }: VolumeRecord): string | null {
  if (attachment !== null) return attachment.node;
  return lostData === null ? (maintenance?.node ?? null) : null;
}

/** What engines may use. */
export const activeReplicas = ({ replicas, setAside }: VolumeRecord): readonly ReplicaRecord[] =>
  setAside.length === 0 ? replicas : replicas.filter(({ id }) => !setAside.includes(id));

export const goodCopies = (volume: VolumeRecord): readonly ReplicaRecord[] =>
  activeReplicas(volume).filter(({ id }) => volume.inSync.includes(id));

/** Whether its process runs, as far as its agent says. */
export function isUp(nodes: Nodes, { node, disk }: Pick<ReplicaRecord, 'node' | 'disk'>): boolean {
  const observed = nodes.get(node);
  if (observed === undefined || observed.agentPid === null) return false;
  return observed.processes.some(
    (process) => process.role === 'replica' && process.disk === disk && process.state === 'running',
  );
}

export function planMaintenance(volumes: readonly VolumeRecord[], nodes: Nodes): readonly MaintenanceAction[] {
  let maintained = volumes.filter(({ maintenance }) => maintenance !== null).length;
  return volumes.flatMap((volume) => {
    if (volume.phase !== 'ready' || volume.lostData !== null) return [];
    const action = planOne(volume, nodes);
    if (action?.kind === 'begin-maintenance' && maintained++ >= maintenanceMax) return [];
    return action === null ? [] : [action];
  });
}

function planOne(volume: VolumeRecord, nodes: Nodes): MaintenanceAction | null {
  const { id: volumeId, attachment, maintenance, inSync } = volume;
  if (maintenance === null && (attachment !== null || inSync.length === activeReplicas(volume).length)) return null;
  const needed =
    attachment === null &&
    activeReplicas(volume).some((replica) => !inSync.includes(replica.id) && isUp(nodes, replica));
  if (maintenance !== null) {
    const wanted = needed || maintenance.reason === 'scrub' || maintenance.reason === filesReason;
    return wanted && canServe(nodes.get(maintenance.node)) ? null : { kind: 'end-maintenance', volumeId };
  }
  const node = needed ? maintenanceNode(volume, nodes) : null;
  return node === null ? null : { kind: 'begin-maintenance', volumeId, node, reason: 'rebuild' };
}

/** Near a good copy; null when none can be reached or no target process runs. */
export function maintenanceNode(volume: VolumeRecord, nodes: Nodes): string | null {
  const good = goodCopies(volume).filter((replica) => isUp(nodes, replica));
  if (good.length === 0) return null;
  const candidates = [...good.map(({ node }) => node), ...[...nodes.keys()].sort()];
  return candidates.find((node) => canServe(nodes.get(node))) ?? null;
}

const canServe = (node: ObservedNode | undefined): boolean =>
  (node?.agentPid ?? null) !== null && runningTarget(node) !== null;

/**
 * A replica that left so short a time ago lacks what was written since: all those of a disk together no more than that disk could have
 * written itself. Such rebuilds are many and short (a process was killed, a host was started again), and an engine spends most of its
 * turn on beginning.
 */
export const briefAbsenceMs = 60_000;

/** So many rebuilds after a brief absence count as one. */
const briefPerSlot = 8;

/** Replicas whose rebuild has to wait, because as many as allowed are under way on their disks. `brief`: those of a brief absence. */
export function rebuildsOnHold(
  volumes: readonly VolumeRecord[],
  perDisk: number,
  brief: ReadonlySet<string> = new Set(),
): ReadonlySet<string> {
  const waiting = new Map<string, string[]>();
  for (const volume of volumes) {
    if (engineNode(volume) === null || volume.inSync.length === activeReplicas(volume).length) continue;
    for (const { id, node, disk } of activeReplicas(volume)) {
      if (volume.inSync.includes(id)) continue;
      const ids = waiting.get(`${node}/${disk}`);
      if (ids === undefined) waiting.set(`${node}/${disk}`, [id]);
      else ids.push(id);
    }
  }
  return new Set([...waiting.values()].flatMap((ids) => beyondSlots(ids.sort(), perDisk, brief)));
}

// The short ones first; all others share the slots that those leave.
function beyondSlots(ids: readonly string[], slots: number, brief: ReadonlySet<string>): readonly string[] {
  const short = ids.filter((id) => brief.has(id));
  const others = ids.filter((id) => !brief.has(id));
  const used = Math.min(slots, Math.ceil(short.length / briefPerSlot));
  return [...short.slice(slots * briefPerSlot), ...others.slice(slots - used)];
}
