// What the manager asks of target and replica processes. grpc-data-plane.ts is the real one; tests bring their own.
// Every call has a deadline and throws a HoldfastError: CONNECTION_LOST when the process cannot be reached.

export type Endpoint = {
  readonly replicaId: string;
  readonly address: string;
  readonly local: boolean;
  readonly inSync: boolean;
  /** Others have their turn to be rebuilt. */
  readonly holdRebuild: boolean;
};

/** What an engine is told besides its replicas, at attach and whenever it changes. */
export type EngineSettings = {
  /** Null: no limits. */
  readonly qos: {
    readonly operationsPerSecond: number;
    readonly bytesPerSecond: number;
    readonly burstSeconds: number;
  } | null;
  /** 0: unlimited. */
  readonly rebuildBytesPerSecond: number;
  /** What hosts get while rebuilds run, per cent. */
  readonly foregroundPercent: number;
};

export type Chap = { readonly user: string; readonly secret: string };

export type AttachRequest = {
  readonly volumeId: string;
  readonly name: string;
  readonly epoch: number;
  readonly sizeBytes: number;
  readonly blockSize: number;
  readonly endpoints: readonly Endpoint[];
  readonly iqn: string;
  readonly reservations: Uint8Array;
  readonly settings: EngineSettings;
  readonly chap: Chap | null;
  readonly mutualChap: Chap | null;
  readonly initiators: readonly string[];
  /** No front-end: for work on a volume that no host uses. */
  readonly internal: boolean;
};

export type SnapshotChange = 'create' | 'delete' | 'revert';

/** As a replica has it. */
export type ReplicaSnapshot = {
  readonly id: string;
  /** The next older one on its way to the root. */
  readonly parent: string | null;
  readonly sizeBytes: number;
  /** Held by what changed between the parent and it. */
  readonly usedBytes: number;
};

export type ReplicaStatus = {
  readonly replicaId: string;
  readonly phase: 'in-sync' | 'rebuilding' | 'failed';
  readonly reason: string;
  readonly chunksTotal: number;
  readonly chunksExamined: number;
  readonly bytesCopied: number;
  readonly bytesPerSecond: number;
};

export type VolumeStatus = {
  readonly volumeId: string;
  readonly epoch: number;
  /** "opening", "serving", "waiting", "fenced", "failed". */
  readonly state: string;
  readonly failure: string;
  readonly sizeBytes: number;
  /** /dev/loopN of the target's host; empty when it is not mapped */
  readonly device: string;
  /** The disks of all in-sync replicas are full. */
  readonly writesPaused: boolean;
  /** "failed" because every in-sync replica lost acknowledged writes. */
  readonly lostData: boolean;
  readonly replicas: readonly ReplicaStatus[];
  readonly activity: VolumeActivity;
};

/** Since the engine was started. */
export type VolumeActivity = {
  readonly reads: number;
  readonly writes: number;
  readonly flushes: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly repairedBlocks: number;
  readonly throttled: number;
  readonly sessions: number;
  readonly readLatency: Latency;
  readonly writeLatency: Latency;
  readonly flushLatency: Latency;
};

/** counts[i]: operations that took less than 16 µs * 2^i; each is counted once; the last one: all that took longer. */
export type Latency = { readonly counts: readonly number[]; readonly totalMicros: number };

export type TargetStatus = { readonly instanceId: string; readonly volumes: readonly VolumeStatus[] };

export type DiskStatus = {
  readonly diskId: string;
  readonly totalBytes: number;
  readonly usedBytes: number;
  readonly reserveBytes: number;
  readonly freeBytes: number;
  readonly failure: string;
};

export type NewReplica = {
  readonly replicaId: string;
  readonly volumeId: string;
  readonly sizeBytes: number;
  /** Of a new volume; else a rebuild fills it. */
  readonly complete: boolean;
  /** Of a linked clone: the replica of the same disk, and its snapshot, whose blocks it shares. */
  readonly link?: { readonly sourceReplicaId: string; readonly snapshotId: string } | undefined;
};

export type Attached = {
  readonly portal: string;
  readonly sizeBytes: number;
  /** Waited for the lease of an engine before this one. */
  readonly leaseWaitMs: number;
  /** In-sync replicas that could not be used. */
  readonly leftOut: readonly string[];
};

/** What a replica has, as its disk says. */
export type ReplicaState = {
  readonly replicaId: string;
  readonly complete: boolean;
  readonly lastEpoch: number;
  readonly lastSeq: number;
};

export type DamagedChunk = { readonly chunk: number; readonly blocks: bigint; readonly message: string };

export type ScrubProgress = {
  readonly nextChunk: number;
  readonly chunksTotal: number;
  readonly blocksChecked: number;
  readonly damaged: readonly DamagedChunk[];
  readonly finished: boolean;
};

export type ScrubRequest = {
  readonly replicaId: string;
  readonly firstChunk: number;
  /** Exclusive. */
  readonly endChunk: number;
  readonly bytesPerSecond: number;
};

export type ChunkVersion = {
  readonly chunk: number;
  /** What changed between two snapshots is versioned by itself. */
  readonly layer: string;
  readonly epoch: number;
  readonly seq: number;
  /** 0: not known yet. */
  readonly digest: number;
};

export type Repair = {
  readonly volumeId: string;
  /** The bad copy. */
  readonly replicaId: string;
  readonly firstBlock: number;
  readonly blockCount: number;
  /** Wrong whatever its checksums say. */
  readonly differs: boolean;
};

