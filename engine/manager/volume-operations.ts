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
import { diskCandidates, requestOf } from './candidates.js';
import { deleteRemains, moveToTrash } from './trash-operations.js';
import { noticeLostData } from './attach-operation.js';
import { endMaintenance, ensureAttached, ensureDetached } from './attachment.js';
import type { ManagerContext } from './context.js';
import { isClientName, isConfigurationPath, isPrincipal, securityFlavours } from '../nfs/ganesha-config.js';
import { parseFloatingAddress } from '../nfs/floating-address.js';
import type { FilesystemName, ShareOptions } from '../nfs/share-types.js';
import { randomId } from './ids.js';
import { replicaAddress, runningTarget } from './observed.js';
import { defaultAccess, defaultConstraints, recordVersion } from './records.js';
import type { Access, Constraints, Qos, VolumeRecord } from './records.js';
import type { Versioned } from './repository.js';

export type CreateInput = {
  readonly name: string;
  readonly size: number;
  /** Null: as the policy says, else 3. */
  readonly replicas: number | null;
  readonly blockSize: number;
  readonly policy?: string | null | undefined;
  readonly constraints?: Partial<Constraints> | undefined;
  readonly qos?: Qos | null | undefined;
  readonly access?: Access | null | undefined;
  /** Absent: it is not shared. */
  readonly share?: ShareInput | null | undefined;
  /** It is not ready yet when it is made: its content is being copied. */
  readonly copying?: VolumeRecord['copying'] | undefined;
};

export type ShareInput = { readonly fs: FilesystemName; readonly options: ShareOptions };

type ChangeOf<T> = { readonly [K in keyof T]?: T[K] | undefined };

/** What may be changed of a volume while it is used. CHAP and initiators hold from the next attach on. */
export type VolumeChange = {
  readonly replicas?: number | undefined;
  readonly constraints?: Partial<Constraints> | undefined;
  /** What is not given stays; null: no limits. */
  readonly qos?: ChangeOf<Qos> | null | undefined;
  /** What is not given stays. */
  readonly access?: ChangeOf<Access> | undefined;
  /** Null: the cluster's. */
  readonly rebuildBytesPerSecond?: number | null | undefined;
  readonly foregroundPercent?: number | null | undefined;
};

export async function changeVolume(context: ManagerContext, name: string, change: VolumeChange): Promise<VolumeRecord> {
  const { replicas, constraints, qos, access } = change;
  if (replicas !== undefined) validateReplicaCount(replicas);
  return await withVolume(context, name, async ({ record }) => {
    if (replicas !== undefined && replicas > record.copies) {
      const nodes = new Set((await context.repository.listDisks()).map(({ node }) => node)).size;
      if (nodes < replicas) {
        throw new HoldfastError(
          'NOT_ENOUGH_DISKS',
          `${replicas} replicas need disks on ${replicas} nodes, and there are ${nodes}`,
        );
      }
    }
    return await context.repository.updateVolume(record.id, (latest) => ({
      ...latest,
      copies: replicas ?? latest.copies,
      constraints: { ...latest.constraints, ...constraints },
      qos: qos === undefined ? latest.qos : changedLimits(latest.qos, qos),
      access: access === undefined ? latest.access : changedAccess(latest.access, access),
      rebuildBytesPerSecond:
        change.rebuildBytesPerSecond === undefined ? latest.rebuildBytesPerSecond : change.rebuildBytesPerSecond,
      foregroundPercent: change.foregroundPercent === undefined ? latest.foregroundPercent : change.foregroundPercent,
    }));
  });
}

function changedLimits(former: Qos | null, change: ChangeOf<Qos> | null): Qos | null {
  const limits = {
    operationsPerSecond: change?.operationsPerSecond ?? former?.operationsPerSecond ?? 0,
    bytesPerSecond: change?.bytesPerSecond ?? former?.bytesPerSecond ?? 0,
    burstSeconds: change?.burstSeconds ?? former?.burstSeconds ?? 1,
  };
  return change === null || (limits.operationsPerSecond === 0 && limits.bytesPerSecond === 0) ? null : limits;
}

