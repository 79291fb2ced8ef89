// Changing which replicas a volume has, and where it is served. The caller holds the volume's lock; each looks at the record again,
// because what was planned may have been overtaken.
import { HoldfastError, isHoldfastError } from '../errors/holdfast-error.js';
import { objection, placeOne } from '../placement/place-replicas.js';
import type { Place } from '../placement/place-replicas.js';
import { ensureAttached, stopEngine } from './attachment.js';
import { diskCandidates, neighboursOf, requestOf } from './candidates.js';
import type { ManagerContext } from './context.js';
import { configurationKey } from './data-plane.js';
import { randomId } from './ids.js';
import { engineNode } from './maintenance.js';
import { replicaAddress, runningTarget } from './observed.js';
import { outlooks } from './outlook.js';
import { endpointsOf, lastAddressesOf, settingsOf } from './reconcile.js';
import { keys, recordVersion } from './records.js';
import type { ReplicaRecord, VolumeRecord } from './records.js';
import { planReplicas, standingOf } from './replica-plan.js';
import { deleteKey, doom, putRecord } from './repository.js';

/**
 * Adds one replica where placement wants it, or at `to`; the engine rebuilds it. Does nothing when none is wanted any more.
 * While it is being made it is doomed, so that a crash in between leaves nothing behind.
 */
export async function addReplica(context: ManagerContext, volumeId: string, to: Place | null = null): Promise<void> {
  const { repository, observed, dataPlane, random, locks } = context;
  const found = await repository.findVolumeById(volumeId);
  if (found === null) return;
  const { record } = found;
  const outlookOf = await currentOutlook(context, record);
  if (to === null && planReplicas(record, outlookOf)?.kind !== 'add-replica') return;
  const place = await choosePlace(context, record, outlookOf, to);
  const replica: ReplicaRecord = { id: randomId(random), node: place.node, disk: place.disk };
  const address = replicaAddress(observed.node(place.node), place.disk);
  if (address === null)
    throw new HoldfastError('CONNECTION_LOST', `${place.disk} of ${place.node} is not online any more`);
  await locks.run(`replica ${replica.id}`, async () => {
    await repository.putDoomedReplica(doom(replica, record.name));
    const made = { replicaId: replica.id, volumeId, sizeBytes: record.size, complete: false };
    await dataPlane.createReplica(address, made);
    await repository.updateVolume(volumeId, (latest) => ({ ...latest, replicas: [...latest.replicas, replica] }), [
      deleteKey(keys.doomedReplica(replica.id)),
    ]);
  });
  context.logger.info('a replica was added', { volume: record.name, ...replica });
  await configureEngine(context, volumeId);
}

/** Takes a replica out of the volume, if that is still right, and tells the engine; it is deleted from its disk afterwards. */
export async function removeReplica(context: ManagerContext, volumeId: string, replicaId: string): Promise<void> {
  const { repository } = context;
  const found = await repository.findVolumeById(volumeId);
  const replica = found?.record.replicas.find(({ id }) => id === replicaId);
  if (found === null || replica === undefined) return;
  const outlookOf = await currentOutlook(context, found.record);
  const { name } = await repository.updateVolume(
    volumeId,
    (latest) => {
      const step = planReplicas(latest, outlookOf);
      if (step?.kind !== 'remove-replica' || step.replicaId !== replicaId) {
        throw new HoldfastError('CONFLICT', `replica ${replicaId} of volume "${latest.name}" is needed after all`);
      }
      return {
        ...latest,
        replicas: latest.replicas.filter(({ id }) => id !== replicaId),
        inSync: latest.inSync.filter((id) => id !== replicaId),
        retiring: latest.retiring.filter((id) => id !== replicaId),
      };
    },
    [putRecord(keys.doomedReplica(replicaId), { version: recordVersion, ...replica, volume: found.record.name })],
  );
  context.logger.info('a replica was removed', { volume: name, ...replica });
  await configureEngine(context, volumeId);
}

/** Serves the volume on another node. A node that is drained lets go first; a lost one is asked whether it is. */
export async function moveAttachment(
  context: ManagerContext,
  volumeId: string,
  from: string,
  reason: 'lost' | 'drained',
): Promise<void> {
  const { repository, observed, dataPlane } = context;
  const found = await repository.findVolumeById(volumeId);
  if (found?.record.attachment?.node !== from) return;
  const target = runningTarget(observed.node(from));
  if (target !== null) {
    const alive = await dataPlane.targetStatus(target.control).then(
      () => true,
      () => false,
    );
    // The agent is away and its target process serves: nothing is lost.
    if (alive && reason === 'lost') return;
    if (alive) await stopEngine(context, target.control, volumeId);
  }
  const to = await nodeFor(context, found.record, from);
  await repository.updateVolume(volumeId, (latest) => ({ ...latest, attachment: { node: to } }));
  if (target !== null) observed.removeServedVolume(from, volumeId);
  await ensureAttached(context, volumeId);
}

