// The agent of a node: supervises its target process and one replica process per disk, and tells the manager about them.
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { formatHostPort } from '../os/addresses.js';
import type { AgentReport, ProcessReport } from '../generated/holdfast/v1/manager.js';
import type { Logger } from '../log/logger.js';
import { dataPlaneNodeFlags } from '../process/node-flags.js';
import { AgentMemory } from './agent-memory.js';
import type { AgentConfig, DiskConfig } from './config.js';
import type { ProcessHost } from './process-host.js';
import { RegistryClient } from './registry-client.js';
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
  readonly runDir: string;
  readonly host: ProcessHost;
  readonly programs: Programs;
  readonly logger: Logger;
};

const targetStateSchema = z.object({ control: z.string(), portal: z.string(), instanceId: z.string() });
const replicaStateSchema = z.object({ startTime: z.string(), listen: z.array(z.string()).min(1), diskId: z.string() });

/** Runs until the signal aborts; the processes it supervises stay. */
export async function runAgent(options: AgentOptions, signal: AbortSignal): Promise<void> {
  const { config, logger } = options;
  const memory = new AgentMemory(options.runDir, config.host);
  const registry = new RegistryClient(config.managers, logger);
  const reports = new Map<string, ProcessReport>();
  const publish = (key: string, report: ProcessReport) => {
    reports.set(key, report);
    const whole: AgentReport = { node: config.node, pid: process.pid, processes: [...reports.values()] };
    registry.publish(whole);
  };

  const supervisions = [
    targetSupervision(options, memory, (report) => {
      publish('target', report);
    }),
    ...config.disks.map((disk) =>
      replicaSupervision(options, memory, disk, (report) => {
        publish(`replica ${disk.name}`, report);
      }),
    ),
  ];
  // Everything this node has is in the first report, so that nobody takes an incomplete one for the whole.
  for (const { onState } of supervisions) onState({ kind: 'starting', pid: null, failure: null });
  await Promise.all([
    registry.run(signal),
    ...supervisions.map((each) => supervise(options.host, each, logger.child({ process: each.name }), signal)),
  ]);
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
      directory: disk.directory,
      journalPath: disk.journalPath,
      listen: [formatHostPort({ host: config.host, port: await memory.port(disk.name) })],
      expectedDiskId: memory.diskId(disk.name),
      journalBytes: disk.journalBytes,
      cacheBytes: disk.cacheBytes,
      capacityBytes: disk.capacityBytes,
    }),
    stillRight: (present, wanted) => sameConfig(present, wanted),
    onStartFailure: () => memory.recheckPort(disk.name),
    onState: (supervised) => {
      const report = { ...baseReport('replica', supervised), disk: disk.name, directory: disk.directory };
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

// The id of the disk becomes known while the process runs; that is no reason to start it again.
function sameConfig(present: unknown, wanted: Readonly<Record<string, unknown>>): boolean {
  const text = (value: unknown) =>
    JSON.stringify(value, (key, field: unknown) => (key === 'expectedDiskId' ? undefined : field));
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
  };
}
