// Watches the nodes of shares: one that is gone loses its shares to others. Gone is a node whose agent has not been connected for a
// while, and whose target process does not answer either: the death of an agent alone moves nothing.
import { errorFields } from '../log/logger.js';
import type { ManagerContext } from './context.js';
import { runningTarget } from './observed.js';
import { failOver } from './share-operations.js';

const goneAfterMs = 5_000;
const lookEveryMs = 1_000;
// One that comes and goes is not back yet.
const looksToBeBack = 3;

export type ShareGuard = { readonly stop: () => Promise<void> };

export function startShareGuard(context: ManagerContext, kick: () => void): ShareGuard {
  const silentSince = new Map<string, number>();
  const seenInARow = new Map<string, number>();
  const underWay = new Map<string, Promise<void>>();
  let stopped = false;

  async function look(): Promise<void> {
    const { repository, observed } = context;
    const shared = (await repository.listVolumes()).filter(
      ({ share, attachment }) => share?.wanted === true && attachment !== null,
    );
    const nodes = new Set(shared.flatMap(({ attachment }) => (attachment === null ? [] : [attachment.node])));
    for (const node of nodes) {
      const present = (observed.node(node)?.agentPid ?? null) !== null;
      const inARow = present ? (seenInARow.get(node) ?? 0) + 1 : 0;
      seenInARow.set(node, inARow);
      if (inARow >= looksToBeBack) silentSince.delete(node);
      else if (!present && !silentSince.has(node)) silentSince.set(node, performance.now());
    }
    for (const { id, name, attachment } of shared) {
      const since = attachment === null ? undefined : silentSince.get(attachment.node);
      if (attachment === null || since === undefined || performance.now() - since < goneAfterMs) continue;
      if (underWay.has(id) || (await answers(context, attachment.node))) continue;
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

async function answers({ observed, dataPlane }: ManagerContext, node: string): Promise<boolean> {
  const target = runningTarget(observed.node(node));
  if (target === null) return false;
  return await dataPlane.targetStatus(target.control).then(
    () => true,
    () => false,
  );
}
