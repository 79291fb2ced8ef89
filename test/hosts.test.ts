/**
 * A cluster of five hosts with addresses and disks of their own: hosts join, drain, reboot and are lost, disks are lost and evicted,
 * an etcd member and the leading manager die, all under a load that verifies what it reads. Nobody helps, and nothing is lost.
 */
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { etcdCommand } from '../engine/metastore/private-etcd.js';
import { issueCertificate } from '../engine/security/certificates.js';
import type { KeyPair } from '../engine/security/certificates.js';
import { readIdentity, writeIdentity } from '../engine/security/identity.js';
import { type ProcessRow, type ReplicaRow } from './lib/cluster.js';
import { HostNet, cliOn, inHost, missingForHosts, startHost, startOn } from './lib/hosts.js';
import { attempt, endProcess, until } from './lib/process.js';

const missing = missingForHosts(['/usr/bin/fio', '/usr/bin/qemu-nbd', '/usr/bin/etcd']);

const client = 100;
const net = new HostNet();
const servers = [1, 2].map((number) => `${HostNet.address(number)}:7600`).join(',');
const etcdHosts = [1, 2, 3];
const fileMib = 48;
let folder: string;
let token: string;
let join_: string;

const hostFolder = (number: number) => join(folder, `host${number}`);
const etcdFolder = (number: number) => join(folder, `etcd${number}`);
const storeUrls = `etcd=${etcdHosts.map((number) => `http://${HostNet.address(number)}:2379`).join(',')}`;

async function holdfast<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await cliOn(client, servers, token, args);
  if (code !== 0) throw new Error(`holdfast ${args.join(' ')}: ${stderr}`);
  return JSON.parse(stdout) as T;
}

type Volume = {
  readonly health: string;
  readonly node: string;
  readonly replicas: readonly ReplicaRow[];
  readonly iscsi: { readonly url: string } | null;
};
const volume = () => holdfast<Volume>('volume', 'show', 'db');
const holders = async () => (await volume()).replicas.map(({ node }) => Number(node.replace('node', '')));
const untilHealthy = (replicas = 3) =>
  until('the volume to be healthy', 40_000, async () => {
    const { health, replicas: present } = await volume().catch(() => ({ health: '', replicas: [] }));
    return health === 'healthy' && present.length === replicas;
  });

function startEtcd(number: number): void {
  const command = etcdCommand(
    {
      name: `m${number}`,
      directory: etcdFolder(number),
      client: `${HostNet.address(number)}:2379`,
      peer: `${HostNet.address(number)}:2380`,
      members: etcdHosts.map((each) => `m${each}=http://${HostNet.address(each)}:2380`),
      fast: false,
      tls: null,
    },
    process.env,
  );
  startOn(number, folder, `etcd${number}`, command);
}

const agent = (number: number) => startHost(number, hostFolder(number), 'agent', ['--join', join_]);
const server = (number: number) =>
  startHost(number, hostFolder(number), 'server', ['--store', storeUrls, ...(number === 1 ? [] : ['--join', join_])]);

