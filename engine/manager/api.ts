// The manager's API: one function per method, plain records in and out. gRPC (grpc-services.ts) and REST (http/routes.ts) are
// two ways to call it.
import { sleep } from '../async/wait.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import type { Authority } from './authority.js';
import { createAdminApi } from './admin-api.js';
import type { AdminApi } from './admin-api.js';
import { scheduledByDisk } from './candidates.js';
import { attachVolume, moveVolume } from './attach-operation.js';
import type { AttachOptions, AttachOutcome } from './attach-operation.js';
import type { ManagerContext } from './context.js';
import { engineNode } from './maintenance.js';
import { requestRemoval, requestReplica } from './replica-requests.js';
import type { Removal } from './replica-requests.js';
import type { Scrubber } from './scrubber.js';
import type { FilesInput, FolderView, SnapshotFiles } from './snapshot-files.js';
import type { DiskStatus, VolumeStatus } from './data-plane.js';
import { mapVolume, unmapVolume } from './device-operations.js';
import type { MapInput } from './device-operations.js';
import { replicaAddress, runningTarget } from './observed.js';
import { lastAddressesOf } from './reconcile.js';
import type { VolumeRecord } from './records.js';
import { attachShared, detachShared, moveShared } from './share-operations.js';
import type { SharedAt } from './share-operations.js';
import { changeVolume, createVolume, deleteVolume, detachVolume, resizeVolume } from './volume-operations.js';
import type { CreateInput, VolumeChange } from './volume-operations.js';
import { cloneVolume } from './clone-operations.js';
import type { CloneInput } from './clone-operations.js';
import { createSnapshot, deleteSnapshot, listSnapshots, revertVolume } from './snapshot-operations.js';
import { diskView, iscsiView, nfsView, nodeView, processViews, scrubView, volumeView } from './views.js';
import type { ClusterEvent } from './events.js';
import { expose } from './exposition.js';
import { metricFamilies } from './metrics.js';
import type { Statistics } from './statistics.js';
import { statusView } from './status.js';
import type { StatusInput, StatusView } from './status.js';
import type {
  AttachmentView,
  DiskView,
  MappingView,
  NodeView,
  ProcessView,
  ReplicaView,
  SnapshotView,
  VolumeView,
} from './views.js';

export type ClusterView = {
  readonly id: string;
  readonly version: string;
  readonly nodes: number;
  readonly volumes: number;
};

export type DeletionView = {
  readonly volume: string;
  readonly pendingReplicas: readonly string[];
  /** Until when it can be restored from the trash; null: it is gone for good. */
  readonly restorableUntil: string | null;
  /** Linked clones of it: the blocks that they share with it stay on the disks until they are deleted, too. */
  readonly linkedClones: readonly string[];
};

export type ManagerApi = AdminApi & {
  readonly getCluster: () => Promise<ClusterView>;
  readonly createVolume: (input: CreateInput) => Promise<VolumeView>;
  readonly getVolume: (name: string) => Promise<VolumeView>;
  readonly listVolumes: () => Promise<readonly VolumeView[]>;
  readonly deleteVolume: (name: string, forGood: boolean) => Promise<DeletionView>;
  readonly changeVolume: (name: string, change: VolumeChange) => Promise<VolumeView>;
  /** `node` null: the manager chooses. */
  readonly attachVolume: (name: string, node: string | null, choices?: AttachChoices) => Promise<AttachmentView>;
  /** `node` null: placement chooses. */
  readonly addReplica: (volume: string, node: string | null) => Promise<VolumeView>;
  readonly removeReplica: (volume: string, removal: Removal) => Promise<VolumeView>;
  /** `bytesPerSecond` null: the cluster's setting. */
  readonly scrubVolume: (name: string, bytesPerSecond: number | null) => Promise<VolumeView>;
  readonly detachVolume: (name: string, force: boolean) => Promise<VolumeView>;
  readonly moveVolume: (name: string, node: string) => Promise<AttachmentView>;
  readonly resizeVolume: (name: string, size: number) => Promise<VolumeView>;
  /** `name` null: made of the time. */
  readonly createSnapshot: (volume: string, name: string | null) => Promise<SnapshotView>;
  readonly listSnapshots: (volume: string) => Promise<readonly SnapshotView[]>;
  readonly deleteSnapshot: (
    volume: string,
    name: string,
  ) => Promise<{ readonly volume: string; readonly name: string }>;
  readonly revertVolume: (volume: string, snapshot: string) => Promise<VolumeView>;
  readonly listSnapshotFiles: (input: Omit<FilesInput, 'list' | 'recursive'>) => Promise<FolderView>;
  /** Frames of engine/filesystem/file-frames.ts, cut anywhere. */
  readonly readSnapshotFiles: (input: Omit<FilesInput, 'list'>, signal: AbortSignal) => AsyncIterable<Buffer>;
  readonly cloneVolume: (input: CloneInput) => Promise<VolumeView>;
  readonly mapVolume: (input: MapInput) => Promise<MappingView>;
  readonly unmapVolume: (name: string, force: boolean) => Promise<VolumeView>;
  readonly listReplicas: (volume: string) => Promise<readonly ReplicaView[]>;
  readonly listNodes: () => Promise<readonly NodeView[]>;
  readonly getNode: (name: string) => Promise<NodeView>;
  readonly listDisks: () => Promise<readonly DiskView[]>;
  readonly listProcesses: () => Promise<readonly ProcessView[]>;
  readonly getStatus: () => Promise<StatusView>;
  /** In the text format of Prometheus. */
  readonly getMetrics: () => Promise<string>;
  readonly listEvents: (limit: number, after: number) => Promise<readonly ClusterEvent[]>;
  readonly watchEvents: (signal: AbortSignal) => AsyncIterable<ClusterEvent>;
};

