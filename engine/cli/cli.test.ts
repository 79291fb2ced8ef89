// The command line against a real manager without nodes: usage, exit codes, shapes of answers and errors.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { silentLogger } from '../log/logger.js';
import { createGrpcDataPlane } from '../manager/grpc-data-plane.js';
import { startManager } from '../manager/manager.js';
import type { Manager } from '../manager/manager.js';
import { FakeNode } from '../manager/testing/fake-data-plane.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import { requestLines } from '../api/rest-client.js';
import type { ClusterEvent } from '../manager/events.js';
import * as shapes from '../manager/http/shapes.js';
import { buildProgram, runCli } from './cli.js';
import { fields, table } from './output.js';

type OpenApi = {
  readonly paths: Readonly<Record<string, unknown>>;
  readonly components: { readonly schemas: Readonly<Record<string, unknown>> };
};

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
    [['replica', 'rm', 'db', 'nonsense'], /"nonsense" is not the id of a replica/],
    [['volume', 'set', 'db', '--replicas', '0'], /0 replicas are not possible/],
    [['volume', 'attach', 'db', '--replica', '9e01e17fff094c2c'], /--replica is for --accept-data-loss/],
    [['settings', 'set'], /say what to set/],
    [['settings', 'set', '--balance', 'maybe'], /on or off/],
    [['settings', 'set', '--moves', '0'], /--moves 0 is not possible: use at least 1/],
    [['settings', 'set', '--over-provisioning', 'much'], /--over-provisioning NaN is not possible: use 1 to 100/],
    [['settings', 'set', '--foreground-share', '100'], /use 0 to 99/],
    [['volume', 'set', 'db'], /say what to set/],
    [['volume', 'set', 'db', '--burst', '0', '--iops', '5'], /--burst 0 is not possible/],
    [['volume', 'set', 'db', '--chap-user', 'somebody'], /--chap-user and --chap-secret-file go together/],
    [['policy', 'set', 'a b'], /policy name "a b" is not valid/],
    [['policy', 'set', 'p', '--replicas', '99'], /99 replicas are not possible/],
    [['node', 'set', 'node1', '--zone', 'rack B'], /zone "rack B" is not valid/],
    [['disk', 'add', 'node1', 'a b', '/d'], /disk name "a b" is not valid/],
    [['disk', 'add', 'node1', 'disk2', 'some/folder'], /"some\/folder" is not an absolute path/],
    [['disk', 'add', 'node1', 'disk2', '/d', '--journal', 'nvme0n1p3'], /"nvme0n1p3" is not an absolute path/],
    [['disk', 'tag', 'node1', 'disk1', 'a b'], /tag "a b" is not valid/],
    [['trash', 'restore', 'db', '--name', 'Not A Name'], /volume name "Not A Name" is not valid/],
    [['disk', 'tag', 'node1', 'disk1', '--class', 'tape'], /--class is hdd, ssd or nvme/],
    [['token', 'create', '--role', 'king'], /Allowed choices are admin, operator/],
    [['snapshot', 'cp', 'db@s:/f', '-', '-r'], /prints one file/],
    [['snapshot', 'cp', 'db', 'here'], /is not VOLUME@SNAPSHOT:PATH/],
    [['volume', 'clone', 'a@@b', 'c'], /is not VOLUME or VOLUME@SNAPSHOT/],
    [['store', 'dump', '--store', 'paper'], /--store "paper" is not valid/],
    [['completion', 'tcsh'], /no completion for "tcsh"/],
    [['disk', 'add', 'node1', 'disk2', '/d', '--journal-size', 'x'], /size "x" is not valid/],
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

/** Every command that does something, as its words and what it takes. */
function allCommands(
  at: Command,
  words: readonly string[] = [],
): { words: string[]; required: number; extra: string[] }[] {
  const inner = at.commands.flatMap((command) => allCommands(command, [...words, command.name()]));
  if (words.length === 0 || (inner.length > 0 && at.registeredArguments.length === 0)) return inner;
  const { registeredArguments: taken } = at;
  const endless = taken.some(({ variadic }) => variadic);
  const extra = endless ? [] : Array.from({ length: taken.length + 1 }, () => 'x');
  return [{ words: [...words], required: taken.filter(({ required }) => required).length, extra }, ...inner];
}
const silent = { out: () => undefined, err: () => undefined };
const commands = allCommands(buildProgram(silent, '1.2.3'));

