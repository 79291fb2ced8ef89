// What people type: names, sizes, counts. Shared by the CLI (to say early what is wrong) and the manager (which
// decides).
import { HoldfastError } from '../errors/holdfast-error.js';

export const volumeSizeMin = 2 ** 20;
export const volumeSizeMax = 2 ** 48;
export const volumeSizeUnit = 4096;
export const replicasMax = 7;
export const iqnPrefix = 'iqn.2026-11.io.holdfast:';

/** A DNS label: the name becomes part of the iqn, and later of Kubernetes objects. */
export function validateVolumeName(name: string): string {
  if (/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name)) return name;
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    `volume name "${name}" is not valid: use 1 to 63 lower-case letters, digits and "-", with a letter or digit at both ends`,
  );
}

export function validateSnapshotName(name: string): string {
  if (/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name)) return name;
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    `snapshot name "${name}" is not valid: use 1 to 63 lower-case letters, digits and "-", with a letter or digit at both ends`,
  );
}

/** Names of nodes, disks, zones, tags and policies. */
export function validateLabel(text: string, what: string): string {
  if (/^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$/.test(text)) return text;
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    `${what} "${text}" is not valid: use 1 to 63 lower-case letters, digits, ".", "_" and "-", with a letter or digit at both ends`,
  );
}

const unitBytes: Readonly<Record<string, number>> = {
  '': 1,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
};

/** "10Gi", "500Mi", "1Ti", "20G" or plain bytes, as a number of bytes. Rounds nothing. */
export function parseSize(text: string): number {
  return validateVolumeSize(parseSizeText(text));
}

/** As parseSize, for sizes of other things than volumes. */
export function parseSizeText(text: string): number {
  const match = /^(\d{1,18})(Ki|Mi|Gi|Ti|k|M|G|T)?$/.exec(text);
  const bytes = Number(match?.[1]) * (unitBytes[match?.[2] ?? ''] ?? Number.NaN);
  if (Number.isNaN(bytes)) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `size "${text}" is not valid: write a whole number with Ki, Mi, Gi or Ti (or k, M, G, T; or plain bytes), for example 10Gi`,
    );
  }
  return bytes;
}

export function validateVolumeSize(bytes: number): number {
  if (!Number.isInteger(bytes) || bytes < volumeSizeMin || bytes > volumeSizeMax) {
    throw new HoldfastError('INVALID_ARGUMENT', `size ${bytes} is out of range: a volume has 1 MiB to 256 TiB`);
  }
  if (bytes % volumeSizeUnit !== 0) {
    const up = formatExactSize(Math.ceil(bytes / volumeSizeUnit) * volumeSizeUnit);
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `size ${bytes} is not a multiple of ${volumeSizeUnit} bytes: the next larger one is ${up}`,
    );
  }
  return bytes;
}

/** `what` names the option in the error. */
export function parseCount(text: string, what: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new HoldfastError('INVALID_ARGUMENT', `${what} "${text}" is not a number`);
}

export function validateReplicaCount(count: number): number {
  if (Number.isInteger(count) && count >= 1 && count <= replicasMax) return count;
  throw new HoldfastError('INVALID_ARGUMENT', `${count} replicas are not possible: ask for 1 to ${replicasMax}`);
}

export function validateBlockSize(bytes: number): 512 | 4096 {
  if (bytes === 512 || bytes === 4096) return bytes;
  throw new HoldfastError('INVALID_ARGUMENT', `block size ${bytes} is not possible: use 512 or 4096`);
}

/** The shortest exact way to write it: "10Gi", "1536Mi", "4096". */
export function formatExactSize(bytes: number): string {
  for (const unit of ['Ti', 'Gi', 'Mi', 'Ki']) {
    const factor = unitBytes[unit] ?? 1;
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${unit}`;
  }
  return String(bytes);
}

/** For people: at most one decimal. */
export function formatSize(bytes: number): string {
  for (const unit of ['Ti', 'Gi', 'Mi', 'Ki']) {
    const factor = unitBytes[unit] ?? 1;
    if (bytes >= factor) return `${Number((bytes / factor).toFixed(1))} ${unit}B`;
  }
  return `${bytes} B`;
}
