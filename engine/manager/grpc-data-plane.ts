// DataPlane over gRPC: clients are kept per address, and made anew after a connection was lost, so that a process that was
// just restarted is reached at once instead of after the channel's back-off.
import { Metadata } from '@grpc/grpc-js';
import type { Client, ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import { fromServiceError } from '../errors/grpc-errors.js';
import { isHoldfastError } from '../errors/holdfast-error.js';
import { ReplicaClient } from '../generated/holdfast/v1/replica.js';
import type {
  ChunkVersions,
  ListReplicasResponse,
  ReplicaState as ReplicaStateMessage,
  ScrubProgress as ScrubProgressMessage,
  Snapshot,
  SnapshotPage,
} from '../generated/holdfast/v1/replica.js';
import { TargetClient } from '../generated/holdfast/v1/target.js';
import type {
  AttachedReplica,
  AttachedVolume,
  AttachVolumeResponse,
  ChangeSnapshotRequest,
  ChangeSnapshotResponse,
  SnapshotFilesPart,
  Latency as LatencyMessage,
} from '../generated/holdfast/v1/target.js';
import type { IdentitySource } from '../security/identity.js';
import { credentialsFor, tlsChannelOptions } from '../security/tls.js';
import { idFromBigint, idToBigint } from './ids.js';
import type {
  ChunkVersion,
  DataPlane,
  EngineSettings,
  Endpoint,
  ReplicaSnapshot,
  ReplicaState,
  ReplicaStatus,
  ScrubProgress,
  VolumeStatus,
} from './data-plane.js';
import { SnapshotChannel } from './snapshot-channel.js';

const blockBytes = 4096n;

const deadlineMs = {
  status: 2_000,
  configure: 5_000,
  create: 20_000,
  delete: 30_000,
  // What older engines have under way there comes to its end first.
  open: 10_000,
  // Opening replicas takes up to some seconds, and a take-over waits for the lease of the former engine.
  attach: 30_000,
  // Everything in flight is finished and flushed.
  detach: 30_000,
  resize: 15_000,
  // Journalled everywhere; a revert also waits until everything before it is in its place, and taking one perhaps for a mounted
  // file system to be written back and frozen.
  snapshot: 60_000,
  // What is only in the log is applied within moments, or when the volume has an engine again.
  settled: 5_000,
  // Proportional to what is copied.
  copy: 7 * 86_400_000,
  // Whatever the kernel still holds for the device is written first.
  map: 30_000,
  repair: 30_000,
  list: 60_000,
} as const;

type Callback<T> = (error: ServiceError | null, response: T) => void;
type Options = { readonly deadline: number };

class ClientPool<C extends Client> {
  readonly #clients = new Map<string, C>();
  readonly #make: (address: string) => C;
  readonly peer: string;

  constructor(peer: string, make: (address: string) => C) {
    this.peer = peer;
    this.#make = make;
  }

  async call<T>(
    address: string,
    timeoutMs: number,
    start: (client: C, metadata: Metadata, options: Options, done: Callback<T>) => void,
  ): Promise<T> {
    return await this.withClient(
      address,
      (client) =>
        new Promise<T>((resolve, reject) => {
          start(client, new Metadata(), { deadline: Date.now() + timeoutMs }, (error, response) => {
            if (error === null) resolve(response);
            else reject(fromServiceError(error, `${this.peer} at ${address}`));
          });
        }),
    );
  }

  /** A stream of answers, until its end. */
  async stream<M>(
    address: string,
    start: (client: C) => ClientReadableStream<M>,
    onMessage: (message: M) => void,
    signal: AbortSignal,
  ): Promise<void> {
    await this.withClient(
      address,
      (client) =>
        new Promise<void>((resolve, reject) => {
          const call = start(client);
          const cancel = () => {
            call.cancel();
          };
          signal.addEventListener('abort', cancel);
          call.on('data', onMessage);
          call.on('end', () => {
            signal.removeEventListener('abort', cancel);
            resolve();
          });
          call.on('error', (error: ServiceError) => {
            signal.removeEventListener('abort', cancel);
            reject(fromServiceError(error, `${this.peer} at ${address}`));
          });
          if (signal.aborted) cancel();
        }),
    );
  }

  /** A stream of answers, taken one by one. */
  async *messages<M>(
    address: string,
    start: (client: C) => ClientReadableStream<M>,
    signal: AbortSignal,
  ): AsyncGenerator<M> {
    const call = start(this.client(address));
    const cancel = () => {
      call.cancel();
    };
    signal.addEventListener('abort', cancel);
    if (signal.aborted) cancel();
    try {
      for await (const message of call as AsyncIterable<M>) yield message;
    } catch (error) {
      throw fromServiceError(error as ServiceError, `${this.peer} at ${address}`);
    } finally {
      signal.removeEventListener('abort', cancel);
      cancel();
    }
  }

  close(): void {
    for (const client of this.#clients.values()) client.close();
    this.#clients.clear();
  }

  client(address: string): C {
    const client = this.#clients.get(address) ?? this.#make(address);
    this.#clients.set(address, client);
    return client;
  }

  /** Work whose failure may be that of the connection: the next one gets another client then. */
  async withClient<T>(address: string, work: (client: C) => Promise<T>): Promise<T> {
    const client = this.client(address);
    try {
      return await work(client);
    } catch (error) {
      if (mayBeTheConnection(error) && this.#clients.get(address) === client) {
        this.#clients.delete(address);
        client.close();
      }
      throw error;
    }
  }
}

// TIMED_OUT too: what was begun while a host was cut off is tried by the kernel at ever longer intervals, also after that.
const mayBeTheConnection = (error: unknown): boolean =>
  isHoldfastError(error, 'CONNECTION_LOST') || isHoldfastError(error, 'TIMED_OUT');

const channelOptions = {
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1_000,
  // A call without a deadline must not wait for ever for a host that was cut off.
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 5_000,
  ...tlsChannelOptions,
};

/** `identity` of this manager; null: everything is plain. */
export function createGrpcDataPlane(identity: IdentitySource | null = null): DataPlane {
  const targets = new ClientPool(
    'target process',
    (address) => new TargetClient(address, credentialsFor(address, identity, 'node'), channelOptions),
  );
  const replicas = new ClientPool(
    'replica process',
    (address) => new ReplicaClient(address, credentialsFor(address, identity, 'node'), channelOptions),
  );
  const changes = new SnapshotChanges(targets);
  return { ...targetCalls(targets, changes), ...replicaCalls(replicas), close };

  function close(): void {
    changes.close();
    targets.close();
    replicas.close();
  }
}

type TargetCalls = Pick<
  DataPlane,
  | 'attach'
  | 'detach'
  | 'configure'
  | 'resize'
  | 'changeSnapshot'
  | 'copySnapshot'
  | 'readSnapshotFiles'
  | 'repair'
  | 'map'
  | 'unmap'
  | 'setRedirects'
  | 'targetStatus'
>;
type ReplicaCalls = Pick<
  DataPlane,
  | 'createReplica'
  | 'deleteReplica'
  | 'disk'
  | 'replicaUsage'
  | 'snapshots'
  | 'settledSnapshots'
  | 'replicaStates'
  | 'openReplica'
  | 'scrub'
  | 'chunkVersions'
>;

// One stream to each target process that knows it (snapshot-channel.ts), calls to the others.
class SnapshotChanges {
  readonly #pool: ClientPool<TargetClient>;
  readonly #channels = new Map<string, SnapshotChannel>();
  // Target processes go on when managers are replaced by newer ones: those at these addresses know calls only.
  readonly #older = new Set<string>();

  constructor(pool: ClientPool<TargetClient>) {
    this.#pool = pool;
  }

  async change(control: string, message: ChangeSnapshotRequest): Promise<ChangeSnapshotResponse> {
    if (!this.#older.has(control)) {
      try {
        const channel = this.#channelTo(control);
        return await this.#pool.withClient(control, () => channel.change(message, deadlineMs.snapshot));
      } catch (error) {
        if (!isHoldfastError(error, 'UNIMPLEMENTED')) throw error;
        this.#older.add(control);
      }
    }
    return await this.#pool.call<ChangeSnapshotResponse>(
      control,
      deadlineMs.snapshot,
      (client, metadata, options, done) => client.changeSnapshot(message, metadata, options, done),
    );
  }

  close(): void {
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
  }

  #channelTo(control: string): SnapshotChannel {
    const open = () => this.#pool.client(control).changeSnapshots();
    const channel = this.#channels.get(control) ?? new SnapshotChannel(open, `${this.#pool.peer} at ${control}`);
    this.#channels.set(control, channel);
    return channel;
  }
}