/** A node that can serve the volume: where an in-sync replica is, else any; never one that is cordoned or not connected. */
export async function nodeFor(context: ManagerContext, record: VolumeRecord, except: string | null): Promise<string> {
  const { observed, patienceMs, repository } = context;
  const closed = new Set(
    (await repository.listNodes()).filter(({ cordoned, draining }) => cordoned || draining).map(({ name }) => name),
  );
  const preferred = record.replicas.filter(({ id }) => record.inSync.includes(id)).map(({ node }) => node);
  const chosen = await observed.waitFor(() => {
    const usable = [...observed.nodes.values()]
      .filter((node) => runningTarget(node) !== null && node.name !== except && !closed.has(node.name))
      // One whose agent is away may be gone.
      .sort((a, b) => Number(a.agentPid === null) - Number(b.agentPid === null) || (a.name < b.name ? -1 : 1))
      .map(({ name }) => name);
    return preferred.find((name) => usable.includes(name)) ?? usable[0] ?? null;
  }, patienceMs);
  if (chosen !== null) return chosen;
  throw new HoldfastError('CONNECTION_LOST', `no node runs a target process that could serve volume "${record.name}"`);
}

async function choosePlace(
  context: ManagerContext,
  record: VolumeRecord,
  outlookOf: (replica: ReplicaRecord) => 'good' | 'leaving' | 'lost',
  to: Place | null,
): Promise<Place> {
  const [candidates, settings] = await Promise.all([diskCandidates(context), context.repository.settings()]);
  // Those that are to go do not stand in the way, unless it is their very disk.
  const staying = standingOf(record, outlookOf).filter(({ outlook, retiring }) => outlook === 'good' && !retiring);
  const neighbours = neighboursOf(staying, candidates);
  const taken = new Set(record.replicas.map(({ node, disk }) => `${node}/${disk}`));
  const usable = candidates.filter(({ node, disk }) => !taken.has(`${node}/${disk}`));
  const request = requestOf(record, settings);
  if (to !== null) {
    const candidate = usable.find(({ node, disk }) => node === to.node && disk === to.disk);
    const why =
      candidate === undefined ? 'it does not exist, or holds a replica' : objection(candidate, request, neighbours);
    if (why === null) return to;
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `${to.disk} of ${to.node} cannot take a replica of "${record.name}": ${why}`,
    );
  }
  const chosen = placeOne(usable, request, neighbours);
  if (chosen !== null) return { node: chosen.node, disk: chosen.disk };
  throw new HoldfastError(
    'NOT_ENOUGH_DISKS',
    `no disk can take another replica of volume "${record.name}": "holdfast volume explain ${record.name}" says why for each`,
  );
}

async function currentOutlook({ repository, observed }: ManagerContext, record: VolumeRecord) {
  const [disks, nodes, settings] = await Promise.all([
    repository.listDisks(),
    repository.listNodes(),
    repository.settings(),
  ]);
  const desired = { volumes: [record], disks, nodes, settings, doomed: [] };
  const { ofReplica } = outlooks(desired, observed.nodes, { now: observed.now(), startedAt: observed.startedAt });
  return (replica: ReplicaRecord) => ofReplica(record, replica);
}

// At once, and not only by the reconciler: what is written to a replica that is to go is wasted.
async function configureEngine(context: ManagerContext, volumeId: string): Promise<void> {
  const { repository, observed, dataPlane, logger } = context;
  const record = (await repository.findVolumeById(volumeId))?.record;
  const node = record === undefined ? null : engineNode(record);
  const target = node === null ? null : runningTarget(observed.node(node));
  if (record === undefined || node === null || target === null) return;
  const served = observed.node(node)?.served?.find((engine) => engine.volumeId === volumeId);
  if (served?.epoch !== record.epoch) return;
  const endpoints = endpointsOf(record, node, observed.nodes, lastAddressesOf(await repository.listDisks()));
  const settings = settingsOf(record, await repository.settings());
  try {
    await dataPlane.configure(target.control, served, endpoints, settings);
    const key = configurationKey(endpoints, settings);
    observed.setServedVolume(node, target.instanceId, { ...served, configurationKey: key });
  } catch (error) {
    // The reconciler sees that the engine has not been told yet.
    if (!isHoldfastError(error)) throw error;
    logger.warn('an engine could not be told of its replicas yet', { volume: record.name, code: error.code });
  }
}
