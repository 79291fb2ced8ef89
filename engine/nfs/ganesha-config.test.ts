import { expect, test } from 'vitest';
import { ganeshaConfig, isClientName } from './ganesha-config.js';

const settings = {
  volumeId: '00000002ffffffff',
  volume: 'home',
  path: '/run/x/fs',
  recoveryDir: '/run/x/fs/.holdfast/nfs',
  address: '127.0.0.1',
  port: 22000,
  options: { clients: [], squash: 'root', v3: false, security: [] },
} as const;

test('everybody, NFSv4 only', () => {
  const text = ganeshaConfig(settings);
  expect(text).toContain('Pseudo = "/home";');
  expect(text).toContain('Protocols = 4;');
  expect(text).toContain('Access_Type = RW; Squash = Root_Squash; SecType = sys;');
  expect(text).toContain('Filesystem_Id = 3.4294967295;');
  expect(text).not.toContain('CLIENT');
  expect(text).not.toContain('MNT_Port');
});

test('some clients, NFSv3, Kerberos', () => {
  const options = {
    clients: ['10.0.0.0/8', '@trusted'],
    squash: 'none',
    v3: true,
    security: ['krb5', 'krb5p'],
  } as const;
  const text = ganeshaConfig({ ...settings, options });
  expect(text).toContain('Access_Type = None;');
  expect(text).toContain(
    'CLIENT { Clients = 10.0.0.0/8, @trusted; Access_Type = RW; Squash = No_Root_Squash; SecType = krb5, krb5p; }',
  );
  expect(text).toContain('MNT_Port = 22001; NLM_Port = 22002;');
});

test('names of clients cannot leave their place', () => {
  expect(['10.0.0.1', 'fd00::/64', '*.example.org', '@group', 'host-1'].every(isClientName)).toBe(true);
  expect(['', 'a b', 'a;', 'a}', '"', 'a\nb', '#'].some(isClientName)).toBe(false);
});