const lookPatienceMs = 1_500;

export type AttachChoices = Partial<Omit<AttachOptions, 'node'>>;

export type ApiOptions = {
  readonly version: string;
  readonly pid: number;
  /** Changed desired state: let the reconciler look. */
  readonly kick: () => void;
  /** At which other hosts reach the managers. */
  readonly managers: readonly string[];
  readonly authority: Authority | null;
  readonly diskChanges: { readonly announce: () => void };
  readonly statistics: Statistics;
  readonly scrubber: Scrubber;
  readonly files: SnapshotFiles;
  /** What the manager tries again and again. */
  readonly failing: () => StatusInput['failing'];
};

export function createApi(context: ManagerContext, options: ApiOptions): ManagerApi {
  const { repository, observed } = context;

  // Requests that change something wait until the agents have reported, and let the reconciler look afterwards.
  const change = async <T>(task: () => Promise<T>): Promise<T> => {
    await context.ready;
    try {
      return await task();
    } finally {
      options.kick();
    }
  };
  // Snapshots are nothing that the reconciler looks at, unless something went wrong on the way.
  const changeSnapshots = async <T>(task: () => Promise<T>): Promise<T> => {
    await context.ready;
    try {
      return await task();
    } catch (error) {
      options.kick();
      throw error;
    }
  };
  // Until the agents have reported after a start of the manager, everything looks as if it were gone. Whoever only looks does not wait for
  // long: one may be gone.
  const reported = Promise.race([context.ready, sleep(lookPatienceMs)]);
  const look = async <T>(task: () => Promise<T> | T): Promise<T> => {
    await reported;
    return await task();
  };
  const view = async (record: VolumeRecord): Promise<VolumeView> => {
    const [seen] = await volumeViews(context, [record], options.scrubber);
    if (seen === undefined) throw new HoldfastError('INTERNAL', `volume "${record.name}" has no view`);
    return seen;
  };

  return {
    ...createAdminApi(context, change, options.diskChanges, options.managers, options.authority),
    getCluster: async () => {
      const [nodes, volumes] = await Promise.all([repository.listNodes(), repository.listVolumes()]);
      return { id: context.cluster.id, version: options.version, nodes: nodes.length, volumes: volumes.length };
    },
    createVolume: (input) => change(async () => view(await createVolume(context, input))),
    getVolume: (name) => look(async () => view((await repository.volume(name)).record)),
    listVolumes: () => look(async () => volumeViews(context, await repository.listVolumes(), options.scrubber)),
    deleteVolume: (name, forGood) =>
      change(async () => {
        const { pendingReplicas, purgeAt, linkedClones } = await deleteVolume(context, name, forGood);
        return { volume: name, pendingReplicas, restorableUntil: purgeAt, linkedClones };
      }),
    changeVolume: (name, edit) => change(async () => view(await changeVolume(context, name, edit))),
    attachVolume: (name, node, choices = {}) =>
      change(async () => {
        const { share } = (await repository.volume(name)).record;
        if (share !== undefined) return sharedView(name, await attachShared(context, name, node, options.kick));
        const all = { node, force: false, acceptDataLoss: false, replicaId: null, ...choices };
        return attachmentView(name, await attachVolume(context, name, all));
      }),
    addReplica: (volume, node) => change(async () => view(await requestReplica(context, volume, node))),
    removeReplica: (volume, removal) => change(async () => view(await requestRemoval(context, volume, removal))),
    scrubVolume: (name, bytesPerSecond) =>
      change(async () => view(await options.scrubber.request(name, bytesPerSecond))),
    detachVolume: (name, force) =>
      change(async () => {
        const { share } = (await repository.volume(name)).record;
        if (share === undefined) return view(await detachVolume(context, name, force));
        return view(await detachShared(context, name, force, options.kick));
      }),
    moveVolume: (name, node) =>
      change(async () => {
        const { share } = (await repository.volume(name)).record;
        if (share !== undefined) return sharedView(name, await moveShared(context, name, node, options.kick));
        return attachmentView(name, await moveVolume(context, name, node));
      }),
    resizeVolume: (name, size) => change(async () => view(await resizeVolume(context, name, size))),
    createSnapshot: (volume, name) => changeSnapshots(() => createSnapshot(context, volume, name)),
    listSnapshots: (volume) => listSnapshots(context, volume),
    deleteSnapshot: (volume, name) =>
      changeSnapshots(async () => {
        await deleteSnapshot(context, volume, name);
        return { volume, name };
      }),
    revertVolume: (volume, snapshot) => change(async () => view(await revertVolume(context, volume, snapshot))),
    listSnapshotFiles: (input) => options.files.list(input),
    readSnapshotFiles: (input, signal) => options.files.read({ ...input, list: false }, signal),
    cloneVolume: (input) => change(async () => view(await cloneVolume(context, input))),
    mapVolume: (input) =>
      change(async () => {
        const { node, epoch, portal, device } = await mapVolume(context, input);
        return {
          volume: input.name,
          epoch,
          node,
          via: input.via,
          device,
          iscsi: iscsiView(input.name, portal),
        };
      }),
    unmapVolume: (name, force) => change(async () => view(await unmapVolume(context, name, force))),
    listReplicas: (volume) => look(async () => (await view((await repository.volume(volume)).record)).replicas),
    listNodes: () => look(() => nodeViews(context)),
    getNode: (name) =>
      look(async () => {
        const found = (await nodeViews(context)).find((node) => node.name === name);
        if (found !== undefined) return found;
        throw new HoldfastError('NOT_FOUND', `node "${name}" does not exist: "holdfast node ls" lists the nodes`);
      }),
    listDisks: () => look(() => diskViews(context)),
    listProcesses: () => look(() => processViews(options.pid, observed.nodes)),
    getStatus: () =>
      look(async () => {
        const { volumes, nodes, disks, trashed } = await everything(context, options.scrubber);
        const { version } = options;
        return statusView({
          cluster: context.cluster.id,
          version,
          nodes,
          disks,
          volumes,
          trashed,
          failing: options.failing(),
        });
      }),
    getMetrics: () =>
      look(async () => {
        const seen = await everything(context, options.scrubber);
        return expose(metricFamilies({ ...seen, version: options.version, manager: options.statistics.read() }));
      }),
    listEvents: (limit, after) => {
      if (![limit, after].every((number) => Number.isInteger(number) && number >= 0))
        throw new HoldfastError('INVALID_ARGUMENT', 'limit and after are numbers of events');
      return Promise.resolve(context.events.recent(limit, after));
    },
    watchEvents: (signal) => context.events.watch(signal),
  };
}

