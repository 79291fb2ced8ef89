/**
 * SIGKILL to a random process under load, again and again, then a restart of everything: every acknowledged write is
 * there, and the replicas are identical.
 *
 * HOLDFAST_CRASH_CYCLES sets the number of kills (20 here; the soak run takes 100 and more), HOLDFAST_SEED the choice.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { Cluster } from './lib/cluster.js';
import { startNbd } from './lib/initiator.js';
import { attempt, until } from './lib/process.js';
import { replicaContent } from './lib/replica-content.js';

const cycles = Number(process.env['HOLDFAST_CRASH_CYCLES'] ?? 20);
const seed = Number(process.env['HOLDFAST_SEED'] ?? Date.now() % 1_000_000);

/** A small generator, so that a printed seed repeats the choice of victims. */
function random(state: number): () => number {
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

let folder: string;
let cluster: Cluster;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-crash-'));
  cluster = await Cluster.start({ folder });
});
afterAll(async () => {
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
});

function fioArgs(uri: string, pass: number): string[] {
  return [
    '--name=load',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--rw=randwrite',
    '--bssplit=4k/70:16k/15:64k/10:512k/5',
    '--blockalign=4k',
    '--iodepth=16',
    '--size=96m',
    '--fsync=200',
    '--rate_iops=2500',
    '--verify=crc32c',
    '--verify_fatal=1',
    `--randseed=${pass}`,
  ];
}

test(`${cycles} kills under load lose nothing (seed ${seed})`, async () => {
  const next = random(seed);
  await cluster.createVolume('crash', '96Mi');
  const { iscsi } = await cluster.attach('crash');
  const nbd = await startNbd(folder, 'crash', iscsi.url);
  const killed: Record<string, number> = {};
  let pass = 0;
  let kills = 0;
  try {
    while (kills < cycles) {
      pass++;
      const load = { running: true };
      const outcome = attempt('fio', [...fioArgs(nbd.uri, pass), '--do_verify=1'], {
        timeoutMilliseconds: 300_000,
      }).finally(() => {
        load.running = false;
      });
      while (load.running && kills < cycles) {
        await sleep(300 + next() * 1500);
        // A killed replica is back in the set before the next one goes: two at once may take the last good copy.
        await until('all replicas in-sync', 60_000, async () => {
          const rows = await cluster.replicas('crash').catch(() => []);
          return rows.length === 3 && rows.every((row) => row.state === 'in-sync');
        });
        const rows = await until('the processes', 20_000, () => cluster.processes().catch(() => undefined));
        const victim = rows[Math.floor(next() * rows.length)];
        if (!victim) continue;
        try {
          process.kill(victim.pid, 'SIGKILL');
        } catch {
          continue; // it ended by itself since
        }
        kills++;
        killed[victim.role] = (killed[victim.role] ?? 0) + 1;
      }
      const { code, stdout, stderr } = await outcome;
      expect(code, `pass ${pass}: ${stderr}\n${stdout}`).toBe(0);
    }
  } finally {
    await nbd.stop();
  }
  console.log(`killed ${JSON.stringify(killed)} in ${pass} passes`);

  // Restart of everything, by SIGKILL too, then the last pass is verified again.
  const rows = await until('the processes', 20_000, () => cluster.processes().catch(() => undefined));
  await cluster.killUp();
  for (const row of rows) {
    try {
      process.kill(row.pid, 'SIGKILL');
    } catch {
      // It went with `up`.
    }
  }
  cluster = await Cluster.start({ folder });
  const again = await until('the volume attached again', 60_000, () => cluster.attach('crash').catch(() => undefined));
  const after = await startNbd(folder, 'crash-after', again.iscsi.url);
  try {
    const { code, stdout, stderr } = await attempt('fio', [...fioArgs(after.uri, pass), '--verify_only'], {
      timeoutMilliseconds: 120_000,
    });
    expect(code, `verification after the restart: ${stderr}\n${stdout}`).toBe(0);
  } finally {
    await after.stop();
  }
  await until('all replicas in-sync', 60_000, async () =>
    (await cluster.replicas('crash')).every((row) => row.state === 'in-sync'),
  );
  await cluster.cli('volume', 'detach', 'crash');
  const contents = await Promise.all((await cluster.replicas('crash')).map((row) => replicaContent(row)));
  expect(contents).toHaveLength(3);
  expect(new Set(contents.map((one) => one.sha256)).size, JSON.stringify(contents)).toBe(1);
  expect(contents.every((one) => one.complete)).toBe(true);
}, 1_800_000);
