// config.json of an agent process, written by `holdfast up`: what this node runs.
import { z } from 'zod';

const bytes = z.int().nonnegative();

export const diskConfigSchema = z.strictObject({
  name: z.string(),
  /** Holds config, state and log of the replica process. */
  runDir: z.string(),
  /** The disk itself: a folder, or a block device. */
  directory: z.string(),
  /** What is on a block device that is to become a disk may go. */
  format: z.boolean().optional(),
  journalPath: z.string().nullable(),
  journalBytes: bytes,
  cacheBytes: bytes,
  /** 0: what the file system has */
  capacityBytes: bytes,
});
export type DiskConfig = z.infer<typeof diskConfigSchema>;

export const agentConfigSchema = z.strictObject({
  role: z.literal('agent'),
  node: z.string(),
  /** HOST:PORT of each manager */
  managers: z.array(z.string()).min(1),
  /** Shown to the managers; null: they ask for none */
  token: z.string().nullable(),
  /** Where replica and target processes of this node listen for each other. */
  host: z.string(),
  target: z.strictObject({ runDir: z.string(), portal: z.string() }),
  disks: z.array(diskConfigSchema),
});
export type AgentConfig = z.infer<typeof agentConfigSchema>;
