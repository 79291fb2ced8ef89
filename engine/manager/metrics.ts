// What /metrics shows, made of views and of what engines report. Pure. docs/metrics.md lists the names; they are stable.
import type { SmartHealth } from '../os/smart.js';
import type { Latency, VolumeStatus } from './data-plane.js';
import type { Family, HistogramSample, Labels, Sample } from './exposition.js';
import type { DiskView, NodeView, VolumeView } from './views.js';

export type MetricsInput = {
  readonly version: string;
  readonly volumes: readonly VolumeView[];
  /** By volume id. */
  readonly engines: ReadonlyMap<string, VolumeStatus>;
  readonly disks: readonly DiskView[];
  readonly nodes: readonly NodeView[];
  readonly trashed: number;
  readonly manager: ManagerStatistics;
};

/** Since the manager was started. */
export type ManagerStatistics = {
  readonly reconcilePasses: number;
  readonly reconcileSeconds: number;
  /** By kind of action. */
  readonly actionsDone: ReadonlyMap<string, number>;
  readonly actionsFailed: ReadonlyMap<string, number>;
  readonly cpuSeconds: number;
  readonly residentBytes: number;
};

// 16 µs, doubling: the last bucket of an engine has no bound.
const latencyBounds = Array.from({ length: 20 }, (_, index) => (16 * 2 ** index) / 1e6);

export function metricFamilies(input: MetricsInput): readonly Family[] {
  return [
    ...volumeFamilies(input.volumes),
    ...activityFamilies(input),
    ...rebuildFamilies(input.volumes),
    ...diskFamilies(input.disks),
    stateFamily(
      'holdfast_node_state',
      'Whether a node is in this state.',
      nodeStates,
      input.nodes,
      ({ name, state }) => [{ node: name }, state],
    ),
    ...managerFamilies(input),
  ];
}

const volumeStates = ['creating', 'detached', 'attaching', 'attached'] as const;
const healths = ['healthy', 'degraded', 'faulted'] as const;
const replicaStates = ['in-sync', 'rebuilding', 'failed'] as const;
const diskStates = ['online', 'starting', 'failed', 'offline'] as const;
const nodeStates = ['online', 'starting', 'impaired', 'offline'] as const;

function volumeFamilies(volumes: readonly VolumeView[]): readonly Family[] {
  return [
    gauge('holdfast_volume_size_bytes', 'Size of the volume.', volumes, ({ name, size }) => [{ volume: name }, size]),
    gauge('holdfast_volume_used_bytes', 'What one copy holds.', volumes, ({ name, usedBytes }) => [
      { volume: name },
      usedBytes,
    ]),
    stateFamily(
      'holdfast_volume_state',
      'Whether a volume is in this state.',
      volumeStates,
      volumes,
      ({ name, state }) => [{ volume: name }, state],
    ),
    stateFamily('holdfast_volume_health', 'Whether a volume has this health.', healths, volumes, ({ name, health }) => [
      { volume: name },
      health,
    ]),
    {
      kind: 'gauge',
      name: 'holdfast_volume_replicas',
      help: 'Replicas of the volume in this state.',
      samples: volumes.flatMap(({ name, replicas }) =>
        replicaStates.map((state) => ({
          labels: { volume: name, state },
          value: replicas.filter((replica) => replica.state === state).length,
        })),
      ),
    },
  ];
}

function activityFamilies({ volumes, engines }: MetricsInput): readonly Family[] {
  const active = volumes.flatMap(({ id, name }) => {
    const engine = engines.get(id);
    return engine === undefined ? [] : [{ volume: name, activity: engine.activity }];
  });
  const counters = (
    name: string,
    help: string,
    label: string,
    kinds: Readonly<Record<string, (activity: VolumeStatus['activity']) => number>>,
  ): Family => ({
    kind: 'counter',
    name,
    help,
    samples: active.flatMap(({ volume, activity }) =>
      Object.entries(kinds).map(([kind, of]) => ({ labels: { volume, [label]: kind }, value: of(activity) })),
    ),
  });
  return [
    counters('holdfast_volume_operations_total', 'Operations of hosts that were done.', 'kind', {
      read: ({ reads }) => reads,
      write: ({ writes }) => writes,
      flush: ({ flushes }) => flushes,
    }),
    counters('holdfast_volume_bytes_total', 'Bytes that hosts have read and written.', 'direction', {
      read: ({ readBytes }) => readBytes,
      write: ({ writtenBytes }) => writtenBytes,
    }),
    {
      kind: 'histogram',
      name: 'holdfast_volume_latency_seconds',
      help: 'How long operations took, without the network to the host.',
      bounds: latencyBounds,
      samples: active.flatMap(({ volume, activity }) => [
        histogram({ volume, kind: 'read' }, activity.readLatency),
        histogram({ volume, kind: 'write' }, activity.writeLatency),
        histogram({ volume, kind: 'flush' }, activity.flushLatency),
      ]),
    },
    counter(
      'holdfast_volume_repaired_blocks_total',
      'Blocks that were damaged on one copy and repaired from another.',
      active,
      (each) => [{ volume: each.volume }, each.activity.repairedBlocks],
    ),
    counter('holdfast_volume_throttled_total', 'Operations that waited for a limit of QoS.', active, (each) => [
      { volume: each.volume },
      each.activity.throttled,
    ]),
    gauge('holdfast_volume_sessions', 'iSCSI sessions.', active, (each) => [
      { volume: each.volume },
      each.activity.sessions,
    ]),
  ];
}