// CHAP without a user is none. Without CHAP of the initiator there is no mutual one.
function changedAccess(former: Access, change: ChangeOf<Access>): Access {
  const withUser = (chap: Access['chap']) => (chap?.user === '' ? null : chap);
  const chap = change.chap === undefined ? former.chap : withUser(change.chap);
  const ends = chap === null && change.mutualChap === undefined;
  const mutualChap = change.mutualChap === undefined ? former.mutualChap : withUser(change.mutualChap);
  const access = { chap, mutualChap: ends ? null : mutualChap, initiators: change.initiators ?? former.initiators };
  validateAccess(access);
  return access;
}

// RFC 7143, section 12.1.3 asks for secrets of at least 96 bits; the target takes 12 to 64 bytes.
function validateAccess({ chap, mutualChap, initiators }: Access): void {
  for (const each of [chap, mutualChap]) {
    if (each === null) continue;
    const bytes = Buffer.byteLength(each.secret);
    if (bytes < 12 || bytes > 64 || each.user === '')
      throw new HoldfastError('INVALID_ARGUMENT', 'CHAP needs a user and a secret of 12 to 64 bytes');
  }
  if (mutualChap !== null && chap === null)
    throw new HoldfastError('INVALID_ARGUMENT', 'mutual CHAP needs CHAP of the initiator, too');
  if (chap !== null && mutualChap !== null && chap.secret === mutualChap.secret)
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      'the two secrets of mutual CHAP must differ (RFC 7143, section 12.1.3)',
    );
  const wrong = initiators.find((initiator) => !/^(iqn|eui|naa)\.[-.:_a-z0-9]{1,219}$/.test(initiator));
  if (wrong !== undefined) throw new HoldfastError('INVALID_ARGUMENT', `"${wrong}" is not the name of an initiator`);
}

export async function createVolume(context: ManagerContext, input: CreateInput): Promise<VolumeRecord> {
  const name = validateVolumeName(input.name);
  const size = validateVolumeSize(input.size);
  if (input.access != null) validateAccess(input.access);
  const blockSize = validateBlockSize(input.blockSize);
  const share = input.share === undefined || input.share === null ? null : validateShare(input.share);
  const { repository, random, locks } = context;
  return await locks.run('create', async () => {
    if ((await repository.findVolume(name)) !== null) {
      throw new HoldfastError(
        'ALREADY_EXISTS',
        `volume "${name}" exists already: choose another name, or delete it first`,
      );
    }
    const settings = await repository.settings();
    const policy = input.policy == null ? null : await repository.policy(input.policy);
    const count = validateReplicaCount(input.replicas ?? policy?.copies ?? 3);
    const constraints = { ...defaultConstraints, ...policy?.constraints, ...input.constraints };
    const request = requestOf({ size, constraints, attachment: null }, settings);
    const places = placeReplicas(await diskCandidates(context), count, request);
    const replicas = places.map((place) => ({ id: randomId(random), ...place }));
    const record: VolumeRecord = {
      version: recordVersion,
      id: randomId(random),
      name,
      size,
      blockSize,
      createdAt: context.now().toISOString(),
      phase: 'creating',
      copying: input.copying ?? null,
      linkedTo: null,
      replicas,
      inSync: replicas.map(({ id }) => id),
      epoch: 0,
      inSyncSequence: 0,
      attachment: null,
      copies: count,
      retiring: [],
      setAside: [],
      maintenance: null,
      lostData: null,
      rebuildBytesPerSecond: null,
      foregroundPercent: null,
      constraints,
      qos: input.qos ?? policy?.qos ?? null,
      access: input.access ?? defaultAccess,
      policy: policy?.name ?? null,
      ...(share === null ? {} : { share: { ...share, port: 0, wanted: false } }),
    };
    await repository.insertVolume(record);
    try {
      await createReplicas(context, record);
      const phase = record.copying === null ? 'ready' : 'copying';
      return await repository.updateVolume(record.id, (current) => ({ ...current, phase }));
    } catch (error) {
      const found = await repository.findVolumeById(record.id);
      if (found !== null) await repository.removeVolume(found);
      throw error;
    }
  });
}

