// The disks as placement sees them, and what a volume asks of them.
import type { DiskCandidate, Neighbour, PlacementRequest } from '../placement/place-replicas.js';
import type { ManagerContext } from './context.js';
import { replicaAddress } from './observed.js';
import type { NodeRecord, ReplicaRecord, SettingsRecord, TrashRecord, VolumeRecord } from './records.js';

/** Asks every disk that is online. */
export async function diskCandidates({ repository, observed, dataPlane }: ManagerContext): Promise<DiskCandidate[]> {
  const [disks, nodes, volumes, trash] = await Promise.all([
    repository.listDisks(),
    repository.listNodes(),
    repository.listVolumes(),
    repository.listTrash(),
  ]);
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const scheduled = scheduledByDisk(volumes, trash);
  return await Promise.all(
    disks.map(async ({ node, name, tags, class: diskClass, cordoned, evicting }) => {
      const record = byName.get(node);
      const base = {
        node,
        disk: name,
        online: false,
        capacityBytes: 0,
        freeBytes: 0,
        scheduledBytes: scheduled.get(`${node}/${name}`) ?? 0,
        closed: closedReason(record, cordoned, evicting),
        zone: record?.zone ?? null,
        tags,
        class: diskClass,
      };
      const address = replicaAddress(observed.node(node), name);
      if (address === null) return base;
      try {
        const { totalBytes, reserveBytes, freeBytes, failure } = await dataPlane.disk(address);
        return { ...base, online: failure === '', capacityBytes: totalBytes - reserveBytes, freeBytes };
      } catch {
        return base;
      }
    }),
  );
}

function closedReason(node: NodeRecord | undefined, cordoned: boolean, evicting: boolean): string | null {
  if (evicting) return 'it is being emptied';
  if (cordoned) return 'it is cordoned';
  if (node?.draining === true) return `${node.name} is being drained`;
  return node?.cordoned === true ? `${node.name} is cordoned` : null;
}

/** By "NODE/DISK": sizes of the volumes that have a replica there, those in the trash included. */
export function scheduledByDisk(
  volumes: readonly VolumeRecord[],
  trash: readonly TrashRecord[],
): ReadonlyMap<string, number> {
  const bytes = new Map<string, number>();
  for (const { replicas, size } of [...volumes, ...trash.map(({ volume }) => volume)]) {
    for (const { node, disk } of replicas) {
      const key = `${node}/${disk}`;
      bytes.set(key, (bytes.get(key) ?? 0) + size);
    }
  }
  return bytes;
}

export function requestOf(
  { size, constraints, attachment }: Pick<VolumeRecord, 'size' | 'constraints' | 'attachment'>,
  { overProvisioning }: SettingsRecord,
): PlacementRequest {
  return {
    sizeBytes: size,
    tags: constraints.tags,
    class: constraints.class,
    zonesRequired: constraints.zonesRequired,
    localNode: constraints.local ? (attachment?.node ?? null) : null,
    overProvisioning,
  };
}

export function neighboursOf(
  replicas: readonly ReplicaRecord[],
  candidates: readonly DiskCandidate[],
): readonly Neighbour[] {
  return replicas.map(({ node, disk }) => ({
    node,
    disk,
    zone: candidates.find((candidate) => candidate.node === node)?.zone ?? null,
  }));
}