// One look at all there is.
async function everything(context: ManagerContext, scrubber: Scrubber) {
  const records = await context.repository.listVolumes();
  const engines = await enginesOf(context, records);
  const [volumes, nodes, disks, trash] = await Promise.all([
    volumeViews(context, records, scrubber, engines),
    nodeViews(context),
    diskViews(context),
    context.repository.listTrash(),
  ]);
  return { engines, volumes, nodes, disks, trashed: trash.length };
}

async function nodeViews({ repository, observed }: ManagerContext): Promise<NodeView[]> {
  const [nodes, disks, volumes] = await Promise.all([
    repository.listNodes(),
    repository.listDisks(),
    repository.listVolumes(),
  ]);
  return nodes.map((node) => nodeView(node, observed.nodes, disks, volumes));
}

function sharedView(volume: string, { epoch, node, share }: SharedAt): AttachmentView {
  return { volume, epoch, node, iscsi: null, nfs: nfsView(share), takeover: null, servedFrom: null };
}

async function volumeViews(
  context: ManagerContext,
  records: readonly VolumeRecord[],
  scrubber: Scrubber,
  known?: ReadonlyMap<string, VolumeStatus>,
): Promise<VolumeView[]> {
  const { observed, repository } = context;
  const [engines, usage, disks, scrubs] = await Promise.all([
    known ?? enginesOf(context, records),
    usageOf(context, records),
    repository.listDisks(),
    repository.listScrubs(),
  ]);
  const scrubOf = new Map(scrubs.map((scrub) => [scrub.volume, scrub]));
  const lastAddresses = lastAddressesOf(disks);
  return records.map((record) => {
    const used = record.inSync.map((id) => usage.get(id)).find((bytes) => bytes !== undefined);
    const scrub = scrubView(scrubOf.get(record.id) ?? null, scrubber.progress(record.id));
    return volumeView(record, observed.nodes, lastAddresses, engines.get(record.id) ?? null, used ?? null, scrub);
  });
}

