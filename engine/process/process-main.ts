// What the replica process and the target process have in common: configuration from the run directory, readiness and
// identity in state.json, logs, signals, an end that is bounded.
//
// Contract with the agent: `node dist/ROLE/main.js --run-dir DIR`. DIR/config.json is read once. DIR/state.json appears,
// whole, when the process serves, and goes away with a clean stop; a process that was killed leaves it behind, so
// `pid` and `startTime` say whether it is still true. SIGTERM and SIGINT stop the process; SIGHUP does not: the data
// plane outlives terminals, agents and managers. A start that fails ends with exit code 1, and the last log line has
// `code` and `message`.
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { z } from 'zod';
import { withTimeout } from '../async/wait.js';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { stderrLogger } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import { readJson, removeFile, writeJsonAtomic } from '../os/atomic-file.js';
import { selfIdentity } from '../os/proc.js';

/** A process that serves: what others need to reach it, and how it ends. */
export type Running = {
  readonly state: Readonly<Record<string, unknown>>;
  readonly stop: () => Promise<void>;
};

export type ProcessRole<Config> = {
  readonly role: 'replica' | 'target';
  readonly configSchema: z.ZodType<Config>;
  /** Fields that every log line carries. */
  readonly logFields: (config: Config) => Readonly<Record<string, unknown>>;
  readonly start: (config: Config, log: Logger, runDir: string) => Promise<Running>;
};

const stopTimeoutMs = 10_000;

/** Runs the process until a signal ends it. Never returns. */
export async function runProcess<Config>(role: ProcessRole<Config>): Promise<never> {
  let log = stderrLogger({ role: role.role });
  process.on('uncaughtException', (error) => {
    endWith(log, `the ${role.role} process met an error that nobody handled`, error);
  });
  process.on('SIGHUP', () => undefined);
  // What libraries print must not end a process either when the disk of its log is full.
  process.stderr.on('error', () => undefined);
  const stopAsked = new Promise<NodeJS.Signals>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, resolve);
  });
  try {
    const runDir = runDirFromArguments();
    const config = readConfig(join(runDir, 'config.json'), role.configSchema);
    log = log.child(role.logFields(config));
    const running = await role.start(config, log, runDir);
    const stateFile = join(runDir, 'state.json');
    writeJsonAtomic(stateFile, { ...selfIdentity(), ...running.state });
    log.info(`the ${role.role} process serves`, running.state);

    const signal = await stopAsked;
    log.info(`${signal}: stopping`);
    await withTimeout(
      running.stop(),
      stopTimeoutMs,
      `the ${role.role} process did not stop within ${stopTimeoutMs} ms`,
    );
    removeOwnState(stateFile);
    log.info(`the ${role.role} process has stopped`);
    process.exit(0);
  } catch (error) {
    endWith(log, `the ${role.role} process ends`, error);
  }
}

function endWith(log: Logger, what: string, thrown: unknown): never {
  const error = toHoldfastError(thrown);
  const stack = error.code === 'INTERNAL' ? { stack: (error.cause instanceof Error ? error.cause : error).stack } : {};
  log.error(error.message, { what, code: error.code, ...stack });
  process.exit(1);
}

function runDirFromArguments(): string {
  try {
    const { values } = parseArgs({ options: { 'run-dir': { type: 'string' } } });
    if (values['run-dir'] !== undefined && values['run-dir'] !== '') return values['run-dir'];
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', toHoldfastError(error).message);
  }
  throw new HoldfastError('INVALID_ARGUMENT', 'give the run directory: --run-dir DIR');
}

function readConfig<Config>(path: string, schema: z.ZodType<Config>): Config {
  let text: unknown;
  try {
    text = readJson(path);
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', `${path} cannot be read: ${toHoldfastError(error).message}`);
  }
  if (text === undefined) throw new HoldfastError('NOT_FOUND', `${path} does not exist`);
  const parsed = schema.safeParse(text);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new HoldfastError('INVALID_ARGUMENT', `${path}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`);
}

// A successor may have written the file already.
function removeOwnState(path: string): void {
  const self = selfIdentity();
  const present = readJson(path) as { pid?: unknown; startTime?: unknown } | undefined;
  if (present?.pid === self.pid && present.startTime === self.startTime) removeFile(path);
}
