// The command line against a real manager without nodes: usage, exit codes, shapes of answers and errors.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../log/logger.js';
import { createGrpcDataPlane } from '../manager/grpc-data-plane.js';
import { startManager } from '../manager/manager.js';
import type { Manager } from '../manager/manager.js';
import { FakeNode } from '../manager/testing/fake-data-plane.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import { runCli } from './cli.js';
import { fields, table } from './output.js';

type Run = { readonly exit: number; readonly out: string; readonly err: string };

async function holdfast(...args: string[]): Promise<Run> {
  let out = '';
  let err = '';
  const streams = {
    out: (text: string) => {
      out += text;
    },
    err: (text: string) => {
      err += text;
    },
  };
  return { exit: await runCli(args, streams, '1.2.3'), out, err };
}

describe('wrong usage ends with 2 and says what is wrong', () => {
  test.each([
    [[], /give a command/],
    [['volume'], /give a command/],
    [['volum', 'ls'], /unknown command 'volum'.*volume/],
    [['volume', 'atach', 'db'], /Did you mean attach/],
    [['volume', 'attach'], /missing required argument 'name'/],
    [['replica', 'ls'], /missing required argument 'volume'/],
    [['volume', 'create', 'db'], /required option '--size/],
    [['volume', 'create', 'db', '--size', 'big'], /size "big" is not valid/],
    [['volume', 'create', 'Db', '--size', '1Gi'], /volume name "Db" is not valid/],
    [['volume', 'create', 'db', '--size', '1Gi', '--replicas', 'x'], /--replicas "x"/],
    [['volume', 'create', 'db', '--size', '1Gi', '--block-size', '1024'], /512 or 4096/],
    [['volume', 'show', '../x'], /not valid/],
    [['volume', 'ls', 'more'], /too many arguments/],
    [['up', '--nodes', 'three'], /--nodes "three"/],
    [['up', '--api', 'x'], /--api "x"/],
    [['up', '--journal-size', '1'], /--journal-size/],
    [['node', 'ls', '--bogus'], /unknown option '--bogus'/],
    [['node', 'ls', '--server', 'nowhere'], /--server "nowhere"/],
  ])('%j', async (args, message) => {
    const { exit, out, err } = await holdfast(...args);
    expect(err).toMatch(message);
    expect(err).not.toMatch(/\n\s+at /);
    expect(exit).toBe(2);
    expect(out).toBe('');
  });

  test('as JSON with --json', async () => {
    const { exit, err } = await holdfast('volume', 'create', 'Db', '--size', '1Gi', '--json');
    expect(exit).toBe(2);
    expect(JSON.parse(err)).toMatchObject({ error: { code: 'INVALID_ARGUMENT' } });
  });
});

describe('help', () => {
  const commands = [
    ['up'],
    ...['create', 'attach', 'detach', 'show', 'delete', 'resize', 'ls'].map((name) => ['volume', name]),
    ...['replica', 'node', 'disk', 'process'].map((name) => [name, 'ls']),
  ];
  test.each(commands)('%s %s has an example', async (...command) => {
    const { exit, out } = await holdfast(...command.filter(Boolean), '--help');
    expect(exit).toBe(0);
    expect(out).toMatch(new RegExp(`Examples?:\\n +holdfast ${command.filter(Boolean).join(' ')}`));
    expect(out).toContain('--json');
  });
  test('of everything, and the version', async () => {
    expect((await holdfast('--help')).out).toContain('First steps');
    expect(await holdfast('--version')).toEqual({ exit: 0, out: '1.2.3\n', err: '' });
  });
});

test('no manager: 1, and what to do', async () => {
  const { exit, err } = await holdfast('node', 'ls', '--server', '127.0.0.1:9');
  expect(exit).toBe(1);
  expect(err).toMatch(/cannot reach the manager at 127\.0\.0\.1:9.*holdfast up/);
});

describe('with a manager', () => {
  let folder: string;
  let manager: Manager;
  let nodes: FakeNode[];

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'holdfast-cli-'));
    manager = await startManager({
      store: await openLmdbMetastore(folder),
      dataPlane: createGrpcDataPlane(),
      logger: silentLogger,
      listen: '127.0.0.1:0',
      version: '1.2.3',
      patienceMs: 500,
    });
    nodes = [1, 2, 3].map((number) => new FakeNode(number));
    await Promise.all(
      nodes.map(async (node) => {
        await node.start();
        await node.connect(manager.address);
      }),
    );
  });
  afterAll(async () => {
    for (const node of nodes) node.stop();
    await manager.close();
    rmSync(folder, { recursive: true, force: true });
  });
  beforeEach(() => {
    process.env['HOLDFAST_SERVER'] = manager.address;
  });
  afterEach(() => {
    delete process.env['HOLDFAST_SERVER'];
  });

  async function json(...args: string[]): Promise<unknown> {
    const { exit, out, err } = await holdfast(...args, '--json');
    expect(err).toBe('');
    expect(exit).toBe(0);
    return JSON.parse(out);
  }

  test('the life of a volume, as JSON', async () => {
    expect(await json('volume', 'create', 'db', '--size', '10Mi')).toMatchObject({ name: 'db', size: 10_485_760 });
    expect(await json('volume', 'attach', 'db')).toEqual({
      volume: 'db',
      epoch: 1,
      node: 'node1',
      iscsi: {
        portal: '127.0.0.1:3260',
        iqn: 'iqn.2026-11.io.holdfast:db',
        lun: 0,
        url: 'iscsi://127.0.0.1:3260/iqn.2026-11.io.holdfast:db/0',
      },
    });
    expect(await json('volume', 'resize', 'db', '--size', '12Mi')).toMatchObject({ size: 12_582_912 });
    expect(await json('replica', 'ls', 'db')).toMatchObject([
      { node: 'node1', disk: 'disk1', state: 'in-sync' },
      { node: 'node2', disk: 'disk1', state: 'in-sync' },
      { node: 'node3', disk: 'disk1', state: 'in-sync' },
    ]);
    const refused = await holdfast('volume', 'delete', 'db', '--json');
    expect(refused.exit).toBe(1);
    expect(JSON.parse(refused.err)).toMatchObject({ error: { code: 'VOLUME_ATTACHED' } });
    expect(await json('volume', 'detach', 'db')).toMatchObject({ state: 'detached' });
    expect(await json('volume', 'detach', 'db')).toMatchObject({ state: 'detached' });
    expect(await json('volume', 'ls')).toHaveLength(1);
    expect(await json('volume', 'delete', 'db')).toEqual({ volume: 'db', pendingReplicas: [] });
    expect(await json('volume', 'ls')).toEqual([]);
  });

  test('lists as JSON, with the fields that scripts use', async () => {
    expect(await json('node', 'ls')).toMatchObject([{ name: 'node1' }, { name: 'node2' }, { name: 'node3' }]);
    expect(await json('disk', 'ls')).toMatchObject([{ node: 'node1', name: 'disk1', state: 'online' }, {}, {}]);
    expect(await json('process', 'ls')).toContainEqual({ node: 'node1', role: 'replica', pid: 12, disk: 'disk1' });
  });

  test('for people', async () => {
    expect((await holdfast('volume', 'ls')).out).toMatch(/no volumes.*volume create/);
    expect((await holdfast('node', 'ls')).out).toMatch(/^NODE +STATE +PORTAL/);
    const missing = await holdfast('volume', 'show', 'none');
    expect(missing).toMatchObject({ exit: 1, out: '' });
    expect(missing.err).toMatch(/volume "none" does not exist/);
  });

  test('options may stand before the command', async () => {
    delete process.env['HOLDFAST_SERVER'];
    const { exit, out } = await holdfast('--json', '--server', manager.address, 'volume', 'ls');
    expect([exit, out]).toEqual([0, '[]\n']);
  });
});

test('tables and lists are aligned, and leave out what is absent', () => {
  expect(
    table(
      ['a', 'long'],
      [
        ['xyz', '1'],
        ['-', 'two'],
      ],
    ),
  ).toBe('A    LONG\nxyz  1\n-    two');
  expect(
    fields([
      ['name', 'x'],
      ['none', null],
      ['longer', 'y'],
    ]),
  ).toBe('name    x\nlonger  y');
});