describe('every command', () => {
  const named = commands.map((command) => [command.words.join(' '), command] as const);
  const isRefused = async (exit: number, ...args: string[]) => {
    const run = await holdfast(...args, '--json');
    expect(run.exit, run.err).toBe(exit);
    expect(run.out).toBe('');
    expect(run.err).not.toMatch(/\n\s+at /);
    expect(JSON.parse(run.err)).toMatchObject({
      error: { code: 'INVALID_ARGUMENT', message: expect.any(String) as string },
    });
  };

  test.each(named)('%s refuses what it does not know, and what is missing', async (_, { words, required, extra }) => {
    await isRefused(2, ...words, '--bogus');
    if (required > 0) await isRefused(2, ...words);
    if (extra.length > 0) await isRefused(2, ...words, ...extra);
  });

  // These begin something on this host.
  const local = /^(up|server|agent|stop|authority|store|support|completion|map|unmap|mount|umount|event watch)\b/;
  test('without a manager all others say so', async () => {
    const runs = commands
      .filter(({ words }) => !local.test(words.join(' ')))
      .map(async ({ words, required }) => {
        const values = words[1] === 'cp' ? ['a@b:/c', '-'] : Array.from({ length: required }, () => 'x1');
        return { words, ...(await holdfast(...words, ...values, '--json', '--server', '127.0.0.1:9')) };
      });
    for (const { words, exit, out, err } of await Promise.all(runs)) {
      const what = words.join(' ');
      expect(out, what).toBe('');
      expect(err, what).not.toMatch(/\n\s+at /);
      const { error } = JSON.parse(err) as { readonly error: { readonly code: string } };
      // Some lack an option that they need: wrong usage.
      expect([what, exit, error.code]).toEqual(
        exit === 2 ? [what, 2, 'INVALID_ARGUMENT'] : [what, 1, 'CONNECTION_LOST'],
      );
    }
  });
});

