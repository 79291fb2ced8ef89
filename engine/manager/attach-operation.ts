// Attaching a volume for hosts: where nobody serves it, by force where another node did, and, when it is asked for, with older data
// than was acknowledged.
import { HoldfastError, isHoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import { endMaintenance, ensureAttached, noteLostData, stopEngine } from './attachment.js';
import type { EngineAt } from './attachment.js';
import type { ManagerContext } from './context.js';
import type { ReplicaState } from './data-plane.js';
import { isUp } from './maintenance.js';
import { replicaAddress, runningTarget } from './observed.js';
import type { ReplicaRecord, VolumeRecord } from './records.js';
import { nodeFor } from './replica-operations.js';
import { isLost } from './node-loss.js';
import { detachVolume, requireNode, withVolume } from './volume-operations.js';

// What a node that is being taken over from has to let go by itself; then it is fenced.
const letGoMs = 3_000;

export type AttachOptions = {
  /** Null: the manager chooses. */
  readonly node: string | null;
  /** Take the volume away from the node where it is attached. */
  readonly force: boolean;
  /** Serve the newest of the older copies when no good one can be reached. */
  readonly acceptDataLoss: boolean;
  /** With acceptDataLoss: serve this copy. */
  readonly replicaId: string | null;
};

export type Takeover = {
  readonly from: string;
  /** "detached": its engine has let go; "unreachable": it did not answer and is fenced by the replicas. */
  readonly former: 'detached' | 'unreachable';
};

export type AttachOutcome = {
  readonly engine: EngineAt;
  readonly takeover: Takeover | null;
  /** The copy whose older data is served now. */
  readonly servedFrom: string | null;
};

/** Where nobody serves it; neither by force nor with older data. */
export async function attachPlainly(context: ManagerContext, name: string, node: string | null): Promise<EngineAt> {
  const options = { node, force: false, acceptDataLoss: false, replicaId: null };
  return (await attachVolume(context, name, options)).engine;
}

/** An engine on another node; initiators are sent there. Moved already: the same answer. */
export async function moveVolume(context: ManagerContext, name: string, node: string): Promise<AttachOutcome> {
  await requireNode(context, node);
  const { record } = await context.repository.volume(name);
  if (record.attachment === null) {
    throw new HoldfastError('VOLUME_DETACHED', `volume "${name}" is not attached: attach it with --node ${node}`);
  }
  if (record.attachment.node !== node) await detachVolume(context, name, false);
  return await attachVolume(context, name, { node, force: false, acceptDataLoss: false, replicaId: null });
}

export async function attachVolume(
  context: ManagerContext,
  name: string,
  options: AttachOptions,
): Promise<AttachOutcome> {
  if (options.node !== null) await requireNode(context, options.node);
  return await withVolume(context, name, async ({ record }) => {
    if (record.phase !== 'ready') throw new HoldfastError('FAILED_PRECONDITION', `volume "${name}" is being created`);
    const former = record.attachment?.node ?? null;
    const elsewhere = former !== null && options.node !== null && options.node !== former;
    const forced = options.force || (elsewhere && (await isLost(context, former)));
    if (elsewhere && !forced) {
      throw new HoldfastError(
        'VOLUME_ATTACHED',
        `volume "${name}" is attached on ${former}, not on ${options.node}: detach it first ("holdfast volume detach ` +
          `${name}"), or take it over with --force when ${former} is dead`,
      );
    }
    if (record.maintenance !== null) await endMaintenance(context, record.id);
    const servedFrom = options.acceptDataLoss ? await acceptDataLoss(context, record, options.replicaId) : null;
    if (record.lostData !== null && !options.acceptDataLoss) throw lostDataError(record, record.lostData);
    if (former !== null && !elsewhere && !forced) {
      return { engine: await ensureAttached(context, record.id), takeover: null, servedFrom };
    }
    const takeover = former === null ? null : await takeFrom(context, record, former);
    const engine = await startOn(
      context,
      record,
      options.node ?? (await nodeFor(context, record, takeover?.former === 'unreachable' ? former : null)),
    );
    if (takeover !== null) reportTakeover(context, record, takeover, engine);
    return { engine, takeover, servedFrom };
  });
}

/** An engine that stopped because writes were lost is about to go: what it knew goes into the record. */
export async function noticeLostData(context: ManagerContext, record: VolumeRecord, node: string): Promise<void> {
  const target = runningTarget(context.observed.node(node));
  if (target === null) return;
  const status = await context.dataPlane.targetStatus(target.control).catch(() => null);
  const engine = status?.volumes.find(({ volumeId }) => volumeId === record.id);
  if (engine?.lostData === true) await noteLostData(context, record, engine.failure);
}

async function startOn(context: ManagerContext, record: VolumeRecord, node: string): Promise<EngineAt> {
  const { repository, observed, logger } = context;
  const former = record.attachment;
  await repository.updateVolume(record.id, (latest) => ({ ...latest, attachment: { node } }));
  try {
    return await ensureAttached(context, record.id);
  } catch (error) {
    await repository.updateVolume(record.id, (latest) => ({ ...latest, attachment: former }));
    // Whatever was started there is unwanted now; if this does not reach it, the reconciler does.
    const target = runningTarget(observed.node(node));
    if (target !== null && former?.node !== node) {
      await stopEngine(context, target.control, record.id).catch((detachError: unknown) => {
        logger.warn('cannot undo an attach yet', { volume: record.name, ...errorFields(detachError) });
        observed.forgetServed(node);
      });
    }
    if (isHoldfastError(error, 'NO_IN_SYNC_REPLICA')) throw await withWayOut(context, record, error);
    throw error;
  }
}

async function takeFrom(context: ManagerContext, record: VolumeRecord, from: string): Promise<Takeover> {
  const { observed, logger } = context;
  const target = runningTarget(observed.node(from));
  if (target === null) return { from, former: 'unreachable' };
  try {
    await stopEngine(context, target.control, record.id, letGoMs);
    observed.removeServedVolume(from, record.id);
    return { from, former: 'detached' };
  } catch (error) {
    logger.warn('taken over by force', { volume: record.name, node: from, ...errorFields(error) });
    observed.forgetServed(from);
    return { from, former: 'unreachable' };
  }
}

function reportTakeover({ events }: ManagerContext, record: VolumeRecord, takeover: Takeover, engine: EngineAt): void {
  const how =
    takeover.former === 'detached'
      ? 'its engine there has let go'
      : `its engine there is fenced, ${(engine.leaseWaitMs / 1_000).toFixed(1)} s were waited for its lease`;
  events.emit({
    severity: 'warning',
    object: `volume ${record.name}`,
    message: `${engine.node} took it over from ${takeover.from}: ${how}`,
  });
}

// ---- older data ----

type Copy = { readonly replica: ReplicaRecord; readonly address: string; readonly state: ReplicaState };

/** The copy that is served, or null when nothing has to be accepted: a good copy can be reached. */
async function acceptDataLoss(
  context: ManagerContext,
  record: VolumeRecord,
  replicaId: string | null,
): Promise<string | null> {
  const { repository, events } = context;
  const copies = await reachableCopies(context, record);
  const good = copies.filter(({ replica }) => record.inSync.includes(replica.id));
  if (replicaId === null && good.length > 0) {
    if (record.lostData === null) return null;
    // With a new epoch: the engine that stopped is not asked to go on.
    await repository.updateVolume(record.id, (current) => ({
      ...current,
      epoch: current.epoch + 1,
      inSyncSequence: 0,
      lostData: null,
    }));
    events.emit({ severity: 'error', object: `volume ${record.name}`, message: 'the loss of writes was accepted' });
    return null;
  }
  const eligible = copies.filter(({ replica }) => replicaId === null || replica.id === replicaId);
  if (eligible.length === 0) throw noOlderCopy(record, replicaId);
  const best = await newestFenced(context, record, eligible);
  if (best === undefined) throw noOlderCopy(record, replicaId);
  await repository.updateVolume(record.id, (current) => ({
    ...current,
    inSync: [best.replica.id],
    lostData: null,
    // What is left behind may have more: nothing overwrites it.
    setAside: [...new Set([...current.setAside, ...current.inSync])].filter((id) => id !== best.replica.id),
  }));
  events.emit({
    severity: 'error',
    object: `volume ${record.name}`,
    message:
      `the loss of writes was accepted: it goes on with replica ${best.replica.id} on ${best.replica.disk} of ` +
      `${best.replica.node} as of entry ${best.state.lastSeq}; the copies that may have more are set aside`,
  });
  return best.replica.id;
}

// The engine that stopped, or one that is alive and cut off, may be about to rebuild one of them, or to change the set. A new epoch ends
// the latter, and the promise of it the former: what a copy answers to Open is what it keeps.
async function newestFenced(
  { repository, dataPlane, logger }: ManagerContext,
  record: VolumeRecord,
  copies: readonly Copy[],
): Promise<Copy | undefined> {
  const { epoch } = await repository.updateVolume(record.id, (current) => ({
    ...current,
    epoch: current.epoch + 1,
    inSyncSequence: 0,
  }));
  const opened = await Promise.all(
    copies.map(async (copy): Promise<Copy[]> => {
      try {
        const state = await dataPlane.openReplica(copy.address, copy.replica.id, epoch);
        return state.complete ? [{ ...copy, state }] : [];
      } catch (error) {
        logger.warn('an older copy cannot be opened', {
          volume: record.name,
          replica: copy.replica.id,
          ...errorFields(error),
        });
        return [];
      }
    }),
  );
  return opened.flat().sort((a, b) => b.state.lastEpoch - a.state.lastEpoch || b.state.lastSeq - a.state.lastSeq)[0];
}

function noOlderCopy(record: VolumeRecord, replicaId: string | null): HoldfastError {
  return new HoldfastError(
    'NO_IN_SYNC_REPLICA',
    replicaId === null
      ? `no complete copy of volume "${record.name}" can be reached, not even an older one: bring back a disk that holds one`
      : `replica ${replicaId} of volume "${record.name}" is not a complete copy that can be reached`,
  );
}

async function reachableCopies({ observed, dataPlane }: ManagerContext, record: VolumeRecord): Promise<Copy[]> {
  const copies = await Promise.all(
    record.replicas.map(async (replica): Promise<Copy[]> => {
      const address = replicaAddress(observed.node(replica.node), replica.disk);
      if (address === null || !isUp(observed.nodes, replica)) return [];
      const states = await dataPlane.replicaStates(address).catch(() => []);
      const state = states.find((each) => each.replicaId === replica.id);
      if (state?.complete !== true) return [];
      return [{ replica, address, state }];
    }),
  );
  return copies.flat();
}

async function withWayOut(context: ManagerContext, record: VolumeRecord, error: HoldfastError): Promise<HoldfastError> {
  const missing = record.replicas
    .filter((replica) => record.inSync.includes(replica.id))
    .map(({ id, node, disk }) => `${id} on ${disk} of ${node}`)
    .join(', ');
  const older = (await reachableCopies(context, record)).filter(({ replica }) => !record.inSync.includes(replica.id));
  const wayOut =
    older.length === 0
      ? ''
      : `. An older copy can be reached: "holdfast volume attach ${record.name} --accept-data-loss" serves it, and what was ` +
        `written since is lost`;
  return new HoldfastError(error.code, `${error.message}. Bring back ${missing}${wayOut}`, { cause: error });
}

function lostDataError(record: VolumeRecord, why: string): HoldfastError {
  return new HoldfastError(
    'DATA_LOSS',
    `volume "${record.name}" is not served: ${why}. Bring back what is missing and detach it, or accept the loss: ` +
      `"holdfast volume attach ${record.name} --accept-data-loss"`,
  );
}
