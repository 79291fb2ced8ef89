// What `holdfast up` is going to do: options, what the folder remembers, and defaults, brought together and checked. Nothing is
// changed here.
import { resolve } from 'node:path';
import { diskDefaults } from '../config/disk-defaults.js';
import { systemProcessHost } from '../agent/process-host.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { findFreePorts, formatHostPort, isLoopback, parseHostPort, tryBind } from '../os/addresses.js';
import type { HostPort } from '../os/addresses.js';
import {
  clusterFileVersion,
  defaultFolder,
  inspectFolder,
  lockPath,
  managerRunDir,
  nodePaths,
} from './cluster-folder.js';
import { findEtcd } from '../metastore/private-etcd.js';
import type { EtcdSettings, StoreChoice } from '../metastore/store-options.js';
import type { ClusterFile, NodePaths } from './cluster-folder.js';
import { folderInUse, lockHolder } from './folder-lock.js';

export type UpOptions = {
  /** Null everywhere: not given. */
  readonly data: string | null;
  readonly nodes: number | null;
  readonly api: string | null;
  readonly iscsi: string | null;
  readonly journalBytes: number | null;
  readonly cacheBytes: number | null;
  readonly store: StoreInput | null;
};

/** What was given of --store and its companions. */
export type StoreInput = { readonly choice: StoreChoice; readonly etcd: Omit<EtcdSettings, 'urls'> };

export type UpNode = NodePaths & { readonly portal: string };

export type UpPlan = {
  readonly folder: string;
  readonly fresh: boolean;
  readonly file: ClusterFile;
  /** HOST:PORT to listen on, and HOST:PORT that clients on this machine use. */
  readonly listen: string;
  readonly server: string;
  readonly nodes: readonly UpNode[];
  readonly warnings: readonly string[];
};

export const upDefaults = {
  nodes: 3,
  api: '127.0.0.1:7600',
  iscsi: '127.0.0.1:3260',
  ...diskDefaults,
} as const;

const nodesMax = 16;
const journalBytesMin = 16 * 2 ** 20;
const cacheBytesMin = 4 * 2 ** 20;

export async function planUp(options: UpOptions, environment: NodeJS.ProcessEnv, now: Date): Promise<UpPlan> {
  const folder = options.data === null ? defaultFolder(environment) : resolve(options.data);
  const state = inspectFolder(folder);
  const stored = state.kind === 'ours' ? state.file : null;
  const holder = lockHolder(lockPath(folder));
  if (holder !== null) throw folderInUse(folder, holder.pid);

  const nodes = nodeCount(options.nodes, stored, folder);
  const portals = numericHost(parseHostPort(options.iscsi ?? stored?.iscsi ?? upDefaults.iscsi, '--iscsi'));
  const api = await withPort(
    parseHostPort(options.api ?? stored?.api ?? upDefaults.api, '--api'),
    1,
    `${folder} api`,
    portals.port === 0 ? [] : consecutive(portals.port, nodes),
  );
  const iscsi = await withPort(portals, nodes, `${folder} iscsi`, [api.port]);
  if (iscsi.port + nodes - 1 > 65_535) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `--iscsi ${formatHostPort(iscsi)}: ${nodes} ports from there on do not exist`,
    );
  }
  refuseOverlap(api, iscsi, nodes);
  const file: ClusterFile = {
    format: 'holdfast-cluster',
    version: clusterFileVersion,
    createdAt: stored?.createdAt ?? now.toISOString(),
    nodes,
    api: formatHostPort(api),
    iscsi: formatHostPort(iscsi),
    journalBytes: atLeast(
      options.journalBytes ?? stored?.journalBytes ?? upDefaults.journalBytes,
      journalBytesMin,
      '--journal-size',
    ),
    cacheBytes: atLeast(
      options.cacheBytes ?? stored?.cacheBytes ?? upDefaults.cacheBytes,
      cacheBytesMin,
      '--cache-size',
    ),
    store: await chooseStore(options.store, stored, folder, environment, [api.port, ...consecutive(iscsi.port, nodes)]),
  };
  const plan: UpPlan = {
    folder,
    fresh: stored === null,
    file,
    listen: file.api,
    server: formatHostPort({ ...api, host: reachable(api.host) }),
    nodes: Array.from({ length: nodes }, (_, index) => ({
      ...nodePaths(folder, index + 1),
      portal: formatHostPort({ host: iscsi.host, port: iscsi.port + index }),
    })),
    warnings: isLoopback(api.host)
      ? []
      : [`other machines reach ${file.api} with TLS and a token only: "holdfast token create --role admin" makes one`],
  };
  await checkPorts(plan);
  return plan;
}

// Both are free now, and cannot be taken both.
function refuseOverlap(api: HostPort, iscsi: HostPort, nodes: number): void {
  const everywhere = (host: string) => host === '0.0.0.0' || host === '::';
  const numeric = api.host === 'localhost' ? '127.0.0.1' : api.host;
  if (numeric !== iscsi.host && !everywhere(numeric)) return;
  if (api.port < iscsi.port || api.port >= iscsi.port + nodes) return;
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    `--api ${formatHostPort(api)} is one of the ${nodes} portals from --iscsi ${formatHostPort(iscsi)} on: choose another port for either`,
  );
}

