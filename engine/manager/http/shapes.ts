// The JSON shapes of the REST API as schemas: what requests must look like, and what /openapi.json says of answers. views.ts has the
// types of the latter; a test holds real answers against these.
import { z } from 'zod';

const integer = z.int();
const text = z.string();

export const createVolume = z.strictObject({
  name: text,
  size: z.number(),
  replicas: z.number().optional(),
  blockSize: z.number().optional(),
});

export const cluster = z.object({ id: text, version: text, nodes: integer, volumes: integer }).meta({ id: 'Cluster' });

export const event = z
  .object({ id: integer, at: text, severity: z.enum(['info', 'warning', 'error']), object: text, message: text })
  .meta({ id: 'Event' });

export const iscsi = z.object({ portal: text, iqn: text, lun: integer, url: text }).meta({ id: 'Iscsi' });

export const attachment = z.object({ volume: text, epoch: integer, node: text, iscsi }).meta({ id: 'Attachment' });

const via = z.enum(['fuse', 'iscsi']);
export const mapVolume = z.strictObject({ node: text.nullish(), via: via.optional() }).meta({ id: 'MapVolume' });
export const mapping = z
  .object({ volume: text, epoch: integer, node: text, via, device: text.nullable(), iscsi })
  .meta({ id: 'Mapping' });
export const device = z.object({ via, node: text, path: text.nullable() }).meta({ id: 'Device' });

export const rebuild = z
  .object({ chunksTotal: integer, chunksExamined: integer, bytesCopied: integer, bytesPerSecond: integer })
  .meta({ id: 'Rebuild' });

export const replica = z
  .object({
    id: text,
    node: text,
    disk: text,
    state: z.enum(['in-sync', 'rebuilding', 'failed']),
    reason: text.nullable(),
    address: text.nullable(),
    rebuild: rebuild.nullable(),
  })
  .meta({ id: 'Replica' });

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
    device: device.nullable(),
    inSync: z.array(text),
    replicas: z.array(replica),
    usedBytes: integer.nullable(),
    createdAt: text,
  })
  .meta({ id: 'Volume' });

export const deletion = z.object({ volume: text, pendingReplicas: z.array(text) }).meta({ id: 'Deletion' });

export const node = z
  .object({
    name: text,
    state: z.enum(['online', 'starting', 'impaired', 'offline']),
    reason: text.nullable(),
    portal: text.nullable(),
    disks: integer,
    volumes: integer,
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
  })
  .meta({ id: 'Disk' });

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
