// Service holdfast.v1.Target: messages in, TargetVolumes, messages out.
import type {
  handleUnaryCall,
  sendUnaryData,
  ServerDuplexStream,
  ServerUnaryCall,
  ServerWritableStream,
} from '@grpc/grpc-js';
import type { Latency, SnapshotChange, TargetProcess } from '../addon/target-process.js';
import { toGrpcStatus } from '../errors/grpc-errors.js';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import type {
  AttachedVolume,
  AttachVolumeRequest,
  ChangeSnapshotRequest,
  ChangeSnapshotResponse,
  ConfigureVolumeRequest,
  NumberedSnapshotChange,
  ReadSnapshotFilesRequest,
  RepairBlocksRequest,
  SnapshotFilesPart,
  SnapshotOutcome,
  TargetServer,
  TargetStatus,
} from '../generated/holdfast/v1/target.js';
import type { SnapshotFiles } from './snapshot-files.js';
import type { TargetVolumes, VolumeReport } from './volumes.js';

export type ServiceContext = {
  readonly instanceId: string;
  readonly target: Pick<TargetProcess, 'portal' | 'setRedirects'>;
  readonly volumes: TargetVolumes;
  readonly files: Pick<SnapshotFiles, 'read'>;
};

export function createTargetService({ instanceId, target, volumes, files }: ServiceContext): TargetServer {
  return {
    attach: unary(async (request: AttachVolumeRequest) => {
      const outcome = await volumes.attach(attachRequestOf(request));
      return { ...outcome, leftOut: [...outcome.leftOut] };
    }),
    detach: unary(async ({ volumeId, epoch }) => {
      await volumes.detach(volumeId, epoch);
      return {};
    }),
    configure: unary(async (request: ConfigureVolumeRequest) => {
      const { volumeId, epoch, replicas, rebuildBytesPerSecond, foregroundPercent, qos } = request;
      const configuration = { volumeId, replicas, rebuildBytesPerSecond, foregroundPercent, qos: qos ?? null };
      await volumes.configure(configuration, epoch);
      return {};
    }),
    resize: unary(async ({ volumeId, sizeBytes }) => {
      await volumes.resize(volumeId, sizeBytes);
      return {};
    }),
    changeSnapshot: unary((request) => changeSnapshot(volumes, request)),
    changeSnapshots: (call) => {
      serveChanges(call, volumes);
    },
    copySnapshot: unary(async ({ volumeId, snapshotId, targetVolumeId }) => {
      await volumes.copySnapshot({ volumeId, snapshotId, targetVolumeId });
      return {};
    }),
    readSnapshotFiles: (call) => {
      const gone = new AbortController();
      call.on('cancelled', () => {
        gone.abort();
      });
      files
        .read(call.request, (frames) => sendPart(call, frames, gone.signal), gone.signal)
        .then(
          () => {
            call.end();
          },
          (error: unknown) => {
            call.emit('error', toGrpcStatus(error));
          },
        );
    },
    map: unary(async ({ volumeId }) => ({ device: await volumes.map(volumeId) })),
    unmap: unary(async ({ volumeId, force }) => {
      await volumes.unmap(volumeId, force);
      return {};
    }),
    repair: unary(async ({ volumeId, replicaId, firstBlock, blockCount, differs }: RepairBlocksRequest) => ({
      repairedBlocks: await volumes.repair({ volumeId, replicaId, firstBlock, blockCount, differs }),
    })),
    setRedirects: unary(async ({ redirects, expectedIqns }) => {
      await target.setRedirects(redirects, expectedIqns);
      return {};
    }),
    getStatus: unary(async (): Promise<TargetStatus> => ({
      instanceId,
      pid: process.pid,
      portal: target.portal,
      volumes: (await volumes.report()).map(toMessage),
    })),
  };
}

async function changeSnapshot(
  volumes: TargetVolumes,
  { volumeId, snapshotId, change }: ChangeSnapshotRequest,
): Promise<ChangeSnapshotResponse> {
  const outcome = await volumes.changeSnapshot({ volumeId, snapshotId, change: snapshotChangeOf(change) });
  return { frozen: outcome.frozen, note: outcome.frozen ? '' : outcome.note };
}

