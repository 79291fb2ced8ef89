// What the metadata store holds, as records with a version. Every record is brought to the present version (migrations.ts) and
// validated when it is read; one of a newer version stops the manager with FORMAT_TOO_NEW rather than being misread.
//
//   /cluster                 the cluster
//   /nodes/NODE              a node that an agent has announced
//   /disks/NODE/DISK         a disk of it
//   /volumes/NAME            a volume; /volume-names/ID leads from its id to its name
//   /snapshots/ID/NAME       a snapshot of a volume, by the volume's id
//   /scrubs/ID               what the last scrub of a volume found, by volume id
//   /reservations/ID         SCSI persistent reservations of a volume, by volume id
//   /doomed-replicas/ID      a replica to be deleted from its disk as soon as that can be reached
//   /trash/ID                a deleted volume with all it had, by volume id, until it is purged
//   /policies/NAME           a named set of defaults for new volumes
//   /settings                what holds for the whole cluster
//   /tokens/ID               an API token, as a hash
//   /events                  the newest events, for the next manager
//   /authority               of the cluster's certificates, with its key
//   /running/…               of processes that run now, on leases; no records
//
// Invariants: inSync is never empty and a subset of replicas; epoch never falls; an engine is only ever started with an
// epoch that a transaction has just raised.
import { z } from 'zod';
import { filesystemNames, squashes } from '../nfs/share-types.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { migrate } from './migrations.js';

export const recordVersion = 2;

const id64 = z.string().regex(/^[0-9a-f]{16}$/);
const id128 = z.string().regex(/^[0-9a-f]{32}$/);
const version = z.literal(recordVersion);
const naturalNumber = z.number().int().nonnegative();

export const clusterSchema = z.object({ version, id: id128, createdAt: z.string() });
export type ClusterRecord = z.infer<typeof clusterSchema>;

export const nodeSchema = z.object({
  version,
  name: z.string(),
  portal: z.string().nullable(),
  /** Nodes of one zone fail together (a rack, a room); null: of no zone. */
  zone: z.string().nullable(),
  /** Takes no new replicas and no attachments; keeps what it has. */
  cordoned: z.boolean(),
  /** Replicas and attachments are moved away. Implies cordoned. */
  draining: z.boolean(),
  /** Whose the name is (node-names.ts). Absent: its agent does not say. */
  agent: z.object({ folderId: z.string(), host: z.string(), folder: z.string(), since: z.string() }).optional(),
});
export type NodeRecord = z.infer<typeof nodeSchema>;

export const diskClassSchema = z.enum(['hdd', 'ssd', 'nvme']);
export type DiskClass = z.infer<typeof diskClassSchema>;

export const diskOrderSchema = z.object({
  directory: z.string(),
  /** Null: in the directory */
  journalPath: z.string().nullable(),
  journalBytes: naturalNumber,
  cacheBytes: naturalNumber,
  /** 0: what the file system has */
  capacityBytes: naturalNumber,
  /** What is on a block device that is to become a disk may go. */
  format: z.boolean().optional(),
  /** Taken out of the cluster: the agent stops it, and the record goes. */
  removed: z.boolean(),
});
export type DiskOrder = z.infer<typeof diskOrderSchema>;

export const diskSchema = z.object({
  version,
  node: z.string(),
  name: z.string(),
  /** Written into the disk when it was formatted; null until its replica process has run once. */
  diskId: id128.nullable(),
  directory: z.string(),
  /** Last known gRPC address of its replica process. */
  address: z.string().nullable(),
  tags: z.array(z.string()),
  class: diskClassSchema.nullable(),
  /** Takes no new replicas. */
  cordoned: z.boolean(),
  /** Its replicas are moved away. Implies cordoned. */
  evicting: z.boolean(),
  /** How its agent is to run it, for a disk that was added at run time; null: the agent's own configuration says. */
  order: diskOrderSchema.nullable(),
  /** It was put here, and what the records have of its replicas still names that place. Absent: nothing is left of a move. */
  movedFrom: z.object({ node: z.string(), disk: z.string() }).optional(),
  /** The disk of this id showed up here while it was served elsewhere: a copy, never to be used. */
  copyOf: id128.optional(),
});
export type DiskRecord = z.infer<typeof diskSchema>;

