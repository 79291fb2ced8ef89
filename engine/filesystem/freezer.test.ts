import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sleep } from '../async/wait.js';
import { freezerScript, whileFrozen } from './freezer.js';

function canMount(): boolean {
  if (process.getuid?.() !== 0) return false;
  try {
    accessSync('/dev/loop-control', constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

const limits = { syncMs: 60_000, freezeMs: 60_000, holdSeconds: 60 };

describe.skipIf(!canMount())('freezing', () => {
  let folder: string;
  let at: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'holdfast-freeze-'));
    at = join(folder, 'mnt');
    mkdirSync(at);
    execFileSync('truncate', ['-s', '32M', join(folder, 'image')]);
    execFileSync('mkfs.ext4', ['-q', join(folder, 'image')]);
    execFileSync('mount', ['-o', 'loop', join(folder, 'image'), at]);
  });
  afterAll(() => {
    execFileSync('umount', [at]);
    rmSync(folder, { recursive: true });
  });

  /** Makes a file; resolves when that is possible. */
  const writer = (name: string) => once(spawn('touch', [join(at, name)]), 'exit');

  test('writers wait until the task has ended, and what was written before is on the device', async () => {
    writeFileSync(join(at, 'before'), 'not synced');
    let copy = '';
    const waiting: Promise<unknown>[] = [];
    const { value, outcome } = await whileFrozen(
      at,
      async () => {
        waiting.push(writer('during'));
        await sleep(100);
        expect(existsSync(join(at, 'during'))).toBe(false);
        copy = join(folder, 'copy');
        execFileSync('cp', [join(folder, 'image'), copy]);
        return 7;
      },
      limits,
    );
    expect([value, outcome]).toEqual([7, { frozen: true }]);
    await Promise.all(waiting);
    // Clean, without any replay: the journal is empty.
    execFileSync('e2fsck', ['-fn', copy], { stdio: 'pipe' });
    expect(execFileSync('dumpe2fs', ['-h', copy], { encoding: 'utf8', stdio: 'pipe' })).not.toContain('needs_recovery');
    expect(execFileSync('debugfs', ['-R', 'cat before', copy], { encoding: 'utf8', stdio: 'pipe' })).toBe('not synced');
  });

  test('a task that fails leaves nothing frozen', async () => {
    const failing = whileFrozen(at, () => Promise.reject(new Error('no')), limits);
    await expect(failing).rejects.toThrow('no');
    await writer('after-failure');
  });

  test('time that is up is told', async () => {
    const { outcome } = await whileFrozen(at, () => writer('late'), { ...limits, holdSeconds: 1 });
    expect(outcome).toMatchObject({ frozen: false, note: expect.stringContaining('longer than 1 s') as string });
  });

  test('what cannot be frozen is done without', async () => {
    const { value, outcome } = await whileFrozen('/proc', () => Promise.resolve(3), limits);
    expect(value).toBe(3);
    expect(outcome).toMatchObject({ frozen: false, note: expect.stringContaining('was not frozen') as string });
  });

  test('the end of whoever froze it thaws it, and no signal does', async () => {
    const child = spawn('sh', ['-c', freezerScript, 'freezer', at, '60'], { stdio: ['pipe', 'pipe', 'inherit'] });
    const exited = once(child, 'exit');
    await once(child.stdout, 'data');
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) child.kill(signal);
    const written = writer('after-death');
    await sleep(100);
    expect(existsSync(join(at, 'after-death'))).toBe(false);
    // As the system does with the pipes of a process that died.
    child.stdin.destroy();
    child.stdout.destroy();
    expect(await exited).toEqual([0, null]);
    await written;
  });

  test('the death of what thaws it does not leave it frozen', async () => {
    const { outcome } = await whileFrozen(
      at,
      () => {
        process.kill(freezerOf(at), 'SIGKILL');
        return Promise.resolve();
      },
      limits,
    );
    expect(outcome.frozen).toBe(false);
    await writer('after-kill');
  });
});

function freezerOf(directory: string): number {
  const found = readdirSync('/proc').find((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`holdfast-freezer\0${directory}\0`);
    } catch {
      return false;
    }
  });
  if (found === undefined) throw new Error('nothing has it frozen');
  return Number(found);
}
