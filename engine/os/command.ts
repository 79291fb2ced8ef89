// Programs of the system (mount, mkfs, blkid …), run to their end. Never through a shell.
import { spawn } from 'node:child_process';
import { HoldfastError, systemErrorCode } from '../errors/holdfast-error.js';

export type CommandResult = { readonly code: number; readonly stdout: string; readonly stderr: string };

// Where administrators' programs are, whatever the caller's PATH says.
const systemPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const outputBytesMax = 1 << 20;

/** For programs of the system: found wherever they are, and speaking English. */
export function systemEnvironment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: systemPath, LC_ALL: 'C' };
}

/** Runs it whatever its exit code. UNSUPPORTED_SYSTEM when the program is missing, TIMED_OUT (and killed) after `timeoutMs`. */
export async function runCommand(
  program: string,
  args: readonly string[],
  options: { readonly timeoutMs?: number } = {},
): Promise<CommandResult> {
  const { timeoutMs = 120_000 } = options;
  return await new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: systemEnvironment(),
    });
    const stdout = collect(child.stdout);
    const stderr = collect(child.stderr);
    // The promise settles even when the program hangs in the kernel and cannot be killed.
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      child.unref();
      reject(new HoldfastError('TIMED_OUT', `${program} ${args.join(' ')} took longer than ${timeoutMs / 1000} s`));
    }, timeoutMs);
    child.once('error', (error) => {
      clearTimeout(timer);
      const missing = systemErrorCode(error) === 'ENOENT';
      reject(
        missing
          ? new HoldfastError('UNSUPPORTED_SYSTEM', `the program ${program} is not installed`)
          : new HoldfastError('INTERNAL', `${program} could not be run: ${error.message}`),
      );
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      if (code !== null) resolve({ code, stdout: stdout(), stderr: stderr() });
      else reject(new HoldfastError('INTERNAL', `${program} was ended by ${signal ?? 'a signal'}`));
    });
  });
}

/** Its standard output. INTERNAL with what it said when it fails. */
export async function runChecked(
  program: string,
  args: readonly string[],
  options: { readonly timeoutMs?: number } = {},
): Promise<string> {
  const { code, stdout, stderr } = await runCommand(program, args, options);
  if (code === 0) return stdout;
  const said = (stderr.trim() === '' ? stdout : stderr).trim().split('\n').slice(-3).join(' ');
  throw new HoldfastError('INTERNAL', `${program} ${args.join(' ')} failed (exit code ${code}): ${said}`);
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= outputBytesMax) chunks.push(chunk);
  });
  return () => Buffer.concat(chunks).toString('utf8');
}