export const replicaSchema = z.object({ id: id64, node: z.string(), disk: z.string() });
export type ReplicaRecord = z.infer<typeof replicaSchema>;

/** Limits of a volume; 0: none. */
export const qosSchema = z.object({
  operationsPerSecond: naturalNumber,
  bytesPerSecond: naturalNumber,
  burstSeconds: naturalNumber,
});
export type Qos = z.infer<typeof qosSchema>;

/** Which disks may take a volume's replicas. */
export const constraintsSchema = z.object({
  /** Of the disk: it must have all of them. */
  tags: z.array(z.string()),
  class: diskClassSchema.nullable(),
  /** One replica per zone is a must, and not only preferred. */
  zonesRequired: z.boolean(),
  /** One replica is to be on the node where the volume is attached. */
  local: z.boolean(),
});
export type Constraints = z.infer<typeof constraintsSchema>;

const chapSchema = z.object({ user: z.string(), secret: z.string() });
/** Who may log in over iSCSI. */
export const accessSchema = z.object({
  chap: chapSchema.nullable(),
  mutualChap: chapSchema.nullable(),
  /** Names of initiators; empty: all. */
  initiators: z.array(z.string()),
});
export type Access = z.infer<typeof accessSchema>;

/** Of a volume with access "rwx". */
export const shareSchema = z.object({
  /** Made when the volume is empty. */
  fs: z.enum(filesystemNames),
  /** Where it was served last, so that clients find it there again; 0: nowhere yet. */
  port: naturalNumber,
  options: z.object({
    clients: z.array(z.string()),
    squash: z.enum(squashes),
    v3: z.boolean(),
    security: z.array(z.string()),
    address: z.string().nullable().default(null),
    principal: z.string().nullable().default(null),
    keytab: z.string().nullable().default(null),
  }),
  /** From an attach on, until it is to be taken away again. Where follows from the attachment. */
  wanted: z.boolean(),
});
export type ShareRecord = z.infer<typeof shareSchema>;

export const volumeSchema = z.object({
  version,
  id: id64,
  name: z.string(),
  /** Wanted size, bytes. The log of the volume decides what it is; the two meet at the next attach. */
  size: naturalNumber,
  blockSize: z.union([z.literal(512), z.literal(4096)]),
  createdAt: z.string(),
  /**
   * "creating" until every replica exists; a volume left in it by a crash is removed. "copying" while it is being made a full clone:
   * left in it by a crash, it is removed and made again.
   */
  phase: z.enum(['creating', 'copying', 'ready']),
  /** While copying: by which run of the manager, and from what; `temporary`: the snapshot is deleted at the end. */
  copying: z.object({ run: z.string(), source: id64, snapshot: id64, temporary: z.boolean() }).nullable().default(null),
  /** Of a linked clone: whose blocks it began with. It may share none any more. */
  linkedTo: z.object({ volume: id64, snapshot: id64, label: z.string() }).nullable().default(null),
  replicas: z.array(replicaSchema).min(1),
  inSync: z.array(id64).min(1),
  epoch: naturalNumber,
  /** Of the last stored change of inSync in this epoch. */
  inSyncSequence: naturalNumber,
  /** Where an engine is wanted; null: detached. */
  attachment: z
    .object({
      node: z.string(),
      /** Wanted as a block device of a host. `implicit`: attached for that only, so that unmapping detaches. */
      device: z
        .object({ via: z.enum(['fuse', 'iscsi']), implicit: z.boolean() })
        .nullable()
        .optional(),
    })
    .nullable(),
  /** Shared over NFS: attaching it means to export it. Absent: it is not. */
  share: shareSchema.optional(),
  /** How many replicas are wanted. */
  copies: z.int().positive(),
  /** Those of `replicas` that are to go once enough others are in-sync. */
  retiring: z.array(id64),
  constraints: constraintsSchema,
  qos: qosSchema.nullable(),
  access: accessSchema,
  /** Whose defaults it was made with. */
  policy: z.string().nullable(),
  /**
   * Replicas that may have what was lost when older data was accepted: never touched by an engine, deleted only when somebody asks
   * for it.
   */
  setAside: z.array(id64).default([]),
  /** Where an engine without a front-end is wanted, to rebuild or repair a detached volume. */
  maintenance: z.object({ node: z.string(), reason: z.string() }).nullable().default(null),
  /** Why the volume must not be served: acknowledged writes are lost, and nobody has accepted that. */
  lostData: z.string().nullable().default(null),
  /** Null: the cluster's. */
  rebuildBytesPerSecond: naturalNumber.nullable().default(null),
  foregroundPercent: naturalNumber.nullable().default(null),
});
export type VolumeRecord = z.infer<typeof volumeSchema>;

