// Keeps the newest events in the metadata store, so that they outlive the manager that saw them. Written a moment after something
// happened, many at a time: a manager that is killed takes its last moment's events with it.
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import type { EventLog } from './events.js';
import type { Repository } from './repository.js';

const keptMax = 200;

export type EventKeeper = { readonly stop: () => Promise<void> };

/** Gives the log what former managers left, and keeps what comes. */
export async function keepEvents(
  events: EventLog,
  repository: Pick<Repository, 'events' | 'putEvents'>,
  logger: Logger,
  writeAfterMs = 1_000,
): Promise<EventKeeper> {
  // What cannot be read must not keep a manager from leading.
  const former = await repository.events().catch((error: unknown) => {
    logger.warn('former events cannot be read', errorFields(error));
    return [];
  });
  events.restore(former);
  let timer: NodeJS.Timeout | null = null;
  let writing: Promise<void> = Promise.resolve();
  const write = () => {
    timer = null;
    writing = writing
      .then(() => repository.putEvents(events.recent(keptMax)))
      .catch((error: unknown) => {
        logger.info('events could not be kept', errorFields(error));
      });
  };
  events.onEmit(() => {
    timer ??= setTimeout(write, writeAfterMs);
  });
  return {
    stop: async () => {
      if (timer !== null) {
        clearTimeout(timer);
        write();
      }
      await writing;
    },
  };
}
