// What people ask for about replicas: one more, one less, another place. The plan (replica-plan.ts) does the rest, step by step.
import { sleep } from '../async/wait.js';
import { validateReplicaCount } from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import type { ManagerContext } from './context.js';
import { activeReplicas, goodCopies, isUp } from './maintenance.js';
import type { VolumeRecord } from './records.js';
import { addReplica } from './replica-operations.js';
import { doom, putRecord } from './repository.js';
import { keys } from './records.js';
import { requireNode, withVolume } from './volume-operations.js';

const leavePatienceMs = 10_000;

/** One more replica, on a disk of `node` or where placement chooses; it is rebuilt while I/O goes on. */
export async function requestReplica(
  context: ManagerContext,
  name: string,
  node: string | null,
): Promise<VolumeRecord> {
  const { repository } = context;
  if (node !== null) await requireNode(context, node);
  return await withVolume(context, name, async ({ record }) => {
    validateReplicaCount(record.copies + 1);
    const disk = node === null ? null : await diskOf(context, record, node);
    const former = record.copies;
    await repository.updateVolume(record.id, (latest) => ({ ...latest, copies: latest.copies + 1 }));
    try {
      await addReplica(context, record.id, node === null || disk === null ? null : { node, disk });
    } catch (error) {
      await repository.updateVolume(record.id, (latest) => ({ ...latest, copies: former }));
      throw error;
    }
    return (await repository.volume(name)).record;
  });
}

async function diskOf({ repository, observed }: ManagerContext, record: VolumeRecord, node: string): Promise<string> {
  if (record.replicas.some((replica) => replica.node === node)) {
    throw new HoldfastError(
      'ALREADY_EXISTS',
      `${node} holds a replica of volume "${record.name}" already: copies on one node would be lost together`,
    );
  }
  const disks = (await repository.listDisks()).filter((disk) => disk.node === node);
  const chosen = disks.find(({ name }) => isUp(observed.nodes, { node, disk: name })) ?? disks[0];
  if (chosen !== undefined) return chosen.name;
  throw new HoldfastError('NOT_ENOUGH_DISKS', `${node} has no disk: "holdfast disk ls" lists the disks`);
}

export type Removal = { readonly replicaId: string; readonly replace: boolean };

/** Lets a replica go; with `replace` only once another has taken its place. Refuses the last good copy. */
export async function requestRemoval(
  context: ManagerContext,
  name: string,
  { replicaId, replace }: Removal,
): Promise<VolumeRecord> {
  const { repository, observed } = context;
  const changed = await withVolume(context, name, async ({ record }) => {
    const replica = record.replicas.find(({ id }) => id === replicaId);
    if (replica === undefined) {
      throw new HoldfastError(
        'NOT_FOUND',
        `volume "${name}" has no replica ${replicaId}: "holdfast replica ls ${name}" lists them`,
      );
    }
    if (record.setAside.includes(replicaId)) {
      return await repository.updateVolume(
        record.id,
        (latest) => ({
          ...latest,
          replicas: latest.replicas.filter(({ id }) => id !== replicaId),
          setAside: latest.setAside.filter((id) => id !== replicaId),
        }),
        [putRecord(keys.doomedReplica(replicaId), doom(replica, name))],
      );
    }
    const others = goodCopies(record).filter(({ id }) => id !== replicaId);
    if (!others.some((other) => isUp(observed.nodes, other))) {
      throw new HoldfastError(
        'LAST_GOOD_COPY',
        record.inSync.includes(replicaId)
          ? `replica ${replicaId} is the last good copy of volume "${name}" that can be reached: bring another one ` +
              `in-sync first ("holdfast replica add ${name}"), or delete the volume`
          : `no good copy of volume "${name}" can be reached: none of its replicas is let go before that has changed`,
      );
    }
    return await repository.updateVolume(record.id, (latest) => ({
      ...latest,
      copies: replace ? latest.copies : Math.max(1, Math.min(latest.copies, activeReplicas(latest).length - 1)),
      retiring: [...new Set([...latest.retiring, replicaId])],
    }));
  });
  context.kick();
  if (replace) return changed;
  // The reconciler does it; usually at once.
  const deadline = performance.now() + leavePatienceMs;
  for (;;) {
    const { record } = await repository.volume(name);
    if (!record.replicas.some(({ id }) => id === replicaId) || performance.now() > deadline) return record;
    await sleep(50);
  }
}
