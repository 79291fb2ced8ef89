// Whose the name of a node is. It belongs to one agent, which the record of the node names by the folder that it runs on; a copy of that
// folder is another one. Whoever else asks for the name is refused while that agent is connected, and for a moment after it went: after a
// change of managers, or of its own connection, it finds its name again. An agent that is started again on its folder gets it at once.
import { HoldfastError } from '../errors/holdfast-error.js';
import type { AgentPlace } from './observed.js';
import type { NodeRecord } from './records.js';

/** For how long an agent has to be away before another one may have its name. */
export const nameFreeAfterMs = 10_000;

export type NameHolder = NonNullable<NodeRecord['agent']>;

/** What the record is to say from now on; IN_USE when the name is another agent's. `awayMs`: of the agent that has it; 0: it is here. */
export function claimName(
  node: string,
  holder: NameHolder | undefined,
  place: AgentPlace,
  { awayMs, now }: { readonly awayMs: number; readonly now: Date },
): NameHolder {
  if (holder?.folderId === place.folderId) return { ...holder, ...place };
  if (holder !== undefined && awayMs < nameFreeAfterMs) throw nameTaken(node, holder, place);
  return { ...place, since: now.toISOString() };
}

/** `other`: who wants it, where that is known. */
export function nameTaken(node: string, holder: NameHolder | undefined, other: AgentPlace | null): HoldfastError {
  const has = holder === undefined ? '' : ` (its agent: ${describe(holder)}, since ${holder.since})`;
  const wants =
    other === null ? '' : ` The agent on ${describe(other)} gets it once the other has ended for ten seconds.`;
  return new HoldfastError(
    'IN_USE',
    `node "${node}" is online${has}: a host of its own needs a name and a folder of its own (--node NAME --data DIR).${wants}`,
  );
}

const describe = ({ host, folder }: AgentPlace) => `${host}, folder ${folder}`;