function validateShare({ fs, options }: ShareInput) {
  const { clients, squash, v3, security, address, principal, keytab } = options;
  const wrongClient = clients.find((client) => !isClientName(client));
  if (wrongClient !== undefined) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `"${wrongClient}" is not a client: give addresses, networks such as 10.0.0.0/8, host names or @netgroups`,
    );
  }
  const wrongSecurity = security.find((flavour) => !securityFlavours.some((known) => known === flavour));
  if (wrongSecurity !== undefined) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `"${wrongSecurity}" is not a security flavour of NFS: use ${securityFlavours.join(', ')}`,
    );
  }
  if (address !== null) parseFloatingAddress(address);
  if (principal !== null && !isPrincipal(principal)) {
    throw new HoldfastError('INVALID_ARGUMENT', `"${principal}" is not a Kerberos principal`);
  }
  if (keytab !== null && !isConfigurationPath(keytab)) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `"${keytab}" is not an absolute path of letters, digits, "/", ".", "_" and "-"`,
    );
  }
  if ((principal !== null || keytab !== null) && !security.some((flavour) => flavour.startsWith('krb5'))) {
    throw new HoldfastError('INVALID_ARGUMENT', 'principal and keytab are for Kerberos: add a krb5 security flavour');
  }
  return { fs, options: { clients: [...clients], squash, v3, security: [...security], address, principal, keytab } };
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
    await noticeLostData(context, record, node);
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

export type Deletion = {
  /** Ids of the replicas that could not be deleted yet. */
  readonly pendingReplicas: readonly string[];
  /** When the trash lets it go; null: it has not been put there. */
  readonly purgeAt: string | null;
  /** Linked clones: what they share with it stays on the disks until they are gone, too. */
  readonly linkedClones: readonly string[];
};

/** Into the trash, unless that is switched off or `forGood`. */
export async function deleteVolume(context: ManagerContext, name: string, forGood: boolean): Promise<Deletion> {
  const { repository } = context;
  return await withVolume(context, name, async (first) => {
    let found = first;
    const { attachment, phase } = found.record;
    if (phase !== 'ready') throw new HoldfastError('FAILED_PRECONDITION', `volume "${name}" is being created`);
    if (attachment !== null) {
      throw new HoldfastError(
        'VOLUME_ATTACHED',
        `volume "${name}" is attached on ${attachment.node}: detach it first ("holdfast volume detach ${name}")`,
      );
    }
    if (found.record.maintenance !== null) {
      await endMaintenance(context, found.record.id);
      found = await repository.volume(name);
    }
    const volumes = await repository.listVolumes();
    const linkedClones = volumes.filter(({ linkedTo }) => linkedTo?.volume === found.record.id).map((one) => one.name);
    const { trashSeconds } = await repository.settings();
    if (trashSeconds > 0 && !forGood) {
      const { purgeAt } = await moveToTrash(context, found, trashSeconds);
      return { pendingReplicas: [], purgeAt, linkedClones };
    }
    const doomed = await repository.removeVolume(found);
    const pendingReplicas = await deleteRemains(context, found.record.id, doomed);
    return { pendingReplicas, purgeAt: null, linkedClones };
  });
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
        await dataPlane.createReplica(address, {
          replicaId: id,
          volumeId: record.id,
          sizeBytes: record.size,
          complete: true,
        });
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

export async function requireNode({ repository }: ManagerContext, name: string): Promise<void> {
  const nodes = await repository.listNodes();
  if (nodes.some((node) => node.name === name)) return;
  const names = nodes.map((node) => node.name).join(', ');
  throw new HoldfastError(
    'NOT_FOUND',
    `node "${name}" does not exist; the nodes are: ${names === '' ? 'none yet' : names}`,
  );
}

async function requireRoom(context: ManagerContext, record: VolumeRecord, additionalBytes: number): Promise<void> {
  const [candidates, { overProvisioning }] = await Promise.all([
    diskCandidates(context),
    context.repository.settings(),
  ]);
  for (const replica of record.replicas) {
    const candidate = candidates.find(({ node, disk }) => node === replica.node && disk === replica.disk);
    if (candidate?.online !== true || hasRoom(candidate, additionalBytes, overProvisioning)) continue;
    throw new HoldfastError(
      'NO_SPACE',
      `${replica.disk} of ${replica.node} has no room for ${additionalBytes} bytes more of volume "${record.name}": ` +
        `free space there, or add a larger disk`,
    );
  }
}
