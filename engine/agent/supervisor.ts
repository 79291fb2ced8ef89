// Keeps one data-plane process running: adopts the one that runs already, else starts it; starts it again when it ends, at
// once the first time. Leaves it running when the agent goes.
import { backoffMs, sleep } from '../async/wait.js';
import { toHoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import type { HostedProcess, ProcessHost, StartFailure } from './process-host.js';

export type SupervisedState =
  | { readonly kind: 'starting'; readonly pid: number | null; readonly failure: StartFailure | null }
  | { readonly kind: 'running'; readonly pid: number; readonly state: Readonly<Record<string, unknown>> }
  | { readonly kind: 'failed'; readonly failure: StartFailure };

export type Supervision = {
  readonly name: string;
  readonly runDir: string;
  readonly command: readonly string[];
  /** What the process should be told now. */
  readonly config: () => Promise<Readonly<Record<string, unknown>>>;
  /** Whether a running process that was told this can stay. */
  readonly stillRight: (present: unknown, wanted: Readonly<Record<string, unknown>>) => boolean;
  readonly onState: (state: SupervisedState) => void;
  /** Called before the next start. */
  readonly onStartFailure: (failure: StartFailure) => Promise<void>;
};

/** How one life of the process went. */
export type Life = { readonly kind: 'served'; readonly ms: number } | { readonly kind: 'never-served' };

const servedWellMs = 1_000;
const crashLoopDelayMs = 500;
const startRetryFirstMs = 200;
const startRetryMaxMs = 5_000;

/** How long to wait before the next start. `failuresInRow`: lives in a row, this one included, that never served. */
export function restartDelayMs(life: Life, failuresInRow: number): number {
  if (life.kind === 'served') return life.ms >= servedWellMs ? 0 : crashLoopDelayMs;
  return backoffMs(failuresInRow, startRetryFirstMs, startRetryMaxMs);
}

/** Runs until the signal aborts. */
export async function supervise(
  host: ProcessHost,
  supervision: Supervision,
  logger: Logger,
  signal: AbortSignal,
): Promise<void> {
  let failuresInRow = 0;
  let failure: StartFailure | null = null;
  while (!signal.aborted) {
    const life = await liveOnce(host, supervision, failure, logger, signal);
    if (life === null) return;
    failuresInRow = life.kind === 'served' ? 0 : failuresInRow + 1;
    failure = life.kind === 'served' ? null : life.failure;
    const delay = restartDelayMs(life, failuresInRow);
    if (failure !== null) supervision.onState({ kind: 'failed', failure });
    await sleep(delay, signal);
  }
}

type Outcome =
  { readonly kind: 'served'; readonly ms: number } | { readonly kind: 'never-served'; readonly failure: StartFailure };

// Null: the signal aborted, and the process lives on.
async function liveOnce(
  host: ProcessHost,
  supervision: Supervision,
  failure: StartFailure | null,
  logger: Logger,
  signal: AbortSignal,
): Promise<Outcome | null> {
  const { runDir, onState } = supervision;
  let process: HostedProcess;
  try {
    process = await findOrStart(host, supervision, logger);
  } catch (error) {
    const { code, message } = toHoldfastError(error);
    logger.error('cannot start', errorFields(error));
    return { kind: 'never-served', failure: { code, message } };
  }
  const { pid } = process.identity;
  onState({ kind: 'starting', pid, failure });
  const state = await unlessAborted(host.ready(runDir, process), signal);
  if (state === aborted) return null;
  if (state === null) {
    const words = host.lastWords(runDir, await process.exited);
    logger.warn('ended before it served', { pid, ...words });
    await supervision.onStartFailure(words);
    return { kind: 'never-served', failure: words };
  }
  const since = performance.now();
  onState({ kind: 'running', pid, state });
  const exit = await unlessAborted(process.exited, signal);
  if (exit === aborted) return null;
  logger.warn('ended', { pid, how: exit });
  onState({ kind: 'starting', pid: null, failure: null });
  return { kind: 'served', ms: performance.now() - since };
}

async function findOrStart(host: ProcessHost, supervision: Supervision, logger: Logger): Promise<HostedProcess> {
  const { runDir, command, stillRight } = supervision;
  const config = await supervision.config();
  const present = host.find(runDir);
  if (present !== null) {
    if (stillRight(host.configOf(runDir), config)) {
      logger.info('adopted', { pid: present.identity.pid });
      return present;
    }
    logger.info('stopping: its configuration has changed', { pid: present.identity.pid });
    await host.stop(present);
  }
  const started = host.start(runDir, command, config);
  logger.info('started', { pid: started.identity.pid });
  return started;
}

const aborted = Symbol('aborted');

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T | typeof aborted> {
  if (signal.aborted) return aborted;
  let onAbort: (() => void) | undefined;
  const abort = new Promise<typeof aborted>((resolve) => {
    onAbort = () => {
      resolve(aborted);
    };
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, abort]);
  } finally {
    if (onAbort !== undefined) signal.removeEventListener('abort', onAbort);
  }
}
