// Who is at the other end of a connection on loopback: the kernel lists the user of every TCP socket of this network namespace.
import { readFileSync } from 'node:fs';
import { isIPv4 } from 'node:net';
import type { Socket } from 'node:net';

const established = '01';

/** The user id of the socket that is bound to this address of loopback; null when there is none. Reads all of /proc/net/tcp. */
export function socketOwner(address: string, port: number): number | null {
  const host = address.replace(/^::ffff:/, '');
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  for (const [table, text] of tablesOf(host)) {
    const uid = ownerIn(read(`/proc/net/${table}`), text + suffix);
    if (uid !== null) return uid;
  }
  return null;
}

/** Whether the other end of a connection on loopback is run by this process's user or by root. */
export function isOwnConnection({ remoteAddress, remotePort }: Socket): boolean {
  const user = socketOwner(remoteAddress ?? '', remotePort ?? 0);
  return user !== null && (user === 0 || user === process.getuid?.());
}

// A client may reach an IPv4 address from an IPv6 socket, too.
function tablesOf(host: string): readonly (readonly [string, string])[] {
  if (!isIPv4(host)) return [['tcp6', '00000000000000000000000001000000']];
  const hex = host
    .split('.')
    .map((part) => Number(part).toString(16).toUpperCase().padStart(2, '0'))
    .reverse()
    .join('');
  return [
    ['tcp', hex],
    ['tcp6', `0000000000000000FFFF0000${hex}`],
  ];
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

// "  sl: LOCAL REMOTE STATE QUEUES TIMER RETRANSMITS UID …"; a socket that has ended belongs to user 0, so its state matters.
export function ownerIn(table: string, local: string): number | null {
  const at = table.indexOf(`: ${local} `);
  if (at < 0) return null;
  const fields = table.slice(at + 2, table.indexOf('\n', at)).split(/\s+/);
  return fields[2] === established && fields[6] !== undefined ? Number(fields[6]) : null;
}
