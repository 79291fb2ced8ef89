// Where the replicas of a new volume go. Pure. Hard rules: one replica per node (so also per disk), disk online, and space:
// what was promised on a disk stays within its over-provisioning limit. Among the disks that remain the emptiest
// (by promised share) wins; ties are decided by name, so that equal input gives equal output.
import { HoldfastError } from '../errors/holdfast-error.js';

export type DiskCandidate = {
  readonly node: string;
  readonly disk: string;
  readonly online: boolean;
  /** What the disk may hold: total less reserve, bytes. */
  readonly capacityBytes: number;
  /** What new writes may still take, bytes. */
  readonly freeBytes: number;
  /** Sizes of the volumes that have a replica here, bytes. */
  readonly scheduledBytes: number;
};

export type Place = { readonly node: string; readonly disk: string };

/** Volumes are thin: up to this many times a disk's capacity may be promised. */
export const overProvisioning = 2;

/** A disk with less free space than this takes no new replica. */
export const freeBytesMin = 64 * 2 ** 20;

export function placeReplicas(
  candidates: readonly DiskCandidate[],
  count: number,
  sizeBytes: number,
): readonly Place[] {
  const online = candidates.filter((candidate) => candidate.online && candidate.capacityBytes > 0);
  const onlineNodes = new Set(online.map(({ node }) => node)).size;
  if (onlineNodes < count) {
    throw new HoldfastError(
      'NOT_ENOUGH_DISKS',
      `${count} replicas need disks on ${count} nodes, and ${onlineNodes} ${onlineNodes === 1 ? 'has' : 'have'} one online: ` +
        `add or start nodes, or ask for fewer replicas ("holdfast disk ls" shows the disks)`,
    );
  }
  const ranked = online.filter((candidate) => hasRoom(candidate, sizeBytes)).sort(compareCandidates);
  const places = new Map<string, Place>();
  for (const { node, disk } of ranked) {
    if (places.size < count && !places.has(node)) places.set(node, { node, disk });
  }
  if (places.size < count) throw noSpace(online, count, sizeBytes, places.size);
  return [...places.values()];
}

/** Whether a disk may promise `additionalBytes` more. */
export function hasRoom(candidate: DiskCandidate, additionalBytes: number): boolean {
  return (
    candidate.freeBytes >= Math.min(freeBytesMin, additionalBytes) &&
    candidate.scheduledBytes + additionalBytes <= candidate.capacityBytes * overProvisioning
  );
}

// Rounded, so that disks which differ by a few megabytes count as equal and the names decide.
function compareCandidates(a: DiskCandidate, b: DiskCandidate): number {
  return (
    Math.round((100 * a.scheduledBytes) / a.capacityBytes) - Math.round((100 * b.scheduledBytes) / b.capacityBytes) ||
    Math.round((20 * b.freeBytes) / b.capacityBytes) - Math.round((20 * a.freeBytes) / a.capacityBytes) ||
    compareText(a.node, b.node) ||
    compareText(a.disk, b.disk)
  );
}

// By code unit: the same everywhere, whatever the locale. node2 comes before node10 because shorter comes first.
function compareText(a: string, b: string): number {
  if (a.length !== b.length) return a.length - b.length;
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

function noSpace(online: readonly DiskCandidate[], count: number, sizeBytes: number, found: number): HoldfastError {
  const most = Math.max(
    0,
    ...online.map(({ capacityBytes, scheduledBytes }) => capacityBytes * overProvisioning - scheduledBytes),
  );
  return new HoldfastError(
    'NO_SPACE',
    `${count} replicas of ${sizeBytes} bytes do not fit: ${found} of ${online.length} disks have room, the emptiest takes ` +
      `${Math.floor(most)} bytes more (volumes may promise ${overProvisioning} times what disks hold): ` +
      `make the volume smaller, delete volumes, or add disks`,
  );
}
