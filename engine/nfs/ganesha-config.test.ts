import { expect, test } from 'vitest';
import { ganeshaConfig, isClientName, isConfigurationPath, isPrincipal } from './ganesha-config.js';

const settings = {
  volumeId: '00000002ffffffff',
  volume: 'home',
  path: '/run/x/fs',
  recoveryDir: '/run/x/fs/.holdfast/nfs',
  address: '127.0.0.1',
  port: 22000,
  options: { clients: [], squash: 'root', v3: false, security: [], address: null, principal: null, keytab: null },
} as const;

test('everybody, NFSv4 only', () => {
  const text = ganeshaConfig(settings);
  expect(text).toContain('Pseudo = "/home";');
  expect(text).toContain('Protocols = 4;');
  expect(text).toContain('Access_Type = RW; Squash = Root_Squash; SecType = sys;');
  expect(text).toContain('Filesystem_Id = 3.4294967295;');
  expect(text).not.toContain('CLIENT');
  expect(text).toContain('Active_krb5 = false;');
  expect(text).not.toContain('MNT_Port');
});

test('some clients, NFSv3, Kerberos', () => {
  const options = {
    clients: ['10.0.0.0/8', '@trusted'],
    squash: 'none',
    v3: true,
    security: ['krb5', 'krb5p'],
    address: null,
    principal: 'nfs',
    keytab: '/etc/holdfast/nfs.keytab',
  } as const;
  const text = ganeshaConfig({ ...settings, options });
  expect(text).toContain('Access_Type = None;');
  expect(text).toContain(
    'CLIENT { Clients = 10.0.0.0/8, @trusted; Access_Type = RW; Squash = No_Root_Squash; SecType = krb5, krb5p; }',
  );
  expect(text).toContain(
    'NFS_KRB5 { Active_krb5 = true; PrincipalName = nfs; KeytabPath = "/etc/holdfast/nfs.keytab"; }',
  );
  expect(text).toContain('MNT_Port = 22001; NLM_Port = 22002;');
});

test('Kerberos as the system has it', () => {
  const options = { ...settings.options, security: ['sys', 'krb5i'] };
  expect(ganeshaConfig({ ...settings, options })).toContain('NFS_KRB5 { Active_krb5 = true; }');
});

test('names of principals and paths cannot leave their place', () => {
  expect(['nfs', 'nfs/host.example.org@EXAMPLE.ORG'].every(isPrincipal)).toBe(true);
  expect(['', 'a b', 'a;', '}', '"'].some(isPrincipal)).toBe(false);
  expect(isConfigurationPath('/etc/krb5.keytab')).toBe(true);
  expect(['etc/x', '/a"b', '/a;b', '/a b', '/a\nb'].some(isConfigurationPath)).toBe(false);
});

test('names of clients cannot leave their place', () => {
  expect(['10.0.0.1', 'fd00::/64', '*.example.org', '@group', 'host-1'].every(isClientName)).toBe(true);
  expect(['', 'a b', 'a;', 'a}', '"', 'a\nb', '#'].some(isClientName)).toBe(false);
});
