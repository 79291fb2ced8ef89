// A data plane in memory, behind real gRPC servers: a target and a replica process per node that keep what they are told, and an
// agent that reports them. What the manager does over the wire in production, it does here.
import { status as grpcStatus, credentials, Server, ServerCredentials } from '@grpc/grpc-js';
import type { ClientDuplexStream, handleUnaryCall } from '@grpc/grpc-js';
import { toGrpcStatus } from '../../errors/grpc-errors.js';
import { HoldfastError, toHoldfastError } from '../../errors/holdfast-error.js';
import { AgentRegistryClient } from '../../generated/holdfast/v1/manager.js';
import type {
  AgentPlace,
  AgentReport,
  DiskOrder,
  ManagerOrder,
  ProcessReport,
  ShareOrder,
  SmartHealth,
} from '../../generated/holdfast/v1/manager.js';
import { Disk, ReplicaService, Snapshot } from '../../generated/holdfast/v1/replica.js';
import type {
  ChunkVersion,
  CreateReplicaRequest,
  DamagedChunk,
  ReplicaServer,
  ReplicaState,
} from '../../generated/holdfast/v1/replica.js';
import { AttachedVolume, TargetService } from '../../generated/holdfast/v1/target.js';
import type {
  AttachVolumeRequest,
  ChangeSnapshotRequest,
  ChangeSnapshotResponse,
  ConfigureVolumeRequest,
  NumberedSnapshotChange,
  ReadSnapshotFilesRequest,
  RepairBlocksRequest,
  Redirect,
  TargetServer,
} from '../../generated/holdfast/v1/target.js';

function unary<Request, Response>(handle: (request: Request) => Response): handleUnaryCall<Request, Response> {
  return (call, done) => {
    try {
      done(null, handle(call.request));
    } catch (error) {
      done(toGrpcStatus(error));
    }
  };
}

async function listen(server: Server, port: number): Promise<number> {
  return await new Promise((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, bound) => {
      if (error === null) resolve(bound);
      else reject(error);
    });
  });
}

export class FakeTarget {
  readonly attached = new Map<bigint, AttachVolumeRequest>();
  readonly sizes = new Map<bigint, bigint>();
  readonly devices = new Map<bigint, string>();
  readonly configured: ConfigureVolumeRequest[] = [];
  readonly states = new Map<bigint, string>();
  readonly lostData = new Set<bigint>();
  readonly writesPaused = new Set<bigint>();
  /** Of every Attach that was asked for, in order. */
  readonly epochs: bigint[] = [];
  readonly snapshotChanges: { volumeId: bigint; snapshotId: bigint; change: string }[] = [];
  /** Called for each that was not refused. */
  onSnapshotChange: () => void = () => undefined;
  /** Also those that were refused. */
  readonly snapshotRequests: { volumeId: bigint; snapshotId: bigint; change: string }[] = [];
  readonly copies: { volumeId: bigint; snapshotId: bigint; targetVolumeId: bigint }[] = [];
  readonly filesRead: ReadSnapshotFilesRequest[] = [];
  /** What it answers to ReadSnapshotFiles. */
  files: readonly Buffer[] = [];
  redirects: readonly Redirect[] = [];
  expectedIqns: readonly string[] = [];
  refuseAttach: HoldfastError | null = null;
  refuseSnapshots: HoldfastError | null = null;
  /** As before there was a stream for them. */
  knowsSnapshotCallsOnly = false;
  leaseWaitMs = 0n;
  readonly repairs: RepairBlocksRequest[] = [];
  instanceId = 'instance-1';
  port = 0;
  #server: Server | null = null;
  #instances = 1;

  async start(): Promise<void> {
    const server = new Server();
    server.addService(TargetService, this.#service());
    this.port = await listen(server, this.port);
    this.#server = server;
  }

  kill(): void {
    this.#server?.forceShutdown();
    this.#server = null;
  }

  /** As a process that died and was started again: nothing is attached, another instance. */
  async restart(): Promise<void> {
    this.kill();
    this.attached.clear();
    this.devices.clear();
    this.instanceId = `instance-${++this.#instances}`;
    await this.start();
  }

  #changeSnapshot(request: ChangeSnapshotRequest | undefined): ChangeSnapshotResponse {
    if (request !== undefined) this.snapshotRequests.push(request);
    if (this.refuseSnapshots !== null) throw this.refuseSnapshots;
    if (request === undefined || !this.attached.has(request.volumeId)) {
      throw new HoldfastError('NOT_FOUND', 'the volume is not attached');
    }
    this.snapshotChanges.push(request);
    this.onSnapshotChange();
    return { frozen: false, note: '' };
  }