function targetCalls(pool: ClientPool<TargetClient>, changes: SnapshotChanges): TargetCalls {
  return {
    attach: async (control, request) => {
      const message = {
        volumeId: idToBigint(request.volumeId),
        name: request.name,
        epoch: BigInt(request.epoch),
        sizeBytes: BigInt(request.sizeBytes),
        logicalBlockSize: request.blockSize,
        replicas: request.endpoints.map(toEndpoint),
        iqn: request.iqn,
        chap: request.chap ?? undefined,
        mutualChap: request.mutualChap ?? undefined,
        initiatorAllowList: [...request.initiators],
        reservations: Buffer.from(request.reservations),
        ...toLimits(request.settings),
        internal: request.internal,
      };
      const response = await pool.call<AttachVolumeResponse>(
        control,
        deadlineMs.attach,
        (client, metadata, options, done) => client.attach(message, metadata, options, done),
      );
      return {
        portal: response.portal,
        sizeBytes: Number(response.sizeBytes),
        leaseWaitMs: Number(response.leaseWaitMs),
        leftOut: response.leftOut.map(idFromBigint),
      };
    },
    detach: async (control, volumeId, epoch, timeoutMs) => {
      const message = { volumeId: idToBigint(volumeId), epoch: BigInt(epoch) };
      await pool.call(control, timeoutMs ?? deadlineMs.detach, (client, metadata, options, done) =>
        client.detach(message, metadata, options, done),
      );
    },
    configure: async (control, { volumeId, epoch }, endpoints, settings) => {
      const message = {
        volumeId: idToBigint(volumeId),
        epoch: BigInt(epoch),
        replicas: endpoints.map(toEndpoint),
        ...toLimits(settings),
      };
      await pool.call(control, deadlineMs.configure, (client, metadata, options, done) =>
        client.configure(message, metadata, options, done),
      );
    },
    resize: async (control, volumeId, sizeBytes) => {
      const message = { volumeId: idToBigint(volumeId), sizeBytes: BigInt(sizeBytes) };
      await pool.call(control, deadlineMs.resize, (client, metadata, options, done) =>
        client.resize(message, metadata, options, done),
      );
    },
    changeSnapshot: async (control, volumeId, change, snapshotId) =>
      await changes.change(control, { volumeId: idToBigint(volumeId), snapshotId: idToBigint(snapshotId), change }),
    copySnapshot: async (control, { volumeId, snapshotId }, targetVolumeId) => {
      const message = {
        volumeId: idToBigint(volumeId),
        snapshotId: idToBigint(snapshotId),
        targetVolumeId: idToBigint(targetVolumeId),
      };
      await pool.call(control, deadlineMs.copy, (client, metadata, options, done) =>
        client.copySnapshot(message, metadata, options, done),
      );
    },
    readSnapshotFiles: async function* (control, { volumeId, snapshotId, sizeBytes, ...rest }, signal) {
      const message = {
        ...rest,
        volumeId: idToBigint(volumeId),
        snapshotId: idToBigint(snapshotId),
        sizeBytes: BigInt(sizeBytes),
      };
      const parts = pool.messages<SnapshotFilesPart>(control, (client) => client.readSnapshotFiles(message), signal);
      for await (const { frames } of parts) yield frames;
    },
    map: async (control, volumeId) => {
      const message = { volumeId: idToBigint(volumeId) };
      const { device } = await pool.call<{ device: string }>(
        control,
        deadlineMs.map,
        (client, metadata, options, done) => client.map(message, metadata, options, done),
      );
      return device;
    },
    unmap: async (control, volumeId, force) => {
      const message = { volumeId: idToBigint(volumeId), force };
      await pool.call(control, deadlineMs.map, (client, metadata, options, done) =>
        client.unmap(message, metadata, options, done),
      );
    },
    repair: async (control, { volumeId, replicaId, firstBlock, blockCount, differs }) => {
      const message = {
        volumeId: idToBigint(volumeId),
        replicaId: idToBigint(replicaId),
        firstBlock: BigInt(firstBlock),
        blockCount,
        differs,
      };
      const { repairedBlocks } = await pool.call<{ repairedBlocks: number }>(
        control,
        deadlineMs.repair,
        (client, metadata, options, done) => client.repair(message, metadata, options, done),
      );
      return repairedBlocks;
    },
    setRedirects: async (control, redirects, expectedIqns) => {
      const message = {
        redirects: redirects.map(({ iqn, portal }) => ({ iqn, portal })),
        expectedIqns: [...expectedIqns],
      };
      await pool.call(control, deadlineMs.configure, (client, metadata, options, done) =>
        client.setRedirects(message, metadata, options, done),
      );
    },
    targetStatus: async (control) => {
      const ask = () =>
        pool.call<{ instanceId: string; volumes: AttachedVolume[] }>(
          control,
          deadlineMs.status,
          (client, metadata, options, done) => client.getStatus({}, metadata, options, done),
        );
      // Once more over a new connection: what people ask for begins with this, perhaps right after a host was cut off.
      const status = await ask().catch((error: unknown) => {
        if (!mayBeTheConnection(error)) throw error;
        return ask();
      });
      return { instanceId: status.instanceId, volumes: status.volumes.map(toVolumeStatus) };
    },
  };
}

