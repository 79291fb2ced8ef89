// Ending the data plane of nodes whose agents do not run (any more).
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { systemProcessHost } from '../agent/process-host.js';
import { endAllShares } from '../agent/shares.js';

/**
 * Shares first, then engines, which flush to the replicas of all nodes, then replicas: those of disks that were added later, too.
 * `nodes`: the folder of each, with those of its processes in it.
 */
export async function stopDataPlaneOf(nodes: readonly string[]): Promise<void> {
  await Promise.all(nodes.map((node) => endAllShares(join(node, 'agent', 'shares'), systemProcessHost)));
  await stopIn(nodes.map((node) => join(node, 'target')));
  await stopIn(nodes.flatMap(replicasIn));
}

export async function stopIn(runDirs: readonly string[]): Promise<void> {
  await Promise.all(
    runDirs.map(async (runDir) => {
      const process = systemProcessHost.find(runDir);
      if (process !== null) await systemProcessHost.stop(process);
    }),
  );
}

function replicasIn(node: string): readonly string[] {
  if (!existsSync(node)) return [];
  const folders = readdirSync(node, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return folders.map(({ name }) => join(node, name)).filter((runDir) => isReplica(runDir));
}

function isReplica(runDir: string): boolean {
  const config = systemProcessHost.configOf(runDir);
  return typeof config === 'object' && config !== null && (config as { role?: unknown }).role === 'replica';
}
