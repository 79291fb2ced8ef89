/**
 * A real cluster loses each of its processes by SIGKILL, one after the other, and `holdfast up` itself: everything comes back by
 * itself, and the data plane lives through the loss of manager, agents and `up`.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { Cluster, cliCommand } from './lib/cluster.js';
import type { ProcessRow } from './lib/cluster.js';
import { startTimeOf } from '../engine/os/proc.js';
import { attempt, freePort, until } from './lib/process.js';

let folder: string;
let cluster: Cluster;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-control-'));
  cluster = await Cluster.start({ folder });
});
afterAll(async () => {
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** A zombie that nobody has reaped yet does not live. */
const isAlive = (pid: number): boolean => startTimeOf(pid) !== null;

type VolumeRow = {
  readonly state: string;
  readonly health: string;
  readonly epoch: number;
  readonly node: string | null;
};

const show = async (name: string): Promise<VolumeRow> => (await cluster.cli('volume', 'show', name)) as VolumeRow;

async function find(role: string, node?: string): Promise<ProcessRow> {
  const rows = await cluster.processes();
  const row = rows.find((each) => each.role === role && (node === undefined || each.node === node));
  if (row === undefined) throw new Error(`no ${role} runs: ${JSON.stringify(rows)}`);
  return row;
}

/** Pids by "node role", for comparison. */
async function pids(roles: readonly string[]): Promise<Record<string, number>> {
  const rows = await cluster.processes();
  return Object.fromEntries(
    rows.filter(({ role }) => roles.includes(role)).map(({ node, role, pid }) => [`${node ?? '-'} ${role}`, pid]),
  );
}

/** Options that make the next start listen where the last one did. */
function sameAddresses(): readonly string[] {
  const text = readFileSync(join(folder, 'cluster/cluster.json'), 'utf8');
  const { api, iscsi } = JSON.parse(text) as { readonly api: string; readonly iscsi: string };
  return ['--api', api, '--iscsi', iscsi];
}

async function killAndAwait(role: string, node?: string): Promise<void> {
  const victim = await find(role, node);
  process.kill(victim.pid, 'SIGKILL');
  await until(`another ${role}`, 10_000, async () => {
    const rows = await cluster.processes().catch(() => []);
    return rows.some((row) => row.role === role && row.node === victim.node && row.pid !== victim.pid);
  });
}

const healthy = async (name: string) =>
  await until(`${name} is healthy`, 30_000, async () => {
    const volume = await show(name).catch(() => undefined);
    return volume?.health === 'healthy' && volume.state === 'attached' ? volume : undefined;
  });

describe('SIGKILL', () => {
  beforeAll(async () => {
    await cluster.createVolume('kill', '64Mi');
    await cluster.attach('kill', '--node', 'node2');
  });

  test('of a replica process: it is started again and its replica is in-sync again, the engine stays', async () => {
    const before = await show('kill');
    await killAndAwait('replica', 'node1');
    expect((await healthy('kill')).epoch).toBe(before.epoch);
  }, 60_000);

  test('of the target process: its volume is served again with a new epoch within five seconds', async () => {
    const before = await show('kill');
    const began = performance.now();
    process.kill((await find('target', 'node2')).pid, 'SIGKILL');
    const after = await until('the volume is served again', 10_000, async () => {
      const volume = await show('kill').catch(() => undefined);
      return volume?.state === 'attached' && volume.epoch > before.epoch ? volume : undefined;
    });
    expect(performance.now() - began).toBeLessThan(5_000);
    expect(after.node).toBe('node2');
    await healthy('kill');
  }, 60_000);

  test('of an agent: what it supervised lives on and is adopted', async () => {
    const before = await pids(['target', 'replica']);
    await killAndAwait('agent', 'node2');
    await until('the same processes', 10_000, async () => {
      const now = await pids(['target', 'replica']).catch(() => ({}));
      return JSON.stringify(now) === JSON.stringify(before);
    });
    // Adopted means supervised: its end is noticed.
    await killAndAwait('replica', 'node2');
    await healthy('kill');
  }, 60_000);

  test('of the manager: nothing else ends, and the engine keeps its epoch', async () => {
    const before = { volume: await show('kill'), processes: await pids(['agent', 'target', 'replica']) };
    await killAndAwait('manager');
    expect(await healthy('kill')).toMatchObject({ epoch: before.volume.epoch, node: 'node2' });
    expect(await pids(['agent', 'target', 'replica'])).toEqual(before.processes);
  }, 60_000);

  test('of `holdfast up`: manager and agents go with it, the data plane is adopted by the next one', async () => {
    const before = { volume: await show('kill'), processes: await pids(['target', 'replica']) };
    const controlPlane = Object.values(await pids(['manager', 'agent']));
    await cluster.killUp();
    await until('manager and agents are gone', 10_000, () => !controlPlane.some(isAlive));
    expect(Object.values(before.processes).every(isAlive)).toBe(true);
    cluster = await Cluster.start({ folder, upArgs: sameAddresses() });
    expect(await pids(['target', 'replica'])).toEqual(before.processes);
    expect(await show('kill')).toMatchObject({ epoch: before.volume.epoch, state: 'attached' });
  }, 60_000);
});

