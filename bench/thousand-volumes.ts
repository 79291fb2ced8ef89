// A thousand volumes in a real cluster on this machine: how long each takes to create and to attach, what they cost while they idle.
// CPU and memory are those of all processes of the cluster, from /proc; memory per volume is what it rose by.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { request } from '../engine/api/rest-client.js';
import type { ProcessView } from '../engine/manager/views.js';
import { root } from '../test/lib/cluster.js';
import { benchOptions } from './options.js';

const usage = `Usage: node scripts/bench.mjs thousand-volumes [options]

Many volumes in a real cluster: how long each takes to create and to attach, and what they cost while they idle.

  --count N     volumes (default 1000)
  --attach N    how many of them are attached (default 200)
  --idle N      seconds of idling that are measured (default 20)`;
const values = benchOptions(usage, {
  count: { type: 'string', default: '1000' },
  attach: { type: 'string', default: '200' },
  idle: { type: 'string', default: '20' },
});
const count = Number(values.count);
const attachCount = Number(values.attach);
const idleSeconds = Number(values.idle);

const folder = mkdtempSync(join(tmpdir(), 'holdfast-thousand-'));
const up = spawn(
  process.execPath,
  [
    join(root, 'dist/cli/main.js'),
    ...[
      'up',
      '--data',
      join(folder, 'data'),
      '--api',
      '127.0.0.1:0',
      '--iscsi',
      '127.0.0.1:0',
      '--journal-size',
      '64Mi',
      '--json',
    ],
  ],
  { stdio: ['ignore', 'pipe', 'inherit'] },
);

async function ready(): Promise<string> {
  let text = '';
  for await (const chunk of up.stdout) {
    text += String(chunk);
    if (text.includes('\n')) return (JSON.parse(text) as { server: string }).server;
  }
  throw new Error('the cluster did not start');
}

type Use = { readonly cpuSeconds: number; readonly residentMib: number };

async function useOf(server: string): Promise<ReadonlyMap<string, Use>> {
  const use = new Map<string, Use>();
  for (const { role, pid } of await request<readonly ProcessView[]>(server, 'GET', '/v1/processes')) {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ');
    const ticks = Number(fields[11]) + Number(fields[12]);
    const pages = Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]);
    const former = use.get(role) ?? { cpuSeconds: 0, residentMib: 0 };
    use.set(role, {
      cpuSeconds: former.cpuSeconds + ticks / 100,
      residentMib: former.residentMib + (pages * 4_096) / 2 ** 20,
    });
  }
  return use;
}

const sum = (use: ReadonlyMap<string, Use>, field: keyof Use) =>
  [...use.values()].reduce((total, each) => total + each[field], 0);
const percentile = (sorted: readonly number[], share: number) => sorted[Math.floor((sorted.length - 1) * share)] ?? 0;

async function timeEach(what: string, times: number, task: (index: number) => Promise<unknown>): Promise<void> {
  const taken: number[] = [];
  for (let index = 0; index < times; index++) {
    const began = performance.now();
    await task(index);
    taken.push(performance.now() - began);
  }
  const sorted = taken.sort((a, b) => a - b);
  const mean = taken.reduce((total, each) => total + each, 0) / times;
  console.log(
    `${what}: mean ${mean.toFixed(1)} ms, p50 ${percentile(sorted, 0.5).toFixed(1)}, p99 ${percentile(sorted, 0.99).toFixed(1)}, max ${percentile(sorted, 1).toFixed(1)}`,
  );
}

async function idle(server: string, what: string): Promise<void> {
  await sleep(3_000);
  const before = await useOf(server);
  await sleep(idleSeconds * 1_000);
  const after = await useOf(server);
  const share = (100 * (sum(after, 'cpuSeconds') - sum(before, 'cpuSeconds'))) / idleSeconds;
  const roles = [...after].map(([role, use]) => {
    const cpu = (100 * (use.cpuSeconds - (before.get(role)?.cpuSeconds ?? 0))) / idleSeconds;
    return `${role} ${cpu.toFixed(1)} %, ${use.residentMib.toFixed(0)} MiB`;
  });
  console.log(
    `${what}: ${share.toFixed(1)} % of one core, ${sum(after, 'residentMib').toFixed(0)} MiB (${roles.join('; ')})`,
  );
}

try {
  const server = await ready();
  await idle(server, 'idle, no volumes');
  const first = sum(await useOf(server), 'residentMib');
  await timeEach(`create ${count} volumes`, count, (index) =>
    request(server, 'POST', '/v1/volumes', { name: `v${index}`, size: 8 * 2 ** 20 }),
  );
  await idle(server, `idle, ${count} volumes`);
  const second = sum(await useOf(server), 'residentMib');
  console.log(`memory per detached volume: ${((second - first) / count).toFixed(2)} MiB`);
  await timeEach(`attach ${attachCount} volumes`, attachCount, (index) =>
    request(server, 'POST', `/v1/volumes/v${index}/attach`, {}),
  );
  await idle(server, `idle, ${attachCount} of them attached`);
  const third = sum(await useOf(server), 'residentMib');
  console.log(`memory per attached volume, besides: ${((third - second) / Math.max(1, attachCount)).toFixed(2)} MiB`);
} finally {
  const ended = new Promise((resolve) => up.once('exit', resolve));
  up.kill('SIGTERM');
  await ended;
  rmSync(folder, { recursive: true, force: true });
}