export const snapshotSchema = z.object({
  version,
  /** What replicas know it by; never used again. */
  id: id64,
  volume: id64,
  name: z.string(),
  createdAt: z.string(),
  /** "ready": the volume's log has it. "creating": it may have it, and what it has decides. "deleting" from when it is to be dropped. */
  phase: z.enum(['creating', 'ready', 'deleting']),
  /** The mounted file system was frozen for its instant. */
  frozen: z.boolean().optional(),
  /** Why it was not, although it was mounted. */
  note: z.string().optional(),
});
export type SnapshotRecord = z.infer<typeof snapshotSchema>;

export const trashSchema = z.object({
  version,
  volume: volumeSchema,
  deletedAt: z.string(),
  purgeAt: z.string(),
});
export type TrashRecord = z.infer<typeof trashSchema>;

export const policySchema = z.object({
  version,
  name: z.string(),
  copies: z.int().positive(),
  constraints: constraintsSchema,
  qos: qosSchema.nullable(),
});
export type PolicyRecord = z.infer<typeof policySchema>;

/** A hundred years: what is later is no date. */
export const trashSecondsMax = 3_153_600_000;

export const settingsSchema = z.object({
  version,
  /** How many times its capacity may be promised on a disk. */
  overProvisioning: z.number().min(1).max(100),
  /** How long a deleted volume stays in the trash, s. 0: not at all */
  trashSeconds: naturalNumber,
  /** How long a replica, disk or node may be away before its replicas are made anew elsewhere, s. */
  replaceAfterSeconds: naturalNumber,
  /** How long a node may be away before its volumes are attached elsewhere, s. 0: never by itself */
  failoverSeconds: naturalNumber,
  /** Whether replicas are moved to even out the use of disks. */
  balance: z.boolean(),
  /** How many replicas are moved at a time, in the whole cluster. */
  movesMax: z.int().positive(),
  /** Of a volume's rebuilds together, bytes per second. 0: unlimited */
  rebuildBytesPerSecond: naturalNumber.default(0),
  /** What hosts get of a volume's performance while it is rebuilt, per cent. */
  foregroundPercent: z.int().min(0).max(99).default(80),
  /** How many replicas on one disk are rebuilt at a time. */
  rebuildsPerDisk: z.int().positive().default(4),
  /** How old the last verification of a volume may get, s. 0: volumes are not scrubbed by themselves */
  scrubIntervalSeconds: naturalNumber.default(604_800),
  /** Per replica. 0: unlimited */
  scrubBytesPerSecond: naturalNumber.default(33_554_432),
});
export type SettingsRecord = z.infer<typeof settingsSchema>;

