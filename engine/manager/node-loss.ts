// When a node counts as gone: its agent has been away for longer than a restart takes, and its target process does not answer either. The
// death of an agent alone moves nothing. What a node that is gone still acknowledges is nothing: a new epoch takes its volumes away.
import type { ManagerContext } from './context.js';
import { runningTarget } from './observed.js';

const lostAfterMs = 10_000;

/** `afterMs`: how long its agent must have been away; of a node that has never reported, not less than usual. */
export async function isLost(
  { observed, dataPlane }: ManagerContext,
  name: string,
  afterMs = lostAfterMs,
): Promise<boolean> {
  const node = observed.node(name);
  const since = node === undefined ? observed.startedAt : node.agentAwaySince;
  const limit = node === undefined ? Math.max(afterMs, lostAfterMs) : afterMs;
  if (since === null || observed.now() - since < limit) return false;
  const target = runningTarget(node);
  if (target === null) return true;
  return await dataPlane.targetStatus(target.control).then(
    () => false,
    () => true,
  );
}