  #service(): TargetServer {
    return {
      attach: unary((request) => {
        this.epochs.push(request.epoch);
        if (this.refuseAttach !== null) throw this.refuseAttach;
        this.attached.set(request.volumeId, request);
        const sizeBytes = this.sizes.get(request.volumeId) ?? request.sizeBytes;
        this.sizes.set(request.volumeId, sizeBytes);
        return { portal: 'unused', sizeBytes, leaseWaitMs: this.leaseWaitMs, leftOut: [] };
      }),
      detach: unary(({ volumeId, epoch }) => {
        if (epoch === 0n || (this.attached.get(volumeId)?.epoch ?? 0n) <= epoch) this.attached.delete(volumeId);
        return {};
      }),
      configure: unary((request) => {
        this.configured.push(request);
        return {};
      }),
      resize: unary(({ volumeId, sizeBytes }) => {
        this.sizes.set(volumeId, sizeBytes);
        return {};
      }),
      changeSnapshot: unary((request) => this.#changeSnapshot(request)),
      changeSnapshots: (call) => {
        call.on('error', () => undefined);
        if (this.knowsSnapshotCallsOnly) {
          call.emit('error', toGrpcStatus(new HoldfastError('UNIMPLEMENTED', 'unknown method')));
          return;
        }
        call.on('end', () => {
          call.end();
        });
        call.on('data', ({ number, change }: NumberedSnapshotChange) => {
          try {
            call.write({ number, response: this.#changeSnapshot(change), errorCode: '', error: '' });
          } catch (thrown) {
            const { code, message } = toHoldfastError(thrown);
            call.write({ number, response: undefined, errorCode: code, error: message });
          }
        });
      },
      copySnapshot: unary(({ volumeId, snapshotId, targetVolumeId }) => {
        this.copies.push({ volumeId, snapshotId, targetVolumeId });
        return {};
      }),
      readSnapshotFiles: (call) => {
        this.filesRead.push(call.request);
        for (const frames of this.files) call.write({ frames });
        call.end();
      },
      map: unary(({ volumeId }) => {
        this.devices.set(volumeId, '/dev/loop7');
        return { device: '/dev/loop7' };
      }),
      unmap: unary(({ volumeId }) => {
        this.devices.delete(volumeId);
        return {};
      }),
      repair: unary((request) => {
        this.repairs.push(request);
        return { repairedBlocks: request.blockCount };
      }),
      setRedirects: unary(({ redirects, expectedIqns }) => {
        this.redirects = redirects;
        this.expectedIqns = expectedIqns;
        return {};
      }),
      getStatus: unary(() => ({
        instanceId: this.instanceId,
        pid: 1,
        portal: 'unused',
        volumes: [...this.attached.values()].map((request) =>
          AttachedVolume.fromPartial({
            volumeId: request.volumeId,
            name: request.name,
            epoch: request.epoch,
            state: this.states.get(request.volumeId) ?? 'serving',
            sizeBytes: request.sizeBytes,
            device: this.devices.get(request.volumeId) ?? '',
            failure: this.lostData.has(request.volumeId) ? 'DATA LOSS: every in-sync replica lost writes' : '',
            lostData: this.lostData.has(request.volumeId),
            writesPaused: this.writesPaused.has(request.volumeId),
            replicas: request.replicas.map(({ replicaId, inSync }) => ({
              replicaId,
              phase: inSync ? 'in-sync' : 'rebuilding',
            })),
          }),
        ),
      })),
    };
  }
}

export class FakeReplicaProcess {
  readonly replicas = new Map<bigint, CreateReplicaRequest>();
  /** Where the log of a replica ends; absent: nothing was written. */
  readonly positions = new Map<bigint, { readonly lastEpoch: bigint; readonly lastSeq: bigint }>();
  /** The epoch that a replica has promised. */
  readonly promised = new Map<bigint, bigint>();
  /** Replicas that an engine begins to rebuild the moment before they are opened: from then on they are not complete. */
  readonly begunToRebuild = new Set<bigint>();
  /** What a scrub of a replica finds, and which versions its chunks have. */
  readonly damaged = new Map<bigint, DamagedChunk[]>();
  readonly versions = new Map<bigint, ChunkVersion[]>();
  /** So many scrubs break off in the middle. */
  scrubsToBreak = 0;
  /** First chunk of every scrub that was asked for. */
  readonly scrubs: bigint[] = [];
  snapshots: { readonly id: bigint; readonly sizeBlocks: bigint }[] = [];
  refuseCreate: HoldfastError | null = null;
  totalBytes = 100n * 2n ** 30n;
  port = 0;
  readonly diskId: string;
  #server: Server | null = null;

  constructor(diskId: string) {
    this.diskId = diskId;
  }

  async start(): Promise<void> {
    const server = new Server();
    server.addService(ReplicaService, this.#service());
    this.port = await listen(server, this.port);
    this.#server = server;
  }

  kill(): void {
    this.#server?.forceShutdown();
    this.#server = null;
  }

  #state({ replicaId, volumeId, sizeBlocks, complete }: CreateReplicaRequest): ReplicaState {
    return {
      replicaId,
      volumeId,
      sizeBlocks,
      complete,
      promisedEpoch: this.promised.get(replicaId) ?? 0n,
      lastEpoch: this.positions.get(replicaId)?.lastEpoch ?? 0n,
      lastSeq: this.positions.get(replicaId)?.lastSeq ?? 0n,
      committedSeq: 0n,
      appliedSeq: 0n,
      history: [],
      baseSeq: 0n,
      usedBytes: 4096n,
      rebuild: undefined,
    };
  }

  #service(): ReplicaServer {
    const notHere = (call: { emit: (event: 'error', error: unknown) => boolean }) => {
      call.emit('error', { code: grpcStatus.UNIMPLEMENTED, details: 'not part of this fake' });
    };
    return {
      getDisk: unary(() =>
        Disk.fromPartial({ diskId: this.diskId, totalBytes: this.totalBytes, freeBytes: this.totalBytes }),
      ),
      listReplicas: unary(() => ({
        replicas: [...this.replicas.values()].map((replica) => this.#state(replica)),
      })),
      createReplica: unary((request) => {
        if (this.refuseCreate !== null) throw this.refuseCreate;
        this.replicas.set(request.replicaId, request);
        return {};
      }),
      deleteReplica: unary(({ replicaId }) => {
        this.replicas.delete(replicaId);
        return {};
      }),
      open: unary(({ replicaId, epoch }) => {
        const found = this.replicas.get(replicaId);
        if (found === undefined) throw new HoldfastError('NOT_FOUND', 'this disk has no such replica');
        this.promised.set(replicaId, epoch);
        const replica = { ...found, complete: found.complete && !this.begunToRebuild.has(replicaId) };
        this.replicas.set(replicaId, replica);
        return this.#state(replica);
      }),
      getReplica: unary(() => {
        throw new HoldfastError('UNIMPLEMENTED', 'not part of this fake');
      }),
      append: notHere,
      read: notHere,
      readLog: notHere,
      listChunks: (call) => {
        call.write({ chunks: this.versions.get(call.request.replicaId) ?? [] });
        call.end();
      },
      readChunks: notHere,
      scrub: (call) => {
        const { replicaId, firstChunk } = call.request;
        this.scrubs.push(firstChunk);
        const total = 40n;
        const breaks = this.scrubsToBreak > 0;
        if (breaks) this.scrubsToBreak--;
        const end = breaks ? total / 2n : total;
        const damaged = (this.damaged.get(replicaId) ?? []).filter(({ chunk }) => chunk >= firstChunk && chunk < end);
        call.write({
          nextChunk: end,
          chunksTotal: total,
          blocksChecked: (end - firstChunk) * 64n,
          bytesPerSecond: 0n,
          damaged,
          finished: !breaks,
        });
        if (breaks) call.emit('error', { code: grpcStatus.UNAVAILABLE, details: 'the line broke' });
        else call.end();
      },
      listSnapshots: (call) => {
        const snapshots = this.snapshots.map((snapshot) => Snapshot.fromPartial(snapshot));
        call.write({ snapshots, revisionEpoch: 0n, revisionSeq: 0n, headLayer: 1n, forks: [0n] });
        call.end();
      },
    };
  }
}

export type FakeDisk = { readonly replica: FakeReplicaProcess; runs: boolean; failure: string };

export class FakeNode {
  readonly name: string;
  readonly target = new FakeTarget();
  readonly replica: FakeReplicaProcess;
  readonly portal: string;
  replicaRuns = true;
  /** Why it does not run; empty: it is being started. */
  replicaFailure = '';
  targetRuns = true;
  smart: SmartHealth | undefined;
  /** The folder of its agent; undefined: it does not say. */
  place: AgentPlace | undefined;
  /** Disks besides disk1. */
  readonly extra = new Map<string, FakeDisk>();
  /** What the manager last said of disks that are to be run. */
  orders: readonly DiskOrder[] = [];
  /** What it last said of shares that are to be served. */
  shareOrders: readonly ShareOrder[] = [];
  #client: AgentRegistryClient | null = null;
  #stream: ClientDuplexStream<AgentReport, ManagerOrder> | null = null;

  constructor(number: number) {
    this.name = `node${number}`;
    this.portal = `127.0.0.1:${3259 + number}`;
    this.replica = new FakeReplicaProcess(String(number).repeat(32));
  }

  async start(): Promise<void> {
    await Promise.all([this.target.start(), this.replica.start()]);
  }

  /** Resolves when the manager has taken in the report. */
  async connect(manager: string): Promise<void> {
    this.disconnect();
    this.#client = new AgentRegistryClient(manager, credentials.createInsecure());
    this.#stream = this.#client.connect();
    this.#stream.on('error', () => undefined);
    this.#stream.on('data', ({ disks, shares }: ManagerOrder) => {
      if (disks !== undefined) this.orders = disks.disks;
      if (shares !== undefined) this.shareOrders = shares.shares;
    });
    await this.report();
  }

