// config.json of a manager process.
import { z } from 'zod';
import { roleSchema } from './records.js';
import { storeSettingsSchema } from '../metastore/store-options.js';

export const managerConfigSchema = z.strictObject({
  role: z.literal('manager'),
  /** HOST:PORT for gRPC and REST */
  listen: z.string(),
  /** HOST:PORT at which other managers reach this one; null: as it listens */
  advertise: z.string().nullable(),
  store: storeSettingsSchema,
  /** Null: processes of the manager's own user need no token. Otherwise everybody does, and these exist from the beginning. */
  tokens: z.array(z.strictObject({ id: z.string(), hash: z.string(), role: roleSchema })).nullable(),
  auditFile: z.string().nullable(),
  /** A file with the authority that tokens name already, for the first start; null: one is made. */
  authorityFile: z.string().nullable(),
  /** At which other hosts reach the managers, for join tokens. */
  managers: z.array(z.string()),
});

export type ManagerConfig = z.infer<typeof managerConfigSchema>;
