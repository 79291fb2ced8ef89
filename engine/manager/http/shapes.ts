// The JSON shapes of the REST API as schemas: what requests must look like, and what /openapi.json says of answers. views.ts has the
// types of the latter; a test holds real answers against these.
import { z } from 'zod';
import { filesystemNames, squashes } from '../../nfs/share-types.js';
import { trashSecondsMax } from '../records.js';

const integer = z.int();
const text = z.string();

const constraintFields = {
  tags: z.array(z.string()).optional(),
  class: z.enum(['hdd', 'ssd', 'nvme']).nullable().optional(),
  zonesRequired: z.boolean().optional(),
  local: z.boolean().optional(),
};
export const constraints = z.strictObject(constraintFields);
const qosFields = {
  operationsPerSecond: z.int().nonnegative(),
  bytesPerSecond: z.int().nonnegative(),
  burstSeconds: z.int().min(1).max(3_600),
};
export const qos = z.strictObject({
  operationsPerSecond: qosFields.operationsPerSecond.default(0),
  bytesPerSecond: qosFields.bytesPerSecond.default(0),
  burstSeconds: qosFields.burstSeconds.default(1),
});
const chap = z.strictObject({ user: z.string(), secret: z.string().default('') });
export const access = z.strictObject({
  chap: chap.nullable().default(null),
  mutualChap: chap.nullable().default(null),
  initiators: z.array(z.string()).default([]),
});

export const changeVolume = z.strictObject({
  rebuildBytesPerSecond: z.int().nonnegative().nullish(),
  foregroundPercent: z.int().min(0).max(99).nullish(),
  replicas: z.number().optional(),
  constraints: constraints.optional(),
  qos: z.strictObject(qosFields).partial().nullable().optional(),
  access: z
    .strictObject({ chap: chap.nullable(), mutualChap: chap.nullable(), initiators: z.array(z.string()) })
    .partial()
    .optional(),
});

export const changeNode = z.strictObject({
  zone: z.string().nullable().optional(),
  cordoned: z.boolean().optional(),
  draining: z.boolean().optional(),
});
export const changeDisk = z.strictObject({
  tags: z.array(z.string()).optional(),
  class: z.enum(['hdd', 'ssd', 'nvme']).nullable().optional(),
  cordoned: z.boolean().optional(),
  evicting: z.boolean().optional(),
});
export const addDisk = z.strictObject({
  name: z.string(),
  directory: z.string(),
  journalPath: z.string().nullable().default(null),
  journalBytes: z.int().nonnegative().default(0),
  cacheBytes: z.int().nonnegative().default(0),
  capacityBytes: z.int().nonnegative().default(0),
  format: z.boolean().default(false),
});
export const changeSettings = z.strictObject({
  overProvisioning: z.number().min(1).max(100).optional(),
  trashSeconds: z.int().nonnegative().max(trashSecondsMax).optional(),
  replaceAfterSeconds: z.int().nonnegative().optional(),
  failoverSeconds: z.int().nonnegative().optional(),
  balance: z.boolean().optional(),
  movesMax: z.int().positive().optional(),
  rebuildBytesPerSecond: z.int().nonnegative().optional(),
  foregroundPercent: z.int().min(0).max(99).optional(),
  rebuildsPerDisk: z.int().positive().optional(),
  scrubIntervalSeconds: z.int().nonnegative().optional(),
  scrubBytesPerSecond: z.int().nonnegative().optional(),
});
export const putPolicy = z.strictObject({
  name: z.string(),
  replicas: z.number().optional(),
  constraints: constraints.optional(),
  qos: qos.nullable().optional(),
});

const constraintsAnswer = {
  tags: z.array(z.string()),
  class: z.enum(['hdd', 'ssd', 'nvme']).nullable(),
  zonesRequired: z.boolean(),
  local: z.boolean(),
};
const qosAnswer = z
  .object({ operationsPerSecond: integer, bytesPerSecond: integer, burstSeconds: integer })
  .meta({ id: 'Qos' });
export const emptying = z
  .object({
    node: text,
    disk: text.nullable(),
    replicas: z.array(text),
    attachments: z.array(text),
    blocked: z.array(z.object({ volume: text, reason: text })),
    done: z.boolean(),
  })
  .meta({ id: 'Emptying' });
export const trashed = z
  .object({ id: text, volume: text, size: integer, replicas: integer, deletedAt: text, purgeAt: text })
  .meta({ id: 'TrashedVolume' });
export const settings = z
  .object({
    overProvisioning: z.number(),
    trashSeconds: integer,
    replaceAfterSeconds: integer,
    failoverSeconds: integer,
    balance: z.boolean(),
    movesMax: integer,
    rebuildBytesPerSecond: integer,
    foregroundPercent: integer,
    rebuildsPerDisk: integer,
    scrubIntervalSeconds: integer,
    scrubBytesPerSecond: integer,
  })
  .meta({ id: 'Settings' });
