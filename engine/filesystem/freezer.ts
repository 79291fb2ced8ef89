// Freezes a mounted file system for an instant: everything written so far is on its device, and no write is under way.
//
// A small process of its own freezes and thaws (fsfreeze(8)), so that no death leaves a file system frozen: it thaws when it is told to,
// when whoever started it is gone (its standard input ends), and at the latest when its time is up. It is never killed: a freeze
// that is under way cannot be stopped, and would last. Should it die nevertheless, the file system is thawed from here.
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { runCommand, systemEnvironment } from '../os/command.js';

export type FreezeLimits = {
  /** For writing back what is dirty beforehand, while writers go on. */
  readonly syncMs: number;
  /** Until it is frozen; writers wait from then on. */
  readonly freezeMs: number;
  /** How long it stays frozen at most. */
  readonly holdSeconds: number;
};

export const freezeLimits: FreezeLimits = { syncMs: 15_000, freezeMs: 8_000, holdSeconds: 10 };

/** `note` says why not. */
export type Frozen = { readonly frozen: true } | { readonly frozen: false; readonly note: string };

/** Arguments: the folder, and for how many seconds at most. Says "frozen", and "released" when it was held until the end of its input. */
export const freezerScript = `
trap '' TERM INT HUP PIPE
fsfreeze --freeze "$1" || exit 1
echo frozen
timeout "$2" cat >/dev/null
held=$?
fsfreeze --unfreeze "$1" || exit 2
[ $held = 0 ] && echo released
exit 0
`;

/**
 * Runs the task while the file system is frozen. Where that cannot be done, the task runs all the same. The task's error is
 * thrown; frozen is what stayed so until the task had ended.
 */
export async function whileFrozen<T>(
  directory: string,
  task: () => Promise<T>,
  limits: FreezeLimits = freezeLimits,
): Promise<{ readonly value: T; readonly outcome: Frozen }> {
  let freezer: Freezer;
  try {
    await writeBack(directory, limits.syncMs);
    freezer = await freeze(directory, limits);
  } catch (error) {
    const note = `${directory} was not frozen: ${toHoldfastError(error).message}`;
    return { value: await task(), outcome: { frozen: false, note } };
  }
  let value: T;
  try {
    value = await task();
  } catch (error) {
    await freezer.thaw();
    throw error;
  }
  if (await freezer.thaw()) return { value, outcome: { frozen: true } };
  const note = `${directory} was thawed before the snapshot was taken, which took longer than ${limits.holdSeconds} s`;
  return { value, outcome: { frozen: false, note } };
}

// What is dirty takes as long as it takes; the freeze itself then has little left to write while writers wait.
async function writeBack(directory: string, timeoutMs: number): Promise<void> {
  const { code, stderr } = await runCommand('sync', ['-f', directory], { timeoutMs });
  if (code !== 0) throw new HoldfastError('DISK_IO', stderr.trim());
}

type Freezer = {
  /** True: it was frozen until now. */
  readonly thaw: () => Promise<boolean>;
};

async function freeze(directory: string, { freezeMs, holdSeconds }: FreezeLimits): Promise<Freezer> {
  const child = spawn('sh', ['-c', freezerScript, 'holdfast-freezer', directory, String(holdSeconds)], {
    // A group of its own: signals to this process's group do not reach it.
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: systemEnvironment(),
  });
  const said = follow(child);
  child.stdin.on('error', () => undefined);
  const late = new Promise<'late'>((resolve) => {
    setTimeout(() => {
      resolve('late');
    }, freezeMs).unref();
  });
  const first = await Promise.race([said.frozen, said.ended, late]);
  if (first === 'frozen') {
    return {
      thaw: async () => {
        child.stdin.end();
        const { code, released } = await said.ended;
        if (code !== 0) await runCommand('fsfreeze', ['--unfreeze', directory]);
        return released;
      },
    };
  }
  // Frozen later, it thaws at once.
  child.stdin.end();
  child.unref();
  if (first === 'late') throw new HoldfastError('TIMED_OUT', `that took longer than ${freezeMs / 1_000} s`);
  throw new HoldfastError('FAILED_PRECONDITION', first.complaint === '' ? 'fsfreeze failed' : first.complaint);
}

type Ended = { readonly code: number | null; readonly released: boolean; readonly complaint: string };

function follow(child: ChildProcess): { readonly frozen: Promise<'frozen'>; readonly ended: Promise<Ended> } {
  let words = '';
  let complaint = '';
  child.stderr?.on('data', (part: Buffer) => {
    complaint = (complaint + part.toString()).slice(0, 1_000);
  });
  const frozen = new Promise<'frozen'>((resolve) => {
    child.stdout?.on('data', (part: Buffer) => {
      words += part.toString();
      if (words.includes('frozen')) resolve('frozen');
    });
  });
  const ended = new Promise<Ended>((resolve) => {
    child.once('error', (error) => {
      resolve({ code: null, released: false, complaint: error.message });
    });
    child.once('close', (code) => {
      resolve({ code, released: words.includes('released'), complaint: complaint.trim() });
    });
  });
  return { frozen, ended };
}
