// A disk served over gRPC (proto/holdfast/v1/replica.proto) by a thread of the addon.
import { fromNative, native } from './native-error.js';
import { loadAddon } from './native.js';
import type { Credentials, DiskStatus, ReplicaHandle, ReplicaOpened, ReplicaOptions } from './native.js';
import { checkAddress, checkText, checkU64, invalid } from './validation.js';

export type { DiskStatus } from './native.js';

const defaults = {
  journalPath: null,
  journalBytes: 1n << 30n,
  capacityBytes: 0n,
  reserveBytes: 0n,
  cacheBytes: 128n << 20n,
  metadataCacheBytes: 16n << 20n,
  expectedDiskId: null,
  credentials: null,
} as const;

export type OpenReplicaOptions = Pick<ReplicaOptions, 'directory' | 'listen'> & Partial<ReplicaOptions>;

// The least that the store can work with.
const journalBytesMin = 4n << 20n;
const cacheBytesMin = 4n << 20n;

function complete(options: OpenReplicaOptions): ReplicaOptions {
  const full: ReplicaOptions = { ...defaults, ...options };
  checkText(full.directory, 'directory');
  if (full.journalPath !== null) checkText(full.journalPath, 'journalPath');
  checkU64(full.journalBytes, 'journalBytes', journalBytesMin);
  if (full.journalBytes % 4096n !== 0n) throw invalid('journalBytes is not a multiple of 4096');
  checkU64(full.capacityBytes, 'capacityBytes');
  checkU64(full.reserveBytes, 'reserveBytes');
  checkU64(full.cacheBytes, 'cacheBytes', cacheBytesMin);
  checkU64(full.metadataCacheBytes, 'metadataCacheBytes');
  if (full.expectedDiskId !== null && !/^[0-9a-f]{32}$/.test(full.expectedDiskId)) {
    throw invalid(`expectedDiskId "${full.expectedDiskId}" is not 32 lower-case hex digits`);
  }
  if (full.listen.length === 0) throw invalid('listen is empty: give at least one address');
  for (const address of full.listen) checkAddress(address, 'listen');
  return full;
}

export class ReplicaProcess implements AsyncDisposable {
  readonly #handle: ReplicaHandle;
  readonly #opened: ReplicaOpened;
  #closing: Promise<void> | undefined;

  private constructor(handle: ReplicaHandle, opened: ReplicaOpened) {
    this.#handle = handle;
    this.#opened = opened;
  }

  /** Opens or formats the disk, recovers it, and serves. Takes as long as the replay of its journal. */
  static async open(options: OpenReplicaOptions): Promise<ReplicaProcess> {
    const full = complete(options);
    const addon = loadAddon();
    const handle = start(() => addon.replicaStart());
    try {
      return new ReplicaProcess(handle, await native(() => addon.replicaOpen(handle, full)));
    } catch (error) {
      await addon.replicaClose(handle);
      throw error;
    }
  }

  get diskId(): string {
    return this.#opened.diskId;
  }

  /** The addresses as bound. */
  get listen(): readonly string[] {
    return this.#opened.listen;
  }

  /** For connections made from now on. */
  async setCredentials(credentials: Credentials): Promise<void> {
    await native(() => loadAddon().replicaSetCredentials(this.#handle, credentials));
  }

  async status(): Promise<DiskStatus> {
    return await native(() => loadAddon().replicaStatus(this.#handle));
  }

  /** Hangs up, brings everything committed to its place, closes the disk. Again: the same promise. */
  close(): Promise<void> {
    this.#closing ??= native(() => loadAddon().replicaClose(this.#handle)).then(() => undefined);
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function start<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw fromNative(error);
  }
}
