// What the metadata store holds, as records with a version. Every record is validated when it is read; one of a newer
// version stops the manager with FORMAT_TOO_NEW rather than being misread.
//
//   /cluster                 the cluster
//   /nodes/NODE              a node that an agent has announced
//   /disks/NODE/DISK         a disk of it
//   /volumes/NAME            a volume; /volume-names/ID leads from its id to its name
//   /reservations/ID         SCSI persistent reservations of a volume, by volume id
//   /doomed-replicas/ID      a replica to be deleted from its disk as soon as that can be reached
//
// Invariants: inSync is never empty and a subset of replicas; epoch never falls; an engine is only ever started with an
// epoch that a transaction has just raised.
import { z } from 'zod';
import { HoldfastError } from '../errors/holdfast-error.js';

export const recordVersion = 1;

const id64 = z.string().regex(/^[0-9a-f]{16}$/);
const id128 = z.string().regex(/^[0-9a-f]{32}$/);
const version = z.literal(recordVersion);
const naturalNumber = z.number().int().nonnegative();

export const clusterSchema = z.object({ version, id: id128, createdAt: z.string() });
export type ClusterRecord = z.infer<typeof clusterSchema>;

export const nodeSchema = z.object({ version, name: z.string(), portal: z.string().nullable() });
export type NodeRecord = z.infer<typeof nodeSchema>;

export const diskSchema = z.object({
  version,
  node: z.string(),
  name: z.string(),
  /** Written into the disk when it was formatted; null until its replica process has run once. */
  diskId: id128.nullable(),
  directory: z.string(),
  /** Last known gRPC address of its replica process. */
  address: z.string().nullable(),
});
export type DiskRecord = z.infer<typeof diskSchema>;

export const replicaSchema = z.object({ id: id64, node: z.string(), disk: z.string() });
export type ReplicaRecord = z.infer<typeof replicaSchema>;

export const volumeSchema = z.object({
  version,
  id: id64,
  name: z.string(),
  /** Wanted size, bytes. The log of the volume decides what it is; the two meet at the next attach. */
  size: naturalNumber,
  blockSize: z.union([z.literal(512), z.literal(4096)]),
  createdAt: z.string(),
  /** "creating" until every replica exists; a volume left in it by a crash is removed. */
  phase: z.enum(['creating', 'ready']),
  replicas: z.array(replicaSchema).min(1),
  inSync: z.array(id64).min(1),
  epoch: naturalNumber,
  /** Of the last stored change of inSync in this epoch. */
  inSyncSequence: naturalNumber,
  /** Where an engine is wanted; null: detached. */
  attachment: z.object({ node: z.string() }).nullable(),
});
export type VolumeRecord = z.infer<typeof volumeSchema>;

export const reservationsSchema = z.object({ version, volume: id64, epoch: naturalNumber, state: z.base64() });
export type ReservationsRecord = z.infer<typeof reservationsSchema>;

export const doomedReplicaSchema = z.object({
  version,
  id: id64,
  node: z.string(),
  disk: z.string(),
  volume: z.string(),
});
export type DoomedReplicaRecord = z.infer<typeof doomedReplicaSchema>;

export const keys = {
  cluster: '/cluster',
  nodes: '/nodes/',
  node: (name: string) => `/nodes/${name}`,
  disks: '/disks/',
  disk: (node: string, name: string) => `/disks/${node}/${name}`,
  volumes: '/volumes/',
  volume: (name: string) => `/volumes/${name}`,
  volumeName: (id: string) => `/volume-names/${id}`,
  reservations: (id: string) => `/reservations/${id}`,
  doomedReplicas: '/doomed-replicas/',
  doomedReplica: (id: string) => `/doomed-replicas/${id}`,
} as const;

const versionSchema = z.object({ version: z.number() });

export function decodeRecord<T>(schema: z.ZodType<T>, key: string, text: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new HoldfastError('CORRUPT', `record ${key} of the metadata store is not JSON`);
  }
  const versioned = versionSchema.safeParse(value);
  if (versioned.success && versioned.data.version > recordVersion) {
    throw new HoldfastError(
      'FORMAT_TOO_NEW',
      `record ${key} has version ${versioned.data.version}, this manager knows ${recordVersion}: use a newer Holdfast`,
    );
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    throw new HoldfastError(
      'CORRUPT',
      `record ${key} of the metadata store is damaged: ${z.prettifyError(parsed.error)}`,
    );
  }
  return parsed.data;
}
