// What a drive says of its own health: smartctl's JSON, where smartmontools is installed. Of an ATA drive and of an NVMe one come the same
// few figures; what a drive does not tell is null.
import { z } from 'zod';
import { HoldfastError } from '../errors/holdfast-error.js';
import { runCommand } from './command.js';
import { driveOf } from './disk-class.js';

export type SmartHealth = {
  /** The drive's own verdict; null: it gives none. */
  readonly passed: boolean | null;
  readonly temperatureCelsius: number | null;
  readonly powerOnHours: number | null;
  /** Of what flash memory endures, per cent; may exceed 100. */
  readonly wearPercent: number | null;
  /** NVMe: data integrity errors; ATA: sectors that were reallocated, or wait to be, or could not be. */
  readonly badSectors: number | null;
};

const attributeSchema = z.object({ id: z.number(), raw: z.object({ value: z.number() }) });
const outputSchema = z.object({
  smart_status: z.object({ passed: z.boolean() }).optional(),
  temperature: z.object({ current: z.number() }).optional(),
  power_on_time: z.object({ hours: z.number() }).optional(),
  nvme_smart_health_information_log: z
    .object({ percentage_used: z.number().optional(), media_errors: z.number().optional() })
    .optional(),
  ata_smart_attributes: z.object({ table: z.array(attributeSchema) }).optional(),
});

// Reallocated sectors, sectors waiting for that, sectors that could not be read.
const badSectorAttributes: ReadonlySet<number> = new Set([5, 197, 198]);

/** Null when the output says nothing about health: a virtual drive, or one behind a controller. */
export function parseSmart(text: string): SmartHealth | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  const parsed = outputSchema.safeParse(value);
  if (!parsed.success) return null;
  const { smart_status, temperature, power_on_time, nvme_smart_health_information_log: nvme } = parsed.data;
  const table = parsed.data.ata_smart_attributes?.table;
  const counted = table?.filter(({ id }) => badSectorAttributes.has(id)) ?? [];
  const health: SmartHealth = {
    passed: smart_status?.passed ?? null,
    temperatureCelsius: temperature?.current ?? null,
    powerOnHours: power_on_time?.hours ?? null,
    wearPercent: nvme?.percentage_used ?? null,
    badSectors:
      counted.length > 0 ? counted.reduce((sum, { raw }) => sum + raw.value, 0) : (nvme?.media_errors ?? null),
  };
  return Object.values(health).every((field) => field === null) ? null : health;
}

/** Of the drive below a folder or block device; null: no smartctl, no drive, or one that says nothing. */
export async function smartOf(path: string, program = 'smartctl', sysfs = '/sys'): Promise<SmartHealth | null> {
  const drive = driveOf(path, sysfs);
  if (drive === null) return null;
  try {
    // Its exit code is a set of bits, most of them about the drive and not about the run.
    const { stdout } = await runCommand(program, ['--json', '-H', '-A', `/dev/${drive}`], { timeoutMs: 30_000 });
    return parseSmart(stdout);
  } catch (error) {
    if (error instanceof HoldfastError) return null;
    throw error;
  }
}
