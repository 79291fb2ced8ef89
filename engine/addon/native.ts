// What build/addon/holdfast.node exports: the same records as native/addon/*_process.cc reads and makes. 64-bit numbers
// are bigints, absent is null, bytes are Buffers. The C++ side trusts these shapes; only this folder calls it.
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { HoldfastError } from '../errors/holdfast-error.js';

declare const handleKind: unique symbol;
/** An open process of the addon. Opaque. */
export type NativeHandle<Kind extends string> = { readonly [handleKind]: Kind };
export type ReplicaHandle = NativeHandle<'replica'>;
export type TargetHandle = NativeHandle<'target'>;

/** Of a disk. Sizes in bytes; 0 as stated. */
export type ReplicaOptions = {
  readonly directory: string;
  /** null: in the directory */
  readonly journalPath: string | null;
  /** used when the journal is made */
  readonly journalBytes: bigint;
  /** 0: what the file system has */
  readonly capacityBytes: bigint;
  /** kept free; 0: the default */
  readonly reserveBytes: bigint;
  /** budget for data that is journalled and not yet in its place */
  readonly cacheBytes: bigint;
  readonly metadataCacheBytes: bigint;
  /** null: any */
  readonly expectedDiskId: string | null;
  /** HOST:PORT or unix:PATH */
  readonly listen: readonly string[];
  /** for TLS with other hosts; null: everything is plain */
  readonly credentials: Credentials | null;
};

/** PEM texts. */
export type Credentials = { readonly authority: string; readonly certificate: string; readonly key: string };

export type ReplicaOpened = { readonly diskId: string; readonly listen: readonly string[] };

export type DiskStatus = {
  readonly diskId: string;
  /** why the disk refuses work; null when healthy */
  readonly failure: string | null;
  readonly replicas: number;
  readonly totalBytes: bigint;
  readonly usedBytes: bigint;
  readonly reserveBytes: bigint;
  readonly freeBytes: bigint;
  readonly journalBytes: bigint;
  readonly journalUsedBytes: bigint;
  readonly cachedBytes: bigint;
};

export type ReplicaEndpoint = {
  readonly replicaId: bigint;
  /** HOST:PORT or unix:PATH */
  readonly address: string;
  readonly local: boolean;
  readonly inSync: boolean;
  /** not to be rebuilt now; a rebuild that runs goes on */
  readonly holdRebuild: boolean;
};

export type Chap = { readonly user: string; readonly secret: string };

/** Limits of a volume; 0: none. */
export type Qos = {
  readonly operationsPerSecond: bigint;
  readonly bytesPerSecond: bigint;
  readonly burstSeconds: number;
};

/** counts[i]: what took less than 16 µs * 2^i, and not less than half of that; the last one the rest. */
export type Latency = { readonly counts: readonly bigint[]; readonly totalMicros: bigint };

export type AttachRequest = {
  readonly volumeId: bigint;
  readonly name: string;
  readonly epoch: bigint;
  readonly sizeBytes: bigint;
  readonly logicalBlockSize: number;
  readonly replicas: readonly ReplicaEndpoint[];
  readonly iqn: string;
  readonly chap: Chap | null;
  readonly mutualChap: Chap | null;
  readonly initiatorAllowList: readonly string[];
  readonly reservations: Buffer;
  /** 0: unlimited */
  readonly rebuildBytesPerSecond: bigint;
  /** what hosts get while rebuilds run, 0 to 99 */
  readonly foregroundPercent: number;
  readonly qos: Qos | null;
  /** no front-end: for work on a volume that no host uses */
  readonly internal: boolean;
};

export type SnapshotChange = 'create' | 'delete' | 'revert';

export type ChangeSnapshotRequest = {
  readonly volumeId: bigint;
  readonly snapshotId: bigint;
  readonly change: SnapshotChange;
};

export type CopySnapshotRequest = {
  readonly volumeId: bigint;
  readonly snapshotId: bigint;
  readonly targetVolumeId: bigint;
};

export type AttachOutcome = {
  readonly portal: string;
  readonly sizeBytes: bigint;
  /** waited for the lease of an engine before this one */
  readonly leaseWaitMs: bigint;
  readonly leftOut: readonly bigint[];
};

