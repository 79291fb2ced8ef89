// Ids of volumes and replicas: 64 random bits, never 0. Hex in records, JSON and messages; bigint in the data plane's
// protobuf.
import { HoldfastError } from '../errors/holdfast-error.js';

export type RandomBytes = (count: number) => Uint8Array;

export function randomId(random: RandomBytes): string {
  const id = Buffer.from(random(8)).toString('hex');
  return id === '0000000000000000' ? randomId(random) : id;
}

export function idToBigint(id: string): bigint {
  return BigInt(`0x${id}`);
}

export function idFromBigint(id: bigint): string {
  return id.toString(16).padStart(16, '0');
}

/** Message fields are unsigned 64-bit; what leaves the range of exact numbers is refused rather than rounded. */
export function toNumber(value: bigint, what: string): number {
  const number = Number(value);
  if (Number.isSafeInteger(number)) return number;
  throw new HoldfastError('INVALID_ARGUMENT', `${what} ${value} is out of range`);
}
