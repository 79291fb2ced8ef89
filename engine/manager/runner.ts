// Runs the reconciler when something changed, and performs what it asks for: side by side, one of a key at a time, with back-off
// after a failure. Idle when nothing changes: it has no timer of its own.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { backoffMs } from '../async/wait.js';
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import { actionKey } from './reconcile.js';
import type { Action } from './reconcile.js';

export type RunnerOptions = {
  readonly plan: () => Promise<readonly Action[]>;
  readonly perform: (action: Action) => Promise<void>;
  readonly logger: Logger;
  /** After every pass, and after every action. */
  readonly onPass?: (seconds: number) => void;
  readonly onOutcome?: (action: Action, error: unknown) => void;
  readonly retryFirstMs?: number;
  readonly retryMaxMs?: number;
};

type Failed = {
  readonly action: Action;
  readonly error: unknown;
  readonly attempts: number;
  readonly notBefore: number;
};

export class Runner {
  readonly #options: RunnerOptions;
  readonly #inFlight = new Map<string, Promise<void>>();
  readonly #failed = new Map<string, Failed>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #scheduled = false;
  #running: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(options: RunnerOptions) {
    this.#options = options;
  }

  /** Something changed: look at the world again soon. Cheap; many calls become one run. */
  kick(): void {
    if (this.#scheduled || this.#stopped) return;
    this.#scheduled = true;
    this.#running = this.#running.then(async () => {
      // Answers that are ready go first: a pass over everything takes its time.
      await nextTurn();
      // What changes from here on needs another run.
      this.#scheduled = false;
      await this.#runOnce();
    });
  }

  /** What has failed and is to be tried again, with how often it was tried. */
  get failing(): readonly { readonly action: Action; readonly error: unknown; readonly attempts: number }[] {
    return [...this.#failed.values()];
  }

  /** Starts nothing more and waits for what is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const timer of this.#timers) clearTimeout(timer);
    await this.#running;
    await Promise.allSettled(this.#inFlight.values());
  }

  /** For tests: until nothing is left to do, apart from what waits for its back-off. */
  async settle(): Promise<void> {
    for (;;) {
      await this.#running;
      if (this.#inFlight.size === 0 && !this.#scheduled) return;
      await Promise.allSettled(this.#inFlight.values());
    }
  }

  async #runOnce(): Promise<void> {
    let actions: readonly Action[];
    const began = performance.now();
    try {
      actions = await this.#options.plan();
    } catch (error) {
      this.#options.logger.error('cannot plan', errorFields(error));
      this.#kickLater(1_000);
      return;
    }
    this.#options.onPass?.((performance.now() - began) / 1_000);
    const planned = new Set(actions.map(actionKey));
    for (const key of this.#failed.keys()) {
      if (!planned.has(key)) this.#failed.delete(key);
    }
    for (const action of actions) this.#start(action);
  }

  #start(action: Action): void {
    const key = actionKey(action);
    const failed = this.#failed.get(key);
    if (this.#stopped || this.#inFlight.has(key)) return;
    if (failed !== undefined && performance.now() < failed.notBefore) return;
    const work = this.#perform(action, key, failed?.attempts ?? 0).finally(() => {
      this.#inFlight.delete(key);
      this.kick();
    });
    this.#inFlight.set(key, work);
  }

  async #perform(action: Action, key: string, attemptsBefore: number): Promise<void> {
    const { logger, perform, retryFirstMs = 100, retryMaxMs = 5_000 } = this.#options;
    try {
      await perform(action);
      this.#failed.delete(key);
      this.#options.onOutcome?.(action, null);
      logger.info('done', { action: key });
    } catch (error) {
      const attempts = attemptsBefore + 1;
      const delay = backoffMs(attempts, retryFirstMs, retryMaxMs);
      this.#options.onOutcome?.(action, error);
      this.#failed.set(key, { action, error, attempts, notBefore: performance.now() + delay });
      logger.warn('failed, will try again', { action: key, attempts, retryInMs: delay, ...errorFields(error) });
      this.#kickLater(delay + 1);
    }
  }

  #kickLater(ms: number): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      this.kick();
    }, ms);
    this.#timers.add(timer);
  }
}
