// config.json of a replica process, written by the agent.
import { z } from 'zod';

const bytes = z.int().nonnegative();

export const replicaConfigSchema = z.strictObject({
  role: z.literal('replica'),
  node: z.string().min(1),
  disk: z.string().min(1),
  /** of the disk; made into a disk when it is empty */
  directory: z.string().min(1),
  /** Of a disk that is a block device: mounted at `directory` while the process runs. */
  device: z.string().min(1).nullable().default(null),
  /** What is on the device may go, as long as no disk is expected there. */
  format: z.boolean().default(false),
  journalPath: z.string().min(1).nullable(),
  /** numeric HOST:PORT or unix:PATH */
  listen: z.array(z.string().min(1)).min(1),
  /** refuse any other disk; null: take what is there */
  expectedDiskId: z.string().nullable(),
  journalBytes: bytes,
  /** budget for data that is journalled and not yet in its place */
  cacheBytes: bytes,
  /** 0: what the file system has */
  capacityBytes: bytes,
  /** what it shows to other hosts (engine/security/identity.ts); null: everything is plain */
  identityFile: z.string().nullable().default(null),
});

export type ReplicaConfig = z.infer<typeof replicaConfigSchema>;