function nodeCount(wanted: number | null, stored: ClusterFile | null, folder: string): number {
  const count = wanted ?? stored?.nodes ?? upDefaults.nodes;
  if (!Number.isInteger(count) || count < 1 || count > nodesMax) {
    throw new HoldfastError('INVALID_ARGUMENT', `--nodes ${count} is not possible: use 1 to ${nodesMax}`);
  }
  if (stored !== null && count < stored.nodes) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `the cluster in ${folder} has ${stored.nodes} nodes, and their disks may hold replicas: start it with --nodes ${stored.nodes} or more`,
    );
  }
  return count;
}

// A cluster is where its records are: another store would be another cluster.
async function chooseStore(
  wanted: StoreInput | null,
  stored: ClusterFile | null,
  folder: string,
  environment: NodeJS.ProcessEnv,
  given: readonly number[],
): Promise<ClusterFile['store']> {
  const present = stored?.store ?? null;
  if (present !== null && (wanted === null || wanted.choice.kind === present.kind)) {
    if (wanted?.choice.kind !== 'etcd') return present;
  } else if (present !== null) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `the cluster in ${folder} keeps its records in ${present.kind}: move them with "holdfast store dump" and ` +
        `"holdfast store restore" to a new folder, or start it without --store`,
    );
  }
  const choice = wanted?.choice ?? { kind: 'lmdb' };
  if (choice.kind === 'lmdb') return { kind: 'lmdb' };
  if (choice.kind === 'etcd' && wanted !== null) {
    return { kind: 'etcd', etcd: { ...wanted.etcd, urls: [...choice.urls] } };
  }
  findEtcd(environment);
  const port = await findFreePorts('127.0.0.1', 2, `${folder} etcd`, given);
  const address = (offset: number) => formatHostPort({ host: '127.0.0.1', port: port + offset });
  return { kind: 'private-etcd', client: address(0), peer: address(1) };
}

function atLeast(bytes: number, least: number, option: string): number {
  if (Number.isInteger(bytes) && bytes >= least && bytes % 4096 === 0) return bytes;
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    `${option} ${bytes} is not possible: at least ${least} bytes, and a multiple of 4096`,
  );
}

// Port 0 asks for free ones; they are kept for later starts.
async function withPort(address: HostPort, count: number, seed: string, given: readonly number[]): Promise<HostPort> {
  return address.port === 0 ? { ...address, port: await findFreePorts(address.host, count, seed, given) } : address;
}

function consecutive(first: number, count: number): readonly number[] {
  return Array.from({ length: count }, (_, index) => first + index);
}

// What hosts are told to connect to must be an address, and one they can use.
function numericHost({ host, port }: HostPort): HostPort {
  if (host === 'localhost') return { host: '127.0.0.1', port };
  const numeric = /^\d+\.\d+\.\d+\.\d+$/.test(host) || host.includes(':');
  if (numeric && host !== '0.0.0.0' && host !== '::') return { host, port };
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    `--iscsi ${formatHostPort({ host, port })}: give the numeric address that initiators connect to, for example ${upDefaults.iscsi}`,
  );
}

function reachable(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1';
  return host === '::' ? '::1' : host;
}

export type WantedPort = {
  readonly address: string;
  /** What chooses another one. */
  readonly option: string;
  /** Of the process that is to listen there, and the field of its configuration that says so. */
  readonly runDir: string;
  readonly field: 'listen' | 'portal';
};

async function checkPorts({ folder, listen, nodes }: UpPlan): Promise<void> {
  const range = nodes.length > 1 ? ` (node 1 has that port, the other nodes the ${nodes.length - 1} after it)` : '';
  await requirePorts([
    { address: listen, option: '--api HOST:PORT', runDir: managerRunDir(folder), field: 'listen' },
    ...nodes.map(({ portal, target }) => ({
      address: portal,
      option: `--iscsi HOST:PORT${range}`,
      runDir: target,
      field: 'portal' as const,
    })),
  ]);
}

/** IN_USE or INVALID_ARGUMENT unless they can be had. A process that was left running may hold its own: it is adopted or replaced. */
export async function requirePorts(wanted: readonly WantedPort[]): Promise<void> {
  for (const { address, option, runDir, field } of wanted) {
    const outcome = await tryBind(parseHostPort(address, option));
    if (!('reason' in outcome)) continue;
    const config = systemProcessHost.find(runDir) === null ? undefined : systemProcessHost.configOf(runDir);
    if (outcome.reason === 'EADDRINUSE' && hasField(config, field, address)) continue;
    throw portError(address, option, outcome.reason);
  }
}

function hasField(config: unknown, field: string, value: string): boolean {
  return typeof config === 'object' && config !== null && (config as Record<string, unknown>)[field] === value;
}

function portError(address: string, option: string, reason: string): HoldfastError {
  if (reason === 'EADDRINUSE') {
    return new HoldfastError(
      'IN_USE',
      `${address} is used by another process: stop that one, or choose another address with ${option}`,
    );
  }
  const why =
    reason === 'EACCES'
      ? 'ports below 1024 need root'
      : reason === 'EADDRNOTAVAIL'
        ? 'this machine does not have that address'
        : reason;
  return new HoldfastError(
    'INVALID_ARGUMENT',
    `cannot listen on ${address} (${why}): choose another address with ${option}`,
  );
}
