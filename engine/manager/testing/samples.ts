// Records and observations for tests of the pure parts.
import { redirectsKey } from '../data-plane.js';
import type { ObservedNode, ObservedProcess } from '../observed.js';
import { defaultAccess, defaultConstraints, recordVersion } from '../records.js';
import type { DiskRecord, VolumeRecord } from '../records.js';

export const nodeNames = ['node1', 'node2', 'node3'] as const;

export function sampleVolume(number: number, more: Partial<VolumeRecord> = {}): VolumeRecord {
  const id = (suffix: number) => (number * 16 + suffix).toString(16).padStart(16, '0');
  const replicas = nodeNames.map((node, index) => ({
    id: id(index + 1),
    node,
    disk: 'disk1',
  }));
  return {
    version: recordVersion,
    id: id(0),
    name: `v${number}`,
    size: 2 ** 30,
    blockSize: 512,
    createdAt: '2026-11-23T00:00:00.000Z',
    phase: 'ready',
    replicas,
    inSync: replicas.map((replica) => replica.id),
    epoch: 0,
    inSyncSequence: 0,
    attachment: null,
    copies: replicas.length,
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
    ...more,
  };
}

export function sampleDisks(): DiskRecord[] {
  return nodeNames.map((node, index) => ({
    version: recordVersion,
    node,
    name: 'disk1',
    diskId: String(index).repeat(32),
    directory: `/disks/${node}`,
    address: `127.0.0.1:2100${index}`,
    tags: [],
    class: null,
    cordoned: false,
    evicting: false,
    order: null,
  }));
}

function sampleProcess(more: Partial<ObservedProcess>): ObservedProcess {
  return {
    role: 'replica',
    disk: null,
    state: 'running',
    pid: 100,
    failure: null,
    instanceId: null,
    address: null,
    portal: null,
    directory: null,
    diskId: null,
    diskClass: null,
    ...more,
  };
}

export function sampleNode(name: string, more: Partial<ObservedNode> = {}, instanceId = `${name}-1`): ObservedNode {
  const number = Number(name.replace('node', ''));
  return {
    name,
    agentPid: 1,
    processes: [
      sampleProcess({
        role: 'target',
        instanceId,
        address: `127.0.0.1:2200${number}`,
        portal: `127.0.0.1:326${number - 1}`,
      }),
      sampleProcess({ disk: 'disk1', instanceId: `${name}-replica`, address: `127.0.0.1:2100${number - 1}` }),
    ],
    served: [],
    servedBy: instanceId,
    redirectsKey: redirectsKey([]),
    agentAwaySince: null,
    disksAwaySince: new Map(),
    ...more,
  };
}

export function withoutTarget(node: ObservedNode): ObservedNode {
  const processes = node.processes.map((process): ObservedProcess =>
    process.role === 'target' ? { ...process, state: 'starting' } : process,
  );
  return { ...node, processes, served: null, servedBy: null, redirectsKey: null };
}

export function nodeMap(nodes: readonly ObservedNode[]): ReadonlyMap<string, ObservedNode> {
  return new Map(nodes.map((node) => [node.name, node]));
}
