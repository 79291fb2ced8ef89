import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { expect, test } from 'vitest';
import { isOwnConnection, ownerIn, socketOwner } from './socket-owner.js';

test.each(['127.0.0.1', '::1', '::ffff:127.0.0.1'])(
  'the user at the other end of a connection on loopback: %s',
  async (host) => {
    const server = createServer().listen(0, host);
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const accepted = once(server, 'connection') as Promise<[Socket]>;
    const client = connect(port, host.replace('::ffff:', ''));
    const [socket] = await accepted;
    expect(socketOwner(socket)).toBe(process.getuid?.());
    expect(isOwnConnection(socket)).toBe(true);
    expect(socketOwner({ ...endsOf(socket), remotePort: port })).toBeNull();
    client.destroy();
    socket.destroy();
    server.close();
  },
);

function endsOf({ localAddress, localPort, remoteAddress, remotePort }: Socket) {
  return { localAddress, localPort, remoteAddress, remotePort };
}

test('a socket that has ended says nothing about its user, nor does one with the same port to somewhere else', () => {
  const line = (remote: string, state: string, uid: number) =>
    `   7: 0100007F:B6FA ${remote} ${state} 00000000:00000000 00:00000000 00000000  ${uid}        0 3663939 2\n`;
  const ours = '0100007F:8FC3';
  expect(ownerIn(line(ours, '01', 1000), '0100007F:B6FA', ours)).toBe(1000);
  expect(ownerIn(line(ours, '06', 0), '0100007F:B6FA', ours)).toBeNull();
  expect(ownerIn(line(ours, '01', 1000), ours, '0100007F:B6FA')).toBeNull();
  const others = line('0100007F:1111', '06', 0) + line('0100007F:2222', '01', 1001);
  expect(ownerIn(others, '0100007F:B6FA', ours)).toBeNull();
  expect(ownerIn(others + line(ours, '01', 1000), '0100007F:B6FA', ours)).toBe(1000);
});
