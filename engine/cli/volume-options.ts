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
  if (diskClass !== undefined && !['', 'hdd', 'ssd', 'nvme'].includes(diskClass))
    throw new HoldfastError('INVALID_ARGUMENT', `--class "${diskClass}" is not hdd, ssd or nvme`);
  return {
    ...(tag === undefined ? {} : { tags: tag.filter((each) => each !== '') }),
    ...(diskClass === undefined ? {} : { class: diskClass === '' ? null : diskClass }),
    ...(zones === undefined ? {} : { zonesRequired: zones === 'required' }),
    ...(local === undefined ? {} : { local }),
  };
}

/** What was given of the limits. Undefined: nothing. */
export function qosOf({ iops, bandwidth, burst }: PlacementOptions): Readonly<Record<string, number>> | undefined {
  if (iops === undefined && bandwidth === undefined && burst === undefined) return undefined;
  return {
    ...(iops === undefined ? {} : { operationsPerSecond: parseCount(iops, '--iops') }),
    ...(bandwidth === undefined ? {} : { bytesPerSecond: parseSizeText(bandwidth) }),
    ...(burst === undefined ? {} : { burstSeconds: burstSeconds(burst) }),
  };
}

function burstSeconds(text: string): number {
  const seconds = parseCount(text, '--burst');
  if (seconds >= 1 && seconds <= 3_600) return seconds;
  throw new HoldfastError('INVALID_ARGUMENT', `--burst ${seconds} is not possible: use 1 to 3600`);
}

/** What was given of it; "" takes away what there is. Undefined: nothing. */
export function accessOf(options: AccessOptions): object | undefined {
  const { chapUser, chapSecretFile, mutualUser, mutualSecretFile, initiator } = options;
  if ([chapUser, chapSecretFile, mutualUser, mutualSecretFile, initiator].every((each) => each === undefined))
    return undefined;
  const chap = chapOf(chapUser, chapSecretFile, '--chap-user and --chap-secret-file');
  const mutualChap = chapOf(mutualUser, mutualSecretFile, '--mutual-user and --mutual-secret-file');
  return {
    ...(chap === undefined ? {} : { chap }),
    ...(mutualChap === undefined ? {} : { mutualChap }),
    ...(initiator === undefined ? {} : { initiators: initiator.filter((name) => name !== '') }),
  };
}

function chapOf(user: string | undefined, file: string | undefined, names: string): object | null | undefined {
  if (user === undefined && file === undefined) return undefined;
  if (user === '' && file === undefined) return null;
  if (user === undefined || file === undefined) throw new HoldfastError('INVALID_ARGUMENT', `${names} go together`);
  try {
    return { user, secret: readFileSync(file, 'utf8').trimEnd() };
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', `${file} cannot be read: ${(error as Error).message}`);
  }
}
