// config.json of a manager process.
import { z } from 'zod';

export const managerConfigSchema = z.strictObject({
  role: z.literal('manager'),
  /** HOST:PORT for gRPC and REST */
  listen: z.string(),
  /** folder of the embedded metadata store */
  metastore: z.string(),
});

export type ManagerConfig = z.infer<typeof managerConfigSchema>;
