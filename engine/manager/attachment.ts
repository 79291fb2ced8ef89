// Giving a volume its engine and taking it away. The caller holds the volume's lock.
import { sleep } from '../async/wait.js';
import type { ErrorCode } from '../errors/error-codes.js';
import { HoldfastError, isHoldfastError } from '../errors/holdfast-error.js';
import type { ManagerContext } from './context.js';
import { configurationKey } from './data-plane.js';
import type { VolumeStatus } from './data-plane.js';
import { engineNode } from './maintenance.js';
import { replicaProcess, runningTarget } from './observed.js';
import type { ObservedProcess, RunningTarget } from './observed.js';
import { endpointsOf, iqnOf, lastAddressesOf, settingsOf } from './reconcile.js';
import type { VolumeRecord } from './records.js';

const noInitiator = 'iqn.2026-11.io.holdfast:nobody';
const replicaStartPatienceMs = 2_000;

// A restart of everything brings the nodes up one after the other.
const restartPatienceMs = 15_000;
const maintenanceDetachMs = 5_000;

export type EngineAt = {
  readonly epoch: number;
  readonly node: string;
  readonly portal: string;
  /** /dev/loopN of that node, when the record wants one */
  readonly device: string | null;
  /** Of an engine that was started just now. */
  readonly leaseWaitMs: number;
  readonly leftOut: readonly string[];
};

/**
 * Makes the target process of the volume's node serve it; nothing to do when it does. Every new engine gets an epoch of its
 * own, stored before the target hears of it: an epoch is never used by two engines.
 */
export async function ensureAttached(context: ManagerContext, volumeId: string): Promise<EngineAt> {
  const record = await requireVolume(context, volumeId);
  const node = engineNode(record);
  if (node === null) throw new HoldfastError('VOLUME_DETACHED', `volume "${record.name}" is not attached`);
  const target = await waitForTarget(context, node);
  const engine = await settledEngine(context, node, target, record);
  const started =
    engine === null
      ? await startEngine(context, record, node, target)
      : { epoch: record.epoch, leaseWaitMs: 0, leftOut: [] };
  return { ...started, node, portal: target.portal, device: await ensureDevice(context, record, target, engine) };
}

// A device survives its engine; with the new one its I/O goes on.
async function ensureDevice(
  { observed, dataPlane }: ManagerContext,
  { id, attachment }: VolumeRecord,
  target: RunningTarget,
  engine: VolumeStatus | null,
): Promise<string | null> {
  if (attachment?.device?.via !== 'fuse') return null;
  if (engine !== null && engine.device !== '') return engine.device;
  const device = await dataPlane.map(target.control, id);
  const served = observed.node(attachment.node)?.served?.find(({ volumeId }) => volumeId === id);
  if (served !== undefined) {
    observed.setServedVolume(attachment.node, target.instanceId, { ...served, device });
  }
  return device;
}

export type WorkingEngine = { readonly node: string; readonly control: string; readonly volumeId: string };

/**
 * Runs the task with an engine of the volume: the one that serves it; for a detached volume one without a front-end, just for
 * that time, on `preferredNode` or a node with an in-sync replica. The caller holds the volume's lock, so that nobody attaches
 * or detaches it meanwhile; the engine of a manager that died is ended by the reconciler.
 */
export async function withEngine<T>(
  context: ManagerContext,
  record: VolumeRecord,
  preferredNode: string | null,
  task: (engine: WorkingEngine) => Promise<T>,
): Promise<T> {
  if (record.attachment !== null) {
    const { node } = record.attachment;
    await ensureAttached(context, record.id);
    const target = await waitForTarget(context, node);
    return await task({ node, control: target.control, volumeId: record.id });
  }
  const node = preferredNode ?? (await nodeFor(context, record));
  const target = await waitForTarget(context, node);
  await startEngine(context, record, node, target, true);
  try {
    return await task({ node, control: target.control, volumeId: record.id });
  } finally {
    await ensureDetached(context, record, node);
  }
}

/**
 * As withEngine. When the engine of an attached volume was last known to serve, it is not asked first whether it still does: asking takes
 * longer than what is wanted of it, and the longer the more volumes its process serves. Should it have gone meanwhile (the epochs keep one
 * that was superseded from doing anything), the task runs once more with the engine that is there then: it must bear that.
 */
export async function withKnownEngine<T>(
  context: ManagerContext,
  record: VolumeRecord,
  task: (engine: WorkingEngine) => Promise<T>,
): Promise<T> {
  const known = knownEngine(context, record);
  if (known === null) return await withEngine(context, record, null, task);
  try {
    return await task(known);
  } catch (error) {
    if (!isHoldfastError(error) || !engineIsGone.has(error.code)) throw error;
    const latest = await requireVolume(context, record.id);
    return await withEngine(context, latest, null, task);
  }
}

// What a target process, or an engine in it, says that does not serve the volume any more.
const engineIsGone: ReadonlySet<ErrorCode> = new Set(['NOT_FOUND', 'CANCELLED', 'EPOCH_SUPERSEDED', 'CONNECTION_LOST']);

