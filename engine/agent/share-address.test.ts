import { expect, test } from 'vitest';
import { formatFloatingAddress, parseFloatingAddress } from '../nfs/floating-address.js';
import { deviceFor, neighbours } from './share-address.js';

test('addresses as people write them', () => {
  for (const text of ['192.0.2.50/24', '192.0.2.50/32%eth0', '2001:db8::5/64', '10.0.0.1/8%bond0.7']) {
    expect(formatFloatingAddress(parseFloatingAddress(text))).toBe(text);
  }
  expect(parseFloatingAddress('192.0.2.50/24%eth0')).toEqual({ ip: '192.0.2.50', prefix: 24, device: 'eth0' });
  for (const text of [
    '192.0.2.50',
    '192.0.2.50/33',
    '192.0.2.500/24',
    'host/24',
    '192.0.2.50/24%',
    '1.2.3.4/24%a b',
    '::1/0',
  ]) {
    expect(() => parseFloatingAddress(text)).toThrow('is not an address of a share');
  }
});

test('the interface that is in the same network', () => {
  const interfaces = [
    { ifname: 'lo', addr_info: [{ local: '127.0.0.1', prefixlen: 8 }] },
    {
      ifname: 'eth0',
      addr_info: [
        { local: '192.0.2.7', prefixlen: 24 },
        { local: 'fe80::1', prefixlen: 64 },
      ],
    },
    { ifname: 'eth1', addr_info: [{ local: '2001:db8::7', prefixlen: 64 }, { prefixlen: 24 }] },
  ];
  const of = (text: string) => deviceFor(parseFloatingAddress(text), interfaces);
  expect(of('192.0.2.200/24')).toBe('eth0');
  expect(of('127.0.0.9/8')).toBe('lo');
  expect(of('2001:db8::99/64')).toBe('eth1');
  expect(of('198.51.100.1/24')).toBeNull();
});

test('neighbours to ask for lie in the network, and are others', () => {
  expect(neighbours('192.0.2.50', 24)).toEqual(['192.0.2.1', '192.0.2.254', '192.0.2.49', '192.0.2.51']);
  expect(neighbours('192.0.2.1', 24)).toEqual(['192.0.2.254', '192.0.2.2']);
  expect(neighbours('192.0.2.1', 32)).toEqual([]);
});
