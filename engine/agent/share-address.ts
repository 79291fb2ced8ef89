// The floating address of a share on this node: added before its server starts, removed after that has ended, so that of two nodes that
// live only one has it. Source: ip-address(8); arping(8); RFC 826 (whoever knows the address already takes the sender of an ARP
// request for its owner).
import { createSocket } from 'node:dgram';
import { BlockList, isIPv6 } from 'node:net';
import { HoldfastError, isHoldfastError } from '../errors/holdfast-error.js';
import type { FloatingAddress } from '../nfs/floating-address.js';
import { runChecked, runCommand } from '../os/command.js';

type Interface = {
  readonly ifname: string;
  readonly addr_info: readonly { readonly local?: string; readonly prefixlen: number }[];
};

/** Where it is now; on this node already: it stays there. FAILED_PRECONDITION: no interface is in its network. */
export async function addAddress(wanted: FloatingAddress): Promise<FloatingAddress> {
  const { ip, prefix } = wanted;
  const interfaces = JSON.parse(await runChecked('ip', ['-j', 'address'])) as readonly Interface[];
  const holder = interfaces.find(({ addr_info: addresses }) => addresses.some(({ local }) => local === ip));
  const device = holder?.ifname ?? wanted.device ?? deviceFor(wanted, interfaces);
  if (device === null) {
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `no interface of this node is in the network of ${ip}/${prefix}: name one, as ${ip}/${prefix}%eth0`,
    );
  }
  if (holder === undefined) {
    // Without the wait for others that might have it: the manager sees to that.
    const noWait = isIPv6(ip) ? ['nodad'] : [];
    await runChecked('ip', ['address', 'add', `${ip}/${prefix}`, 'dev', device, ...noWait]);
  }
  await announce(ip, prefix, device);
  return { ip, prefix, device };
}

/** Not there: success. */
export async function removeAddress({ ip, prefix, device }: FloatingAddress): Promise<void> {
  if (device === null) return;
  const { code, stderr } = await runCommand('ip', ['address', 'del', `${ip}/${prefix}`, 'dev', device]);
  if (code === 0 || /Cannot assign|Cannot find device/.test(stderr)) return;
  throw new HoldfastError('INTERNAL', `${ip}/${prefix} could not be removed from ${device}: ${stderr.trim()}`);
}

export function deviceFor({ ip }: FloatingAddress, interfaces: readonly Interface[]): string | null {
  const family = isIPv6(ip) ? 'ipv6' : 'ipv4';
  for (const { ifname, addr_info: addresses } of interfaces) {
    for (const { local, prefixlen } of addresses) {
      if (local === undefined || isIPv6(local) !== isIPv6(ip)) continue;
      const network = new BlockList();
      network.addSubnet(local, prefixlen, family);
      if (network.check(ip, family)) return ifname;
    }
  }
  return null;
}

// Neighbours that knew the address elsewhere learn where it is now. Without arping, by asking for others with it as the sender.
async function announce(ip: string, prefix: number, device: string): Promise<void> {
  if (!isIPv6(ip)) {
    try {
      await runCommand('arping', ['-U', '-c', '2', '-I', device, ip], { timeoutMs: 10_000 });
      return;
    } catch (error) {
      if (!isHoldfastError(error, 'UNSUPPORTED_SYSTEM')) throw error;
    }
  }
  await ask(ip, neighbours(ip, prefix));
}

const discardPort = 9;

async function ask(ip: string, others: readonly string[]): Promise<void> {
  const socket = createSocket(isIPv6(ip) ? 'udp6' : 'udp4');
  // Nobody needs to answer, or even be there.
  socket.on('error', () => undefined);
  await new Promise<void>((resolve) => {
    socket.bind({ address: ip }, () => {
      const sent = others.map(
        (other) =>
          new Promise<void>((done) => {
            socket.send(Buffer.alloc(1), discardPort, other, () => {
              done();
            });
          }),
      );
      void Promise.all(sent).then(() => {
        resolve();
      });
    });
    socket.once('error', () => {
      resolve();
    });
  });
  socket.close();
}

/** Some addresses beside it in its network; whether they exist does not matter. */
export function neighbours(ip: string, prefix: number): readonly string[] {
  if (isIPv6(ip) || prefix > 29) return [];
  const value = ip.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  const size = 2 ** (32 - prefix);
  const network = Math.floor(value / size) * size;
  return [network + 1, network + size - 2, value - 1, value + 1]
    .filter((each) => each !== value && each > network && each < network + size - 1)
    .map((each) => [24, 16, 8, 0].map((shift) => Math.floor(each / 2 ** shift) % 256).join('.'));
}
