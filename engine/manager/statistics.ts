// What the manager counts about itself, for /metrics.
import type { ManagerStatistics } from './metrics.js';

export class Statistics {
  #passes = 0;
  #seconds = 0;
  readonly #done = new Map<string, number>();
  readonly #failed = new Map<string, number>();

  pass(seconds: number): void {
    this.#passes += 1;
    this.#seconds += seconds;
  }

  outcome(kind: string, ok: boolean): void {
    const counts = ok ? this.#done : this.#failed;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }

  read(): ManagerStatistics {
    const { user, system } = process.cpuUsage();
    return {
      reconcilePasses: this.#passes,
      reconcileSeconds: this.#seconds,
      actionsDone: this.#done,
      actionsFailed: this.#failed,
      cpuSeconds: (user + system) / 1e6,
      residentBytes: process.memoryUsage.rss(),
    };
  }
}
