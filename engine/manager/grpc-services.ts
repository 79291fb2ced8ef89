// The manager's gRPC services: Manager (people and scripts), Membership (engines), AgentRegistry (agents).
import type { Server } from '@grpc/grpc-js';
import { toGrpcStatus } from '../errors/grpc-errors.js';
import { isErrorCode } from '../errors/holdfast-error.js';
import {
  AgentRegistryService,
  Attachment,
  Cluster,
  DeleteSnapshotResponse,
  DeleteVolumeResponse,
  ListDisksResponse,
  ListNodesResponse,
  ListProcessesResponse,
  ListReplicasResponse,
  ListVolumeSnapshotsResponse,
  ListVolumesResponse,
  ManagerOrder,
  ManagerService,
  Mapping,
  Volume,
  VolumeSnapshot,
} from '../generated/holdfast/v1/manager.js';
import type {
  AgentRegistryServer,
  AgentReport as AgentReportMessage,
  DiskOrder,
  ManagerServer,
  ProcessReport,
  ShareReport,
  SmartHealth as SmartHealthMessage,
} from '../generated/holdfast/v1/manager.js';
import { MembershipService } from '../generated/holdfast/v1/target.js';
import type { MembershipServer } from '../generated/holdfast/v1/target.js';
import type { Logger } from '../log/logger.js';
import { requireNode } from './access-control.js';
import { answerLike, twinService } from './grpc-administration.js';
import { authorizationOf, unaryOf } from './entrance.js';
import type { Entrance, Unary } from './entrance.js';
import type { ManagerApi } from './api.js';
import { noAudit } from './audit-log.js';
import { idFromBigint, toNumber } from './ids.js';
import { diskClassSchema } from './records.js';
import { changeInSyncSet, recordLostData } from './membership.js';
import { requireEpoch } from './repository.js';
import type { SmartHealth } from '../os/smart.js';
import type { AgentReport, ObservedProcess, OrderShares } from './observed.js';
import type { ShareOrder, ShareStatus } from '../nfs/share-types.js';
import type { ManagerContext } from './context.js';

export type AgentSink = {
  readonly report: (connection: symbol, report: AgentReport, orderShares: OrderShares) => Promise<void>;
  readonly disconnected: (connection: symbol, node: string) => void;
  /** Calls `send` with the disks that the node is to have, now and after every change; returns what ends that. */
  readonly followOrders: (node: string, send: (orders: readonly DiskOrder[]) => void) => () => void;
};

export function addServices(
  server: Server,
  api: ManagerApi,
  context: Pick<ManagerContext, 'repository' | 'events' | 'observed'>,
  agents: AgentSink,
  kick: () => void,
  entrance: Entrance,
  logger: Logger,
): void {
  server.addService(ManagerService, { ...managerService(api, unaryOf(entrance)), ...twinService(api, entrance) });
  server.addService(
    MembershipService,
    membershipService(context, kick, unaryOf({ ...entrance, audit: noAudit }), logger),
  );
  server.addService(AgentRegistryService, agentRegistryService(agents, entrance, logger));
}

type OwnService = Pick<
  ManagerServer,
  | 'getCluster'
  | 'createVolume'
  | 'getVolume'
  | 'listVolumes'
  | 'deleteVolume'
  | 'attachVolume'
  | 'setVolume'
  | 'addReplica'
  | 'removeReplica'
  | 'scrubVolume'
  | 'detachVolume'
  | 'moveVolume'
  | 'resizeVolume'
  | 'createSnapshot'
  | 'listSnapshots'
  | 'deleteSnapshot'
  | 'revertVolume'
  | 'cloneVolume'
  | 'mapVolume'
  | 'unmapVolume'
  | 'listReplicas'
  | 'listNodes'
  | 'listDisks'
  | 'listProcesses'
>;

