// The cluster on one screen: how much there is, and what is wrong, why, and what to do. Pure, made of views.
import type { DiskView, NodeView, VolumeView } from './views.js';

export type Problem = {
  /** "critical": I/O is stopped or data has one copy left to lose; "warning": everything else. */
  readonly severity: 'critical' | 'warning';
  /** "volume db", "disk disk1 of node2", … */
  readonly object: string;
  readonly problem: string;
  readonly action: string | null;
};

export type RebuildSummary = {
  readonly volume: string;
  readonly replica: string;
  readonly node: string;
  readonly disk: string;
  /** 0 to 1 */
  readonly share: number;
  readonly bytesPerSecond: number;
  /** Null while it cannot be told. */
  readonly remainingSeconds: number | null;
};

export type StatusView = {
  readonly cluster: string;
  readonly version: string;
  readonly health: 'healthy' | 'degraded' | 'critical';
  readonly nodes: { readonly total: number; readonly online: number };
  readonly disks: {
    readonly total: number;
    readonly online: number;
    readonly totalBytes: number;
    readonly usedBytes: number;
    readonly promisedBytes: number;
  };
  readonly volumes: {
    readonly total: number;
    readonly attached: number;
    readonly healthy: number;
    readonly degraded: number;
    readonly faulted: number;
  };
  readonly trash: number;
  readonly rebuilds: readonly RebuildSummary[];
  readonly problems: readonly Problem[];
};

export type StatusInput = {
  readonly cluster: string;
  readonly version: string;
  readonly nodes: readonly NodeView[];
  readonly disks: readonly DiskView[];
  readonly volumes: readonly VolumeView[];
  readonly trashed: number;
  /** What the manager tries again and again: what, and why it fails. */
  readonly failing: readonly { readonly what: string; readonly why: string }[];
};

/** A disk that is fuller than this is a problem. */
const fullShare = 0.9;

export function statusView(input: StatusInput): StatusView {
  const { nodes, disks, volumes } = input;
  const problems = [
    ...volumes.flatMap(volumeProblems),
    ...nodes.flatMap(nodeProblems),
    ...disks.flatMap(diskProblems),
    ...input.failing.map(({ what, why }): Problem => ({
      severity: 'warning',
      object: what,
      problem: why,
      action: 'it is tried again',
    })),
  ].sort((a, b) => Number(b.severity === 'critical') - Number(a.severity === 'critical'));
  const sum = (of: (disk: DiskView) => number | null) => disks.reduce((total, disk) => total + (of(disk) ?? 0), 0);
  const count = (health: VolumeView['health']) => volumes.filter((volume) => volume.health === health).length;
  return {
    cluster: input.cluster,
    version: input.version,
    health: problems.some(({ severity }) => severity === 'critical')
      ? 'critical'
      : problems.length > 0
        ? 'degraded'
        : 'healthy',
    nodes: { total: nodes.length, online: nodes.filter(({ state }) => state === 'online').length },
    disks: {
      total: disks.length,
      online: disks.filter(({ state }) => state === 'online').length,
      totalBytes: sum(({ totalBytes }) => totalBytes),
      usedBytes: sum(({ usedBytes }) => usedBytes),
      promisedBytes: sum(({ scheduledBytes }) => scheduledBytes),
    },
    volumes: {
      total: volumes.length,
      attached: volumes.filter(({ state }) => state === 'attached').length,
      healthy: count('healthy'),
      degraded: count('degraded'),
      faulted: count('faulted'),
    },
    trash: input.trashed,
    rebuilds: volumes.flatMap(rebuildsOf),
    problems,
  };
}

function volumeProblems(volume: VolumeView): readonly Problem[] {
  const object = `volume ${volume.name}`;
  if (volume.health === 'healthy') return [];
  const problem = volume.reason ?? volume.health;
  if (volume.health === 'faulted') {
    return [
      {
        severity: 'critical',
        object,
        problem,
        action: `bring back what the replicas are on ("holdfast volume show ${volume.name}")`,
      },
    ];
  }
  const rebuilding = volume.replicas.some(({ state }) => state === 'rebuilding');
  return [{ severity: 'warning', object, problem, action: rebuilding ? 'it is being rebuilt' : null }];
}

function nodeProblems({ name, state, reason }: NodeView): readonly Problem[] {
  if (state === 'online') return [];
  const action = state === 'offline' ? `start the agent of ${name}, or the host` : null;
  return [
    { severity: 'warning', object: `node ${name}`, problem: `${state}: ${reason ?? 'no reason is known'}`, action },
  ];
}

function diskProblems(disk: DiskView): readonly Problem[] {
  return [...stateProblems(disk), ...smartProblems(disk)];
}

function smartProblems({ node, name, smart }: DiskView): readonly Problem[] {
  if (smart?.passed !== false) return [];
  const object = `disk ${name} of ${node}`;
  const action = `replace it: "holdfast disk evict ${node} ${name} --wait", then "holdfast disk rm"`;
  return [{ severity: 'warning', object, problem: 'its drive says that it is going to fail (SMART)', action }];
}

function stateProblems({ node, name, state, reason, totalBytes, usedBytes }: DiskView): readonly Problem[] {
  const object = `disk ${name} of ${node}`;
  if (state === 'failed') {
    return [
      {
        severity: 'warning',
        object,
        problem: reason ?? 'failed',
        action: 'check it; replace it with "holdfast disk add" and "holdfast disk rm"',
      },
    ];
  }
  if (totalBytes === null || usedBytes === null || usedBytes < totalBytes * fullShare) return [];
  const share = Math.floor((100 * usedBytes) / totalBytes);
  return [{ severity: 'warning', object, problem: `${share} % full`, action: 'add a disk, or delete volumes' }];
}

function rebuildsOf({ name, replicas }: VolumeView): readonly RebuildSummary[] {
  return replicas.flatMap(({ id, node, disk, rebuild }) => {
    if (rebuild === null) return [];
    const { chunksTotal, chunksExamined, bytesPerSecond, remainingSeconds } = rebuild;
    const share = chunksTotal === 0 ? 0 : chunksExamined / chunksTotal;
    return [{ volume: name, replica: id, node, disk, share, bytesPerSecond, remainingSeconds }];
  });
}
