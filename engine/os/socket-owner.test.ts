import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { expect, test } from 'vitest';
import { ownerIn, socketOwner } from './socket-owner.js';

test('the user at the other end of a connection on loopback', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  await once(client, 'connect');
  expect(socketOwner('127.0.0.1', client.localPort ?? 0)).toBe(process.getuid?.());
  expect(socketOwner('::ffff:127.0.0.1', client.localPort ?? 0)).toBe(process.getuid?.());
  expect(socketOwner('127.0.0.2', client.localPort ?? 0)).toBeNull();
  client.destroy();
  server.close();
});

test('a socket that has ended says nothing about its user', () => {
  const line = (state: string, uid: number) =>
    `   7: 0100007F:B6FA 0100007F:8FC3 ${state} 00000000:00000000 00:00000000 00000000  ${uid}        0 3663939 2\n`;
  expect(ownerIn(line('01', 1000), '0100007F:B6FA')).toBe(1000);
  expect(ownerIn(line('06', 0), '0100007F:B6FA')).toBeNull();
  expect(ownerIn(line('01', 1000), '0100007F:8FC3')).toBeNull();
});
