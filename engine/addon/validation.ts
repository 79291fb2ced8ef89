// Validation of what goes into the addon: the C++ side trusts it. Throws INVALID_ARGUMENT that names the field.
import { HoldfastError } from '../errors/holdfast-error.js';

export function invalid(message: string): HoldfastError {
  return new HoldfastError('INVALID_ARGUMENT', message);
}

const u64Max = 2n ** 64n - 1n;

export function checkU64(value: bigint, field: string, min = 0n): void {
  if (typeof value !== 'bigint') throw invalid(`${field} is not a bigint`);
  if (value < min || value > u64Max) throw invalid(`${field} ${value} is not between ${min} and 2^64 - 1`);
}

export function checkText(value: string, field: string, maxBytes = 4096): void {
  if (typeof value !== 'string' || value === '') throw invalid(`${field} is empty`);
  if (Buffer.byteLength(value) > maxBytes) throw invalid(`${field} is longer than ${maxBytes} bytes`);
  if (value.includes('\0')) throw invalid(`${field} holds a NUL character`);
}

/** HOST:PORT with a numeric host, or unix:PATH. */
export function checkAddress(value: string, field: string): void {
  checkText(value, field);
  if (/^unix:\/.+/.test(value)) return;
  const match = /^(?:\[[0-9a-fA-F:.]+\]|\d{1,3}(?:\.\d{1,3}){3}):(\d{1,5})$/.exec(value);
  if (match === null || Number(match[1]) > 65_535) {
    throw invalid(`${field} "${value}" is not an address: IPV4:PORT, [IPV6]:PORT or unix:/PATH`);
  }
}
