// What people ask for: create, attach, detach, resize, delete. Each checks everything before it changes anything, and
// leaves nothing behind when it fails.
import {
  validateBlockSize,
  validateReplicaCount,
  validateVolumeName,
  validateVolumeSize,
} from '../config/volume-input.js';
import { HoldfastError, isHoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import { hasRoom, placeReplicas } from '../placement/place-replicas.js';
import type { DiskCandidate } from '../placement/place-replicas.js';
import { ensureAttached, ensureDetached } from './attachment.js';
import type { EngineAt } from './attachment.js';
import type { ManagerContext } from './context.js';
import { randomId } from './ids.js';
import { replicaAddress, runningTarget } from './observed.js';
import { defaultAccess, defaultConstraints, recordVersion } from './records.js';
import type { VolumeRecord } from './records.js';
import type { Versioned } from './repository.js';

export type CreateInput = {
  readonly name: string;
  readonly size: number;
  readonly replicas: number;
  readonly blockSize: number;
};

export async function createVolume(context: ManagerContext, input: CreateInput): Promise<VolumeRecord> {
  const name = validateVolumeName(input.name);
  const size = validateVolumeSize(input.size);
  const count = validateReplicaCount(input.replicas);
  const blockSize = validateBlockSize(input.blockSize);
  const { repository, random, locks } = context;
  return await locks.run('create', async () => {
    if ((await repository.findVolume(name)) !== null) {
      throw new HoldfastError(
        'ALREADY_EXISTS',
        `volume "${name}" exists already: choose another name, or delete it first`,
      );
    }
    const places = placeReplicas(await diskCandidates(context), count, size);
    const replicas = places.map((place) => ({ id: randomId(random), ...place }));
    const record: VolumeRecord = {
      version: recordVersion,
      id: randomId(random),
      name,
      size,
      blockSize,
      createdAt: context.now().toISOString(),
      phase: 'creating',
      replicas,
      inSync: replicas.map(({ id }) => id),
      epoch: 0,
      inSyncSequence: 0,
      attachment: null,
      copies: count,
      constraints: defaultConstraints,
      qos: null,
      access: defaultAccess,
      policy: null,
    };
    await repository.insertVolume(record);
    try {
      await createReplicas(context, record);
      return await repository.updateVolume(record.id, (current) => ({ ...current, phase: 'ready' }));
    } catch (error) {
      const found = await repository.findVolumeById(record.id);
      if (found !== null) await repository.removeVolume(found);
      throw error;
    }
  });
}

/** The engine, serving. */
export async function attachVolume(context: ManagerContext, name: string, node: string | null): Promise<EngineAt> {
  const { repository, observed } = context;
  if (node !== null) await requireNode(context, node);
  return await withVolume(context, name, async ({ record }) => {
    if (record.phase !== 'ready') throw new HoldfastError('FAILED_PRECONDITION', `volume "${name}" is being created`);
    const current = record.attachment?.node ?? null;
    if (current !== null) {
      if (node !== null && node !== current) {
        throw new HoldfastError(
          'VOLUME_ATTACHED',
          `volume "${name}" is attached on ${current}, not on ${node}: detach it first ("holdfast volume detach ${name}")`,
        );
      }
      return await ensureAttached(context, record.id);
    }
    const chosen = node ?? (await chooseNode(context, record));
    await repository.updateVolume(record.id, (latest) => ({ ...latest, attachment: { node: chosen } }));
    try {
      return await ensureAttached(context, record.id);
    } catch (error) {
      await repository.updateVolume(record.id, (latest) => ({ ...latest, attachment: null }));
      // Whatever was started there is unwanted now; if this does not reach it, the reconciler does.
      const target = runningTarget(observed.node(chosen));
      if (target !== null) {
        await context.dataPlane.detach(target.control, record.id).catch((detachError: unknown) => {
          context.logger.warn('cannot undo an attach yet', { volume: name, ...errorFields(detachError) });
          observed.forgetServed(chosen);
        });
      }
      throw error;
    }
  });
}

export async function detachVolume(context: ManagerContext, name: string, force: boolean): Promise<VolumeRecord> {
  return await withVolume(context, name, async ({ record }) => {
    if (record.attachment === null) return record;
    const { node, device = null } = record.attachment;
    if (device !== null && !force) {
      throw new HoldfastError(
        'IN_USE',
        `volume "${name}" is mapped as a block device on ${node}: unmap it first ("holdfast unmap ${name}")`,
      );
    }
    try {
      await ensureDetached(context, record, node);
    } catch (error) {
      if (!force || !isHoldfastError(error, 'CONNECTION_LOST')) throw error;
      context.logger.warn('detached by force', { volume: name, node, ...errorFields(error) });
    }
    return await context.repository.updateVolume(record.id, (latest) => ({ ...latest, attachment: null }));
  });
}

export async function resizeVolume(context: ManagerContext, name: string, wanted: number): Promise<VolumeRecord> {
  const size = validateVolumeSize(wanted);
  return await withVolume(context, name, async ({ record }) => {
    if (size < record.size) {
      throw new HoldfastError(
        'INVALID_ARGUMENT',
        `volume "${name}" has ${record.size} bytes and can only grow: ask for more than that`,
      );
    }
    if (size === record.size) return record;
    await requireRoom(context, record, size - record.size);
    if (record.attachment !== null) {
      const { node } = record.attachment;
      await ensureAttached(context, record.id);
      const target = runningTarget(context.observed.node(node));
      if (target === null)
        throw new HoldfastError('CONNECTION_LOST', `the target process of ${node} is being started: try again`);
      await context.dataPlane.resize(target.control, record.id, size);
    }
    return await context.repository.updateVolume(record.id, (latest) => ({
      ...latest,
      size: Math.max(latest.size, size),
    }));
  });
}

/** Ids of the replicas that could not be deleted yet. */
export async function deleteVolume(context: ManagerContext, name: string): Promise<readonly string[]> {
  const { repository, observed, dataPlane } = context;
  return await withVolume(context, name, async (found) => {
    const { attachment, phase } = found.record;
    if (phase !== 'ready') throw new HoldfastError('FAILED_PRECONDITION', `volume "${name}" is being created`);
    if (attachment !== null) {
      throw new HoldfastError(
        'VOLUME_ATTACHED',
        `volume "${name}" is attached on ${attachment.node}: detach it first ("holdfast volume detach ${name}")`,
      );
    }
    const doomed = await repository.removeVolume(found);
    const outcomes = await Promise.all(
      doomed.map(async (replica) => {
        const address = replicaAddress(observed.node(replica.node), replica.disk);
        if (address === null) return replica.id;
        try {
          await dataPlane.deleteReplica(address, replica.id);
          await repository.removeDoomedReplica(replica.id);
          return null;
        } catch {
          return replica.id;
        }
      }),
    );
    return outcomes.filter((id) => id !== null);
  });
}

/** The disks as placement sees them; asks every disk that is online. */
export async function diskCandidates({ repository, observed, dataPlane }: ManagerContext): Promise<DiskCandidate[]> {
  const [disks, volumes] = await Promise.all([repository.listDisks(), repository.listVolumes()]);
  return await Promise.all(
    disks.map(async ({ node, name }) => {
      const scheduledBytes = scheduledOn(volumes, node, name);
      const offline = { node, disk: name, online: false, capacityBytes: 0, freeBytes: 0, scheduledBytes };
      const address = replicaAddress(observed.node(node), name);
      if (address === null) return offline;
      try {
        const { totalBytes, reserveBytes, freeBytes, failure } = await dataPlane.disk(address);
        return { ...offline, online: failure === '', capacityBytes: totalBytes - reserveBytes, freeBytes };
      } catch {
        return offline;
      }
    }),
  );
}

export function scheduledOn(volumes: readonly VolumeRecord[], node: string, disk: string): number {
  let bytes = 0;
  for (const volume of volumes) {
    if (volume.replicas.some((replica) => replica.node === node && replica.disk === disk)) bytes += volume.size;
  }
  return bytes;
}

// Holds the volume's lock, and reads the record again under it: a volume of this name may be another one by then.
export async function withVolume<T>(
  { repository, locks }: ManagerContext,
  name: string,
  task: (found: Versioned<VolumeRecord>) => Promise<T>,
): Promise<T> {
  validateVolumeName(name);
  const { record } = await repository.volume(name);
  return await locks.run(record.id, async () => {
    const found = await repository.volume(name);
    if (found.record.id === record.id) return await task(found);
    throw new HoldfastError('CONFLICT', `volume "${name}" was replaced by another one meanwhile: try again`);
  });
}

async function createReplicas({ observed, dataPlane }: ManagerContext, record: VolumeRecord): Promise<void> {
  await Promise.all(
    record.replicas.map(async ({ id, node, disk }) => {
      try {
        const address = replicaAddress(observed.node(node), disk);
        if (address === null) throw new HoldfastError('CONNECTION_LOST', 'its replica process does not run');
        await dataPlane.createReplica(address, { replicaId: id, volumeId: record.id, sizeBytes: record.size });
      } catch (thrown) {
        const error = toHoldfastError(thrown);
        throw new HoldfastError(
          error.code,
          `cannot make a replica of "${record.name}" on ${disk} of ${node}: ${error.message}`,
          { cause: error },
        );
      }
    }),
  );
}

// Where an in-sync replica is near, else anywhere; in the order of the replicas, so that it is predictable.
async function chooseNode({ observed, patienceMs }: ManagerContext, record: VolumeRecord): Promise<string> {
  const preferred = record.replicas.filter(({ id }) => record.inSync.includes(id)).map(({ node }) => node);
  const chosen = await observed.waitFor(() => {
    const running = [...observed.nodes.values()].filter((node) => runningTarget(node) !== null).map(({ name }) => name);
    return preferred.find((name) => running.includes(name)) ?? running.sort()[0] ?? null;
  }, patienceMs);
  if (chosen !== null) return chosen;
  throw new HoldfastError('CONNECTION_LOST', `no node runs a target process that could serve volume "${record.name}"`);
}

async function requireNode({ repository }: ManagerContext, name: string): Promise<void> {
  const nodes = await repository.listNodes();
  if (nodes.some((node) => node.name === name)) return;
  const names = nodes.map((node) => node.name).join(', ');
  throw new HoldfastError(
    'NOT_FOUND',
    `node "${name}" does not exist; the nodes are: ${names === '' ? 'none yet' : names}`,
  );
}

async function requireRoom(context: ManagerContext, record: VolumeRecord, additionalBytes: number): Promise<void> {
  const candidates = await diskCandidates(context);
  for (const replica of record.replicas) {
    const candidate = candidates.find(({ node, disk }) => node === replica.node && disk === replica.disk);
    if (candidate?.online !== true || hasRoom(candidate, additionalBytes)) continue;
    throw new HoldfastError(
      'NO_SPACE',
      `${replica.disk} of ${replica.node} has no room for ${additionalBytes} bytes more of volume "${record.name}": ` +
        `free space there, or add a larger disk`,
    );
  }
}