function knownEngine({ observed }: ManagerContext, { id, epoch, attachment }: VolumeRecord): WorkingEngine | null {
  const node = attachment === null ? undefined : observed.node(attachment.node);
  const target = runningTarget(node);
  if (target === null || node?.servedBy !== target.instanceId) return null;
  const engine = node.served?.find(({ volumeId }) => volumeId === id);
  if (engine?.epoch !== epoch || engine.state !== 'serving') return null;
  return { node: node.name, control: target.control, volumeId: id };
}

// Where an in-sync replica is near, else anywhere.
async function nodeFor({ observed, patienceMs }: ManagerContext, record: VolumeRecord): Promise<string> {
  const preferred = record.replicas.filter(({ id }) => record.inSync.includes(id)).map(({ node }) => node);
  const chosen = await observed.waitFor(() => {
    const running = [...observed.nodes.values()].filter((node) => runningTarget(node) !== null).map(({ name }) => name);
    return preferred.find((name) => running.includes(name)) ?? running.sort()[0] ?? null;
  }, patienceMs);
  if (chosen !== null) return chosen;
  throw new HoldfastError(
    'CONNECTION_LOST',
    `no node runs a target process that could work on volume "${record.name}"`,
  );
}

/** After it the target process does not serve the volume, or there is none: CONNECTION_LOST when that cannot be known. */
export async function ensureDetached(context: ManagerContext, record: VolumeRecord, node: string): Promise<void> {
  const { observed, patienceMs } = context;
  const deadline = performance.now() + patienceMs;
  let last: unknown = null;
  do {
    const target = await observed.waitFor(
      () => runningTarget(observed.node(node)),
      Math.max(0, deadline - performance.now()),
    );
    if (target === null) break;
    try {
      await stopEngine(context, target.control, record.id);
      observed.removeServedVolume(node, record.id);
      return;
    } catch (error) {
      // The process died: its successor does not have the volume, and says so when asked.
      if (!isHoldfastError(error, 'CONNECTION_LOST')) throw error;
      last = error;
      await sleep(50);
    }
  } while (performance.now() < deadline);
  throw new HoldfastError(
    'CONNECTION_LOST',
    `the target process of ${node} does not answer, so it is unknown whether volume "${record.name}" is still served there: ` +
      `start the node and try again, or detach with --force (the next attach takes the volume away from that node)`,
    { cause: last },
  );
}

async function startEngine(
  context: ManagerContext,
  former: VolumeRecord,
  node: string,
  target: RunningTarget,
  internal = false,
): Promise<Pick<EngineAt, 'epoch' | 'leaseWaitMs' | 'leftOut'>> {
  const { repository, observed, dataPlane } = context;
  await replicasStarted(context, former);
  const record = await repository.updateVolume(former.id, (current) => ({
    ...current,
    epoch: current.epoch + 1,
    inSyncSequence: 0,
  }));
  const lastAddresses = lastAddressesOf(await repository.listDisks());
  const endpoints = endpointsOf(record, node, observed.nodes, lastAddresses);
  const reservations = await repository.reservations(record.id);
  const settings = settingsOf(record, await repository.settings());
  const { sizeBytes, leaseWaitMs, leftOut } = await dataPlane.attach(target.control, {
    volumeId: record.id,
    name: record.name,
    epoch: record.epoch,
    sizeBytes: record.size,
    blockSize: record.blockSize,
    endpoints,
    iqn: iqnOf(record.name),
    reservations: Buffer.from(reservations?.state ?? '', 'base64'),
    settings,
    internal: internal || record.attachment === null,
    ...record.access,
    // An engine for the manager's own work, or one whose file system is mounted: no host may write to it.
    ...(record.attachment === null || record.share !== undefined ? { initiators: [noInitiator] } : {}),
  });
  observed.setServedVolume(node, target.instanceId, {
    volumeId: record.id,
    epoch: record.epoch,
    state: 'serving',
    configurationKey: configurationKey(endpoints, settings),
  });
  await meetSizes(context, record, target, sizeBytes);
  return { epoch: record.epoch, leaseWaitMs, leftOut };
}

/**
 * Ends the engine that a target process has of a volume; without one it is success. Says up to which epoch: a request that the
 * network held up must not end an engine that was started since.
 */
export async function stopEngine(
  { repository, dataPlane }: ManagerContext,
  control: string,
  volumeId: string,
  timeoutMs?: number,
): Promise<void> {
  const found = await repository.findVolumeById(volumeId);
  // Nobody starts engines of a volume that is gone.
  await dataPlane.detach(control, volumeId, found?.record.epoch ?? 0, timeoutMs);
}

/** For a detached volume; a host that wants it takes it over at once. */
export async function beginMaintenance(
  context: ManagerContext,
  volumeId: string,
  maintenance: { readonly node: string; readonly reason: string },
): Promise<void> {
  const begun = await context.repository.updateVolume(volumeId, (current) =>
    current.attachment === null && current.maintenance === null ? { ...current, maintenance } : null,
  );
  if (begun.maintenance === null) return;
  try {
    await ensureAttached(context, volumeId);
  } catch (error) {
    await context.repository.updateVolume(volumeId, (current) => ({ ...current, maintenance: null }));
    throw error;
  }
}