export type RepairRequest = {
  readonly volumeId: bigint;
  /** the bad copy */
  readonly replicaId: bigint;
  readonly firstBlock: bigint;
  readonly blockCount: number;
  readonly differs: boolean;
};

export type ConfigureRequest = {
  readonly volumeId: bigint;
  readonly replicas: readonly ReplicaEndpoint[];
  readonly rebuildBytesPerSecond: bigint;
  readonly foregroundPercent: number;
  readonly qos: Qos | null;
};

export type DeviceRequest = {
  readonly volumeId: bigint;
  /** keeps what the next process needs to take the device over; made where it is missing, its parent is not */
  readonly directory: string;
  /** ends it although somebody uses it; ignored by map */
  readonly force: boolean;
};

export type ViewRequest = {
  readonly volumeId: bigint;
  readonly snapshotId: bigint;
  /** a range of bytes inside the snapshot, in multiples of 512 */
  readonly firstByte: bigint;
  readonly sizeBytes: bigint;
  /** names the view; made where it is missing, its parent is not */
  readonly directory: string;
};

export type Redirects = {
  readonly redirects: readonly { readonly iqn: string; readonly portal: string }[];
  readonly expectedIqns: readonly string[];
};

export type ReplicaPhase = 'in-sync' | 'rebuilding' | 'failed';

export type VolumeStatus = {
  readonly volumeId: bigint;
  readonly epoch: bigint;
  /** why I/O has stopped or waits; empty when it flows */
  readonly failure: string;
  /** for good: this engine serves nothing any more */
  readonly stopped: boolean;
  /** stopped because every in-sync replica lost acknowledged writes */
  readonly lostData: boolean;
  readonly writesPaused: boolean;
  readonly sizeBytes: bigint;
  readonly lastSeq: bigint;
  readonly committedSeq: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
  readonly flushes: bigint;
  readonly readBytes: bigint;
  readonly writtenBytes: bigint;
  readonly repairedBlocks: bigint;
  readonly throttled: bigint;
  readonly readLatency: Latency;
  readonly writeLatency: Latency;
  readonly flushLatency: Latency;
  readonly replicas: readonly {
    readonly replicaId: bigint;
    readonly phase: ReplicaPhase;
    readonly reason: string;
    readonly journalledSeq: bigint;
    readonly chunksTotal: bigint;
    readonly chunksExamined: bigint;
    readonly bytesCopied: bigint;
    readonly bytesPerSecond: bigint;
  }[];
  readonly sessions: readonly {
    readonly initiator: string;
    readonly peerAddress: string;
    readonly commands: bigint;
  }[];
  /** of the copy of a snapshot that fills it */
  readonly copiedBytes: bigint;
  /** /dev/loopN while it is mapped; else empty */
  readonly device: string;
};

/** What a target asks (`id` is answered once by targetAnswer) or tells. */
export type TargetEvent =
  | {
      readonly kind: 'change-in-sync-set';
      readonly id: bigint;
      readonly volumeId: bigint;
      readonly epoch: bigint;
      readonly inSync: readonly bigint[];
      readonly reason: string;
    }
  | {
      readonly kind: 'save-reservations';
      readonly id: bigint;
      readonly volumeId: bigint;
      readonly epoch: bigint;
      readonly reservations: Buffer;
    }
  | {
      readonly kind: 'lost-data';
      readonly id: bigint;
      readonly volumeId: bigint;
      readonly epoch: bigint;
      readonly reason: string;
    }
  | {
      readonly kind: 'damage-found';
      readonly volumeId: bigint;
      readonly epoch: bigint;
      readonly reason: string;
    }
  | { readonly kind: 'fenced'; readonly volumeId: bigint; readonly epoch: bigint };

/** An extended attribute of a file. */
export type NativeAttribute = {
  readonly name: Buffer;
  /** null: it cannot be read */
  readonly value: Buffer | null;
};