  disconnect(): void {
    this.#stream?.cancel();
    this.#client?.close();
    this.#stream = null;
  }

  async report(): Promise<void> {
    const stream = this.#stream;
    if (stream === null) return;
    const taken = new Promise((resolve, reject) => {
      // Orders are no answer.
      const answered = ({ accepted, disks, shares }: ManagerOrder) => {
        if (accepted === 0n || disks !== undefined || shares !== undefined) return;
        stream.off('data', answered);
        resolve(undefined);
      };
      stream.on('data', answered);
      stream.once('error', reject);
    });
    const disks = [...this.extra].map(([name, disk]) => this.#diskReport(name, disk));
    const processes = [this.#targetReport(), this.#replicaReport(), ...disks];
    stream.write({ node: this.name, pid: 1, processes, shares: [], place: this.place });
    await taken;
  }

  stop(): void {
    this.disconnect();
    this.target.kill();
    this.replica.kill();
    for (const { replica } of this.extra.values()) replica.kill();
  }

  #targetReport(): ProcessReport {
    return {
      ...emptyReport,
      role: 'target',
      state: this.targetRuns ? 'running' : 'starting',
      pid: this.targetRuns ? 11 : 0,
      instanceId: this.target.instanceId,
      address: `127.0.0.1:${this.target.port}`,
      portal: this.portal,
    };
  }

  #replicaReport(): ProcessReport {
    const disk = { replica: this.replica, runs: this.replicaRuns, failure: this.replicaFailure };
    return { ...this.#diskReport('disk1', disk), directory: `/disks/${this.name}`, smart: this.smart };
  }

  #diskReport(name: string, { replica, runs, failure }: FakeDisk): ProcessReport {
    return {
      ...emptyReport,
      role: 'replica',
      disk: name,
      state: runs ? 'running' : failure === '' ? 'starting' : 'failed',
      failureCode: failure === '' ? '' : 'WRONG_DISK',
      failureMessage: failure,
      pid: runs ? 12 : 0,
      address: runs ? `127.0.0.1:${replica.port}` : '',
      diskId: replica.diskId,
      directory: `/disks/${this.name}/${name}`,
    };
  }
}

const emptyReport: ProcessReport = {
  role: '',
  disk: '',
  state: '',
  pid: 0,
  failureCode: '',
  failureMessage: '',
  instanceId: '',
  address: '',
  portal: '',
  directory: '',
  diskId: '',
  diskClass: '',
  smart: undefined,
};
