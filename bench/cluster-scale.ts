// The control plane at scale, without processes: 1,000 nodes with disks of mixed sizes, 100,000 volumes of three replicas.
// Prints how long a full pass of the reconciler takes, how long the loss of a node takes to plan and place, how even the disks are after
// placement and after balancing, and the memory of the process.
import { balanceTolerance, imbalance, planMoves } from '../engine/placement/balance.js';
import type { PlacedVolume } from '../engine/placement/balance.js';
import { anyDisk, placeOne } from '../engine/placement/place-replicas.js';
import type { DiskCandidate, Neighbour } from '../engine/placement/place-replicas.js';
import { configurationKey } from '../engine/manager/data-plane.js';
import type { ObservedNode, ObservedProcess } from '../engine/manager/observed.js';
import { endpointsOf, lastAddressesOf, reconcile, settingsOf } from '../engine/manager/reconcile.js';
import type { Desired } from '../engine/manager/reconcile.js';
import { defaultAccess, defaultConstraints, defaultSettings, recordVersion } from '../engine/manager/records.js';
import type { DiskRecord, NodeRecord, VolumeRecord } from '../engine/manager/records.js';
import { benchOptions } from './options.js';

const usage = `Usage: node scripts/bench.mjs cluster-scale [options]

The control plane at scale, without processes: how long a pass of the reconciler and the loss of a node take.

  --nodes N      nodes (default 1000)
  --volumes N    volumes (default 100000)`;
const values = benchOptions(usage, {
  nodes: { type: 'string', default: '1000' },
  volumes: { type: 'string', default: '100000' },
});
const nodeCount = Number(values.nodes);
const volumeCount = Number(values.volumes);
const gib = 2 ** 30;

let seed = 42;
const random = (below: number): number => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
  return Math.floor((seed / 2 ** 32) * below);
};
/** What is known to be there. */
function sure<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the benchmark is wrong about its own data');
  return value;
}
const id = (number: number): string => number.toString(16).padStart(16, '0');
const nodeName = (index: number): string => `node${index}`;

const disks: DiskCandidate[] = Array.from({ length: nodeCount }, (_, index) => {
  const capacityBytes = sure([2_000, 4_000, 8_000][index % 3]) * gib;
  return {
    node: nodeName(index),
    disk: 'disk1',
    online: true,
    capacityBytes,
    freeBytes: capacityBytes,
    scheduledBytes: 0,
    closed: null,
    zone: `zone${index % 10}`,
    tags: [],
    class: 'nvme',
  };
});

function timed<T>(what: string, task: () => T): T {
  const began = performance.now();
  const result = task();
  console.log(`${what}: ${(performance.now() - began).toFixed(0)} ms`);
  return result;
}

// A few hundred of all disks are looked at for each volume: what a real cluster has grown to is not the best of all placements.
function makeVolume(index: number): VolumeRecord {
  const size = (1 + random(50)) * gib;
  const sample = Array.from({ length: 12 }, () => random(nodeCount));
  const neighbours: Neighbour[] = [];
  while (neighbours.length < 3) {
    const chosen = placeOne(
      [...new Set(sample)].map((each) => sure(disks[each])),
      { ...anyDisk(size), overProvisioning: 1_000 },
      neighbours,
    );
    if (chosen === null) {
      sample.push(random(nodeCount));
      continue;
    }
    neighbours.push({ node: chosen.node, disk: chosen.disk, zone: chosen.zone });
    const at = disks.indexOf(chosen);
    disks[at] = { ...chosen, scheduledBytes: chosen.scheduledBytes + size };
  }
  const replicas = neighbours.map(({ node, disk }, copy) => ({ id: id(index * 4 + copy + 1), node, disk }));
  return {
    version: recordVersion,
    id: id(index * 4),
    name: `v${index}`,
    size,
    blockSize: 512,
    createdAt: '2026-11-23T00:00:00.000Z',
    phase: 'ready',
    replicas,
    inSync: replicas.map((replica) => replica.id),
    epoch: 1,
    inSyncSequence: 0,
    attachment: { node: sure(replicas[0]).node },
    copies: 3,
    retiring: [],
    constraints: defaultConstraints,
    qos: null,
    access: defaultAccess,
    policy: null,
    setAside: [],
    maintenance: null,
    lostData: null,
    rebuildBytesPerSecond: null,
    foregroundPercent: null,
    copying: null,
    linkedTo: null,
  };
}

const volumes = timed(`place ${volumeCount} volumes`, () =>
  Array.from({ length: volumeCount }, (_, index) => makeVolume(index)),
);
const diskRecords: DiskRecord[] = disks.map(({ node, disk }, index) => ({
  version: recordVersion,
  node,
  name: disk,
  diskId: null,
  directory: '/d',
  address: `10.0.${index >> 8}.${index & 255}:7000`,
  tags: [],
  class: 'nvme',
  cordoned: false,
  evicting: false,
  order: null,
}));
const nodeRecords: NodeRecord[] = disks.map(({ node, zone }) => ({
  version: recordVersion,
  name: node,
  portal: null,
  zone,
  cordoned: false,
  draining: false,
}));