function replicaCalls(pool: ClientPool<ReplicaClient>): ReplicaCalls {
  return {
    createReplica: async (address, { replicaId, volumeId, sizeBytes, complete, link }) => {
      const message = {
        replicaId: idToBigint(replicaId),
        volumeId: idToBigint(volumeId),
        sizeBlocks: BigInt(sizeBytes) / blockBytes,
        complete,
        sourceReplicaId: link === undefined ? 0n : idToBigint(link.sourceReplicaId),
        snapshotId: link === undefined ? 0n : idToBigint(link.snapshotId),
      };
      await pool.call(address, deadlineMs.create, (client, metadata, options, done) =>
        client.createReplica(message, metadata, options, done),
      );
    },
    deleteReplica: async (address, replicaId) => {
      const message = { replicaId: idToBigint(replicaId), force: true };
      await pool.call(address, deadlineMs.delete, (client, metadata, options, done) =>
        client.deleteReplica(message, metadata, options, done),
      );
    },
    disk: async (address) => {
      const disk = await pool.call<{
        diskId: string;
        totalBytes: bigint;
        usedBytes: bigint;
        reserveBytes: bigint;
        freeBytes: bigint;
        failure: string;
      }>(address, deadlineMs.status, (client, metadata, options, done) => client.getDisk({}, metadata, options, done));
      return {
        diskId: disk.diskId,
        totalBytes: Number(disk.totalBytes),
        usedBytes: Number(disk.usedBytes),
        reserveBytes: Number(disk.reserveBytes),
        freeBytes: Number(disk.freeBytes),
        failure: disk.failure,
      };
    },
    replicaUsage: async (address) => {
      const { replicas } = await pool.call<{ replicas: { replicaId: bigint; usedBytes: bigint }[] }>(
        address,
        deadlineMs.status,
        (client, metadata, options, done) => client.listReplicas({}, metadata, options, done),
      );
      return new Map(replicas.map(({ replicaId, usedBytes }) => [idFromBigint(replicaId), Number(usedBytes)]));
    },
    snapshots: async (address, replicaId) =>
      (await listSnapshots(pool, address, { replicaId, settled: false }, deadlineMs.snapshot)).map(toSnapshot),
    settledSnapshots: async (address, replicaId) => {
      const found = await listSnapshots(pool, address, { replicaId, settled: true }, deadlineMs.settled);
      return new Set(found.map(({ id }) => idFromBigint(id)));
    },
    replicaStates: async (address) => {
      const { replicas } = await pool.call<ListReplicasResponse>(
        address,
        deadlineMs.status,
        (client, metadata, options, done) => client.listReplicas({}, metadata, options, done),
      );
      return replicas.map(toReplicaState);
    },
    openReplica: async (address, replicaId, epoch) => {
      const request = { replicaId: idToBigint(replicaId), epoch: BigInt(epoch) };
      return toReplicaState(
        await pool.call<ReplicaStateMessage>(address, deadlineMs.open, (client, metadata, options, done) =>
          client.open(request, metadata, options, done),
        ),
      );
    },
    scrub: async (address, { replicaId, firstChunk, endChunk, bytesPerSecond }, onProgress, signal) => {
      const request = {
        replicaId: idToBigint(replicaId),
        firstChunk: BigInt(firstChunk),
        endChunk: BigInt(endChunk),
        bytesPerSecond: BigInt(bytesPerSecond),
      };
      await pool.stream<ScrubProgressMessage>(
        address,
        (client) => client.scrub(request),
        (message) => {
          onProgress(toScrubProgress(message));
        },
        signal,
      );
    },
    chunkVersions: async (address, replicaId, firstChunk, endChunk) => {
      const request = {
        replicaId: idToBigint(replicaId),
        minSeq: 0n,
        afterSeq: 0n,
        firstChunk: BigInt(firstChunk),
        endChunk: BigInt(endChunk),
      };
      const versions: ChunkVersion[] = [];
      await pool.stream<ChunkVersions>(
        address,
        (client) => client.listChunks(request),
        ({ chunks }) => {
          for (const { chunk, layer, epoch, seq, digest } of chunks) {
            versions.push({
              chunk: Number(chunk),
              layer: String(layer),
              epoch: Number(epoch),
              seq: Number(seq),
              digest,
            });
          }
        },
        AbortSignal.timeout(deadlineMs.list),
      );
      return versions;
    },
  };
}

