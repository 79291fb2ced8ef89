// Hands published changes to any number of watches, each with its own prefix and its own queue.
import type { WatchEvent } from './metastore.js';

type Watch = {
  readonly prefix: string;
  readonly queue: (readonly WatchEvent[])[];
  wake: () => void;
  ended: boolean;
};

export class WatchHub {
  readonly #watches = new Set<Watch>();

  publish(events: readonly WatchEvent[]): void {
    for (const watch of this.#watches) {
      const matching = events.filter((event) => keyOf(event).startsWith(watch.prefix));
      if (matching.length === 0) continue;
      watch.queue.push(matching);
      watch.wake();
    }
  }

  // Registered before the first `next`, so that no change between the call and the loop is missed.
  watch(prefix: string, signal: AbortSignal): AsyncIterable<readonly WatchEvent[]> {
    const watch: Watch = { prefix, queue: [], wake: () => undefined, ended: signal.aborted };
    this.#watches.add(watch);
    const end = () => {
      watch.ended = true;
      this.#watches.delete(watch);
      watch.wake();
    };
    signal.addEventListener('abort', end, { once: true });
    return drain(watch, end);
  }

  close(): void {
    for (const watch of this.#watches) {
      watch.ended = true;
      watch.wake();
    }
    this.#watches.clear();
  }
}

async function* drain(watch: Watch, end: () => void): AsyncGenerator<readonly WatchEvent[]> {
  try {
    for (;;) {
      const events = watch.queue.shift();
      if (events !== undefined) {
        yield events;
        continue;
      }
      if (watch.ended) return;
      await new Promise<void>((resolve) => {
        watch.wake = resolve;
      });
    }
  } finally {
    end();
  }
}

function keyOf(event: WatchEvent): string {
  return event.kind === 'put' ? event.entry.key : event.key;
}
