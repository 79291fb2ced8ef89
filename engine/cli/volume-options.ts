// Options of volumes that several commands take: placement, QoS, access.
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { parseCount, parseSizeText } from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';

export type PlacementOptions = {
  readonly tag?: readonly string[];
  readonly class?: string;
  readonly zones?: string;
  readonly local?: boolean;
  readonly iops?: string;
  readonly bandwidth?: string;
  readonly burst?: string;
};

export type AccessOptions = {
  readonly chapUser?: string;
  readonly chapSecretFile?: string;
  readonly mutualUser?: string;
  readonly mutualSecretFile?: string;
  readonly initiator?: readonly string[];
};

const collect = (value: string, before: readonly string[] | undefined) => [...(before ?? []), value];

export function withPlacementOptions(command: Command): Command {
  return command
    .option('--tag <tag>', 'only disks with this tag; may be given several times', collect)
    .option('--class <class>', 'only disks of this class: hdd, ssd or nvme')
    .option('--zones <required|preferred>', 'whether each replica must be in another zone')
    .option('--local', 'one replica where the volume is attached')
    .option('--iops <count>', 'operations per second at most; 0: no limit')
    .option('--bandwidth <size>', 'bytes per second at most, such as 100Mi; 0: no limit')
    .option('--burst <seconds>', 'how many seconds of unused limit may be saved up');
}

export function withAccessOptions(command: Command): Command {
  return command
    .option('--chap-user <name>', 'who may log in over iSCSI')
    .option('--chap-secret-file <file>', 'holds the secret, 12 to 64 bytes')
    .option('--mutual-user <name>', 'as who the target answers')
    .option('--mutual-secret-file <file>', 'holds the secret of the target')
    .option('--initiator <name>', 'only this initiator; may be given several times', collect);
}

export function constraintsOf(options: PlacementOptions): Readonly<Record<string, unknown>> {
  const { tag, class: diskClass, zones, local } = options;
  if (zones !== undefined && zones !== 'required' && zones !== 'preferred')
    throw new HoldfastError('INVALID_ARGUMENT', '--zones is required or preferred');
  if (diskClass !== undefined && !['hdd', 'ssd', 'nvme'].includes(diskClass))
    throw new HoldfastError('INVALID_ARGUMENT', `--class "${diskClass}" is not hdd, ssd or nvme`);
  return {
    ...(tag === undefined ? {} : { tags: tag }),
    ...(diskClass === undefined ? {} : { class: diskClass }),
    ...(zones === undefined ? {} : { zonesRequired: zones === 'required' }),
    ...(local === undefined ? {} : { local }),
  };
}

/** Undefined: none of the options was given; null: no limits. */
export function qosOf({
  iops,
  bandwidth,
  burst,
}: PlacementOptions): Readonly<Record<string, number>> | null | undefined {
  if (iops === undefined && bandwidth === undefined && burst === undefined) return undefined;
  const limits = {
    operationsPerSecond: iops === undefined ? 0 : parseCount(iops, '--iops'),
    bytesPerSecond: bandwidth === undefined ? 0 : parseSizeText(bandwidth),
    burstSeconds: burst === undefined ? 1 : parseCount(burst, '--burst'),
  };
  return limits.operationsPerSecond === 0 && limits.bytesPerSecond === 0 ? null : limits;
}

/** Undefined: none of the options was given. */
export function accessOf(options: AccessOptions): object | undefined {
  const { chapUser, chapSecretFile, mutualUser, mutualSecretFile, initiator } = options;
  if ([chapUser, chapSecretFile, mutualUser, mutualSecretFile, initiator].every((each) => each === undefined))
    return undefined;
  return {
    chap: chapOf(chapUser, chapSecretFile, '--chap-user and --chap-secret-file'),
    mutualChap: chapOf(mutualUser, mutualSecretFile, '--mutual-user and --mutual-secret-file'),
    initiators: initiator ?? [],
  };
}

function chapOf(user: string | undefined, file: string | undefined, names: string): object | null {
  if (user === undefined && file === undefined) return null;
  if (user === undefined || file === undefined) throw new HoldfastError('INVALID_ARGUMENT', `${names} go together`);
  try {
    return { user, secret: readFileSync(file, 'utf8').trimEnd() };
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', `${file} cannot be read: ${(error as Error).message}`);
  }
}