async function listSnapshots(
  pool: ClientPool<ReplicaClient>,
  address: string,
  { replicaId, settled }: { readonly replicaId: string; readonly settled: boolean },
  timeoutMs: number,
): Promise<readonly Snapshot[]> {
  const message = { replicaId: idToBigint(replicaId), minSeq: 0n, settled };
  return await pool.call<Snapshot[]>(address, timeoutMs, (client, metadata, options, done) => {
    const found: Snapshot[] = [];
    const pages = client.listSnapshots(message, metadata, options);
    pages.on('data', (page: SnapshotPage) => found.push(...page.snapshots));
    pages.on('error', (error: ServiceError) => {
      done(error, found);
    });
    pages.on('end', () => {
      done(null, found);
    });
  });
}

function toSnapshot({ id, parentId, sizeBlocks, usedBytes }: Snapshot): ReplicaSnapshot {
  return {
    id: idFromBigint(id),
    parent: parentId === 0n ? null : idFromBigint(parentId),
    sizeBytes: Number(sizeBlocks * blockBytes),
    usedBytes: Number(usedBytes),
  };
}

function toReplicaState({ replicaId, complete, lastEpoch, lastSeq }: ReplicaStateMessage): ReplicaState {
  return { replicaId: idFromBigint(replicaId), complete, lastEpoch: Number(lastEpoch), lastSeq: Number(lastSeq) };
}

