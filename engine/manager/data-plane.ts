// What the manager asks of target and replica processes. grpc-data-plane.ts is the real one; tests bring their own.
// Every call has a deadline and throws a HoldfastError: CONNECTION_LOST when the process cannot be reached.

export type Endpoint = {
  readonly replicaId: string;
  readonly address: string;
  readonly local: boolean;
  readonly inSync: boolean;
};

/** What an engine is told besides its replicas, at attach and whenever it changes. */
export type EngineSettings = {
  /** Null: no limits. */
  readonly qos: {
    readonly operationsPerSecond: number;
    readonly bytesPerSecond: number;
    readonly burstSeconds: number;
  } | null;
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
  /** False: a rebuild is to fill it. */
  readonly complete: boolean;
};

export type DataPlane = {
  readonly attach: (control: string, request: AttachRequest) => Promise<{ portal: string; sizeBytes: number }>;
  readonly detach: (control: string, volumeId: string) => Promise<void>;
  readonly configure: (
    control: string,
    volumeId: string,
    endpoints: readonly Endpoint[],
    settings: EngineSettings,
  ) => Promise<void>;
  readonly resize: (control: string, volumeId: string, sizeBytes: number) => Promise<void>;
  readonly changeSnapshot: (
    control: string,
    volumeId: string,
    change: SnapshotChange,
    snapshotId: string,
  ) => Promise<void>;
  /** Both volumes are attached there; the target holds nothing yet. */
  readonly copySnapshot: (
    control: string,
    source: { readonly volumeId: string; readonly snapshotId: string },
    targetVolumeId: string,
  ) => Promise<void>;
  /** The block device, /dev/loopN of the target's host. */
  readonly map: (control: string, volumeId: string) => Promise<string>;
  readonly unmap: (control: string, volumeId: string, force: boolean) => Promise<void>;
  readonly setRedirects: (control: string, redirects: readonly Redirect[]) => Promise<void>;
  readonly targetStatus: (control: string) => Promise<TargetStatus>;
  readonly createReplica: (address: string, replica: NewReplica) => Promise<void>;
  readonly deleteReplica: (address: string, replicaId: string) => Promise<void>;
  readonly disk: (address: string) => Promise<DiskStatus>;
  /** Bytes that each replica of the disk holds, by replica id. */
  readonly replicaUsage: (address: string) => Promise<ReadonlyMap<string, number>>;
  /** Of one replica, oldest first. */
  readonly snapshots: (address: string, replicaId: string) => Promise<readonly ReplicaSnapshot[]>;
  readonly close: () => void;
};

export type Redirect = { readonly iqn: string; readonly portal: string };

/** Equal for equal settings and sets of endpoints, whatever their in-sync state: that belongs to the engine. */
export function configurationKey(endpoints: readonly Endpoint[], { qos }: EngineSettings): string {
  const limits = qos === null ? '' : `${qos.operationsPerSecond} ${qos.bytesPerSecond} ${qos.burstSeconds}`;
  const lines = endpoints.map(({ replicaId, address, local }) => `${replicaId} ${address} ${local}`).sort();
  return [limits, ...lines].join('\n');
}

export function redirectsKey(redirects: readonly Redirect[]): string {
  return redirects
    .map(({ iqn, portal }) => `${iqn} ${portal}`)
    .sort()
    .join('\n');
}