// Views are JSON shapes of the messages, so `fromJSON` makes one of the other.
function managerService(api: ManagerApi, unary: Unary): OwnService {
  return {
    getCluster: unary('read-only', async () => Cluster.fromJSON(await api.getCluster())),
    createVolume: unary('operator', async (request, from) => {
      const { replicas, blockSize, nfs, ...rest } = request;
      const share = nfs === undefined ? undefined : { fs: nfs.fs === '' ? undefined : nfs.fs, ...nfs.options };
      const defaults = rest.policy === undefined ? { replicas: 3 } : {};
      const given = {
        ...rest,
        ...(replicas === 0 ? defaults : { replicas }),
        ...(blockSize === 0 ? {} : { blockSize }),
        share,
      };
      return Volume.fromJSON(await answerLike(api, 'CreateVolume', given, from));
    }),
    getVolume: unary('read-only', async ({ name }) => Volume.fromJSON(await api.getVolume(name))),
    listVolumes: unary('read-only', async () => ListVolumesResponse.fromJSON({ volumes: await api.listVolumes() })),
    deleteVolume: unary('operator', async ({ name, purge }) =>
      DeleteVolumeResponse.fromJSON(await api.deleteVolume(name, purge)),
    ),
    attachVolume: unary('operator', async ({ name, node, force, acceptDataLoss, replicaId }) => {
      const choices = { force, acceptDataLoss, replicaId: orNull(replicaId) };
      return Attachment.fromJSON(await api.attachVolume(name, orNull(node), choices));
    }),
    setVolume: unary('operator', async ({ defaultPace, qos, access, ...rest }, from) => {
      const pace = defaultPace ? { rebuildBytesPerSecond: null, foregroundPercent: null } : {};
      // Limits and access are replaced as a whole here.
      const limits = qos === undefined ? {} : { qos: { ...qos, burstSeconds: qos.burstSeconds ?? 1 } };
      const chap = { chap: access?.chap ?? null, mutualChap: access?.mutualChap ?? null };
      const logins = access === undefined ? {} : { access: { ...access, ...chap } };
      return Volume.fromJSON(await answerLike(api, 'SetVolume', { ...rest, ...pace, ...limits, ...logins }, from));
    }),
    addReplica: unary('operator', async ({ volume, node }) =>
      Volume.fromJSON(await api.addReplica(volume, orNull(node))),
    ),
    removeReplica: unary('operator', async ({ volume, replicaId, replace }) =>
      Volume.fromJSON(await api.removeReplica(volume, { replicaId, replace })),
    ),
    scrubVolume: unary('operator', async ({ name, bytesPerSecond }) =>
      Volume.fromJSON(
        await api.scrubVolume(name, bytesPerSecond === undefined ? null : toNumber(bytesPerSecond, 'rate')),
      ),
    ),
    detachVolume: unary('operator', async ({ name, force }) => Volume.fromJSON(await api.detachVolume(name, force))),
    moveVolume: unary('operator', async ({ name, node }) => Attachment.fromJSON(await api.moveVolume(name, node))),
    resizeVolume: unary('operator', async ({ name, size }) =>
      Volume.fromJSON(await api.resizeVolume(name, toNumber(size, 'size'))),
    ),
    createSnapshot: unary('operator', async ({ volume, name }) =>
      VolumeSnapshot.fromJSON(await api.createSnapshot(volume, name === '' ? null : name)),
    ),
    listSnapshots: unary('read-only', async ({ volume }) =>
      ListVolumeSnapshotsResponse.fromJSON({ snapshots: await api.listSnapshots(volume) }),
    ),
    deleteSnapshot: unary('operator', async ({ volume, name }) =>
      DeleteSnapshotResponse.fromJSON(await api.deleteSnapshot(volume, name)),
    ),
    revertVolume: unary('operator', async ({ volume, snapshot }) =>
      Volume.fromJSON(await api.revertVolume(volume, snapshot)),
    ),
    cloneVolume: unary('operator', async ({ source, snapshot, name, linked }) =>
      Volume.fromJSON(await api.cloneVolume({ source, snapshot: snapshot === '' ? null : snapshot, name, linked })),
    ),
    mapVolume: unary('operator', async ({ name, node, via }) =>
      Mapping.fromJSON(
        await api.mapVolume({ name, node: node === '' ? null : node, via: via === 'iscsi' ? 'iscsi' : 'fuse' }),
      ),
    ),
    unmapVolume: unary('operator', async ({ name, force }) => Volume.fromJSON(await api.unmapVolume(name, force))),
    listReplicas: unary('read-only', async ({ volume }) =>
      ListReplicasResponse.fromJSON({ replicas: await api.listReplicas(volume) }),
    ),
    listNodes: unary('read-only', async () => ListNodesResponse.fromJSON({ nodes: await api.listNodes() })),
    listDisks: unary('read-only', async () => ListDisksResponse.fromJSON({ disks: await api.listDisks() })),
    listProcesses: unary('read-only', async () =>
      ListProcessesResponse.fromJSON({ processes: await api.listProcesses() }),
    ),
  };
}

