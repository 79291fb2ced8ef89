// What the mains of manager and agent have in common: configuration and state in the run directory as for data-plane
// processes, but another end. They go when their supervisor goes (the IPC channel closes), so that no second manager or
// agent is left behind; what an agent supervises lives on.
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { errorFields, stderrLogger } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import { readJson, removeFile, writeJsonAtomic } from '../os/atomic-file.js';
import { selfIdentity } from '../os/proc.js';

export type SupervisedRole<Config> = {
  readonly role: 'manager' | 'agent';
  readonly configSchema: z.ZodType<Config>;
  /** What goes into state.json beside the identity, and how to end. */
  readonly start: (
    config: Config,
    logger: Logger,
    runDir: string,
  ) => Promise<{ readonly state: Readonly<Record<string, unknown>>; readonly stop: () => Promise<void> }>;
};

export async function runSupervised<Config>({ role, configSchema, start }: SupervisedRole<Config>): Promise<void> {
  const logger = stderrLogger({ role });
  const die = (thrown: unknown): never => {
    const error = toHoldfastError(thrown);
    logger.error(error.message, { code: error.code, stack: error.code === 'INTERNAL' ? error.stack : undefined });
    process.exit(1);
  };
  process.on('uncaughtException', die);
  process.on('SIGHUP', () => undefined);
  // What libraries print must not end a process either when the disk of its log is full.
  process.stderr.on('error', () => undefined);
  try {
    const runDir = runDirectory();
    const stopAsked = new Promise<string>((resolve) => {
      for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, resolve);
      process.on('disconnect', () => {
        resolve('supervisor gone');
      });
    });
    const { state, stop } = await start(readConfig(join(runDir, 'config.json'), configSchema), logger, runDir);
    writeJsonAtomic(join(runDir, 'state.json'), { ...selfIdentity(), ...state });
    logger.info(`${role} runs`, state);
    logger.info(`${role} stops`, { why: await stopAsked });
    setTimeout(() => die(new HoldfastError('TIMED_OUT', `${role} did not stop in time`)), 10_000).unref();
    await stop();
    removeFile(join(runDir, 'state.json'));
    process.exit(0);
  } catch (error) {
    logger.debug('start failed', errorFields(error));
    die(error);
  }
}

function runDirectory(): string {
  const { values } = parseArgs({ options: { 'run-dir': { type: 'string' } } });
  const runDir = values['run-dir'];
  if (runDir === undefined || runDir === '')
    throw new HoldfastError('INVALID_ARGUMENT', 'give the run directory: --run-dir DIR');
  return runDir;
}

function readConfig<Config>(path: string, schema: z.ZodType<Config>): Config {
  const parsed = schema.safeParse(readJson(path));
  if (parsed.success) return parsed.data;
  throw new HoldfastError('INVALID_ARGUMENT', `${path}: ${z.prettifyError(parsed.error)}`);
}
