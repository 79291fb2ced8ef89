// A store for the manager that leads: every transaction also compares the key of its leadership, so that one that has lost it, and does
// not know yet, changes nothing.
import { HoldfastError } from '../errors/holdfast-error.js';
import type { Compare, Metastore } from './metastore.js';

/** `onLost` is called when a transaction shows that `fence` does not hold any more. */
export function fenceMetastore(store: Metastore, fence: Compare, onLost: () => void): Metastore {
  return {
    ...store,
    transact: async (compares, changes) => {
      const outcome = await store.transact([fence, ...compares], changes);
      if (outcome.succeeded) return outcome;
      const held = (await store.get(fence.key))?.modRevision ?? 0;
      if (held === fence.modRevision) return outcome;
      onLost();
      throw new HoldfastError('STORE_UNAVAILABLE', 'this manager does not lead any more: ask again');
    },
  };
}