function membershipService(
  { repository, events, observed }: Pick<ManagerContext, 'repository' | 'events' | 'observed'>,
  kick: () => void,
  unary: Unary,
  logger: Logger,
): MembershipServer {
  return {
    changeInSyncSet: unary('agent', async (request, from) => {
      requireNode(from, null);
      const change = {
        volumeId: idFromBigint(request.volumeId),
        epoch: toNumber(request.epoch, 'epoch'),
        inSync: request.inSync.map(idFromBigint),
        reason: request.reason,
        sequence: toNumber(request.sequence, 'sequence'),
      };
      const { record, left } = await changeInSyncSet(repository, change);
      const { name, replicas } = record;
      observed.inSyncChanged(left, record.inSync);
      events.emit({
        severity: change.inSync.length < replicas.length ? 'warning' : 'info',
        object: `volume ${name}`,
        message: `${change.inSync.length} of ${replicas.length} replicas are in-sync: ${change.reason}`,
      });
      logger.info('in-sync set changed', { volume: name, ...change });
      // A replica that has come in-sync may free another one.
      kick();
      return {};
    }),
    reportLostData: unary('agent', async ({ volumeId, epoch, reason }, from) => {
      requireNode(from, null);
      const loss = { volumeId: idFromBigint(volumeId), epoch: toNumber(epoch, 'epoch'), reason };
      const { name } = await recordLostData(repository, loss);
      events.emit({ severity: 'error', object: `volume ${name}`, message: reason });
      logger.error('acknowledged writes are lost', { volume: name, ...loss });
      kick();
      return {};
    }),
    reportDamage: unary('agent', async ({ volumeId, epoch, reason }, from) => {
      requireNode(from, null);
      const id = idFromBigint(volumeId);
      const { record } = (await repository.findVolumeById(id)) ?? { record: null };
      requireEpoch(record, id, toNumber(epoch, 'epoch'));
      const { name } = record;
      events.emit({ severity: 'error', object: `volume ${name}`, message: reason });
      logger.error('blocks are damaged on every copy', { volume: name, reason });
      return {};
    }),
    saveReservations: unary('agent', async ({ volumeId, epoch, reservations }, from) => {
      requireNode(from, null);
      await repository.saveReservations(idFromBigint(volumeId), toNumber(epoch, 'epoch'), reservations);
      return {};
    }),
  };
}

