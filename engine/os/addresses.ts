// HOST:PORT: parsing, and finding ports that are free.
import { createConnection, createServer } from 'node:net';
import { HoldfastError, systemErrorCode } from '../errors/holdfast-error.js';

export type HostPort = { readonly host: string; readonly port: number };

/** `what` names the option or field in the error. IPv6 hosts are written [::1]:PORT. */
export function parseHostPort(text: string, what: string): HostPort {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\]/]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined || port > 65_535) {
    throw new HoldfastError('INVALID_ARGUMENT', `${what} "${text}" is not HOST:PORT, for example 127.0.0.1:7600`);
  }
  return { host, port };
}

export function formatHostPort({ host, port }: HostPort): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Whether somebody listens there; "unknown" when that cannot be told within a second. */
export async function knock(address: string): Promise<'open' | 'refused' | 'unknown'> {
  const { host, port } = parseHostPort(address, 'address');
  return await new Promise((resolve) => {
    const socket = createConnection({ host, port, timeout: 1_000 });
    const answer = (found: 'open' | 'refused' | 'unknown') => {
      socket.destroy();
      resolve(found);
    };
    socket.once('connect', () => {
      answer('open');
    });
    socket.once('timeout', () => {
      answer('unknown');
    });
    socket.on('error', (error) => {
      answer(systemErrorCode(error) === 'ECONNREFUSED' ? 'refused' : 'unknown');
    });
  });
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}

/** The port that was bound for a moment (`port` itself unless that is 0), or the system's reason against it. */
export async function tryBind(address: HostPort): Promise<{ readonly port: number } | { readonly reason: string }> {
  return await new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error) => {
      const code = systemErrorCode(error);
      if (code === null) reject(error);
      else resolve({ reason: code });
    });
    server.listen({ host: address.host, port: address.port, exclusive: true }, () => {
      const bound = server.address();
      const port = typeof bound === 'object' && bound !== null ? bound.port : address.port;
      server.close(() => {
        resolve({ port });
      });
    });
  });
}

// Below the ports that the kernel gives to outgoing connections (32768 and up), so that none of those takes a port
// that is to be bound again after a restart.
const rangeFirst = 20_000;
const rangeSize = 12_000;

/**
 * `count` consecutive free ports, none of them `given` to something else already. The search begins at a place that `seed` decides, so
 * that neighbours rarely meet.
 */
export async function findFreePorts(
  host: string,
  count: number,
  seed: string,
  given: readonly number[] = [],
): Promise<number> {
  const start = hash(seed) % rangeSize;
  for (let attempt = 0; attempt < rangeSize; attempt += count) {
    const first = rangeFirst + ((start + attempt) % (rangeSize - count));
    if (given.some((port) => port >= first && port < first + count)) continue;
    if (await allFree(host, first, count)) return first;
  }
  throw new HoldfastError('IN_USE', `no ${count} free ports in a row on ${host} between ${rangeFirst} and 32000`);
}

async function allFree(host: string, first: number, count: number): Promise<boolean> {
  for (let port = first; port < first + count; port++) {
    const outcome = await tryBind({ host, port });
    if ('reason' in outcome) {
      if (outcome.reason === 'EADDRINUSE' || outcome.reason === 'EACCES') return false;
      throw new HoldfastError('INVALID_ARGUMENT', `cannot listen on ${host}: ${outcome.reason}`);
    }
  }
  return true;
}

// FNV-1a.
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (const character of text) value = Math.imul(value ^ (character.codePointAt(0) ?? 0), 0x01000193) >>> 0;
  return value;
}