/** Stops the engine if it can be reached; if not, the next engine's epoch fences it. */
export async function endMaintenance(context: ManagerContext, volumeId: string): Promise<void> {
  const { repository, observed } = context;
  const found = await repository.findVolumeById(volumeId);
  const node = found?.record.maintenance?.node ?? null;
  if (node === null) return;
  // The epoch that the engine has is over, whether it hears of it or not.
  await repository.updateVolume(volumeId, (current) => ({
    ...current,
    maintenance: null,
    epoch: current.epoch + 1,
    inSyncSequence: 0,
  }));
  const target = runningTarget(observed.node(node));
  if (target === null) return;
  try {
    await stopEngine(context, target.control, volumeId, maintenanceDetachMs);
    observed.removeServedVolume(node, volumeId);
  } catch {
    observed.forgetServed(node);
  }
}

// An engine leaves out the in-sync replicas that do not answer, and they have to be rebuilt. Worth a short wait for those that
// are just being started, as all are after a restart of everything.
async function replicasStarted({ observed, restarting }: ManagerContext, record: VolumeRecord): Promise<void> {
  const inSync = record.replicas.filter(({ id }) => record.inSync.includes(id));
  const lookAt = (settled: (process: ObservedProcess | null) => boolean) => () =>
    inSync.every(({ node, disk }) => settled(replicaProcess(observed.node(node), disk))) ? true : null;
  if (restarting()) {
    await observed.waitFor(
      lookAt((process) => process?.state === 'running' || process?.state === 'failed'),
      restartPatienceMs,
    );
    return;
  }
  await observed.waitFor(
    lookAt((process) => process?.state !== 'starting'),
    replicaStartPatienceMs,
  );
}

// The log may be ahead of the record (the manager died between the two), or behind (resized while detached).
async function meetSizes(
  { repository, dataPlane }: ManagerContext,
  record: VolumeRecord,
  target: RunningTarget,
  logSize: number,
): Promise<void> {
  if (logSize < record.size) await dataPlane.resize(target.control, record.id, record.size);
  if (logSize > record.size) {
    await repository.updateVolume(record.id, (current) =>
      current.size < logSize ? { ...current, size: logSize } : null,
    );
  }
}

// The engine that already serves the volume with its current epoch, once it has finished opening. Null: there is none;
// one of an older epoch, or one that was fenced, has been stopped.
async function settledEngine(
  context: ManagerContext,
  node: string,
  target: RunningTarget,
  record: VolumeRecord,
): Promise<VolumeStatus | null> {
  const { observed, dataPlane } = context;
  const deadline = performance.now() + 30_000;
  for (;;) {
    const { instanceId, volumes } = await dataPlane.targetStatus(target.control);
    observed.setServed(node, instanceId, volumes);
    const engine = volumes.find(({ volumeId }) => volumeId === record.id);
    if (engine === undefined) return null;
    if (engine.epoch === record.epoch) {
      if (engine.state === 'serving' || engine.state === 'waiting') return engine;
      if (engine.state === 'failed') {
        if (engine.lostData) await noteLostData(context, record, engine.failure);
        throw engineFailed(record, node, engine);
      }
      if (engine.state === 'opening' && performance.now() < deadline) {
        await sleep(100);
        continue;
      }
    }
    await stopEngine(context, target.control, record.id);
    observed.removeServedVolume(node, record.id);
    return null;
  }
}

/** Kept in the record, so that no other engine serves what is left before somebody accepts that. */
export async function noteLostData(context: ManagerContext, record: VolumeRecord, why: string): Promise<void> {
  if (record.lostData !== null) return;
  await context.repository.updateVolume(record.id, (current) =>
    current.lostData === null ? { ...current, lostData: why } : null,
  );
  context.events.emit({ severity: 'error', object: `volume ${record.name}`, message: why });
}

// It stopped on purpose, to not serve wrong data: a new engine must not be started over it unasked.
function engineFailed(record: VolumeRecord, node: string, engine: VolumeStatus): HoldfastError {
  return new HoldfastError(
    'FAILED_PRECONDITION',
    `volume "${record.name}" has stopped on ${node}: ${engine.failure}. Detach it, and attach it again once the cause is gone`,
  );
}

async function waitForTarget({ observed, patienceMs }: ManagerContext, node: string): Promise<RunningTarget> {
  const target = await observed.waitFor(() => runningTarget(observed.node(node)), patienceMs);
  if (target !== null) return target;
  const process = observed.node(node)?.processes.find(({ role }) => role === 'target');
  const why =
    process?.failure?.message ?? (observed.node(node) === undefined ? 'no agent has reported' : 'it is being started');
  throw new HoldfastError('CONNECTION_LOST', `the target process of ${node} does not run: ${why}`);
}

async function requireVolume({ repository }: ManagerContext, volumeId: string): Promise<VolumeRecord> {
  const found = await repository.findVolumeById(volumeId);
  if (found === null) throw new HoldfastError('NOT_FOUND', `volume ${volumeId} does not exist any more`);
  return found.record;
}
