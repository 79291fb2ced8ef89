// config.json of a manager process.
import { z } from 'zod';
import { storeSettingsSchema } from '../metastore/store-options.js';

export const managerConfigSchema = z.strictObject({
  role: z.literal('manager'),
  /** HOST:PORT for gRPC and REST */
  listen: z.string(),
  /** HOST:PORT at which other managers reach this one; null: as it listens */
  advertise: z.string().nullable(),
  store: storeSettingsSchema,
});

export type ManagerConfig = z.infer<typeof managerConfigSchema>;
