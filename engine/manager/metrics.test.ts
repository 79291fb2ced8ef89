import { expect, test } from 'vitest';
import { expose } from './exposition.js';
import { metricFamilies } from './metrics.js';
import { statusView } from './status.js';
import { defaultConstraints } from './records.js';
import type { DiskView, NodeView, VolumeView } from './views.js';

const rebuild = {
  chunksTotal: 100,
  chunksExamined: 25,
  bytesCopied: 2_500,
  bytesPerSecond: 500,
  remainingSeconds: 15,
};
const volume: VolumeView = {
  id: '0000000000000010',
  name: 'db',
  size: 2 ** 30,
  blockSize: 512,
  state: 'attached',
  health: 'degraded',
  reason: '1 of 2 replicas are in-sync and reachable',
  epoch: 3,
  node: 'node1',
  iscsi: null,
  access: 'rwo',
  nfs: null,
  device: null,
  inSync: ['0000000000000011'],
  replicas: [
    {
      id: '0000000000000011',
      node: 'node1',
      disk: 'disk1',
      state: 'in-sync',
      reason: null,
      address: null,
      rebuild: null,
    },
    {
      id: '0000000000000012',
      node: 'node2',
      disk: 'disk1',
      state: 'rebuilding',
      reason: null,
      address: null,
      rebuild,
    },
  ],
  usedBytes: 4_096,
  createdAt: '2026-11-23T00:00:00.000Z',
  copies: 2,
  writesPaused: false,
  maintenance: null,
  scrub: null,
  rebuildBytesPerSecond: null,
  foregroundPercent: null,
  linkedTo: null,
  policy: null,
  constraints: defaultConstraints,
  qos: null,
  chapUser: null,
  mutualChapUser: null,
  initiators: [],
};
const disk: DiskView = {
  node: 'node1',
  name: 'disk1',
  id: null,
  state: 'online',
  reason: null,
  directory: '/d',
  address: null,
  totalBytes: 1_000,
  usedBytes: 950,
  freeBytes: 50,
  scheduledBytes: 2_000,
  replicas: 1,
  smart: { passed: false, temperatureCelsius: 40, powerOnHours: null, wearPercent: null, badSectors: 3 },
  class: 'hdd',
  tags: [],
  cordoned: false,
  evicting: false,
};
const node: NodeView = {
  name: 'node2',
  state: 'offline',
  reason: 'no agent is connected',
  portal: null,
  disks: 1,
  volumes: 0,
  zone: null,
  cordoned: false,
  draining: false,
};
const manager = {
  reconcilePasses: 7,
  reconcileSeconds: 0.5,
  actionsDone: new Map([['attach', 2]]),
  actionsFailed: new Map(),
  cpuSeconds: 1,
  residentBytes: 2,
};
const activity = {
  reads: 3,
  writes: 2,
  flushes: 1,
  readBytes: 30,
  writtenBytes: 20,
  repairedBlocks: 0,
  throttled: 5,
  sessions: 1,
  readLatency: { counts: [1, 0, 2], totalMicros: 100 },
  writeLatency: { counts: [0, 2], totalMicros: 60 },
  flushLatency: { counts: [], totalMicros: 0 },
};
const engine = {
  volumeId: volume.id,
  epoch: 3,
  state: 'serving',
  failure: '',
  device: '',
  sizeBytes: 2 ** 30,
  writesPaused: false,
  lostData: false,
  replicas: [],
  activity,
};

test('metrics in the format of Prometheus', () => {
  const text = expose(
    metricFamilies({
      version: '1.2.3',
      volumes: [volume],
      engines: new Map([[volume.id, engine]]),
      disks: [disk],
      nodes: [node],
      trashed: 4,
      manager,
    }),
  );
  const lines = text.split('\n');
  for (const line of [
    '# TYPE holdfast_volume_latency_seconds histogram',
    'holdfast_volume_health{volume="db",health="degraded"} 1',
    'holdfast_volume_health{volume="db",health="healthy"} 0',
    'holdfast_volume_replicas{volume="db",state="rebuilding"} 1',
    'holdfast_volume_operations_total{volume="db",kind="read"} 3',
    'holdfast_volume_latency_seconds_bucket{volume="db",kind="read",le="0.000016"} 1',
    'holdfast_volume_latency_seconds_bucket{volume="db",kind="read",le="0.000064"} 3',
    'holdfast_volume_latency_seconds_bucket{volume="db",kind="read",le="+Inf"} 3',
    'holdfast_volume_latency_seconds_count{volume="db",kind="read"} 3',
    'holdfast_volume_latency_seconds_sum{volume="db",kind="read"} 0.0001',
    'holdfast_rebuild_progress_ratio{volume="db",replica="0000000000000012",node="node2",disk="disk1"} 0.25',
    'holdfast_disk_free_bytes{node="node1",disk="disk1"} 50',
    'holdfast_node_state{node="node2",state="offline"} 1',
    'holdfast_manager_actions_total{action="attach",outcome="done"} 2',
    'holdfast_trash_volumes 4',
  ]) {
    expect(lines).toContain(line);
  }
  // Every line is a comment or a sample, every family is announced once and before its samples.
  for (const line of lines.filter((each) => each !== '')) {
    expect(line).toMatch(/^(# (HELP|TYPE) \S+ .+|[a-z_]+(\{.*\})? [0-9.e+-]+)$/);
  }
  expect(new Set(lines.filter((line) => line.startsWith('# TYPE'))).size).toBe(
    lines.filter((line) => line.startsWith('# TYPE')).length,
  );
});

test('values of labels are escaped', () => {
  const samples = [{ labels: { a: 'x"y\\z\n' }, value: 1 }];
  expect(expose([{ kind: 'gauge', name: 'm', help: 'h', samples }])).toContain('m{a="x\\"y\\\\z\\n"} 1');
});

test('the status says what is wrong, the worst first', () => {
  const faulted: VolumeView = {
    ...volume,
    name: 'web',
    health: 'faulted',
    reason: 'no in-sync replica can be reached',
    replicas: [],
  };
  const input = {
    cluster: 'c',
    version: '1',
    nodes: [node],
    disks: [disk],
    volumes: [volume, faulted],
    trashed: 0,
    failing: [],
  };
  const status = statusView(input);
  expect(status.health).toBe('critical');
  expect(status.problems.map(({ severity, object }) => [severity, object])).toEqual([
    ['critical', 'volume web'],
    ['warning', 'volume db'],
    ['warning', 'node node2'],
    ['warning', 'disk disk1 of node1'],
    ['warning', 'disk disk1 of node1'],
  ]);
  expect(status.rebuilds).toEqual([
    {
      volume: 'db',
      replica: '0000000000000012',
      node: 'node2',
      disk: 'disk1',
      share: 0.25,
      bytesPerSecond: 500,
      remainingSeconds: 15,
    },
  ]);
  expect(statusView({ ...input, nodes: [], disks: [], volumes: [] })).toMatchObject({
    health: 'healthy',
    problems: [],
  });
  const failing = [{ what: 'attach volume x', why: 'it does not answer' }];
  expect(statusView({ ...input, nodes: [], disks: [], volumes: [], failing }).health).toBe('degraded');
});