const addresses = lastAddressesOf(diskRecords);
const byNode = new Map<string, VolumeRecord[]>();
for (const volume of volumes) {
  const node = volume.attachment?.node ?? '';
  const there = byNode.get(node);
  if (there === undefined) byNode.set(node, [volume]);
  else there.push(volume);
}
const nodes = new Map<string, ObservedNode>();
const emptyProcess: ObservedProcess = {
  role: 'target',
  disk: null,
  state: 'running',
  pid: 1,
  failure: null,
  instanceId: 'i',
  address: 'a:1',
  portal: 'p:1',
  directory: null,
  diskId: null,
  diskClass: null,
};
for (const [index, { node }] of disks.entries()) {
  const served = (byNode.get(node) ?? []).map((volume) => ({
    volumeId: volume.id,
    epoch: volume.epoch,
    state: 'serving',
    configurationKey: configurationKey(
      endpointsOf(volume, node, nodes, addresses),
      settingsOf(volume, defaultSettings),
    ),
  }));
  const processes: ObservedProcess[] = [
    emptyProcess,
    { ...emptyProcess, role: 'replica', disk: 'disk1', address: diskRecords[index]?.address ?? null },
  ];
  nodes.set(node, {
    name: node,
    agentPid: 1,
    processes,
    served,
    servedBy: 'i',
    redirectsKey: null,
    agentAwaySince: null,
    disksAwaySince: new Map(),
  });
}
const desired: Desired = { volumes, disks: diskRecords, doomed: [], nodes: nodeRecords, settings: defaultSettings };
const moment = { now: 1_000_000, startedAt: 0, run: 'bench' };

// The first pass gives every node its table of redirects.
for (const action of timed('first reconcile pass', () => reconcile(desired, nodes, moment))) {
  if (action.kind !== 'set-redirects') continue;
  const node = nodes.get(action.node);
  if (node !== undefined) nodes.set(action.node, { ...node, redirectsKey: action.key });
}
const calm = timed('reconcile pass with nothing to do', () => reconcile(desired, nodes, moment));
console.log(`  actions: ${calm.length}`);

const victim = nodeName(7);
const lostNode = sure(nodes.get(victim));
nodes.set(victim, { ...lostNode, agentPid: null, agentAwaySince: 0, processes: [] });
const lostReplicas = new Set(
  volumes.flatMap(({ replicas }) => replicas.filter(({ node }) => node === victim).map((each) => each.id)),
);
const after: Desired = {
  ...desired,
  volumes: volumes.map((volume) =>
    volume.replicas.some((replica) => lostReplicas.has(replica.id))
      ? { ...volume, inSync: volume.inSync.filter((each) => !lostReplicas.has(each)) }
      : volume,
  ),
};
timed('node loss: plan and place all rebuilds', () => {
  const adds = reconcile(after, nodes, moment).filter(({ kind }) => kind === 'add-replica');
  const byId = new Map(after.volumes.map((volume) => [volume.id, volume]));
  const usable = disks.filter(({ node }) => node !== victim);
  const zones = new Map(disks.map(({ node, zone }) => [node, zone]));
  for (const action of adds) {
    const volume = sure(byId.get('volumeId' in action ? action.volumeId : ''));
    const neighbours = volume.replicas
      .filter(({ node }) => node !== victim)
      .map(({ node, disk }) => ({ node, disk, zone: zones.get(node) ?? null }));
    placeOne(usable, { ...anyDisk(volume.size), overProvisioning: 1_000 }, neighbours);
  }
  console.log(`  replicas to rebuild: ${adds.length} of ${lostReplicas.size} lost`);
});

console.log(`imbalance after placement: ${(100 * imbalance(disks)).toFixed(1)} %`);
const placed: PlacedVolume[] = volumes.map(({ id: volumeId, size, replicas }) => ({
  id: volumeId,
  request: { ...anyDisk(size), overProvisioning: 1_000 },
  replicas,
  movable: true,
}));
let moved = 0;
timed('balance until nothing more moves', () => {
  const index = new Map(disks.map(({ node }, at) => [node, at]));
  const volumeIndex = new Map(placed.map((volume, at) => [volume.id, at]));
  for (;;) {
    const moves = planMoves(disks, placed, { tolerance: balanceTolerance, movesMax: 2_000 });
    if (moves.length === 0) return;
    moved += moves.length;
    for (const { volumeId, replicaId, from, to } of moves) {
      const at = sure(volumeIndex.get(volumeId));
      const volume = sure(placed[at]);
      placed[at] = {
        ...volume,
        replicas: volume.replicas.map((replica) => (replica.id === replicaId ? { ...replica, ...to } : replica)),
      };
      for (const [place, sign] of [
        [from, -1],
        [to, 1],
      ] as const) {
        const diskAt = sure(index.get(place.node));
        const disk = sure(disks[diskAt]);
        disks[diskAt] = { ...disk, scheduledBytes: disk.scheduledBytes + sign * volume.request.sizeBytes };
      }
    }
  }
});
console.log(`  moves: ${moved}; imbalance now: ${(100 * imbalance(disks)).toFixed(1)} %`);
console.log(`memory: ${(process.memoryUsage.rss() / 2 ** 20).toFixed(0)} MiB resident`);
