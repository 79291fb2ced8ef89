// The iSCSI target of a node with the engines of its volumes, on a thread of the addon. What an engine may not decide
// alone it asks `TargetQuestions`; an answer is a resolved promise, a refusal a rejected one.
//
// Calls for one volume must come one after the other; calls for different volumes may overlap.
import { toHoldfastError } from '../errors/holdfast-error.js';
import { fromNative, native } from './native-error.js';
import { loadAddon } from './native.js';
import type {
  AttachOutcome,
  AttachRequest,
  ChangeSnapshotRequest,
  Chap,
  ConfigureRequest,
  CopySnapshotRequest,
  Credentials,
  DeviceRequest,
  Qos,
  Redirects,
  RepairRequest,
  ReplicaEndpoint,
  TargetEvent,
  TargetHandle,
  ViewRequest,
  VolumeStatus,
} from './native.js';
import { checkAddress, checkText, checkU64, invalid } from './validation.js';

export type {
  AttachOutcome,
  AttachRequest,
  ChangeSnapshotRequest,
  ConfigureRequest,
  CopySnapshotRequest,
  DeviceRequest,
  Latency,
  RepairRequest,
  ReplicaEndpoint,
  SnapshotChange,
  ViewRequest,
  VolumeStatus,
} from './native.js';

export type InSyncChange = Omit<Extract<TargetEvent, { kind: 'change-in-sync-set' }>, 'kind' | 'id'>;
export type ReservationsChange = Omit<Extract<TargetEvent, { kind: 'save-reservations' }>, 'kind' | 'id'>;
export type LostData = Omit<Extract<TargetEvent, { kind: 'lost-data' }>, 'kind' | 'id'>;
export type DamageFound = Omit<Extract<TargetEvent, { kind: 'damage-found' }>, 'kind'>;
export type Fenced = Omit<Extract<TargetEvent, { kind: 'fenced' }>, 'kind'>;

export type TargetQuestions = {
  /** Stores the in-sync set. Retries until it is stored or refused; I/O that depends on it waits. */
  readonly changeInSyncSet: (change: InSyncChange) => Promise<void>;
  readonly saveReservations: (change: ReservationsChange) => Promise<void>;
  /** Acknowledged writes are on no replica any more. Retries until that is recorded or refused; the engine stops then. */
  readonly lostData: (loss: LostData) => Promise<void>;
  /** A replica was rebuilt with blocks that are damaged on every copy. Nothing waits for it. */
  readonly damageFound: (damage: DamageFound) => void;
  /** Another engine owns the volume: this one has stopped for good. */
  readonly fenced: (volume: Fenced) => void;
};

export class TargetProcess implements AsyncDisposable {
  readonly #handle: TargetHandle;
  readonly #portal: string;
  #closing: Promise<void> | undefined;

  private constructor(handle: TargetHandle, portal: string) {
    this.#handle = handle;
    this.#portal = portal;
  }

  /** Listens on `portal` (HOST:PORT; port 0: any). */
  static async open(
    options: { readonly portal: string; readonly credentials?: Credentials | null },
    questions: TargetQuestions,
  ): Promise<TargetProcess> {
    checkAddress(options.portal, 'portal');
    const addon = loadAddon();
    let handle: TargetHandle;
    try {
      handle = addon.targetStart((event) => {
        void answer(handle, event, questions);
      });
    } catch (error) {
      throw fromNative(error);
    }
    try {
      const { portal } = await native(() =>
        addon.targetOpen(handle, { portal: options.portal, credentials: options.credentials ?? null }),
      );
      return new TargetProcess(handle, portal);
    } catch (error) {
      await addon.targetClose(handle);
      throw error;
    }
  }

