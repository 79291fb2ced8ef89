// Where replicas go. Pure, and the same for a new volume, for a replica that replaces another, and for moves.
//
// Hard rules: one replica per disk and per node; the disk is online and not cordoned; it has the tags and the class that the volume asks
// for; what was promised on it stays within the over-provisioning limit and it has some free space; one replica per zone
// when the volume demands it. Soft ones, in this order: zones that have no replica yet; the node where the volume is
// attached, when it is to be local; the disk of which the smallest share is promised; free space; names, so that equal input gives
// equal output.
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
  /** Null: takes replicas; otherwise why not. */
  readonly closed: string | null;
  readonly zone: string | null;
  readonly tags: readonly string[];
  readonly class: string | null;
};

export type Place = { readonly node: string; readonly disk: string };

export type PlacementRequest = {
  readonly sizeBytes: number;
  readonly tags: readonly string[];
  readonly class: string | null;
  readonly zonesRequired: boolean;
  /** To be preferred; null: none. */
  readonly localNode: string | null;
  readonly overProvisioning: number;
};

/** Where the volume's other replicas are. */
export type Neighbour = Place & { readonly zone: string | null };

/** Volumes are thin: up to this many times a disk's capacity may be promised, unless the settings say otherwise. */
export const overProvisioning = 2;

/** A disk with less free space than this takes no new replica. */
export const freeBytesMin = 64 * 2 ** 20;

export const anyDisk = (sizeBytes: number): PlacementRequest => ({
  sizeBytes,
  tags: [],
  class: null,
  zonesRequired: false,
  localNode: null,
  overProvisioning,
});

/** Why this disk cannot take the replica; null when it can. */
export function objection(
  candidate: DiskCandidate,
  request: PlacementRequest,
  neighbours: readonly Neighbour[],
): string | null {
  if (!candidate.online || candidate.capacityBytes <= 0) return 'it is not online';
  if (candidate.closed !== null) return candidate.closed;
  const onNode = neighbours.find(({ node }) => node === candidate.node);
  if (onNode !== undefined) {
    return onNode.disk === candidate.disk
      ? 'it holds a replica of the volume'
      : `${candidate.node} holds a replica of the volume`;
  }
  if (request.class !== null && candidate.class !== request.class)
    return `it is of class ${candidate.class ?? 'unknown'}, not ${request.class}`;
  const lacking = request.tags.find((tag) => !candidate.tags.includes(tag));
  if (lacking !== undefined) return `it lacks the tag ${lacking}`;
  if (request.zonesRequired && candidate.zone !== null && neighbours.some(({ zone }) => zone === candidate.zone))
    return `zone ${candidate.zone} holds a replica of the volume`;
  return roomObjection(candidate, request.sizeBytes, request.overProvisioning);
}

/** Whether a disk may promise `additionalBytes` more. */
export function hasRoom(candidate: DiskCandidate, additionalBytes: number, limit = overProvisioning): boolean {
  return roomObjection(candidate, additionalBytes, limit) === null;
}

/** The best disk for one more replica; null when every disk has an objection. */
export function placeOne(
  candidates: readonly DiskCandidate[],
  request: PlacementRequest,
  neighbours: readonly Neighbour[],
): DiskCandidate | null {
  const zones = new Set(neighbours.flatMap(({ zone }) => (zone === null ? [] : [zone])));
  let best: DiskCandidate | null = null;
  for (const candidate of candidates) {
    if (objection(candidate, request, neighbours) !== null) continue;
    if (best === null || compare(candidate, best, request, zones) < 0) best = candidate;
  }
  return best;
}

/** NOT_ENOUGH_DISKS when there are too few nodes, NO_SPACE when their disks have no room; both say which rules were in the way. */
export function placeReplicas(
  candidates: readonly DiskCandidate[],
  count: number,
  request: PlacementRequest,
): readonly Place[] {
  const places: Neighbour[] = [];
  while (places.length < count) {
    const chosen = placeOne(candidates, request, places);
    if (chosen === null) throw noPlace(candidates, count, request, places);
    places.push({ node: chosen.node, disk: chosen.disk, zone: chosen.zone });
  }
  return places.map(({ node, disk }) => ({ node, disk }));
}

function roomObjection(candidate: DiskCandidate, additionalBytes: number, limit: number): string | null {
  if (candidate.freeBytes < Math.min(freeBytesMin, additionalBytes)) return 'it has too little free space';
  if (candidate.scheduledBytes + additionalBytes > candidate.capacityBytes * limit)
    return `more than ${limit} times its capacity would be promised`;
  return null;
}

// Negative: `a` is better. Shares are rounded, so that disks which differ by a few megabytes count as equal and the names decide.
function compare(a: DiskCandidate, b: DiskCandidate, request: PlacementRequest, zones: ReadonlySet<string>): number {
  const crowded = ({ zone }: DiskCandidate) => Number(zone !== null && zones.has(zone));
  const remote = ({ node }: DiskCandidate) => Number(request.localNode !== null && node !== request.localNode);
  return (
    crowded(a) - crowded(b) ||
    remote(a) - remote(b) ||
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

function noPlace(
  candidates: readonly DiskCandidate[],
  count: number,
  request: PlacementRequest,
  places: readonly Neighbour[],
): HoldfastError {
  const online = candidates.filter(({ online: is, capacityBytes }) => is && capacityBytes > 0);
  const nodes = new Set(online.map(({ node }) => node)).size;
  if (nodes < count) {
    return new HoldfastError(
      'NOT_ENOUGH_DISKS',
      `${count} replicas need disks on ${count} nodes, and ${nodes} ${nodes === 1 ? 'has' : 'have'} one online: ` +
        `add or start nodes, or ask for fewer replicas ("holdfast disk ls" shows the disks)`,
    );
  }
  const withRoom = online.filter((candidate) => hasRoom(candidate, request.sizeBytes, request.overProvisioning));
  if (new Set(withRoom.map(({ node }) => node)).size < count) {
    return noSpace(online, count, request, withRoom.length);
  }
  const reasons = online
    .filter(({ node }) => !places.some((place) => place.node === node))
    .map((candidate) => `${candidate.disk} of ${candidate.node}: ${objection(candidate, request, places) ?? 'fits'}`);
  return new HoldfastError(
    'NOT_ENOUGH_DISKS',
    `${places.length} of ${count} replicas have a place (${reasons.slice(0, 5).join('; ')}${reasons.length > 5 ? '; …' : ''}): ` +
      `relax what the volume asks for, uncordon what can take replicas, or add disks`,
  );
}

function noSpace(
  online: readonly DiskCandidate[],
  count: number,
  { sizeBytes, overProvisioning: limit }: PlacementRequest,
  found: number,
): HoldfastError {
  const most = Math.max(0, ...online.map((disk) => disk.capacityBytes * limit - disk.scheduledBytes));
  return new HoldfastError(
    'NO_SPACE',
    `${count} replicas of ${sizeBytes} bytes do not fit: ${found} of ${online.length} disks have room, the emptiest takes ` +
      `${Math.floor(most)} bytes more (volumes may promise ${limit} times what disks hold): ` +
      `make the volume smaller, delete volumes (and purge the trash), or add disks`,
  );
}
