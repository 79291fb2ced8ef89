// The volumes that this target process serves: attach, detach and being fenced, in order per volume, so that the addon
// sees one change of a volume at a time.
//
// Invariants: the epoch of a volume never falls here; a fenced volume is never served again under the same epoch; changes
// of one in-sync set go to the manager one after the other, with a rising sequence.
import { existsSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { KeyedMutex } from '../async/keyed-mutex.js';
import type {
  AttachOutcome,
  AttachRequest,
  ChangeSnapshotRequest,
  ConfigureRequest,
  CopySnapshotRequest,
  InSyncChange,
  RepairRequest,
  ReservationsChange,
  TargetProcess,
  TargetQuestions,
  ViewRequest,
  VolumeStatus,
} from '../addon/target-process.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { mountOf } from '../filesystem/filesystem.js';
import { whileFrozen } from '../filesystem/freezer.js';
import type { Frozen } from '../filesystem/freezer.js';
import type { Logger } from '../log/logger.js';
import { errorFields } from '../log/logger.js';
import { makeFolders } from '../os/folders.js';
import { isAlive } from '../os/proc.js';
import type { Membership } from './membership-client.js';

export type VolumeState = 'opening' | 'serving' | 'waiting' | 'fenced' | 'failed';

type Attached = {
  readonly volumeId: bigint;
  readonly name: string;
  readonly epoch: bigint;
  readonly state: 'opening' | 'serving' | 'fenced';
};

export type VolumeReport = {
  readonly volumeId: bigint;
  readonly name: string;
  readonly epoch: bigint;
  readonly state: VolumeState;
  readonly failure: string;
  /** null while it opens and after it was fenced */
  readonly engine: VolumeStatus | null;
};

/** What is used of the addon's TargetProcess. */
export type VolumeHost = Pick<
  TargetProcess,
  | 'portal'
  | 'attachVolume'
  | 'detachVolume'
  | 'configureVolume'
  | 'resizeVolume'
  | 'changeSnapshot'
  | 'copySnapshot'
  | 'repairVolume'
  | 'openView'
  | 'closeView'
  | 'mapVolume'
  | 'unmapVolume'
  | 'status'
>;

export class TargetVolumes {
  readonly #membership: Membership;
  readonly #log: Logger;
  readonly #attached = new Map<bigint, Attached>();
  readonly #order = new KeyedMutex();
  readonly #membershipOrder = new KeyedMutex();
  readonly #sequences = new Map<string, bigint>();
  readonly #devicesDir: string;
  #host: VolumeHost | undefined;

  /** `devicesDir`: absolute, for what belongs to volumes that are block devices of this host. */
  constructor(membership: Membership, log: Logger, devicesDir: string) {
    this.#devicesDir = devicesDir;
    this.#membership = membership;
    this.#log = log;
  }

  /** The host asks these questions; it is handed over afterwards by serveWith(). */
  readonly questions: TargetQuestions = {
    changeInSyncSet: (change) => this.#changeInSyncSet(change),
    saveReservations: (change) => this.#saveReservations(change),
    lostData: async (loss) => {
      this.#log.error('acknowledged writes are lost', { volumeId: key(loss.volumeId), reason: loss.reason });
      await this.#membership.reportLostData(loss);
    },
    damageFound: (damage) => {
      const { volumeId, reason } = damage;
      this.#log.error('blocks are damaged on every copy', { volumeId: key(volumeId), reason });
      this.#membership.reportDamage(damage).catch((error: unknown) => {
        this.#log.warn('damage could not be reported', { volumeId: key(volumeId), ...errorFields(error) });
      });
    },
    fenced: ({ volumeId, epoch }) => {
      this.#fenced(volumeId, epoch);
    },
  };

  serveWith(host: VolumeHost): void {
    this.#host = host;
  }

  /** Answers once the volume is served. Again with the same epoch: the same answer. */
  async attach(request: AttachRequest): Promise<AttachOutcome> {
    return await this.#order.run(key(request.volumeId), async () => {
      const present = this.#attached.get(request.volumeId);
      if (present !== undefined) {
        checkEpoch(present, request);
        if (present.epoch === request.epoch) return await this.#outcomeOf(present, request);
        await this.#detachNow(present);
      }
      return await this.#attachNow(request);
    });
  }

  /** Flushes and lets go, unless the engine has a later epoch (0: any). A volume that is not attached is success. */
  async detach(volumeId: bigint, epoch: bigint): Promise<void> {
    await this.#order.run(key(volumeId), async () => {
      const present = this.#attached.get(volumeId);
      if (present === undefined) return;
      if (epoch === 0n || present.epoch <= epoch) await this.#detachNow(present);
      else this.#log.warn('a detach of an earlier epoch came late', { volume: present.name, epoch: present.epoch });
    });
  }

  // These two do not wait for a detach that is stuck behind I/O; the addon refuses what no longer fits.
  /** `epoch`: of the engine it is meant for (0: any). */
  async configure(request: ConfigureRequest, epoch: bigint): Promise<void> {
    const host = this.#servingHost(request.volumeId);
    if (epoch !== 0n && this.#attached.get(request.volumeId)?.epoch !== epoch) {
      throw new HoldfastError(
        'EPOCH_SUPERSEDED',
        `volume ${key(request.volumeId)} is served with another epoch than ${epoch}, for which the configuration was meant`,
      );
    }
    await host.configureVolume(request);
  }

  async resize(volumeId: bigint, sizeBytes: bigint): Promise<void> {
    await this.#servingHost(volumeId).resizeVolume(volumeId, sizeBytes);
  }

  /** One that is taken of a volume whose file system is mounted here: while that is frozen, where it can be. */
  async changeSnapshot(request: ChangeSnapshotRequest): Promise<Frozen> {
    const change = () => this.#servingHost(request.volumeId).changeSnapshot(request);
    const mounted = request.change === 'create' ? await this.#mountOf(request.volumeId) : null;
    if (mounted === null) {
      await change();
      return { frozen: false, note: '' };
    }
    const { outcome } = await whileFrozen(mounted, change);
    if (!outcome.frozen) {
      this.#log.warn('a snapshot is taken of a file system that is not frozen', {
        volume: this.#attached.get(request.volumeId)?.name,
        note: outcome.note,
      });
    }
    return outcome;
  }

  async copySnapshot(request: CopySnapshotRequest): Promise<void> {
    this.#servingHost(request.targetVolumeId);
    await this.#servingHost(request.volumeId).copySnapshot(request);
  }

  /** A snapshot of the volume as a block device of this host, for as long as it is looked at. */
  async openView(request: ViewRequest): Promise<string> {
    return await this.#servingHost(request.volumeId).openView(request);
  }

  async closeView(directory: string): Promise<void> {
    await this.#requireHost().closeView(directory);
  }

  /** The volume as a block device of this host. Again: the same one. */
  async map(volumeId: bigint): Promise<string> {
    return await this.#order.run(key(volumeId), async () => {
      const host = this.#servingHost(volumeId);
      makeFolders(this.#devicesDir, 0o700);
      const device = await host.mapVolume({ volumeId, directory: this.#directoryOf(volumeId), force: false });
      this.#log.info('the volume is mapped', { volume: this.#attached.get(volumeId)?.name, device });
      return device;
    });
  }

  /** Also what a former process left. Not mapped: success. */
  async unmap(volumeId: bigint, force: boolean): Promise<void> {
    const unmap = async () => {
      await this.#requireHost().unmapVolume({ volumeId, directory: this.#directoryOf(volumeId), force });
    };
    // By force it does not wait for a detach that is stuck behind I/O of this very device.
    if (force) await unmap();
    else await this.#order.run(key(volumeId), unmap);
  }

  /** Before anything is served: ends devices whose keeper is gone, as after the death of all processes of this host. */
  async clearDeadDevices(): Promise<void> {
    for (const name of existsSync(this.#devicesDir) ? readdirSync(this.#devicesDir) : []) {
      if (!/^[0-9a-f]{16}$/.test(name) || hasKeeper(join(this.#devicesDir, name))) continue;
      try {
        await this.unmap(BigInt(`0x${name}`), true);
        rmSync(join(this.#devicesDir, name), { recursive: true, force: true });
        this.#log.info('cleared a dead block device away', { volume: name });
      } catch (error) {
        this.#log.warn('a dead block device cannot be cleared away', { volume: name, ...errorFields(error) });
      }
    }
  }

  async repair(request: RepairRequest): Promise<number> {
    return await this.#servingHost(request.volumeId).repairVolume(request);
  }

  async report(): Promise<VolumeReport[]> {
    const engines = new Map((await this.#requireHost().status()).map((status) => [status.volumeId, status]));
    return [...this.#attached.values()].map((volume) => reportOf(volume, engines.get(volume.volumeId) ?? null));
  }

  // ---- steps, inside the volume's turn ----

  async #attachNow(request: AttachRequest): Promise<AttachOutcome> {
    const { volumeId, name, epoch } = request;
    const log = this.#log.child({ volume: name, epoch });
    this.#attached.set(volumeId, { volumeId, name, epoch, state: 'opening' });
    try {
      const outcome = await this.#requireHost().attachVolume(request);
      // It may have been fenced already.
      const now = this.#attached.get(volumeId);
      if (now?.state === 'opening') this.#attached.set(volumeId, { ...now, state: 'serving' });
      log.info('the volume is served', { portal: outcome.portal, iqn: request.iqn });
      return outcome;
    } catch (error) {
      this.#attached.delete(volumeId);
      log.warn('the volume could not be attached', errorFields(error));
      throw error;
    }
  }

  async #outcomeOf(present: Attached, request: AttachRequest): Promise<AttachOutcome> {
    const status = (await this.#requireHost().status()).find(({ volumeId }) => volumeId === present.volumeId);
    if (status === undefined) return await this.#attachNow(request);
    return { portal: this.#requireHost().portal, sizeBytes: status.sizeBytes, leaseWaitMs: 0n, leftOut: [] };
  }

  async #detachNow(present: Attached): Promise<void> {
    await this.#requireHost().detachVolume(present.volumeId);
    this.#attached.delete(present.volumeId);
    this.#sequences.delete(sequenceKey(present.volumeId, present.epoch));
    this.#log.info('the volume is detached', { volume: present.name, epoch: present.epoch });
  }

  // ---- questions of the engines ----

  async #changeInSyncSet(change: InSyncChange): Promise<void> {
    const { volumeId, epoch } = change;
    await this.#membershipOrder.run(key(volumeId), async () => {
      const sequence = (this.#sequences.get(sequenceKey(volumeId, epoch)) ?? 0n) + 1n;
      this.#sequences.set(sequenceKey(volumeId, epoch), sequence);
      this.#log.info('changing the in-sync set', {
        volume: this.#attached.get(volumeId)?.name ?? key(volumeId),
        epoch,
        inSync: change.inSync.map(key),
        reason: change.reason,
        sequence,
      });
      await this.#membership.changeInSyncSet({ ...change, inSync: [...change.inSync], sequence });
    });
  }

  async #saveReservations(change: ReservationsChange): Promise<void> {
    // In the order of the changes: the last one stored is the last one made.
    await this.#membershipOrder.run(`reservations ${key(change.volumeId)}`, () =>
      this.#membership.saveReservations(change),
    );
  }

  #fenced(volumeId: bigint, epoch: bigint): void {
    const present = this.#attached.get(volumeId);
    if (present?.epoch !== epoch) return;
    this.#attached.set(volumeId, { ...present, state: 'fenced' });
    this.#log.warn('another engine owns the volume now', { volume: present.name, epoch });
    // Its initiators must go elsewhere, so the target ends; the record stays, for the manager to see.
    this.#order
      .run(key(volumeId), async () => {
        const now = this.#attached.get(volumeId);
        if (now?.epoch === epoch && now.state === 'fenced') await this.#requireHost().detachVolume(volumeId);
      })
      .catch((error: unknown) => {
        this.#log.error('a fenced volume could not be closed', { volume: present.name, ...errorFields(error) });
      });
  }

  // Where the file system of a volume is mounted on this host, as far as this process sees.
  async #mountOf(volumeId: bigint): Promise<string | null> {
    // Most volumes were never a block device here: nothing has to be asked.
    if (!existsSync(this.#directoryOf(volumeId))) return null;
    const status = (await this.#requireHost().status()).find((each) => each.volumeId === volumeId);
    const device = status?.device ?? '';
    return device === '' ? null : (mountOf(device)?.directory ?? null);
  }

  #directoryOf(volumeId: bigint): string {
    return join(this.#devicesDir, key(volumeId));
  }

  #requireHost(): VolumeHost {
    if (this.#host === undefined) throw new HoldfastError('FAILED_PRECONDITION', 'the target process is not open yet');
    return this.#host;
  }

  #servingHost(volumeId: bigint): VolumeHost {
    if (this.#attached.get(volumeId)?.state !== 'serving') {
      throw new HoldfastError('NOT_FOUND', `volume ${key(volumeId)} is not served by this target`);
    }
    return this.#requireHost();
  }
}

function checkEpoch(present: Attached, request: AttachRequest): void {
  const fencedHere = present.state === 'fenced' && present.epoch === request.epoch;
  if (request.epoch > present.epoch || (request.epoch === present.epoch && !fencedHere)) return;
  throw new HoldfastError(
    'EPOCH_SUPERSEDED',
    `volume "${present.name}": epoch ${request.epoch} is past, ${
      fencedHere ? 'another engine owns the volume' : `epoch ${present.epoch} is attached here`
    }`,
  );
}

function reportOf(volume: Attached, engine: VolumeStatus | null): VolumeReport {
  const { volumeId, name, epoch } = volume;
  const base = { volumeId, name, epoch };
  switch (volume.state) {
    case 'opening':
      return { ...base, state: 'opening', failure: '', engine: null };
    case 'fenced':
      return { ...base, state: 'fenced', failure: 'another engine owns the volume', engine: null };
    case 'serving': {
      const failure = engine?.failure ?? '';
      const state = failure === '' ? 'serving' : engine?.stopped === true ? 'failed' : 'waiting';
      return { ...base, state, failure, engine };
    }
  }
}

// The process that keeps a device while no target process serves it (native/fuse/mount.h): pid and start time.
function hasKeeper(directory: string): boolean {
  try {
    const [pid = '', startTime = ''] = readFileSync(join(directory, 'keeper'), 'utf8').trim().split(' ');
    return isAlive({ pid: Number(pid), startTime });
  } catch {
    return false;
  }
}

function key(volumeId: bigint): string {
  return volumeId.toString(16).padStart(16, '0');
}

function sequenceKey(volumeId: bigint, epoch: bigint): string {
  return `${key(volumeId)} ${epoch}`;
}