export type DataPlane = {
  readonly attach: (control: string, request: AttachRequest) => Promise<Attached>;
  /** An engine of a later epoch stays; 0: whatever there is goes. */
  readonly detach: (control: string, volumeId: string, epoch: number, timeoutMs?: number) => Promise<void>;
  readonly configure: (
    control: string,
    engine: { readonly volumeId: string; readonly epoch: number },
    endpoints: readonly Endpoint[],
    settings: EngineSettings,
  ) => Promise<void>;
  readonly resize: (control: string, volumeId: string, sizeBytes: number) => Promise<void>;
  /** Whether a mounted file system was frozen for it; `note`: why not, or empty. */
  readonly changeSnapshot: (
    control: string,
    volumeId: string,
    change: SnapshotChange,
    snapshotId: string,
  ) => Promise<{ readonly frozen: boolean; readonly note: string }>;
  /** Both volumes are attached there; the target holds nothing yet. */
  readonly copySnapshot: (
    control: string,
    source: { readonly volumeId: string; readonly snapshotId: string },
    targetVolumeId: string,
  ) => Promise<void>;
  /** Frames of engine/filesystem/file-frames.ts, cut anywhere; as fast as they are taken. */
  readonly readSnapshotFiles: (
    control: string,
    request: SnapshotFilesRequest,
    signal: AbortSignal,
  ) => AsyncIterable<Buffer>;
  /** The block device, /dev/loopN of the target's host. */
  readonly map: (control: string, volumeId: string) => Promise<string>;
  readonly unmap: (control: string, volumeId: string, force: boolean) => Promise<void>;
  /** Blocks written again; CORRUPT when no good copy is left. */
  readonly repair: (control: string, repair: Repair) => Promise<number>;
  readonly setRedirects: (
    control: string,
    redirects: readonly Redirect[],
    expectedIqns: readonly string[],
  ) => Promise<void>;
  readonly targetStatus: (control: string) => Promise<TargetStatus>;
  readonly createReplica: (address: string, replica: NewReplica) => Promise<void>;
  readonly deleteReplica: (address: string, replicaId: string) => Promise<void>;
  readonly disk: (address: string) => Promise<DiskStatus>;
  /** Bytes that each replica of the disk holds, by replica id. */
  readonly replicaUsage: (address: string) => Promise<ReadonlyMap<string, number>>;
  /** Of one replica, oldest first. */
  readonly snapshots: (address: string, replicaId: string) => Promise<readonly ReplicaSnapshot[]>;
  /** Ids of those that nothing takes back any more; waits a while for what is only in the log. */
  readonly settledSnapshots: (address: string, replicaId: string) => Promise<ReadonlySet<string>>;
  readonly replicaStates: (address: string) => Promise<readonly ReplicaState[]>;
  /** The replica promises the epoch, which ends what engines of older ones have under way; then it says what it has. */
  readonly openReplica: (address: string, replicaId: string, epoch: number) => Promise<ReplicaState>;
  /** Until the last chunk was checked. */
  readonly scrub: (
    address: string,
    request: ScrubRequest,
    onProgress: (progress: ScrubProgress) => void,
    signal: AbortSignal,
  ) => Promise<void>;
  readonly chunkVersions: (
    address: string,
    replicaId: string,
    firstChunk: number,
    endChunk: number,
  ) => Promise<readonly ChunkVersion[]>;
  readonly close: () => void;
};

export type SnapshotFilesRequest = {
  readonly volumeId: string;
  readonly snapshotId: string;
  readonly sizeBytes: number;
  /** 0: the device as a whole. */
  readonly partition: number;
  readonly path: string;
  readonly list: boolean;
  readonly recursive: boolean;
};

export type Redirect = { readonly iqn: string; readonly portal: string };

/** Equal for equal settings and endpoints (in the order of the record), whatever their in-sync state: that belongs to the engine. */
export function configurationKey(endpoints: readonly Endpoint[], settings: EngineSettings): string {
  const { qos, rebuildBytesPerSecond, foregroundPercent } = settings;
  let key = qos === null ? '' : `${qos.operationsPerSecond} ${qos.bytesPerSecond} ${qos.burstSeconds}`;
  key += `\n${rebuildBytesPerSecond} ${foregroundPercent}`;
  for (const { replicaId, address, local, holdRebuild } of endpoints) {
    key += `\n${replicaId} ${address} ${local} ${holdRebuild}`;
  }
  return key;
}

/** Equal for equal tables, in whatever order: a sum of hashes, since it is computed in every pass over all volumes. */
export function redirectsKey(
  owners: readonly { readonly portal: string; readonly names: readonly string[] }[],
): string {
  let [count, low, high] = [0, 0, 0];
  for (const { portal, names } of owners) {
    const [lowSeed, highSeed] = [hash(portal, 0x811c9dc5), hash(portal, 0x9dc5811c)];
    for (const name of names) {
      count += 1;
      low = (low + hash(name, lowSeed)) >>> 0;
      high = (high + hash(name, highSeed)) >>> 0;
    }
  }
  return `${count} ${low} ${high}`;
}

// FNV-1a.
function hash(text: string, seed: number): number {
  let value = seed;
  for (let index = 0; index < text.length; index++) value = Math.imul(value ^ text.charCodeAt(index), 0x01000193);
  return value >>> 0;
}