function rebuildFamilies(volumes: readonly VolumeView[]): readonly Family[] {
  const rebuilding = volumes.flatMap(({ name, replicas }) =>
    replicas.flatMap(({ id, node, disk, rebuild }) =>
      rebuild === null ? [] : [{ labels: { volume: name, replica: id, node, disk }, rebuild }],
    ),
  );
  return [
    gauge(
      'holdfast_rebuild_progress_ratio',
      'Share of the chunks that a rebuild has looked at.',
      rebuilding,
      ({ labels, rebuild }) => [labels, rebuild.chunksTotal === 0 ? 0 : rebuild.chunksExamined / rebuild.chunksTotal],
    ),
    gauge('holdfast_rebuild_bytes_per_second', 'Rate of a rebuild.', rebuilding, ({ labels, rebuild }) => [
      labels,
      rebuild.bytesPerSecond,
    ]),
  ];
}

// Only of drives that say so.
function smartFamilies(disks: readonly DiskView[], labelsOf: (disk: DiskView) => Labels): readonly Family[] {
  const family = (what: string, help: string, of: (smart: SmartHealth) => number | null) =>
    gauge(`holdfast_disk_smart_${what}`, help, disks, (disk) => [
      labelsOf(disk),
      disk.smart === null ? null : of(disk.smart),
    ]);
  return [
    family('passed', 'Verdict of the drive about itself: 1 is good.', ({ passed }) =>
      passed === null ? null : Number(passed),
    ),
    family('temperature_celsius', 'Temperature of the drive.', ({ temperatureCelsius }) => temperatureCelsius),
    family('wear_percent', 'Wear of flash memory.', ({ wearPercent }) => wearPercent),
    family('bad_sectors', 'Bad sectors, or integrity errors of NVMe.', ({ badSectors }) => badSectors),
  ];
}

function diskFamilies(disks: readonly DiskView[]): readonly Family[] {
  const labelsOf = ({ node, name }: DiskView): Labels => ({ node, disk: name });
  const size = (what: string, help: string, of: (disk: DiskView) => number | null) =>
    gauge(`holdfast_disk_${what}_bytes`, help, disks, (disk) => [labelsOf(disk), of(disk)]);
  return [
    stateFamily('holdfast_disk_state', 'Whether a disk is in this state.', diskStates, disks, (disk) => [
      labelsOf(disk),
      disk.state,
    ]),
    size('total', 'Capacity of the disk.', ({ totalBytes }) => totalBytes),
    size('used', 'What replicas occupy.', ({ usedBytes }) => usedBytes),
    size('free', 'What new writes may still take.', ({ freeBytes }) => freeBytes),
    size('promised', 'Sizes of the volumes with a replica here.', ({ scheduledBytes }) => scheduledBytes),
    gauge('holdfast_disk_replicas', 'Replicas on the disk.', disks, (disk) => [labelsOf(disk), disk.replicas]),
    ...smartFamilies(disks, labelsOf),
  ];
}

function managerFamilies({ version, manager, trashed }: MetricsInput): readonly Family[] {
  const actions = (outcome: string, counts: ReadonlyMap<string, number>): Sample[] =>
    [...counts].map(([action, value]) => ({ labels: { action, outcome }, value }));
  const single = (kind: 'gauge' | 'counter', name: string, help: string, value: number): Family => ({
    kind,
    name,
    help,
    samples: [{ labels: {}, value }],
  });
  return [
    {
      kind: 'gauge',
      name: 'holdfast_manager_info',
      help: 'The manager that leads.',
      samples: [{ labels: { version }, value: 1 }],
    },
    single('gauge', 'holdfast_trash_volumes', 'Deleted volumes that can be restored.', trashed),
    single(
      'counter',
      'holdfast_manager_reconcile_passes_total',
      'How often desired and observed state were compared.',
      manager.reconcilePasses,
    ),
    single('counter', 'holdfast_manager_reconcile_seconds_total', 'Time that took.', manager.reconcileSeconds),
    {
      kind: 'counter',
      name: 'holdfast_manager_actions_total',
      help: 'What the manager did of itself.',
      samples: [...actions('done', manager.actionsDone), ...actions('failed', manager.actionsFailed)],
    },
    single('counter', 'process_cpu_seconds_total', 'CPU time of the manager process.', manager.cpuSeconds),
    single('gauge', 'process_resident_memory_bytes', 'Memory of the manager process.', manager.residentBytes),
  ];
}

function histogram(labels: Labels, { counts, totalMicros }: Latency): HistogramSample {
  return { labels, counts, sum: totalMicros / 1e6 };
}

type Reading = readonly [labels: Labels, value: number | null];

function samplesOf<T>(objects: readonly T[], read: (object: T) => Reading): Sample[] {
  return objects.flatMap((object) => {
    const [labels, value] = read(object);
    return value === null ? [] : [{ labels, value }];
  });
}

function gauge<T>(name: string, help: string, objects: readonly T[], read: (object: T) => Reading): Family {
  return { kind: 'gauge', name, help, samples: samplesOf(objects, read) };
}

function counter<T>(name: string, help: string, objects: readonly T[], read: (object: T) => Reading): Family {
  return { kind: 'counter', name, help, samples: samplesOf(objects, read) };
}

// One sample per possible state, of which one is 1.
function stateFamily<T>(
  name: string,
  help: string,
  states: readonly string[],
  objects: readonly T[],
  read: (object: T) => readonly [labels: Labels, state: string],
): Family {
  return {
    kind: 'gauge',
    name,
    help,
    samples: objects.flatMap((object) => {
      const [labels, state] = read(object);
      const kind = name.slice(name.lastIndexOf('_') + 1);
      return states.map((each) => ({ labels: { ...labels, [kind]: each }, value: each === state ? 1 : 0 }));
    }),
  };
}