/** fio through qemu-nbd, on the client host. */
async function fio(
  url: string,
  name: string,
  args: readonly string[],
): Promise<{ readonly done: Promise<string>; readonly stop: () => Promise<void> }> {
  const socket = join(folder, `${name}.nbd`);
  const nbd = startOn(client, folder, name, [
    'qemu-nbd',
    '-t',
    '-f',
    'raw',
    '--cache=none',
    '-e',
    '4',
    '-k',
    socket,
    url,
  ]);
  await until('qemu-nbd', 20_000, () => existsSync(socket));
  const common = ['--name=load', '--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`, `--size=${fileMib}m`];
  const verify = ['--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--bs=4k'];
  const command = ['fio', ...common, ...verify, ...args];
  const child = startOn(client, folder, `${name}-fio`, command);
  const done = once(child, 'close').then(async ([code]) => {
    await endProcess(nbd, 2_000);
    const log = readFileSync(join(folder, `${name}-fio.log`), 'utf8');
    return code === 0 ? 'verified' : `fio ended with ${String(code)}: ${log.slice(-4_000)}`;
  });
  // Not its device first: fio goes on without one, and says so again and again.
  return { done, stop: () => endProcess(child, 5_000) };
}

beforeAll(async () => {
  if (missing.length > 0) return;
  folder = mkdtempSync(join(tmpdir(), 'holdfast-hosts-'));
  await net.addBridge();
  for (const number of [1, 2, 3, 4, 5, client]) await net.addHost(number);
  etcdHosts.forEach(startEtcd);
  await server(1);
  token = readFileSync(join(hostFolder(1), 'host', 'admin-token'), 'utf8').trim();
  join_ = readFileSync(join(hostFolder(1), 'host', 'join-token'), 'utf8').trim();
  await Promise.all([server(2), agent(3), agent(4)]);
});

afterAll(async () => {
  if (missing.length > 0) return;
  await net.remove();
  rmSync(folder, { recursive: true, force: true });
});

// Sends bytes to an address, from another host; what comes back until the other end hangs up.
async function answerTo(address: string, bytes: string): Promise<string> {
  const [host, port] = address.split(':');
  const script = `const socket = require('node:net').connect(${port ?? ''}, '${host ?? ''}', () => socket.write(${JSON.stringify(bytes)}));
    socket.setTimeout(60_000, () => process.exit(1));
    socket.pipe(process.stdout);`;
  const { code, stdout, stderr } = await attempt('ip', inHost(client, process.execPath, '-e', script), {
    timeoutMilliseconds: 70_000,
  });
  if (code !== 0) throw new Error(`${address} does not hang up: ${stderr}`);
  return stdout;
}

/** The serial number of the certificate that a port shows to a new connection. */
async function serialAt(address: string): Promise<string> {
  const [host, port] = address.split(':');
  const script = `const options = { host: '${host ?? ''}', port: ${port ?? ''}, rejectUnauthorized: false, ALPNProtocols: ['h2'] };
    const socket = require('node:tls').connect(options, () => {
      process.stdout.write(socket.getPeerCertificate().serialNumber);
      socket.destroy();
    });
    socket.on('error', () => undefined);
    socket.setTimeout(60_000, () => process.exit(1));`;
  const { stdout } = await attempt('ip', inHost(client, process.execPath, '-e', script), {
    timeoutMilliseconds: 70_000,
  });
  return stdout;
}

/** As its agent does when the present one has lived two thirds of its time; this one lives for a day. */
async function renewCertificate(number: number): Promise<string> {
  const path = join(hostFolder(number), 'host', 'agent', 'identity.json');
  const present = readIdentity(path);
  if (present === null) throw new Error(`${path} does not exist`);
  const authority = JSON.parse(readFileSync(join(hostFolder(1), 'host', 'authority.json'), 'utf8')) as KeyPair;
  const leaf = { name: `node node${number}`, hosts: [HostNet.address(number)] };
  const { certificate, key } = await issueCertificate(authority, leaf, new Date(), 1);
  writeIdentity(path, { ...present, certificate: certificate + authority.certificate, key });
  return new X509Certificate(certificate).serialNumber;
}

test.skipIf(missing.length > 0)('what speaks plain is refused on every port, and told why', async () => {
  const disks = await holdfast<readonly { readonly node: string; readonly address: string }[]>('disk', 'ls');
  const replica = disks.find(({ node }) => node === 'node3')?.address ?? '';
  const control = JSON.parse(readFileSync(join(hostFolder(3), 'host', 'target', 'state.json'), 'utf8')) as {
    readonly control: string;
  };
  const preface = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0';
  expect(await answerTo(replica, preface)).toContain('TLS is needed here');
  expect(await answerTo(control.control, preface)).not.toContain('\x04');
  const api = `${HostNet.address(1)}:7600`;
  expect(await answerTo(api, preface)).toContain('TLS is needed here');
  const plain = await answerTo(api, 'GET /v1/volumes HTTP/1.1\r\nhost: 10.199.77.1\r\n\r\n');
  expect(plain).toMatch(/^HTTP\/1\.1 401 /);
  expect(plain).toContain('use https://');
  // The pin of the token: managers of another cluster are not spoken to.
  const stranger = `${token.slice(0, -43)}${'A'.repeat(43)}`;
  const refused = await cliOn(client, servers, stranger, ['volume', 'ls']);
  expect(refused).toMatchObject({ code: 1 });
  expect(refused.stderr).toContain('of another cluster');
});

test.skipIf(missing.length > 0)(
  `five hosts lose what hosts can lose, and the volume loses nothing${missing.length > 0 ? ` (needs ${missing.join(', ')})` : ''}`,
  { timeout: 200_000 },
  async () => {
    // Long enough for the slowest machine to restart a host in.
    await holdfast('settings', 'set', '--replace-after', '120', '--failover', '4', '--balance', 'off');
    await holdfast('volume', 'create', 'db', '--size', '64Mi');
    const { iscsi } = await holdfast<{ iscsi: { url: string } }>('volume', 'attach', 'db', '--node', 'node3');
    expect(await (await fio(iscsi.url, 'fill', ['--rw=write', '--do_verify=0', '--iodepth=8'])).done).toBe('verified');
    let ended: string | null = null;
    const load = await fio(iscsi.url, 'load', [
      ...['--rw=randwrite', '--iodepth=4', '--rate_iops=1500', '--verify_backlog=512'],
      ...['--time_based', '--runtime=600'],
    ]);
    void load.done.then((outcome) => (ended = outcome));
    const stillRuns = () => {
      expect(ended).toBeNull();
    };
    const other = async () => {
      const numbers = (await holders()).filter((number) => number !== 3).sort((a, b) => b - a);
      return numbers[0] ?? 0;
    };

    // A host joins, with a second, smaller disk.
    await agent(5);
    await holdfast(
      'disk',
      'add',
      'node5',
      'small',
      join(hostFolder(5), 'small'),
      '--capacity',
      '1Gi',
      '--journal-size',
      '16Mi',
    );
    await until('the new disk', 15_000, async () => {
      const disks = await holdfast<readonly { readonly name: string; readonly state: string }[]>('disk', 'ls');
      return disks.some(({ name, state }) => name === 'small' && state === 'online');
    });
    stillRuns();

    // A certificate is renewed: the processes that run show the new one, and what is open stays open.
    const renewed = await other();
    const { address } = (await volume()).replicas.find(({ node }) => node === `node${renewed}`) ?? { address: '' };
    const former = await serialAt(address);
    expect(former).toMatch(/^[0-9A-F]+$/);
    const serial = await renewCertificate(renewed);
    await until('the renewed certificate', 60_000, async () => (await serialAt(address)) === serial);
    expect(serial).not.toBe(former);
    expect((await volume()).health).toBe('healthy');
    stillRuns();

    // A host is drained.
    const drained = await other();
    expect(await holdfast('node', 'drain', `node${drained}`, '--wait')).toMatchObject({ done: true });
    await untilHealthy();
    expect(await holders()).not.toContain(drained);
    await holdfast('node', 'uncordon', `node${drained}`);
    stillRuns();

    // A host reboots: it gets back what it missed, and no replica is made anew.
    const rebooted = await other();
    const before = (await volume()).replicas.map(({ id }) => id).sort();
    await net.killHost(rebooted);
    if (etcdHosts.includes(rebooted)) startEtcd(rebooted);
    await (rebooted <= 2 ? server(rebooted) : agent(rebooted));
    await untilHealthy();
    expect((await volume()).replicas.map(({ id }) => id).sort()).toEqual(before);
    stillRuns();

    // A disk is lost with all that was on it.
    await holdfast('settings', 'set', '--replace-after', '3');
    const unlucky = await other();
    const lost = (await volume()).replicas.find(({ node }) => node === `node${unlucky}`);
    if (lost === undefined) throw new Error(`node${unlucky} holds no replica`);
    const rows = await holdfast<readonly ProcessRow[]>('process', 'ls');
    const diskProcess = rows.find(({ node, disk }) => node === lost.node && disk === lost.disk);
    const directory =
      lost.disk === 'small' ? join(hostFolder(5), 'small') : join(hostFolder(unlucky), 'host', 'disk1', 'data');
    rmSync(directory, { recursive: true, force: true });
    process.kill(diskProcess?.pid ?? 0, 'SIGKILL');
    await until(
      'the lost replica to be replaced',
      40_000,
      async () => !(await volume()).replicas.some(({ id }) => id === lost.id),
    );
    await untilHealthy();
    stillRuns();

    // A disk is evicted.
    const [evicted] = (await volume()).replicas.filter(({ node }) => node !== 'node3');
    expect(await holdfast('disk', 'evict', evicted?.node ?? '', evicted?.disk ?? '', '--wait')).toMatchObject({
      done: true,
    });
    await untilHealthy();
    stillRuns();

    // A member of etcd dies, then the manager that leads, with its host's agent.
    const etcdPids = (await net.pids(3)).filter((pid) =>
      readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('/usr/bin/etcd'),
    );
    for (const pid of etcdPids) process.kill(pid, 'SIGKILL');
    await holdfast('volume', 'set', 'db', '--iops', '0');
    const leader = (await holdfast<readonly ProcessRow[]>('process', 'ls')).find(({ role }) => role === 'manager');
    const leads = (await net.pids(1)).includes(leader?.pid ?? 0) ? 1 : 2;
    const control = (await net.pids(leads)).filter((pid) =>
      /cli\/main\.js|manager\/main\.js/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8')),
    );
    const began = performance.now();
    for (const pid of control) process.kill(pid, 'SIGKILL');
    await until('another manager to lead', 15_000, async () => (await volume().catch(() => null)) !== null);
    const takeOverMs = performance.now() - began;
    console.log(`another manager led after ${Math.round(takeOverMs)} ms`);
    expect(takeOverMs).toBeLessThan(5_000);
    stillRuns();
    await server(leads);
    await holdfast('disk', 'uncordon', evicted?.node ?? '', evicted?.disk ?? '');
    await load.stop();
    await load.done;

    // The host that serves the volume is lost: it is served elsewhere, and everything is there.
    await net.killHost(3);
    await until('the volume to be served elsewhere', 40_000, async () => {
      const { node, iscsi: portal } = await volume().catch(() => ({ node: 'node3', iscsi: null }));
      return node !== 'node3' && portal !== null;
    });
    const moved = await volume();
    const all = await fio(moved.iscsi?.url ?? '', 'check', ['--rw=read', '--iodepth=8']);
    expect(await all.done).toBe('verified');
    await untilHealthy();
  },
);