/** Promises are rejected with an Error that has a `code` of errorCodes. */
export type NativeAddon = {
  readonly replicaStart: () => ReplicaHandle;
  readonly replicaOpen: (handle: ReplicaHandle, options: ReplicaOptions) => Promise<ReplicaOpened>;
  readonly replicaSetCredentials: (handle: ReplicaHandle, credentials: Credentials) => Promise<null>;
  readonly replicaStatus: (handle: ReplicaHandle) => Promise<DiskStatus>;
  readonly replicaClose: (handle: ReplicaHandle) => Promise<null>;
  readonly targetStart: (listener: (event: TargetEvent) => void) => TargetHandle;
  readonly targetOpen: (
    handle: TargetHandle,
    options: { readonly portal: string; readonly credentials: Credentials | null },
  ) => Promise<{ readonly portal: string }>;
  readonly targetSetCredentials: (handle: TargetHandle, credentials: Credentials) => Promise<null>;
  readonly targetAttach: (handle: TargetHandle, volume: AttachRequest) => Promise<AttachOutcome>;
  readonly targetDetach: (handle: TargetHandle, volumeId: bigint) => Promise<null>;
  readonly targetConfigure: (handle: TargetHandle, volume: ConfigureRequest) => Promise<null>;
  readonly targetResize: (handle: TargetHandle, volumeId: bigint, sizeBytes: bigint) => Promise<null>;
  readonly targetChangeSnapshot: (handle: TargetHandle, snapshot: ChangeSnapshotRequest) => Promise<null>;
  readonly targetCopySnapshot: (handle: TargetHandle, copy: CopySnapshotRequest) => Promise<null>;
  readonly targetMap: (handle: TargetHandle, device: DeviceRequest) => Promise<string>;
  readonly targetUnmap: (handle: TargetHandle, device: DeviceRequest) => Promise<null>;
  readonly targetOpenView: (handle: TargetHandle, view: ViewRequest) => Promise<string>;
  readonly targetCloseView: (handle: TargetHandle, view: { readonly directory: string }) => Promise<null>;
  readonly targetRepair: (handle: TargetHandle, repair: RepairRequest) => Promise<number>;
  readonly targetSetRedirects: (handle: TargetHandle, table: Redirects) => Promise<null>;
  readonly targetStatus: (handle: TargetHandle) => Promise<readonly VolumeStatus[]>;
  readonly targetAnswer: (
    handle: TargetHandle,
    id: bigint,
    error: { readonly code: string; readonly message: string } | null,
  ) => null;
  readonly targetClose: (handle: TargetHandle) => Promise<null>;
  /** null: they cannot be listed */
  readonly readFileAttributes: (path: Buffer) => readonly NativeAttribute[] | null;
  /** Whether it is kept. DISK_IO */
  readonly writeFileAttribute: (path: Buffer, name: Buffer, value: Buffer) => boolean;
  /** null: there is nothing but zeros. DISK_IO */
  readonly firstData: (path: string) => Promise<bigint | null>;
  /** null: there is none. DISK_IO */
  readonly nextData: (fd: number, offset: number) => { readonly begin: number; readonly end: number } | null;
};

const addonFile = join('build', 'addon', 'holdfast.node');

// The sources lie in engine/addon, the compiled program in dist/addon: the addon is found from both.
function locate(): string {
  for (let folder = import.meta.dirname; ; folder = dirname(folder)) {
    const candidate = join(folder, addonFile);
    if (existsSync(candidate)) return candidate;
    if (folder === dirname(folder)) {
      throw new HoldfastError('UNSUPPORTED_SYSTEM', `${addonFile} is missing: run npm run build`);
    }
  }
}

let loaded: NativeAddon | undefined;

export function loadAddon(): NativeAddon {
  if (loaded !== undefined) return loaded;
  const path = locate();
  const container: { exports: unknown } = { exports: {} };
  // Node carries an nghttp2, an OpenSSL and a zlib of its own under the same symbol names. Bound deeply, the addon uses
  // the libraries that it was built against and never a mixture.
  const { RTLD_NOW, RTLD_DEEPBIND } = constants.dlopen as {
    readonly RTLD_NOW: number;
    readonly RTLD_DEEPBIND?: number;
  };
  try {
    process.dlopen(container, path, RTLD_NOW | (RTLD_DEEPBIND ?? 0));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new HoldfastError('UNSUPPORTED_SYSTEM', `the addon ${path} cannot be loaded: ${reason}`, { cause: error });
  }
  loaded = container.exports as NativeAddon;
  return loaded;
}