function agentRegistryService(
  agents: AgentSink,
  { access, connection: connectionOf }: Entrance,
  logger: Logger,
): AgentRegistryServer {
  return {
    connect: (call) => {
      const connection = Symbol('agent');
      let node: string | null = null;
      let reports = 0n;
      let stopOrders: () => void = () => undefined;
      const from = connectionOf(call.getPeer());
      const admitted = access.admit(authorizationOf(call.metadata), 'agent', from);
      let taken = admitted.then(
        () => undefined,
        (error: unknown) => {
          call.emit('error', toGrpcStatus(error));
        },
      );
      const orderShares: OrderShares = (orders) => {
        const shares = orders.map(toOrderMessage);
        call.write(ManagerOrder.fromPartial({ shares: { shares } }));
      };
      call.on('data', (message: AgentReportMessage) => {
        if (node === null) logger.info('agent connected', { node: message.node, pid: message.pid });
        node = message.node;
        reports += 1n;
        const accepted = reports;
        taken = taken.then(async () => {
          try {
            await admitted;
            requireNode(from, message.node);
            await agents.report(connection, toReport(message), orderShares);
            call.write({ accepted, disks: undefined, shares: undefined });
            if (accepted === 1n) {
              const sendOrders = (orders: readonly DiskOrder[]) => {
                call.write({ accepted, disks: { disks: [...orders] }, shares: undefined });
              };
              stopOrders = agents.followOrders(message.node, sendOrders);
            }
          } catch (error) {
            call.emit('error', toGrpcStatus(error));
          }
        });
      });
      const gone = () => {
        if (node === null) return;
        const name = node;
        node = null;
        stopOrders();
        logger.info('agent disconnected', { node: name });
        // After the reports that are still being taken in, or one of them would bring the agent back.
        taken = taken.then(() => {
          agents.disconnected(connection, name);
        });
      };
      call.on('end', () => {
        gone();
        call.end();
      });
      call.on('cancelled', gone);
      call.on('error', gone);
    },
  };
}

const orNull = (text: string) => (text === '' ? null : text);

function toReport(message: AgentReportMessage): AgentReport {
  return {
    node: message.node,
    pid: message.pid,
    processes: message.processes.map(toProcess),
    shares: message.shares.map(toShare),
    ...(message.place === undefined ? {} : { place: message.place }),
  };
}

function toOrderMessage({ sizeBytes, fs, options, ...order }: ShareOrder) {
  const { clients, squash, v3, security, address, principal, keytab } = options;
  return {
    ...order,
    sizeBytes: BigInt(sizeBytes),
    fs: fs ?? '',
    options: {
      clients: [...clients],
      squash,
      v3,
      security: [...security],
      address: address ?? '',
      principal: principal ?? '',
      keytab: keytab ?? '',
    },
  };
}

const shareStates = ['starting', 'serving', 'failed', 'stopping'] as const;

function toShare(message: ShareReport): ShareStatus {
  const { volumeId, volume, device, server, port, fs, pid, failureCode, failureMessage } = message;
  return {
    volumeId,
    volume,
    state: shareStates.find((state) => state === message.state) ?? 'failed',
    device,
    server,
    port,
    fs: fs === '' ? null : fs,
    pid: pid === 0 ? null : pid,
    failure:
      failureMessage === ''
        ? null
        : { code: isErrorCode(failureCode) ? failureCode : 'INTERNAL', message: failureMessage },
  };
}

function toSmart(message: SmartHealthMessage): SmartHealth {
  return {
    passed: message.passed ?? null,
    temperatureCelsius: message.temperatureCelsius ?? null,
    powerOnHours: message.powerOnHours === undefined ? null : Number(message.powerOnHours),
    wearPercent: message.wearPercent ?? null,
    badSectors: message.badSectors === undefined ? null : Number(message.badSectors),
  };
}

function toProcess(message: ProcessReport): ObservedProcess {
  const code = isErrorCode(message.failureCode) ? message.failureCode : 'INTERNAL';
  return {
    role: message.role === 'target' ? 'target' : 'replica',
    disk: orNull(message.disk),
    state: message.state === 'running' ? 'running' : message.state === 'failed' ? 'failed' : 'starting',
    pid: message.pid === 0 ? null : message.pid,
    failure: message.failureMessage === '' ? null : { code, message: message.failureMessage },
    instanceId: orNull(message.instanceId),
    address: orNull(message.address),
    portal: orNull(message.portal),
    directory: orNull(message.directory),
    diskId: orNull(message.diskId),
    diskClass: diskClassSchema.safeParse(message.diskClass).data ?? null,
    smart: message.smart === undefined ? null : toSmart(message.smart),
  };
}
