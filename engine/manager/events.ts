// What happened in the cluster, for people and programs that watch: the newest events in memory, and a stream of new ones. The last of
// them are in the store too (event-keeper.ts), for the manager that takes over; the log files have everything.

export type ClusterEvent = {
  /** Rises by one with every event. */
  readonly id: number;
  readonly at: string;
  readonly severity: 'info' | 'warning' | 'error';
  /** "volume db", "node node2", … */
  readonly object: string;
  readonly message: string;
};

export type NewEvent = Omit<ClusterEvent, 'id' | 'at'>;

const keptMax = 1_000;
/** A watcher that is this far behind loses the oldest; ids show the gap. */
const queuedMax = 10_000;

export class EventLog {
  readonly #now: () => Date;
  readonly #kept: ClusterEvent[] = [];
  readonly #watchers = new Set<(event: ClusterEvent) => void>();
  #last = 0;

  constructor(now: () => Date) {
    this.#now = now;
  }

  /** What happened under former managers; before anything happens under this one. */
  restore(events: readonly ClusterEvent[]): void {
    this.#kept.push(...events);
    this.#last = Math.max(this.#last, ...events.map(({ id }) => id));
  }

  onEmit(listener: () => void): void {
    this.#watchers.add(listener);
  }

  emit(event: NewEvent): void {
    const whole = { id: ++this.#last, at: this.#now().toISOString(), ...event };
    this.#kept.push(whole);
    if (this.#kept.length > keptMax) this.#kept.shift();
    for (const watcher of this.#watchers) watcher(whole);
  }

  /** The newest ones, oldest first; those after `after`. */
  recent(limit: number, after = 0): readonly ClusterEvent[] {
    return this.#kept.filter(({ id }) => id > after).slice(-limit);
  }

  /** New events until the signal aborts. */
  async *watch(signal: AbortSignal): AsyncGenerator<ClusterEvent> {
    const queue: ClusterEvent[] = [];
    let wake: () => void = () => undefined;
    const watcher = (event: ClusterEvent) => {
      queue.push(event);
      if (queue.length > queuedMax) queue.shift();
      wake();
    };
    const stop = () => {
      wake();
    };
    this.#watchers.add(watcher);
    signal.addEventListener('abort', stop);
    try {
      while (!signal.aborted) {
        const event = queue.shift();
        if (event !== undefined) yield event;
        else
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
      }
    } finally {
      this.#watchers.delete(watcher);
      signal.removeEventListener('abort', stop);
    }
  }
}
