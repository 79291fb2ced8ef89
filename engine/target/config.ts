// config.json of a target process, written by the agent.
import { z } from 'zod';

export const targetConfigSchema = z.strictObject({
  role: z.literal('target'),
  node: z.string().min(1),
  /** where the control API (proto/holdfast/v1/target.proto) is served */
  control: z.string().min(1),
  /** numeric HOST:PORT for initiators */
  portal: z.string().min(1),
  /** of the service Membership; any of them will do */
  managers: z.array(z.string().min(1)).min(1),
  /** shown to the managers; null: they ask for none */
  token: z.string().nullable().default(null),
  /** what it shows to other hosts (engine/security/identity.ts); null: everything is plain */
  identityFile: z.string().nullable().default(null),
});

export type TargetConfig = z.infer<typeof targetConfigSchema>;
