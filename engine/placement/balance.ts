// Evening out the disks: which replicas should move where. Pure; proposes a few moves at a time, and is asked again when those are done.
//
// A disk is measured by the share of its capacity that is promised. Nothing moves while every disk is within `tolerance` of the share
// that all would have; a move is only proposed when it brings both its disks closer to that share and breaks no hard rule,
// so the sum of the distances falls with every move, and the moves come to an end.
import { objection } from './place-replicas.js';
import type { DiskCandidate, Neighbour, Place, PlacementRequest } from './place-replicas.js';

export type PlacedReplica = Place & { readonly id: string };
export type PlacedVolume = {
  readonly id: string;
  readonly request: PlacementRequest;
  readonly replicas: readonly PlacedReplica[];
  /** False: it is being changed, or has fewer copies than wanted; nothing of it is moved then. */
  readonly movable: boolean;
};

export type Move = {
  readonly volumeId: string;
  readonly replicaId: string;
  readonly from: Place;
  readonly to: Place;
};

export type BalanceOptions = { readonly tolerance: number; readonly movesMax: number };

/** Shares may differ from the ideal by this much of it. */
export const balanceTolerance = 0.05;

type Load = { disk: DiskCandidate; scheduledBytes: number; readonly movable: Map<string, PlacedVolume> };

const keyOf = ({ node, disk }: Place): string => `${node}/${disk}`;

/** How far the fullest and the emptiest disk are from the ideal share, in shares of it. */
export function imbalance(disks: readonly DiskCandidate[]): number {
  const open = disks.filter(isOpen);
  const ideal = idealShare(open);
  if (ideal === 0) return 0;
  return Math.max(...open.map((disk) => Math.abs(disk.scheduledBytes / disk.capacityBytes - ideal) / ideal));
}

export function planMoves(
  disks: readonly DiskCandidate[],
  volumes: readonly PlacedVolume[],
  { tolerance, movesMax }: BalanceOptions,
): readonly Move[] {
  const open = disks.filter(isOpen);
  const ideal = idealShare(open);
  if (open.length < 2 || ideal === 0) return [];
  const loads = loadsOf(open, volumes);
  const zones = new Map(disks.map((disk) => [disk.node, disk.zone]));
  const share = ({ disk, scheduledBytes }: Load) => scheduledBytes / disk.capacityBytes;
  // Both ends matter: with every disk but one near the ideal, it is the odd one that has to give or to take.
  const excess = (load: Load) => Math.abs(share(load) - ideal) / ideal;
  const isFull = (load: Load | undefined) => load !== undefined && share(load) >= ideal;
  const moves: Move[] = [];
  const moved = new Set<string>();
  const byShare = [...loads.values()].sort((a, b) => share(a) - share(b));
  if (byShare.every((load) => excess(load) <= tolerance)) return [];
  let low = 0;
  for (let high = byShare.length - 1; high > low && moves.length < movesMax; high--) {
    const from = byShare[high];
    if (from === undefined) break;
    while (moves.length < movesMax && share(from) > ideal) {
      const move = bestMove(from, byShare.slice(low, Math.min(high, low + 32)), ideal, zones, moved);
      if (move === null) break;
      moves.push(move.move);
      moved.add(move.move.volumeId);
      from.scheduledBytes -= move.bytes;
      move.to.scheduledBytes += move.bytes;
      while (low < high && isFull(byShare[low])) low += 1;
    }
    const lowest = byShare[low];
    if (share(from) <= ideal * (1 + tolerance) && (lowest === undefined || excess(lowest) <= tolerance)) break;
  }
  return moves;
}

type Found = { readonly move: Move; readonly to: Load; readonly bytes: number };

// The largest replica that fits into the gap on both sides: few moves even things out, and none overshoots.
function bestMove(
  from: Load,
  targets: readonly Load[],
  ideal: number,
  zones: ReadonlyMap<string, string | null>,
  moved: ReadonlySet<string>,
): Found | null {
  let best: Found | null = null;
  const surplus = from.scheduledBytes - ideal * from.disk.capacityBytes;
  for (const volume of from.movable.values()) {
    const bytes = volume.request.sizeBytes;
    if (moved.has(volume.id) || (best !== null && bytes <= best.bytes)) continue;
    // At most twice what there is too much: the disk comes closer to the ideal from the other side.
    if (bytes >= 2 * surplus) continue;
    const to = targets.find((target) => takes(target, volume, from, ideal, zones));
    const replica = volume.replicas.find((each) => keyOf(each) === keyOf(from.disk));
    if (to === undefined || replica === undefined) continue;
    const move = {
      volumeId: volume.id,
      replicaId: replica.id,
      from: { node: from.disk.node, disk: from.disk.disk },
      to: { node: to.disk.node, disk: to.disk.disk },
    };
    best = { move, to, bytes };
  }
  return best;
}

function takes(
  target: Load,
  volume: PlacedVolume,
  from: Load,
  ideal: number,
  zones: ReadonlyMap<string, string | null>,
): boolean {
  const bytes = volume.request.sizeBytes;
  const deficit = ideal * target.disk.capacityBytes - target.scheduledBytes;
  if (target === from || bytes >= 2 * deficit) return false;
  const others: Neighbour[] = volume.replicas
    .filter((replica) => keyOf(replica) !== keyOf(from.disk))
    .map(({ node, disk }) => ({ node, disk, zone: zones.get(node) ?? null }));
  if (objection({ ...target.disk, scheduledBytes: target.scheduledBytes }, volume.request, others) !== null)
    return false;
  // What was well placed stays so: no zone gets a second replica, and a local replica stays local.
  const zone = target.disk.zone;
  const crowded = zone !== null && others.some((other) => other.zone === zone);
  const wasCrowded = from.disk.zone !== null && others.some((other) => other.zone === from.disk.zone);
  return (!crowded || wasCrowded) && volume.request.localNode !== from.disk.node;
}

function loadsOf(open: readonly DiskCandidate[], volumes: readonly PlacedVolume[]): ReadonlyMap<string, Load> {
  const loads = new Map<string, Load>(
    open.map((disk) => [keyOf(disk), { disk, scheduledBytes: disk.scheduledBytes, movable: new Map() }]),
  );
  for (const volume of volumes) {
    if (!volume.movable) continue;
    for (const replica of volume.replicas) loads.get(keyOf(replica))?.movable.set(volume.id, volume);
  }
  return loads;
}

function isOpen({ online, closed, capacityBytes }: DiskCandidate): boolean {
  return online && closed === null && capacityBytes > 0;
}

function idealShare(open: readonly DiskCandidate[]): number {
  const capacity = open.reduce((sum, disk) => sum + disk.capacityBytes, 0);
  return capacity === 0 ? 0 : open.reduce((sum, disk) => sum + disk.scheduledBytes, 0) / capacity;
}