// Until the caller has ended it and the last change is answered. A caller that goes leaves its changes to come to their ends.
function serveChanges(call: ServerDuplexStream<NumberedSnapshotChange, SnapshotOutcome>, volumes: TargetVolumes): void {
  let underWay = 0;
  let ended = false;
  const answer = (outcome: SnapshotOutcome) => {
    if (!call.cancelled) call.write(outcome);
    if (--underWay === 0 && ended) call.end();
  };
  call.on('error', () => undefined);
  call.on('data', ({ number, change }: NumberedSnapshotChange) => {
    ++underWay;
    changeSnapshot(volumes, change ?? { volumeId: 0n, snapshotId: 0n, change: '' }).then(
      (response) => {
        answer({ number, response, errorCode: '', error: '' });
      },
      (thrown: unknown) => {
        const { code, message } = toHoldfastError(thrown);
        answer({ number, response: undefined, errorCode: code, error: message });
      },
    );
  });
  call.on('end', () => {
    ended = true;
    if (underWay === 0) call.end();
  });
}

// No faster than it is taken.
async function sendPart(
  call: ServerWritableStream<ReadSnapshotFilesRequest, SnapshotFilesPart>,
  frames: Buffer,
  gone: AbortSignal,
): Promise<void> {
  if (call.write({ frames }) || gone.aborted) return;
  await new Promise<void>((resolve) => {
    call.once('drain', resolve);
    gone.addEventListener(
      'abort',
      () => {
        resolve();
      },
      { once: true },
    );
  });
}

function unary<Request, Response>(handle: (request: Request) => Promise<Response>): handleUnaryCall<Request, Response> {
  return (call: ServerUnaryCall<Request, Response>, done: sendUnaryData<Response>) => {
    handle(call.request).then(
      (response) => {
        done(null, response);
      },
      (error: unknown) => {
        done(toGrpcStatus(error));
      },
    );
  };
}

// Every field by name: what the wire may hold beyond them does not reach the addon.
function attachRequestOf(message: AttachVolumeRequest) {
  return {
    volumeId: message.volumeId,
    name: message.name,
    epoch: message.epoch,
    sizeBytes: message.sizeBytes,
    logicalBlockSize: message.logicalBlockSize,
    replicas: message.replicas,
    iqn: message.iqn,
    chap: message.chap ?? null,
    mutualChap: message.mutualChap ?? null,
    initiatorAllowList: message.initiatorAllowList,
    reservations: message.reservations,
    rebuildBytesPerSecond: message.rebuildBytesPerSecond,
    foregroundPercent: message.foregroundPercent,
    qos: message.qos ?? null,
    internal: message.internal,
  };
}

function snapshotChangeOf(text: string): SnapshotChange {
  if (text === 'create' || text === 'delete' || text === 'revert') return text;
  throw new HoldfastError('INVALID_ARGUMENT', `change "${text}" is not "create", "delete" or "revert"`);
}

function latencyMessage(latency: Latency | undefined) {
  return { counts: [...(latency?.counts ?? [])], totalMicros: latency?.totalMicros ?? 0n };
}

function toMessage({ volumeId, name, epoch, state, failure, engine }: VolumeReport): AttachedVolume {
  return {
    volumeId,
    name,
    epoch,
    state,
    failure,
    sizeBytes: engine?.sizeBytes ?? 0n,
    lastSeq: engine?.lastSeq ?? 0n,
    committedSeq: engine?.committedSeq ?? 0n,
    replicas: [...(engine?.replicas ?? [])],
    reads: engine?.reads ?? 0n,
    writes: engine?.writes ?? 0n,
    flushes: engine?.flushes ?? 0n,
    readBytes: engine?.readBytes ?? 0n,
    writtenBytes: engine?.writtenBytes ?? 0n,
    repairedBlocks: engine?.repairedBlocks ?? 0n,
    throttled: engine?.throttled ?? 0n,
    readLatency: latencyMessage(engine?.readLatency),
    writeLatency: latencyMessage(engine?.writeLatency),
    flushLatency: latencyMessage(engine?.flushLatency),
    sessions: [...(engine?.sessions ?? [])],
    device: engine?.device ?? '',
    copiedBytes: engine?.copiedBytes ?? 0n,
    writesPaused: engine?.writesPaused ?? false,
    lostData: engine?.lostData ?? false,
  };
}
