/** What test:guest tidies up after a node that it killed: the keepers of that cluster's devices, and nobody else's. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { startTimeOf } from '../engine/os/proc.js';
import { root } from './lib/cluster.js';
import { run } from './lib/process.js';

let folder: string;
let sleepers: ChildProcess[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-keepers-'));
  sleepers = [];
});
afterEach(() => {
  for (const child of sleepers) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

function sleeper(): number {
  const child = spawn('sleep', ['infinity'], { stdio: 'ignore' });
  sleepers.push(child);
  return child.pid ?? 0;
}

function record(path: string, pid: number, startTime = startTimeOf(pid) ?? ''): void {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), `${pid} ${startTime}\n`);
}

test('keepers that the cluster has recorded end; a later process with such a pid, and one of another folder, go on', async () => {
  const [keeper, anchor, later, elsewhere] = [sleeper(), sleeper(), sleeper(), sleeper()];
  record('node1/target/devices/0a/keeper', keeper);
  record('node2/target/devices/0b/anchor', anchor);
  record('node2/target/devices/0c/keeper', later, '1');
  record('node2/disk1/data/keeper', elsewhere);
  mkdirSync(join(folder, 'node3'));
  const script = `import { endKeepers } from ${JSON.stringify(join(root, 'scripts/guest/keepers.mjs'))};
    console.log(JSON.stringify(await endKeepers(${JSON.stringify(folder)})));`;
  const ended = await run(process.execPath, ['--input-type=module', '-e', script]);
  expect(JSON.parse(ended)).toEqual([keeper, anchor]);
  expect([keeper, anchor, later, elsewhere].map((pid) => startTimeOf(pid) !== null)).toEqual([
    false,
    false,
    true,
    true,
  ]);
});