export const policy = z
  .object({ name: text, copies: integer, constraints: z.object(constraintsAnswer), qos: qosAnswer.nullable() })
  .meta({ id: 'Policy' });
export const explanation = z
  .object({
    volume: text,
    wants: z.object({ replicas: integer, ...constraintsAnswer }),
    disks: z.array(
      z.object({
        node: text,
        disk: text,
        zone: text.nullable(),
        holds: z.boolean(),
        accepted: z.boolean(),
        reason: text.nullable(),
        promisedShare: z.number().nullable(),
      }),
    ),
  })
  .meta({ id: 'Explanation' });
const role = z.enum(['read-only', 'operator', 'admin', 'agent']);
export const createToken = z.strictObject({
  role,
  note: z.string().max(200).default(''),
  /** From now; absent: it does not expire. */
  expiresInSeconds: z.int().positive().optional(),
});
export const token = z
  .object({ id: text, role, note: text, createdAt: text, expiresAt: text.nullable() })
  .meta({ id: 'Token' });
export const madeToken = z
  .object({ id: text, role, text, join: text.nullable(), expiresAt: text.nullable() })
  .meta({ id: 'MadeToken' });
export const empty = z.object({});
export const purged = z.object({ pendingReplicas: z.array(text) }).meta({ id: 'Purged' });

export const createVolume = z.strictObject({
  name: text,
  size: z.number(),
  replicas: z.number().optional(),
  blockSize: z.number().optional(),
  policy: z.string().optional(),
  constraints: constraints.optional(),
  qos: qos.nullable().optional(),
  access: access.optional(),
  share: z
    .strictObject({
      fs: z.enum(filesystemNames).optional(),
      clients: z.array(text).optional(),
      squash: z.enum(squashes).optional(),
      v3: z.boolean().optional(),
      security: z.array(text).optional(),
      address: text.optional(),
      principal: text.optional(),
      keytab: text.optional(),
    })
    .nullish(),
});

export const cluster = z.object({ id: text, version: text, nodes: integer, volumes: integer }).meta({ id: 'Cluster' });

export const event = z
  .object({ id: integer, at: text, severity: z.enum(['info', 'warning', 'error']), object: text, message: text })
  .meta({ id: 'Event' });

export const iscsi = z.object({ portal: text, iqn: text, lun: integer, url: text }).meta({ id: 'Iscsi' });

export const nfs = z.object({ server: text, port: integer, path: text, mount: text }).meta({ id: 'Nfs' });

export const attachVolume = z.strictObject({
  node: text.nullish(),
  force: z.boolean().optional(),
  acceptDataLoss: z.boolean().optional(),
  replica: text.nullish(),
});

export const takeover = z
  .object({
    from: text,
    former: z.enum(['detached', 'unreachable']),
    leaseWaitMs: integer,
    leftOut: z.array(text),
    waitedFor: text,
  })
  .meta({ id: 'Takeover' });

export const attachment = z
  .object({
    volume: text,
    epoch: integer,
    node: text,
    iscsi: iscsi.nullable(),
    nfs: nfs.nullable(),
    takeover: takeover.nullable(),
    servedFrom: text.nullable(),
  })
  .meta({ id: 'Attachment' });

export const scrub = z
  .object({
    state: z.enum(['running', 'idle']),
    chunksTotal: integer.nullable(),
    chunksChecked: integer.nullable(),
    verifiedAt: text.nullable(),
    checkedBlocks: integer,
    damagedBlocks: integer,
    repairedBlocks: integer,
    unrepairableBlocks: integer,
    differingChunks: integer,
    failure: text.nullable(),
  })
  .meta({ id: 'Scrub' });

const via = z.enum(['fuse', 'iscsi']);
export const mapVolume = z.strictObject({ node: text.nullish(), via: via.optional() }).meta({ id: 'MapVolume' });
export const mapping = z
  .object({ volume: text, epoch: integer, node: text, via, device: text.nullable(), iscsi })
  .meta({ id: 'Mapping' });
export const device = z.object({ via, node: text, path: text.nullable() }).meta({ id: 'Device' });

export const rebuild = z
  .object({
    chunksTotal: integer,
    chunksExamined: integer,
    bytesCopied: integer,
    bytesPerSecond: integer,
    remainingSeconds: integer.nullable(),
  })
  .meta({ id: 'Rebuild' });

export const replica = z
  .object({
    id: text,
    node: text,
    disk: text,
    state: z.enum(['in-sync', 'rebuilding', 'failed', 'set-aside']),
    reason: text.nullable(),
    address: text.nullable(),
    rebuild: rebuild.nullable(),
  })
  .meta({ id: 'Replica' });