test('a clean stop ends every process, and the next start brings the volumes back at their place', async () => {
  const before = await cluster.attach('kill');
  const running = (await cluster.processes()).map(({ pid }) => pid);
  await cluster.stop();
  expect(running.filter(isAlive)).toEqual([]);
  cluster = await Cluster.start({ folder, upArgs: sameAddresses() });
  const after = await show('kill');
  expect(after).toMatchObject({ state: 'attached', health: 'healthy', node: before.node });
  expect((await cluster.attach('kill')).iscsi).toEqual(before.iscsi);
}, 60_000);

test('a whole life of a volume: create, grow, attach elsewhere, delete', async () => {
  await cluster.createVolume('life', '64Mi', '--block-size', '4096', '--replicas', '2');
  await cluster.attach('life', '--node', 'node1');
  await cluster.cli('volume', 'resize', 'life', '--size', '96Mi');
  await cluster.cli('volume', 'detach', 'life');
  await cluster.cli('volume', 'resize', 'life', '--size', '128Mi');
  const again = await cluster.attach('life', '--node', 'node3');
  expect(again).toMatchObject({ node: 'node3', epoch: 2 });
  expect(await show('life')).toMatchObject({ size: 134_217_728, blockSize: 4096, health: 'healthy' });
  await cluster.cli('volume', 'detach', 'life');
  expect(await cluster.cli('volume', 'delete', 'life')).toMatchObject({ volume: 'life', pendingReplicas: [] });
  await expect(show('life')).rejects.toThrow('NOT_FOUND');
  expect(await cluster.cli('trash', 'ls')).toMatchObject([{ volume: 'life' }]);
  await cluster.cli('trash', 'purge', 'life');
  expect(await cluster.cli('trash', 'ls')).toEqual([]);
  const disks = (await cluster.cli('disk', 'ls')) as { replicas: number }[];
  expect(disks.map(({ replicas }) => replicas)).toEqual([1, 1, 1]);
}, 60_000);

