// Watches the nodes of shares: one that is gone (node-loss.ts) loses its shares to others, sooner than volumes of other kinds, because
// their clients wait for it and need do nothing to go on elsewhere.
import { errorFields } from '../log/logger.js';
import type { ManagerContext } from './context.js';
import { isLost } from './node-loss.js';
import { failOver } from './share-operations.js';

const goneAfterMs = 5_000;
const lookEveryMs = 1_000;

export type ShareGuard = { readonly stop: () => Promise<void> };

export function startShareGuard(context: ManagerContext, kick: () => void): ShareGuard {
  const underWay = new Map<string, Promise<void>>();
  let stopped = false;

  async function look(): Promise<void> {
    for (const { id, name, attachment, share } of await context.repository.listVolumes()) {
      if (share?.wanted !== true || attachment === null || underWay.has(id)) continue;
      if (!(await isLost(context, attachment.node, goneAfterMs))) continue;
      const work = failOver(context, id, attachment.node, kick)
        .catch((error: unknown) => {
          context.logger.error('a share could not be taken over', { volume: name, ...errorFields(error) });
        })
        .finally(() => underWay.delete(id));
      underWay.set(id, work);
    }
  }

  let looking: Promise<void> = context.ready;
  const timer = setInterval(() => {
    looking = looking.then(async () => {
      if (stopped) return;
      await look().catch((error: unknown) => {
        context.logger.error('cannot look after shares', errorFields(error));
      });
    });
  }, lookEveryMs);
  return {
    stop: async () => {
      stopped = true;
      clearInterval(timer);
      await looking;
      await Promise.all(underWay.values());
    },
  };
}
