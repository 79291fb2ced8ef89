// The agent of a node: supervises its target process and one replica process per disk, and tells the manager about them.
import { realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { diskDefaults } from '../config/disk-defaults.js';
import { formatHostPort, parseHostPort } from '../os/addresses.js';
import { aborted, sleep } from '../async/wait.js';
import { smartOf } from '../os/smart.js';
import type {
  AgentReport,
  DiskOrder,
  ProcessReport,
  SmartHealth as SmartReport,
} from '../generated/holdfast/v1/manager.js';
import type { Logger } from '../log/logger.js';
import { diskClassOf } from '../os/disk-class.js';
import { dataPlaneNodeFlags } from '../process/node-flags.js';
import type { ShareOrder, ShareReport } from '../generated/holdfast/v1/manager.js';
import { squashes } from '../nfs/share-types.js';
import type { ShareOrder as Order, ShareStatus } from '../nfs/share-types.js';
import { identifyFolder } from './agent-folder.js';
import { AgentMemory } from './agent-memory.js';
import type { AgentConfig, DiskConfig } from './config.js';
import type { ProcessHost } from './process-host.js';
import { Shares } from './shares.js';
import { dropDevice, servingOf } from './target-client.js';
import type { RegistrationFile } from './registration.js';
import { RegistryClient } from './registry-client.js';
import type { IdentitySource } from '../security/identity.js';
import { supervise } from './supervisor.js';
import type { SupervisedState, Supervision } from './supervisor.js';

/** How to start the two kinds of processes, without the run directory. */
export type Programs = { readonly target: readonly string[]; readonly replica: readonly string[] };

export function builtPrograms(): Programs {
  const program = (role: string) => [
    process.execPath,
    ...dataPlaneNodeFlags,
    fileURLToPath(new URL(`../${role}/main.js`, import.meta.url)),
  ];
  return { target: program('target'), replica: program('replica') };
}

export type AgentOptions = {
  readonly config: AgentConfig;
  /** What the node shows to other hosts, and the file that its processes read; null: everything is plain. */
  readonly certificate: { readonly identity: IdentitySource; readonly path: string } | null;
  readonly runDir: string;
  readonly registration: RegistrationFile;
  readonly host: ProcessHost;
  readonly programs: Programs;
  readonly logger: Logger;
};

const smartEveryMs = 600_000;

const targetStateSchema = z.object({ control: z.string(), portal: z.string(), instanceId: z.string() });
const replicaStateSchema = z.object({ startTime: z.string(), listen: z.array(z.string()).min(1), diskId: z.string() });

/** Runs until the signal aborts; the processes it supervises stay. */
export async function runAgent(options: AgentOptions, signal: AbortSignal): Promise<void> {
  const { config, logger } = options;
  const memory = new AgentMemory(options.runDir, config.host);
  const folder = identifyFolder(options.runDir);
  const admission = admissionOf(memory.wasAccepted(folder));
  const reports = new Map<string, ProcessReport>();
  const disks = new Map<string, { readonly remove: AbortController; readonly running: Promise<void> }>();
  const smart = new Map<string, SmartReport>();
  const publish = () => {
    const whole: AgentReport = {
      node: config.node,
      pid: process.pid,
      processes: [...reports.values()].map((report) => ({ ...report, smart: smart.get(report.disk) })),
      shares: shares.statuses().map(reportOf),
      place: { folderId: folder.id, host: config.host, folder: folder.path },
    };
    registry.publish(whole);
  };
  const registry = new RegistryClient(config.managers, config.token, options.certificate?.identity ?? null, logger, {
    onAccepted: () => {
      memory.rememberAccepted(folder);
      options.registration.accepted();
      admission.give();
    },
    onRefused: (error) => {
      options.registration.refused(error);
    },
    onOrder: (order) => {
      if (order.disks !== undefined) takeOrders(order.disks.disks);
      if (order.shares !== undefined) shares.order(order.shares.shares.map(orderOf));
    },
  });
  const shares = new Shares({
    directory: join(realpathSync(options.runDir), 'shares'),
    address: parseHostPort(config.target.portal, 'portal').host,
    host: options.host,
    logger,
    onChange: publish,
    dropDevice: async (volumeId) => {
      const control = reports.get('target')?.address ?? '';
      await dropDevice(control, volumeId, options.certificate?.identity ?? null);
    },
    serving: async (volumeId) => {
      const control = reports.get('target')?.address ?? '';
      return await servingOf(control, volumeId, options.certificate?.identity ?? null);
    },
  });
  const start = async (supervision: Supervision, stop: AbortSignal): Promise<void> => {
    supervision.onState({ kind: 'starting', pid: null, failure: null });
    await admission.given(stop);
    await supervise(options.host, supervision, logger.child({ process: supervision.name }), stop);
  };
  const startDisk = (disk: DiskConfig) => {
    const key = `replica ${disk.name}`;
    const remove = new AbortController();
    const supervision = replicaSupervision(options, memory, disk, (report) => {
      if (remove.signal.aborted) return;
      reports.set(key, report);
      publish();
    });
    void followSmart(disk.directory, AbortSignal.any([signal, remove.signal]), (health) => {
      smart.set(disk.name, health);
      publish();
    });
    disks.set(disk.name, { remove, running: start(supervision, AbortSignal.any([signal, remove.signal])) });
  };
  const stopDisk = async (disk: DiskConfig) => {
    const supervised = disks.get(disk.name);
    if (supervised === undefined) return;
    supervised.remove.abort();
    disks.delete(disk.name);
    reports.delete(`replica ${disk.name}`);
    smart.delete(disk.name);
    publish();
    await supervised.running;
    const process = options.host.find(disk.runDir);
    if (process !== null) await options.host.stop(process);
    memory.forgetDisk(disk.name);
    logger.info('a disk was taken out', { disk: disk.name });
  };
  // What the manager wants, all of it; what it says nothing of stays.
  const takeOrders = (orders: readonly DiskOrder[]) => {
    const fixed = new Set(config.disks.map(({ name }) => name));
    const wanted = orders
      .filter(({ name, removed }) => !removed && !fixed.has(name))
      .map((order) => diskOf(order, config));
    const gone = memory.orderedDisks.filter(({ name }) => orders.some((order) => order.removed && order.name === name));
    const kept = memory.orderedDisks.filter(
      (disk) => !gone.includes(disk) && !wanted.some(({ name }) => name === disk.name),
    );
    memory.rememberDisks([...kept, ...wanted]);
    for (const disk of gone) void stopDisk(disk);
    for (const disk of wanted) if (!disks.has(disk.name)) startDisk(disk);
  };

  // Everything this node has is in the first report, so that nobody takes an incomplete one for the whole.
  const target = targetSupervision(options, memory, (report) => {
    reports.set('target', report);
    publish();
  });
  const targetRuns = start(target, signal);
  for (const disk of [...config.disks, ...memory.orderedDisks]) startDisk(disk);
  await registry.run(signal);
  await Promise.all([targetRuns, ...[...disks.values()].map(({ running }) => running)]);
  await shares.close();
}

// An agent that no manager has accepted on this folder starts nothing before one does: it may have the name of another node, and the
// configuration, the ports and the disks as well when its folder is a copy.
function admissionOf(atOnce: boolean) {
  const gate = new AbortController();
  if (atOnce) gate.abort();
  return {
    give: () => {
      gate.abort();
    },
    /** Resolves when the signal aborts, too. */
    given: (signal: AbortSignal) => aborted(AbortSignal.any([gate.signal, signal])),
  };
}

// Calls `onChange` with what the drive below a folder says, at once and when it says something else.
async function followSmart(path: string, signal: AbortSignal, onChange: (health: SmartReport) => void): Promise<void> {
  let last = '';
  while (!signal.aborted) {
    const health = await smartOf(path).catch(() => null);
    const text = JSON.stringify(health);
    if (health !== null && text !== last) {
      const { passed, temperatureCelsius, powerOnHours, wearPercent, badSectors } = health;
      onChange({
        passed: passed ?? undefined,
        temperatureCelsius: temperatureCelsius ?? undefined,
        powerOnHours: powerOnHours === null ? undefined : BigInt(powerOnHours),
        wearPercent: wearPercent ?? undefined,
        badSectors: badSectors === null ? undefined : BigInt(badSectors),
      });
    }
    last = text;
    await sleep(smartEveryMs, signal);
  }
}

function orderOf(message: ShareOrder): Order {
  const { volumeId, volume, device, sizeBytes, fs, port, options } = message;
  return {
    volumeId,
    volume,
    device,
    sizeBytes: Number(sizeBytes),
    fs: fs === '' ? null : fs,
    port,
    options: {
      clients: options?.clients ?? [],
      squash: squashes.find((squash) => squash === options?.squash) ?? 'root',
      v3: options?.v3 ?? false,
      security: options?.security ?? [],
      address: textOf(options?.address),
      principal: textOf(options?.principal),
      keytab: textOf(options?.keytab),
    },
  };
}

const textOf = (text: string | undefined) => (text === undefined || text === '' ? null : text);

function reportOf(status: ShareStatus): ShareReport {
  const { volumeId, volume, state, device, server, port, fs, pid, failure } = status;
  return {
    volumeId,
    volume,
    state,
    device,
    server,
    port,
    fs: fs ?? '',
    pid: pid ?? 0,
    failureCode: failure?.code ?? '',
    failureMessage: failure?.message ?? '',
  };
}

function diskOf(order: DiskOrder, { target }: AgentConfig): DiskConfig {
  return {
    name: order.name,
    runDir: join(dirname(target.runDir), order.name),
    directory: order.directory,
    ...(order.format ? { format: true } : {}),
    journalPath: order.journalPath === '' ? null : order.journalPath,
    journalBytes: Number(order.journalBytes) || diskDefaults.journalBytes,
    cacheBytes: Number(order.cacheBytes) || diskDefaults.cacheBytes,
    capacityBytes: Number(order.capacityBytes),
  };
}

type Publish = (report: ProcessReport) => void;

function targetSupervision(options: AgentOptions, memory: AgentMemory, publish: Publish): Supervision {
  const { config, programs } = options;
  const { runDir, portal } = config.target;
  return {
    name: 'target',
    runDir,
    command: [...programs.target, '--run-dir', runDir],
    config: async () => ({
      role: 'target',
      node: config.node,
      control: formatHostPort({ host: config.host, port: await memory.port('target') }),
      portal,
      managers: config.managers,
      token: config.token,
      ...identityFile(options),
    }),
    stillRight: (present, wanted) => sameConfig(present, wanted),
    onStartFailure: () => memory.recheckPort('target'),
    onState: (supervised) => {
      const report = { ...baseReport('target', supervised), portal };
      if (supervised.kind !== 'running') {
        publish(report);
        return;
      }
      const state = targetStateSchema.parse(supervised.state);
      publish({ ...report, instanceId: state.instanceId, address: state.control, portal: state.portal });
    },
  };
}

function replicaSupervision(
  options: AgentOptions,
  memory: AgentMemory,
  disk: DiskConfig,
  publish: Publish,
): Supervision {
  const { config, programs } = options;
  return {
    name: `replica ${disk.name}`,
    runDir: disk.runDir,
    command: [...programs.replica, '--run-dir', disk.runDir],
    config: async () => ({
      role: 'replica',
      node: config.node,
      disk: disk.name,
      ...placeOf(disk),
      journalPath: disk.journalPath,
      listen: [formatHostPort({ host: config.host, port: await memory.port(disk.name) })],
      expectedDiskId: memory.diskId(disk.name),
      journalBytes: disk.journalBytes,
      cacheBytes: disk.cacheBytes,
      capacityBytes: disk.capacityBytes,
      ...identityFile(options),
    }),
    stillRight: (present, wanted) => sameConfig(present, wanted),
    onStartFailure: () => memory.recheckPort(disk.name),
    onState: (supervised) => {
      const report = {
        ...baseReport('replica', supervised),
        disk: disk.name,
        directory: disk.directory,
        diskClass: diskClassOf(disk.directory) ?? '',
      };
      if (supervised.kind !== 'running') {
        publish({ ...report, diskId: memory.diskId(disk.name) ?? '' });
        return;
      }
      const { listen, diskId, startTime } = replicaStateSchema.parse(supervised.state);
      memory.rememberDiskId(disk.name, diskId);
      publish({ ...report, diskId, instanceId: `${supervised.pid}-${startTime}`, address: listen[0] ?? '' });
    },
  };
}

// A block device is mounted in the run directory. Whatever is below /dev and no folder is one, even if it is not there at this moment.
function placeOf({ directory, runDir, format = false }: DiskConfig) {
  const isFolder = statSync(directory, { throwIfNoEntry: false })?.isDirectory() ?? false;
  if (!directory.startsWith('/dev/') || directory.startsWith('/dev/shm/') || isFolder) return { directory };
  return { directory: join(realpathSync(dirname(runDir)), basename(runDir), 'mnt'), device: directory, format };
}

// Left out where there is none, so that processes of an earlier version are adopted as they are.
function identityFile({ certificate }: AgentOptions) {
  return certificate === null ? {} : { identityFile: certificate.path };
}

// The id of the disk becomes known while the process runs, and nothing is formatted from then on; that is no reason to start it again.
function sameConfig(present: unknown, wanted: Readonly<Record<string, unknown>>): boolean {
  const text = (value: unknown) =>
    JSON.stringify(value, (key, field: unknown) => (key === 'expectedDiskId' || key === 'format' ? undefined : field));
  return text(present) === text(wanted);
}

function baseReport(role: 'target' | 'replica', supervised: SupervisedState): ProcessReport {
  const failure = supervised.kind === 'running' ? null : supervised.failure;
  return {
    role,
    disk: '',
    state: supervised.kind,
    pid: supervised.kind === 'failed' ? 0 : (supervised.pid ?? 0),
    failureCode: failure?.code ?? '',
    failureMessage: failure?.message ?? '',
    instanceId: '',
    address: '',
    portal: '',
    directory: '',
    diskId: '',
    diskClass: '',
    smart: undefined,
  };
}