export const snapshot = z
  .object({
    id: text,
    name: text,
    volume: text,
    parent: text.nullable(),
    createdAt: text,
    state: z.enum(['creating', 'ready', 'deleting']),
    size: integer.nullable(),
    usedBytes: integer.nullable(),
    frozen: z.boolean(),
    note: text.nullable(),
  })
  .meta({ id: 'Snapshot' });
export const folder = z
  .object({
    volume: text,
    snapshot: text,
    path: text,
    fs: text,
    journal: z.enum(['replayed', 'ignored']),
    entries: z.array(
      z.object({
        name: text,
        rawName: text.nullable(),
        type: z.enum(['file', 'directory', 'link', 'special']),
        size: z.number(),
        mode: z.number(),
        uid: z.number(),
        gid: z.number(),
        modifiedAt: text,
        target: text.nullable(),
      }),
    ),
  })
  .meta({ id: 'SnapshotFolder' });
export const snapshotDeletion = z.object({ volume: text, name: text }).meta({ id: 'SnapshotDeletion' });

export const volume = z
  .object({
    id: text,
    name: text,
    size: integer,
    blockSize: integer,
    state: z.enum(['creating', 'detached', 'attaching', 'attached']),
    health: z.enum(['healthy', 'degraded', 'faulted']),
    reason: text.nullable(),
    epoch: integer,
    node: text.nullable(),
    iscsi: iscsi.nullable(),
    access: z.enum(['rwo', 'rwx']),
    nfs: nfs.nullable(),
    device: device.nullable(),
    inSync: z.array(text),
    replicas: z.array(replica),
    usedBytes: integer.nullable(),
    createdAt: text,
    copies: integer,
    writesPaused: z.boolean(),
    maintenance: text.nullable(),
    scrub: scrub.nullable(),
    rebuildBytesPerSecond: integer.nullable(),
    foregroundPercent: integer.nullable(),
    linkedTo: text.nullable(),
    policy: text.nullable(),
    constraints: z.object(constraintsAnswer),
    qos: qosAnswer.nullable(),
    chapUser: text.nullable(),
    mutualChapUser: text.nullable(),
    initiators: z.array(text),
  })
  .meta({ id: 'Volume' });

export const deletion = z
  .object({
    volume: text,
    pendingReplicas: z.array(text),
    restorableUntil: text.nullable(),
    linkedClones: z.array(text),
  })
  .meta({ id: 'Deletion' });

export const node = z
  .object({
    name: text,
    state: z.enum(['online', 'starting', 'impaired', 'offline']),
    reason: text.nullable(),
    portal: text.nullable(),
    disks: integer,
    volumes: integer,
    zone: text.nullable(),
    cordoned: z.boolean(),
    draining: z.boolean(),
  })
  .meta({ id: 'Node' });

export const disk = z
  .object({
    node: text,
    name: text,
    id: text.nullable(),
    state: z.enum(['online', 'starting', 'failed', 'offline']),
    reason: text.nullable(),
    directory: text,
    address: text.nullable(),
    totalBytes: integer.nullable(),
    usedBytes: integer.nullable(),
    freeBytes: integer.nullable(),
    scheduledBytes: integer,
    replicas: integer,
    smart: z
      .object({
        passed: z.boolean().nullable(),
        temperatureCelsius: integer.nullable(),
        powerOnHours: integer.nullable(),
        wearPercent: integer.nullable(),
        badSectors: integer.nullable(),
      })
      .nullable(),
    class: constraintsAnswer.class,
    tags: z.array(text),
    cordoned: z.boolean(),
    evicting: z.boolean(),
  })
  .meta({ id: 'Disk' });

export const certificateRequest = z
  .strictObject({ node: text, hosts: z.array(text).max(8), request: text })
  .meta({ id: 'CertificateRequest' });
export const issuedCertificate = z.object({ certificate: text, authority: text }).meta({ id: 'IssuedCertificate' });

export const process = z
  .object({
    node: text.nullable(),
    role: z.enum(['manager', 'agent', 'target', 'replica']),
    pid: integer,
    disk: text.nullable(),
  })
  .meta({ id: 'Process' });

export const status = z
  .object({
    cluster: text,
    version: text,
    health: z.enum(['healthy', 'degraded', 'critical']),
    nodes: z.object({ total: integer, online: integer }),
    disks: z.object({
      total: integer,
      online: integer,
      totalBytes: integer,
      usedBytes: integer,
      promisedBytes: integer,
    }),
    volumes: z.object({ total: integer, attached: integer, healthy: integer, degraded: integer, faulted: integer }),
    trash: integer,
    rebuilds: z.array(
      z.object({
        volume: text,
        replica: text,
        node: text,
        disk: text,
        share: z.number(),
        bytesPerSecond: integer,
        remainingSeconds: integer.nullable(),
      }),
    ),
    problems: z.array(
      z.object({ severity: z.enum(['critical', 'warning']), object: text, problem: text, action: text.nullable() }),
    ),
  })
  .meta({ id: 'Status' });
