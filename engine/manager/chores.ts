// What only time brings up: something that was away has been away for too long, the trash is due, disks have become uneven, an engine
// is not what it was without a word. Looks into memory, and at the store only when there is a reason.
import { errorFields } from '../log/logger.js';
import { auditTargets } from './audit.js';
import { balanceOnce } from './balancer.js';
import type { ManagerContext } from './context.js';
import { purgeExpired } from './trash-operations.js';

export type ChoreTimes = {
  readonly everyMs: number;
  readonly balanceEveryMs: number;
  readonly auditEveryMs: number;
};

/** Returns what stops it, after the chore that is under way. */
export function startChores(
  context: ManagerContext,
  kick: () => void,
  scrubber: { readonly startDue: () => Promise<'waits' | 'done'> },
  files: { readonly endStale: () => Promise<void> },
  snapshots: { readonly settle: (context: ManagerContext) => void },
  times: ChoreTimes,
): () => Promise<void> {
  const { observed, logger, repository } = context;
  let balanceAt = performance.now() + times.balanceEveryMs;
  let auditAt = performance.now() + times.auditEveryMs;
  let trashLookAt = 0;
  let scrubLookAt = 0;
  let running: Promise<void> | null = null;

  const someoneIsAway = async () => {
    for (const node of observed.nodes.values()) {
      if (node.agentAwaySince !== null || node.disksAwaySince.size > 0) return true;
    }
    // A node that has not reported at all since the start.
    return (await repository.listNodes()).some(({ name }) => observed.node(name) === undefined);
  };
  const look = async () => {
    if (await someoneIsAway()) kick();
    snapshots.settle(context);
    const now = performance.now();
    if (now >= auditAt) {
      auditAt = now + times.auditEveryMs;
      await auditTargets(context);
    }
    if (now >= trashLookAt) {
      const dueAt = await purgeExpired(context);
      // What is put there in the meantime stays for longer than that.
      trashLookAt = now + Math.min(5_000, Math.max(times.everyMs, (dueAt ?? Infinity) - Date.now()));
    }
    if (now >= scrubLookAt) {
      scrubLookAt = now + ((await scrubber.startDue()) === 'waits' ? times.everyMs : times.balanceEveryMs);
      await files.endStale();
    }
    if (now >= balanceAt) {
      balanceAt = now + times.balanceEveryMs;
      await balanceOnce(context);
    }
  };
  const timer = setInterval(() => {
    running ??= look()
      .catch((error: unknown) => {
        logger.warn('a chore has failed, and will be tried again', errorFields(error));
      })
      .finally(() => {
        running = null;
      });
  }, times.everyMs);
  return async () => {
    clearInterval(timer);
    await running;
  };
}