  /** HOST:PORT as bound. */
  /** For connections made from now on. */
  async setCredentials(credentials: Credentials): Promise<void> {
    await native(() => loadAddon().targetSetCredentials(this.#handle, credentials));
  }

  get portal(): string {
    return this.#portal;
  }

  async attachVolume(request: AttachRequest): Promise<AttachOutcome> {
    checkAttach(request);
    return await native(() => loadAddon().targetAttach(this.#handle, request));
  }

  async detachVolume(volumeId: bigint): Promise<void> {
    checkU64(volumeId, 'volumeId', 1n);
    await native(() => loadAddon().targetDetach(this.#handle, volumeId));
  }

  async configureVolume(request: ConfigureRequest): Promise<void> {
    checkU64(request.volumeId, 'volumeId', 1n);
    checkU64(request.rebuildBytesPerSecond, 'rebuildBytesPerSecond');
    checkPercent(request.foregroundPercent);
    checkReplicas(request.replicas);
    checkQos(request.qos);
    await native(() => loadAddon().targetConfigure(this.#handle, request));
  }

  /** Blocks written again from another copy. */
  async repairVolume(request: RepairRequest): Promise<number> {
    checkU64(request.volumeId, 'volumeId', 1n);
    checkU64(request.replicaId, 'replicaId', 1n);
    checkU64(request.firstBlock, 'firstBlock');
    if (!Number.isInteger(request.blockCount) || request.blockCount < 1 || request.blockCount > 256) {
      throw invalid(`blockCount ${request.blockCount} is not 1 to 256`);
    }
    return await native(() => loadAddon().targetRepair(this.#handle, request));
  }

  async resizeVolume(volumeId: bigint, sizeBytes: bigint): Promise<void> {
    checkU64(volumeId, 'volumeId', 1n);
    checkSize(sizeBytes);
    await native(() => loadAddon().targetResize(this.#handle, volumeId, sizeBytes));
  }

  async changeSnapshot(request: ChangeSnapshotRequest): Promise<void> {
    checkU64(request.volumeId, 'volumeId', 1n);
    checkU64(request.snapshotId, 'snapshotId', 1n);
    if (!['create', 'delete', 'revert'].includes(request.change)) {
      throw invalid(`change "${request.change}" is not "create", "delete" or "revert"`);
    }
    await native(() => loadAddon().targetChangeSnapshot(this.#handle, request));
  }

  /** Both volumes are attached here. Resolves when everything is copied and flushed. */
  async copySnapshot(request: CopySnapshotRequest): Promise<void> {
    checkU64(request.volumeId, 'volumeId', 1n);
    checkU64(request.snapshotId, 'snapshotId', 1n);
    checkU64(request.targetVolumeId, 'targetVolumeId', 1n);
    await native(() => loadAddon().targetCopySnapshot(this.#handle, request));
  }

  /** A snapshot of an attached volume as a block device of this host: /dev/loopN. What is written to it is forgotten. */
  async openView(request: ViewRequest): Promise<string> {
    checkU64(request.volumeId, 'volumeId', 1n);
    checkU64(request.snapshotId, 'snapshotId', 1n);
    checkU64(request.firstByte, 'firstByte');
    checkU64(request.sizeBytes, 'sizeBytes', 1n);
    if (request.firstByte % 512n !== 0n || request.sizeBytes % 512n !== 0n) {
      throw invalid('a view begins and ends at multiples of 512 bytes');
    }
    checkText(request.directory, 'directory');
    return await native(() => loadAddon().targetOpenView(this.#handle, request));
  }

  /** Whoever still uses it gets errors. */
  async closeView(directory: string): Promise<void> {
    await native(() => loadAddon().targetCloseView(this.#handle, { directory }));
  }

  /** The attached volume as a block device of this host: /dev/loopN. Again: the same one. */
  async mapVolume(request: DeviceRequest): Promise<string> {
    checkDevice(request);
    return await native(() => loadAddon().targetMap(this.#handle, request));
  }

  async unmapVolume(request: DeviceRequest): Promise<void> {
    checkDevice(request);
    await native(() => loadAddon().targetUnmap(this.#handle, request));
  }

  async setRedirects(redirects: Redirects['redirects'], expectedIqns: Redirects['expectedIqns']): Promise<void> {
    for (const redirect of redirects) {
      checkIqn(redirect.iqn);
      checkAddress(redirect.portal, 'portal');
    }
    for (const iqn of expectedIqns) checkIqn(iqn);
    await native(() => loadAddon().targetSetRedirects(this.#handle, { redirects, expectedIqns }));
  }

  async status(): Promise<readonly VolumeStatus[]> {
    return await native(() => loadAddon().targetStatus(this.#handle));
  }

  /** Detaches every volume (flushes it), ends all sessions. Again: the same promise. */
  close(): Promise<void> {
    this.#closing ??= native(() => loadAddon().targetClose(this.#handle)).then(() => undefined);
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

// Never throws: every question gets an answer.
async function answer(handle: TargetHandle, event: TargetEvent, questions: TargetQuestions): Promise<void> {
  if (event.kind === 'fenced') {
    questions.fenced({ volumeId: event.volumeId, epoch: event.epoch });
    return;
  }
  if (event.kind === 'damage-found') {
    questions.damageFound({ volumeId: event.volumeId, epoch: event.epoch, reason: event.reason });
    return;
  }
  let refusal: { readonly code: string; readonly message: string } | null = null;
  try {
    if (event.kind === 'change-in-sync-set') {
      const { volumeId, epoch, inSync, reason } = event;
      await questions.changeInSyncSet({ volumeId, epoch, inSync, reason });
    } else if (event.kind === 'lost-data') {
      const { volumeId, epoch, reason } = event;
      await questions.lostData({ volumeId, epoch, reason });
    } else {
      const { volumeId, epoch, reservations } = event;
      await questions.saveReservations({ volumeId, epoch, reservations });
    }
  } catch (error) {
    const { code, message } = toHoldfastError(error);
    refusal = { code, message };
  }
  loadAddon().targetAnswer(handle, event.id, refusal);
}

// ---- validation ----

// RFC 7143 section 4.2.7: an iSCSI name has at most 223 bytes.
function checkIqn(iqn: string): void {
  checkText(iqn, 'iqn', 223);
  if (!/^(?:iqn|eui|naa)\.[-.:_a-z0-9]+$/.test(iqn)) throw invalid(`iqn "${iqn}" is not an iSCSI name`);
}

function checkSize(sizeBytes: bigint): void {
  checkU64(sizeBytes, 'sizeBytes', 4096n);
  if (sizeBytes % 4096n !== 0n) throw invalid(`sizeBytes ${sizeBytes} is not a multiple of 4096`);
}

function checkDevice({ volumeId, directory }: DeviceRequest): void {
  checkU64(volumeId, 'volumeId', 1n);
  if (!directory.startsWith('/')) throw invalid(`directory "${directory}" is not an absolute path`);
  checkText(directory, 'directory', 3000);
}

function checkPercent(percent: number): void {
  if (!Number.isInteger(percent) || percent < 0 || percent > 99) {
    throw invalid(`foregroundPercent ${percent} is not 0 to 99`);
  }
}

function checkReplicas(replicas: readonly ReplicaEndpoint[]): void {
  if (replicas.length === 0) throw invalid('replicas is empty');
  const seen = new Set<bigint>();
  for (const replica of replicas) {
    checkU64(replica.replicaId, 'replicaId', 1n);
    checkAddress(replica.address, 'address');
    if (seen.has(replica.replicaId)) throw invalid(`replica ${replica.replicaId.toString(16)} is named twice`);
    seen.add(replica.replicaId);
  }
}

function checkChap(chap: Chap | null, field: string): void {
  if (chap === null) return;
  checkText(chap.user, `${field}.user`, 256);
  const length = Buffer.byteLength(chap.secret);
  if (length < 12 || length > 64) throw invalid(`${field}.secret has ${length} bytes: it takes 12 to 64`);
}

function checkAttach(request: AttachRequest): void {
  checkU64(request.volumeId, 'volumeId', 1n);
  checkText(request.name, 'name', 256);
  checkU64(request.epoch, 'epoch', 1n);
  checkSize(request.sizeBytes);
  if (request.logicalBlockSize !== 512 && request.logicalBlockSize !== 4096) {
    throw invalid(`logicalBlockSize ${request.logicalBlockSize} is neither 512 nor 4096`);
  }
  checkReplicas(request.replicas);
  if (!request.replicas.some((replica) => replica.inSync)) throw invalid('no replica is marked in-sync');
  checkIqn(request.iqn);
  checkChap(request.chap, 'chap');
  checkChap(request.mutualChap, 'mutualChap');
  for (const initiator of request.initiatorAllowList) checkText(initiator, 'initiatorAllowList', 223);
  checkU64(request.rebuildBytesPerSecond, 'rebuildBytesPerSecond');
  checkPercent(request.foregroundPercent);
  checkQos(request.qos);
}

function checkQos(qos: Qos | null): void {
  if (qos === null) return;
  checkU64(qos.operationsPerSecond, 'operationsPerSecond');
  checkU64(qos.bytesPerSecond, 'bytesPerSecond');
  if (!Number.isInteger(qos.burstSeconds) || qos.burstSeconds < 0 || qos.burstSeconds > 3_600) {
    throw invalid(`burstSeconds ${qos.burstSeconds} is not from 0 to 3600`);
  }
}