function toScrubProgress(message: ScrubProgressMessage): ScrubProgress {
  return {
    nextChunk: Number(message.nextChunk),
    chunksTotal: Number(message.chunksTotal),
    blocksChecked: Number(message.blocksChecked),
    damaged: message.damaged.map(({ chunk, blocks, message: why }) => ({
      chunk: Number(chunk),
      blocks,
      message: why,
    })),
    finished: message.finished,
  };
}

function toEndpoint({ replicaId, address, local, inSync, holdRebuild }: Endpoint) {
  return { replicaId: idToBigint(replicaId), address, local, inSync, holdRebuild };
}

function toLimits(settings: EngineSettings) {
  return {
    rebuildBytesPerSecond: BigInt(settings.rebuildBytesPerSecond),
    foregroundPercent: settings.foregroundPercent,
    qos: toQos(settings),
  };
}

function toQos({ qos }: EngineSettings) {
  if (qos === null) return undefined;
  const { operationsPerSecond, bytesPerSecond, burstSeconds } = qos;
  return {
    operationsPerSecond: BigInt(operationsPerSecond),
    bytesPerSecond: BigInt(bytesPerSecond),
    burstSeconds,
  };
}

function toLatency(latency: LatencyMessage | undefined) {
  return { counts: (latency?.counts ?? []).map(Number), totalMicros: Number(latency?.totalMicros ?? 0n) };
}

function toVolumeStatus(volume: AttachedVolume): VolumeStatus {
  return {
    volumeId: idFromBigint(volume.volumeId),
    epoch: Number(volume.epoch),
    state: volume.state,
    failure: volume.failure,
    sizeBytes: Number(volume.sizeBytes),
    device: volume.device,
    writesPaused: volume.writesPaused,
    lostData: volume.lostData,
    replicas: volume.replicas.map(toReplicaStatus),
    activity: {
      reads: Number(volume.reads),
      writes: Number(volume.writes),
      flushes: Number(volume.flushes),
      readBytes: Number(volume.readBytes),
      writtenBytes: Number(volume.writtenBytes),
      repairedBlocks: Number(volume.repairedBlocks),
      throttled: Number(volume.throttled),
      sessions: volume.sessions.length,
      readLatency: toLatency(volume.readLatency),
      writeLatency: toLatency(volume.writeLatency),
      flushLatency: toLatency(volume.flushLatency),
    },
  };
}

function toReplicaStatus(replica: AttachedReplica): ReplicaStatus {
  const phase = replica.phase === 'in-sync' || replica.phase === 'rebuilding' ? replica.phase : 'failed';
  return {
    replicaId: idFromBigint(replica.replicaId),
    phase,
    reason: replica.reason,
    chunksTotal: Number(replica.chunksTotal),
    chunksExamined: Number(replica.chunksExamined),
    bytesCopied: Number(replica.bytesCopied),
    bytesPerSecond: Number(replica.bytesPerSecond),
  };
}