/** "agent": for the processes of nodes, and for nothing else. */
export const roles = ['read-only', 'operator', 'admin', 'agent'] as const;
export const roleSchema = z.enum(roles);
export type Role = z.infer<typeof roleSchema>;

export const tokenSchema = z.object({
  version,
  id: z.string(),
  /** SHA-256 of the secret part, hex. */
  hash: z.string(),
  role: roleSchema,
  note: z.string(),
  createdAt: z.string(),
  expiresAt: z.string().nullable(),
});
export type TokenRecord = z.infer<typeof tokenSchema>;

export const authoritySchema = z.object({
  version,
  /** PEM */
  certificate: z.string(),
  key: z.string(),
  /** PEM of further authorities that are believed: while one replaces the other. */
  trusted: z.array(z.string()),
});
export type AuthorityRecord = z.infer<typeof authoritySchema>;

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
  allSnapshots: '/snapshots/',
  snapshots: (volumeId: string) => `/snapshots/${volumeId}/`,
  snapshot: (volumeId: string, name: string) => `/snapshots/${volumeId}/${name}`,
  reservations: (id: string) => `/reservations/${id}`,
  scrubs: '/scrubs/',
  scrub: (id: string) => `/scrubs/${id}`,
  trash: '/trash/',
  trashed: (id: string) => `/trash/${id}`,
  policies: '/policies/',
  policy: (name: string) => `/policies/${name}`,
  settings: '/settings',
  authority: '/authority',
  tokens: '/tokens/',
  token: (id: string) => `/tokens/${id}`,
  events: '/events',
  doomedReplicas: '/doomed-replicas/',
  doomedReplica: (id: string) => `/doomed-replicas/${id}`,
} as const;

const versionSchema = z.looseObject({ version: z.number() });

export const defaultConstraints: Constraints = { tags: [], class: null, zonesRequired: false, local: false };
export const defaultAccess: Access = { chap: null, mutualChap: null, initiators: [] };
export const defaultSettings: SettingsRecord = {
  version: recordVersion,
  overProvisioning: 2,
  trashSeconds: 259_200,
  replaceAfterSeconds: 300,
  failoverSeconds: 30,
  balance: true,
  movesMax: 4,
  rebuildBytesPerSecond: 0,
  foregroundPercent: 80,
  rebuildsPerDisk: 4,
  scrubIntervalSeconds: 604_800,
  scrubBytesPerSecond: 33_554_432,
};

/** The last scrub of a volume, and the one that runs or is to be run. */
export const scrubSchema = z.object({
  version,
  volume: id64,
  /** When one was asked for that has not ended; null: none. */
  requestedAt: z.string().nullable(),
  /** Of the one asked for. Null: the cluster's setting. */
  bytesPerSecond: naturalNumber.nullable(),
  /** End of the last one that checked every replica. */
  verifiedAt: z.string().nullable(),
  checkedBlocks: naturalNumber,
  damagedBlocks: naturalNumber,
  repairedBlocks: naturalNumber,
  unrepairableBlocks: naturalNumber,
  differingChunks: naturalNumber,
  /** Why the last one ended early. */
  failure: z.string().nullable(),
});
export type ScrubRecord = z.infer<typeof scrubSchema>;

export const eventsSchema = z.object({
  version,
  /** Oldest first. */
  events: z.array(
    z.object({
      id: naturalNumber,
      at: z.string(),
      severity: z.enum(['info', 'warning', 'error']),
      object: z.string(),
      message: z.string(),
    }),
  ),
});
export type EventsRecord = z.infer<typeof eventsSchema>;

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
  const current = versioned.success ? migrate(key, versioned.data, recordVersion) : value;
  const parsed = schema.safeParse(current);
  if (!parsed.success) {
    throw new HoldfastError(
      'CORRUPT',
      `record ${key} of the metadata store is damaged: ${z.prettifyError(parsed.error)}`,
    );
  }
  return parsed.data;
}