// Asks each target process that should serve one of the volumes, once.
async function enginesOf(
  { observed, dataPlane }: ManagerContext,
  records: readonly VolumeRecord[],
): Promise<ReadonlyMap<string, VolumeStatus>> {
  const engines = new Map<string, VolumeStatus>();
  const wanted = new Map(records.map((record) => [record.id, engineNode(record)]));
  const nodes = new Set([...wanted.values()].filter((node) => node !== null));
  await Promise.all(
    [...nodes].map(async (node) => {
      const target = runningTarget(observed.node(node));
      if (target === null) return;
      const status = await dataPlane.targetStatus(target.control).catch(() => null);
      for (const volume of status?.volumes ?? []) {
        if (wanted.get(volume.volumeId) === node) engines.set(volume.volumeId, volume);
      }
    }),
  );
  return engines;
}

// Asks each disk that holds one of the volumes, once.
async function usageOf(
  { observed, dataPlane }: ManagerContext,
  records: readonly VolumeRecord[],
): Promise<ReadonlyMap<string, number>> {
  const addresses = new Set<string>();
  for (const { node, disk } of records.flatMap(({ replicas }) => replicas)) {
    const address = replicaAddress(observed.node(node), disk);
    if (address !== null) addresses.add(address);
  }
  const answers = await Promise.all(
    [...addresses].map((address) => dataPlane.replicaUsage(address).catch(() => new Map<string, number>())),
  );
  return new Map(answers.flatMap((answer) => [...answer]));
}

async function diskViews({ repository, observed, dataPlane }: ManagerContext): Promise<DiskView[]> {
  const [disks, volumes, trash] = await Promise.all([
    repository.listDisks(),
    repository.listVolumes(),
    repository.listTrash(),
  ]);
  const scheduled = scheduledByDisk(volumes, trash);
  return await Promise.all(
    disks.map(async (disk) => {
      const address = replicaAddress(observed.node(disk.node), disk.name);
      const status: DiskStatus | null = address === null ? null : await dataPlane.disk(address).catch(() => null);
      return diskView(disk, observed.nodes, volumes, status, scheduled.get(`${disk.node}/${disk.name}`) ?? 0);
    }),
  );
}

function attachmentView(volume: string, { engine, takeover, servedFrom }: AttachOutcome): AttachmentView {
  const { epoch, node, portal, leaseWaitMs, leftOut } = engine;
  const waitedFor =
    takeover === null
      ? ''
      : takeover.former === 'detached'
        ? `the engine on ${takeover.from} finished and let go`
        : leaseWaitMs > 0
          ? `${(leaseWaitMs / 1_000).toFixed(1)} s until the lease of the engine on ${takeover.from} was over, ` +
            `because ${leftOut.length} of its replicas could not be asked`
          : `nothing: every in-sync replica refuses the engine on ${takeover.from} from now on`;
  return {
    volume,
    epoch,
    node,
    iscsi: iscsiView(volume, portal),
    nfs: null,
    takeover: takeover === null ? null : { ...takeover, leaseWaitMs, leftOut, waitedFor },
    servedFrom,
  };
}