describe('help', () => {
  test.each(commands.map(({ words }) => words.join(' ')))('%s has an example', async (command) => {
    const { exit, out } = await holdfast(...command.split(' '), '--help');
    expect(exit).toBe(0);
    expect(out).toMatch(new RegExp(`Examples?:\\n(.*\\n)*? +holdfast ${command}`));
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
    // On standard error there may be progress, where a machine is slow.
    expect(exit, err).toBe(0);
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
      takeover: null,
      servedFrom: null,
      nfs: null,
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
    expect(await json('volume', 'delete', 'db')).toMatchObject({ volume: 'db', pendingReplicas: [] });
    expect(await json('volume', 'ls')).toEqual([]);
  });

  test('lists as JSON, with the fields that scripts use', async () => {
    expect(await json('node', 'ls')).toMatchObject([{ name: 'node1' }, { name: 'node2' }, { name: 'node3' }]);
    expect(await json('disk', 'ls')).toMatchObject([{ node: 'node1', name: 'disk1', state: 'online' }, {}, {}]);
    expect(await json('process', 'ls')).toContainEqual({ node: 'node1', role: 'replica', pid: 12, disk: 'disk1' });
  });

  test('status, metrics, events and the description of the API', async () => {
    await json('volume', 'create', 'seen', '--size', '10Mi');
    const status = await json('status');
    expect(shapes.status.strict().parse(status)).toMatchObject({ health: 'healthy', nodes: { total: 3, online: 3 } });
    expect((await holdfast('status')).out).toMatch(/health +healthy[^]*volumes +1, 0 attached[^]*Nothing is wrong/);
    const metrics = await (await fetch(`http://${manager.address}/metrics`)).text();
    expect(metrics).toContain('holdfast_volume_size_bytes{volume="seen"} 10485760');
    const events = (await json('event', 'ls')) as readonly { readonly object: string }[];
    expect(events.map(({ object }) => object)).toContain('node node2');
    const api = (await (await fetch(`http://${manager.address}/openapi.json`)).json()) as OpenApi;
    expect(Object.keys(api.paths)).toContain('/v1/volumes/{name}/attach');
    expect(JSON.stringify(api.paths['/v1/volumes/{name}'])).toContain('{"name":"purge","in":"query"');
    // Whatever is referred to is there.
    for (const [, name] of JSON.stringify(api).matchAll(/#\/components\/schemas\/(\w+)/g)) {
      expect(Object.keys(api.components.schemas)).toContain(name);
    }
    await json('volume', 'delete', 'seen');
  });

  test('answers have the shapes that the API promises', async () => {
    await json('volume', 'create', 'shape', '--size', '10Mi');
    await json('volume', 'attach', 'shape');
    for (const [path, shape] of [
      ['cluster', shapes.cluster.strict()],
      ['volumes', z.array(shapes.volume.strict())],
      ['nodes', z.array(shapes.node.strict())],
      ['disks', z.array(shapes.disk.strict())],
      ['processes', z.array(shapes.process.strict())],
      ['events', z.array(shapes.event.strict())],
    ] as const) {
      const answer = await (await fetch(`http://${manager.address}/v1/${path}`)).json();
      expect(() => shape.parse(answer), path).not.toThrow();
    }
    await json('volume', 'detach', 'shape');
    await json('volume', 'delete', 'shape');
  });

  test('paths, methods and names that the API does not have', async () => {
    const ask = async (method: string, path: string) => {
      const answer = await fetch(`http://${manager.address}${path}`, { method });
      const { error } = (await answer.json()) as {
        readonly error: { readonly code: string; readonly message: string };
      };
      return { status: answer.status, allow: answer.headers.get('allow'), ...error };
    };
    for (const path of ['/', '/v1', '/v1/volume', '/v1/volumes/a/b/c/d', '/v2/volumes']) {
      const message = `there is nothing at ${path}: /openapi.json lists the paths`;
      expect(await ask('GET', path)).toEqual({ status: 404, allow: null, code: 'NOT_FOUND', message });
    }
    const message = '/v1/volumes takes GET, POST, not PUT';
    expect(await ask('PUT', '/v1/volumes')).toEqual({
      status: 405,
      allow: 'GET, POST',
      code: 'UNIMPLEMENTED',
      message,
    });
    // A name is what is between two slashes, decoded.
    expect((await ask('GET', '/v1/volumes/no%2Fsuch')).message).toContain('no/such');
    expect(await ask('GET', '/v1/volumes/%zz')).toMatchObject({ status: 400, code: 'INVALID_ARGUMENT' });
  });

  test('events as they happen', async () => {
    const stop = new AbortController();
    const seen: string[] = [];
    const watching = (async () => {
      for await (const { message } of requestLines<ClusterEvent>(
        manager.address,
        '/v1/events?watch=true',
        stop.signal,
      )) {
        seen.push(message);
        if (message === 'hello') stop.abort();
      }
    })();
    while (seen.length === 0) {
      manager.events.emit({ severity: 'info', object: 'test', message: 'hello' });
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await watching;
    expect(seen).toContain('hello');
  });

  test('a support bundle has answers, logs and no secrets', async () => {
    const data = join(folder, 'data');
    mkdirSync(join(data, 'node1'), { recursive: true });
    writeFileSync(join(data, 'node1', 'log'), '{"level":"info","secret":"do not tell"}\n');
    const file = join(folder, 'bundle.tar.gz');
    expect(await json('support', 'bundle', '--data', data, '--output', file)).toMatchObject({ file });
    const names = execFileSync('tar', ['-tzf', file], { encoding: 'utf8' }).trim().split('\n');
    expect(names).toEqual(
      expect.arrayContaining(['api/status.json', 'api/metrics.txt', 'host.json', 'files/node1/log']),
    );
    expect(execFileSync('tar', ['-xzOf', file], { encoding: 'utf8' })).not.toContain('do not tell');
  });

  test('for people', async () => {
    expect((await holdfast('volume', 'ls')).out).toMatch(/no volumes.*volume create/);
    await holdfast('node', 'set', 'node1', '--zone', 'rack-a');
    await holdfast('node', 'cordon', 'node1');
    await holdfast('disk', 'tag', 'node1', 'disk1', 'fast', '--class', 'nvme');
    expect((await holdfast('node', 'ls')).out).toMatch(/^NODE +STATE +ZONE +PORTAL.*\nnode1 +online, cordoned +rack-a/);
    expect((await holdfast('disk', 'ls')).out).toMatch(
      /^NODE +DISK +STATE +CLASS +TAGS.*\nnode1 +disk1 +online +nvme +fast/,
    );
    await holdfast('node', 'uncordon', 'node1');
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

test('completion knows every command, and completes as a shell does', async () => {
  const { out } = await holdfast('completion', 'bash');
  const complete = (...words: string[]) =>
    execFileSync(
      'bash',
      ['-c', `${out}\nCOMP_WORDS=(holdfast "$@"); COMP_CWORD=$#; _holdfast; echo "\${COMPREPLY[*]}"`, 'bash', ...words],
      {
        encoding: 'utf8',
      },
    ).trim();
  expect(complete('vol')).toBe('volume');
  expect(complete('volume', 'att')).toBe('attach');
  expect(complete('volume', 'attach', 'db', '--no')).toBe('--node');
  expect((await holdfast('completion', 'fish')).out).toContain(
    "complete -c holdfast -f -n '__fish_seen_subcommand_from volume' -a attach",
  );
  expect((await holdfast('completion', 'tcsh')).exit).toBe(2);
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
