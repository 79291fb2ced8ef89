// The folder of `holdfast up`:
//   DIR/cluster.json           what it is, its version, and the options it was last started with
//   DIR/lock                   pid and start time of the `up` that runs
//   DIR/manager/               run directory of the manager; metastore/ inside (lmdb)
//   DIR/etcd/                  run directory of a private etcd; data/ inside
//   DIR/nodeN/agent/, target/  run directories
//   DIR/nodeN/diskM/           run directory of a replica process; data/ inside is the disk
// Looking at it changes nothing; makeDataFolder() makes it.
import { readdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { HoldfastError, systemErrorCode, toHoldfastError } from '../errors/holdfast-error.js';
import { etcdSettingsSchema } from '../metastore/store-options.js';
import { readJson } from '../os/atomic-file.js';
import { makeFolders } from '../os/folders.js';

export const clusterFileVersion = 1;

const clusterFileSchema = z.object({
  format: z.literal('holdfast-cluster'),
  version: z.literal(clusterFileVersion),
  createdAt: z.string(),
  nodes: z.int().positive(),
  api: z.string(),
  iscsi: z.string(),
  journalBytes: z.int().positive(),
  cacheBytes: z.int().positive(),
  store: z
    .discriminatedUnion('kind', [
      z.object({ kind: z.literal('lmdb') }),
      /** One that `up` runs itself, in DIR/etcd. */
      z.object({ kind: z.literal('private-etcd'), client: z.string(), peer: z.string() }),
      z.object({ kind: z.literal('etcd'), etcd: etcdSettingsSchema }),
    ])
    .default({ kind: 'lmdb' }),
});
export type ClusterFile = z.infer<typeof clusterFileSchema>;

export type FolderState = { readonly kind: 'fresh' } | { readonly kind: 'ours'; readonly file: ClusterFile };

export type NodePaths = {
  readonly name: string;
  readonly agent: string;
  readonly target: string;
  readonly disks: readonly { readonly name: string; readonly runDir: string; readonly directory: string }[];
};

export function defaultFolder(environment: NodeJS.ProcessEnv): string {
  const base = environment['XDG_DATA_HOME'];
  return resolve(base === undefined || base === '' ? join(homedir(), '.local/share') : base, 'holdfast');
}

export const clusterFilePath = (folder: string): string => join(folder, 'cluster.json');
export const lockPath = (folder: string): string => join(folder, 'lock');
export const managerRunDir = (folder: string): string => join(folder, 'manager');
export const etcdRunDir = (folder: string): string => join(folder, 'etcd');

export function nodePaths(folder: string, index: number): NodePaths {
  const name = `node${index}`;
  const runDir = join(folder, name, 'disk1');
  return {
    name,
    agent: join(folder, name, 'agent'),
    target: join(folder, name, 'target'),
    disks: [{ name: 'disk1', runDir, directory: join(runDir, 'data') }],
  };
}

/** WRONG_DISK when it is something else than an empty or a Holdfast folder, FORMAT_TOO_NEW when a later version made it. */
export function inspectFolder(folder: string): FolderState {
  const names = listFolder(folder);
  // A first start that was cut short may have left its lock.
  if (names.every((name) => name === 'lock' || name.startsWith('lock.'))) return { kind: 'fresh' };
  if (!names.includes('cluster.json')) {
    throw new HoldfastError(
      'WRONG_DISK',
      `${folder} is not empty and holds no Holdfast cluster: choose another folder with --data, or empty it`,
    );
  }
  return { kind: 'ours', file: readClusterFile(clusterFilePath(folder)) };
}

function listFolder(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT') return [];
    if (code === 'ENOTDIR')
      throw new HoldfastError('WRONG_DISK', `${folder} is not a folder: choose another with --data`);
    throw new HoldfastError('INVALID_ARGUMENT', `${folder} cannot be read: ${toHoldfastError(error).message}`);
  }
}

function readClusterFile(path: string): ClusterFile {
  let value: unknown;
  try {
    value = readJson(path);
  } catch {
    throw new HoldfastError('WRONG_DISK', `${path} is not Holdfast's: choose another folder with --data`);
  }
  const head = z.object({ format: z.literal('holdfast-cluster'), version: z.number() }).safeParse(value);
  if (!head.success)
    throw new HoldfastError('WRONG_DISK', `${path} is not Holdfast's: choose another folder with --data`);
  if (head.data.version > clusterFileVersion) {
    throw new HoldfastError(
      'FORMAT_TOO_NEW',
      `${path} has version ${head.data.version}, this Holdfast knows versions up to ${clusterFileVersion}: use a newer Holdfast`,
    );
  }
  const parsed = clusterFileSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new HoldfastError('CORRUPT', `${path} is damaged: ${z.prettifyError(parsed.error)}`);
}

/** The folder of --data, for its owner alone. INVALID_ARGUMENT where there cannot be one. */
export function makeDataFolder(folder: string): void {
  try {
    makeFolders(folder, 0o700);
  } catch (error) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `${folder} cannot be made (${toHoldfastError(error).message}): choose another folder with --data`,
    );
  }
}
