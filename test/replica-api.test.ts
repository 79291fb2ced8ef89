// The public replica API as a foreign client sees it: examples/replica-api (grpc-js and the proto file, nothing else)
// against replica_server, a replica process without Node. And what the proto file promises about errors and restarts.
import { execFile, spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const program = join(process.env['HOLDFAST_NATIVE_BUILD'] ?? join(root, 'build/native'), 'replica_server');
const example = join(root, 'examples/replica-api/replica-api.mjs');
const run = promisify(execFile);

type Server = { process: ChildProcessByStdio<null, Readable, null>; listen: string; diskId: string };

let folder: string;
const servers: Server[] = [];

async function startServer(directory: string): Promise<Server> {
  const child = spawn(program, ['--dir', directory, '--listen', '127.0.0.1:0', '--journal-bytes', String(32 << 20)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  const server = { process: child, ...(JSON.parse(line) as { listen: string; diskId: string }) };
  servers.push(server);
  return server;
}

async function stop(server: Server, signal: NodeJS.Signals): Promise<number | null> {
  const exited = once(server.process, 'exit') as Promise<[number | null]>;
  server.process.kill(signal);
  const [code] = await exited;
  servers.splice(servers.indexOf(server), 1);
  return code;
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-replica-api-'));
});

afterEach(async () => {
  for (const server of [...servers]) await stop(server, 'SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

test('the example works against a replica process', async () => {
  const server = await startServer(join(folder, 'disk'));
  const { stdout } = await run(process.execPath, [example, server.listen]);
  expect(stdout).toContain(`disk ${server.diskId}`);
  expect(stdout.trimEnd().split('\n').at(-1)).toBe('ok');
});

test('the disk is the same after a kill and after an orderly stop', async () => {
  const first = await startServer(join(folder, 'disk'));
  await run(process.execPath, [example, first.listen]);
  expect(await stop(first, 'SIGKILL')).toBeNull();
  const second = await startServer(join(folder, 'disk'));
  expect(second.diskId).toBe(first.diskId);
  await run(process.execPath, [example, second.listen]);
  expect(await stop(second, 'SIGTERM')).toBe(0);
  const third = await startServer(join(folder, 'disk'));
  expect(third.diskId).toBe(first.diskId);
});

test('the example tells what is wrong when nobody listens', async () => {
  const server = await startServer(join(folder, 'disk'));
  await stop(server, 'SIGTERM');
  await expect(run(process.execPath, [example, server.listen])).rejects.toThrow(/getDisk: 14/);
});

test.each([
  [[], '--dir and --listen are needed'],
  [['--dir'], '--dir needs a value'],
  [['--speed', '9'], 'unknown option --speed'],
  [['--dir', '/nowhere', '--listen', 'here'], 'INVALID_ARGUMENT'],
])('replica_server %j says what is wrong', async (options, message) => {
  await expect(run(program, options)).rejects.toMatchObject({
    code: 2,
    stderr: expect.stringContaining(message) as string,
  });
});
