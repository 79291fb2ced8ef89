// Who is at the other end of a connection on loopback: the kernel lists the user of every TCP socket of this network namespace.
import { readFileSync } from 'node:fs';
import { isIPv4 } from 'node:net';
import type { Socket } from 'node:net';

const established = '01';
// The kernel gives the table out piece by piece: what goes on meanwhile may hide a line.
const looks = 5;

/** The two ends of a connection, as the end that asks sees them: IPv4, IPv6, or IPv4 in IPv6. */
export type Ends = {
  readonly [K in 'localAddress' | 'localPort' | 'remoteAddress' | 'remotePort']?: Socket[K] | undefined;
};

/** The user id of the other end of a connection on this host; null when there is none. Reads all of /proc/net/tcp. */
export function socketOwner({ localAddress, localPort, remoteAddress, remotePort }: Ends): number | null {
  if (localAddress === undefined || localPort === undefined) return null;
  if (remoteAddress === undefined || remotePort === undefined) return null;
  const ours = textsOf(localAddress, localPort);
  const theirs = textsOf(remoteAddress, remotePort);
  for (let look = 0; look < looks; look++) {
    for (const table of ['tcp', 'tcp6'] as const) {
      const uid = ownerIn(read(`/proc/net/${table}`), theirs[table], ours[table]);
      if (uid !== null) return uid;
    }
  }
  return null;
}

/** Whether the other end of a connection on loopback is run by this process's user or by root. */
export function isOwnConnection(ends: Ends): boolean {
  const user = socketOwner(ends);
  return user !== null && (user === 0 || user === process.getuid?.());
}

// As the two tables have an address: a client may reach an IPv4 address from an IPv6 socket, too.
function textsOf(address: string, port: number): Readonly<Record<'tcp' | 'tcp6', string>> {
  const host = address.replace(/^::ffff:/, '');
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  if (!isIPv4(host)) return { tcp: '', tcp6: `00000000000000000000000001000000${suffix}` };
  const hex = host
    .split('.')
    .map((part) => Number(part).toString(16).toUpperCase().padStart(2, '0'))
    .reverse()
    .join('');
  return { tcp: hex + suffix, tcp6: `0000000000000000FFFF0000${hex}${suffix}` };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

/**
 * "  sl: LOCAL REMOTE STATE QUEUES TIMER RETRANSMITS UID …". The same port may be in the table many times, with other remote ends; a
 * socket that has ended belongs to user 0 there, so its state matters.
 */
export function ownerIn(table: string, local: string, remote: string): number | null {
  const at = table.indexOf(`: ${local} ${remote} ${established} `);
  if (at < 0) return null;
  const uid = table.slice(at + 2, table.indexOf('\n', at)).split(/\s+/)[6];
  return uid === undefined ? null : Number(uid);
}