describe('what cannot be is refused with a reason, and changes nothing', () => {
  test.each([
    [['volume', 'create', 'kill', '--size', '1Gi'], 1, 'ALREADY_EXISTS'],
    [['volume', 'create', 'big', '--size', '256Ti'], 1, 'NO_SPACE'],
    [['volume', 'create', 'many', '--size', '1Gi', '--replicas', '4'], 1, 'NOT_ENOUGH_DISKS'],
    [['volume', 'create', 'odd', '--size', '1048577'], 2, 'INVALID_ARGUMENT'],
    [['volume', 'delete', 'kill'], 1, 'VOLUME_ATTACHED'],
    [['volume', 'attach', 'kill', '--node', 'node1'], 1, 'VOLUME_ATTACHED'],
    [['volume', 'attach', 'kill', '--node', 'node9'], 1, 'NOT_FOUND'],
    [['volume', 'show', 'none'], 1, 'NOT_FOUND'],
    [['volume', 'resize', 'kill', '--size', '1Mi'], 1, 'INVALID_ARGUMENT'],
  ])('%j', async (args, exit, code) => {
    const before = await cluster.cli('volume', 'ls');
    const outcome = await cluster.try(...args);
    expect(outcome.code).toBe(exit);
    expect(JSON.parse(outcome.stderr)).toMatchObject({ error: { code } });
    expect(await cluster.cli('volume', 'ls')).toEqual(before);
  });

  test('starts of `up` that cannot work', async () => {
    const [program = '', ...prefix] = cliCommand;
    const ports = ['--api', `127.0.0.1:${await freePort()}`, '--iscsi', `127.0.0.1:${await freePort(3)}`];
    const up = async (data: string, more: readonly string[]) => {
      const args = [...prefix, 'up', '--json', '--data', data, ...ports, ...more];
      const { code, stderr } = await attempt(program, args, { timeoutMilliseconds: 30_000 });
      return { exit: code, code: (JSON.parse(stderr) as { error: { code: string } }).error.code };
    };
    const fresh = join(folder, 'fresh');
    const foreign = join(folder, 'foreign');
    mkdirSync(foreign);
    writeFileSync(join(foreign, 'letter.txt'), '');
    expect(await up(join(folder, 'cluster'), [])).toEqual({ exit: 1, code: 'IN_USE' });
    expect(await up(fresh, ['--api', cluster.server])).toEqual({ exit: 1, code: 'IN_USE' });
    expect(await up(foreign, [])).toEqual({ exit: 1, code: 'WRONG_DISK' });
    expect(await up(fresh, ['--nodes', '0'])).toEqual({ exit: 2, code: 'INVALID_ARGUMENT' });
    expect(existsSync(fresh)).toBe(false);
    expect(readdirSync(foreign)).toEqual(['letter.txt']);
  }, 60_000);
});

describe('an agent with the name of another node', () => {
  const agent = async (data: string, token: string) => {
    const [program = '', ...prefix] = cliCommand;
    const where = ['--node', 'node1', '--address', '127.0.0.1', '--portal-port', String(await freePort())];
    const args = [...prefix, 'agent', '--json', '--data', data, ...where, '--join', token];
    return await attempt(program, args, { timeoutMilliseconds: 60_000 });
  };

  test('is refused, has started nothing, and the one that has the name works on', async () => {
    const before = await pids(['agent', 'target', 'replica']);
    const { join: token } = (await cluster.cli('token', 'create', '--role', 'agent')) as { readonly join: string };
    const other = join(folder, 'other');
    const { code, stderr } = await agent(other, token);
    expect(code).toBe(1);
    const { error } = JSON.parse(stderr.trim().split('\n').at(-1) ?? '') as {
      error: { code: string; message: string };
    };
    expect(error).toMatchObject({ code: 'IN_USE' });
    expect(error.message).toContain(`its agent: 127.0.0.1, folder ${join(folder, 'cluster/node1/agent')}, since `);
    expect(existsSync(join(other, 'target'))).toBe(false);
    expect(existsSync(join(other, 'disk1'))).toBe(false);
    expect(await pids(['agent', 'target', 'replica'])).toEqual(before);
  }, 90_000);

  test('an agent that is killed has its name again at once', async () => {
    const { pid } = await find('agent', 'node1');
    process.kill(pid, 'SIGKILL');
    await until('another agent of node1', 8_000, async () => {
      const rows = await cluster.processes();
      return rows.some((row) => row.role === 'agent' && row.node === 'node1' && row.pid !== pid);
    });
  });
});

test('an idle control plane uses no processor', async () => {
  const rows = (await cluster.processes()).filter(({ role }) => role === 'manager' || role === 'agent');
  const ticks = () =>
    rows.reduce((sum, { pid }) => {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return sum + Number(fields[11]) + Number(fields[12]);
    }, 0);
  const before = ticks();
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  // Four processes, 100 ticks a second: 25 ticks in five seconds are 1.25 % of a processor each.
  expect(ticks() - before).toBeLessThan(25);
}, 30_000);
