// The address of a share that goes where the share goes: IP/PREFIX, or IP/PREFIX%INTERFACE where the interface does not follow from the
// network that the address is in.
import { isIP } from 'node:net';
import { HoldfastError } from '../errors/holdfast-error.js';

export type FloatingAddress = {
  /** Numeric. */
  readonly ip: string;
  readonly prefix: number;
  /** null: that of this node which is in the same network */
  readonly device: string | null;
};

export function parseFloatingAddress(text: string): FloatingAddress {
  const [, ip = '', prefix = '', device] = /^([0-9a-fA-F.:]+)\/(\d{1,3})(?:%([\w.@-]{1,15}))?$/.exec(text) ?? [];
  const family = isIP(ip);
  const bits = family === 6 ? 128 : 32;
  if (family === 0 || Number(prefix) < 1 || Number(prefix) > bits) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `"${text}" is not an address of a share: give IP/PREFIX or IP/PREFIX%INTERFACE, such as 192.0.2.50/24`,
    );
  }
  return { ip, prefix: Number(prefix), device: device ?? null };
}

export function formatFloatingAddress({ ip, prefix, device }: FloatingAddress): string {
  return `${ip}/${prefix}${device === null ? '' : `%${device}`}`;
}
