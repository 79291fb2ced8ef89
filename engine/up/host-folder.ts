// The folder of one host of a cluster of several (`holdfast server`, `holdfast agent`):
//   DIR/host.json               what this host is, and how it was last started
//   DIR/lock                    pid and start time of what runs on it
//   DIR/admin-token, join-token made by the first server of a cluster
//   DIR/authority.json          the cluster's authority of certificates with its key, as the first server made it
//   DIR/agent/identity.json     this node's certificate
//   DIR/manager/, agent/, target/, diskN/   run directories, as in the folder of `up`
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { diskDefaults } from '../config/disk-defaults.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { storeSettingsSchema } from '../metastore/store-options.js';
import type { StoreSettings } from '../metastore/store-options.js';
import { readJson, writeJsonAtomic } from '../os/atomic-file.js';
import { formatHostPort, parseHostPort } from '../os/addresses.js';
import { createAuthority, fingerprintOf } from '../security/certificates.js';
import type { KeyPair } from '../security/certificates.js';
import { formatJoinToken, makeToken, parseJoinToken } from '../security/tokens.js';
import { lockPath, managerRunDir } from './cluster-folder.js';
import { lockHolder } from './folder-lock.js';
import { requirePorts } from './plan.js';
import type { StoreInput } from './plan.js';

export const hostFileVersion = 1;

const tokenSchema = z.object({ id: z.string(), hash: z.string(), role: z.enum(['admin', 'agent']) });
const hostFileSchema = z.object({
  format: z.literal('holdfast-host'),
  version: z.literal(hostFileVersion),
  node: z.string(),
  /** Numeric: where the processes of this host listen. */
  address: z.string(),
  /** HOST:PORT of the manager that runs here; null: none. */
  api: z.string().nullable(),
  portal: z.string(),
  managers: z.array(z.string()).min(1),
  /** Of the agent and the target process. */
  token: z.string(),
  /** Of the manager that runs here. */
  store: storeSettingsSchema.nullable(),
  tokens: z.array(tokenSchema),
  journalBytes: z.int().positive(),
  cacheBytes: z.int().positive(),
});
export type HostFile = z.infer<typeof hostFileSchema>;

export type HostOptions = {
  readonly folder: string;
  /** Null everywhere: not given. */
  readonly node: string | null;
  readonly address: string | null;
  readonly apiPort: number | null;
  readonly portalPort: number | null;
  readonly join: string | null;
  readonly store: StoreInput | null;
  readonly journalBytes: number | null;
  readonly cacheBytes: number | null;
};

export type HostPlan = {
  readonly folder: string;
  readonly file: HostFile;
  /** Made by this start, to be written to the folder: admin's and join token. */
  readonly made: { readonly admin: string; readonly join: string; readonly authority: KeyPair } | null;
};

const defaults = { apiPort: 7600, portalPort: 3260, ...diskDefaults };

/** Made by the first server of a cluster, with what its tokens name. */
export const authorityFilePath = (folder: string) => join(folder, 'authority.json');

const hostFilePath = (folder: string) => join(folder, 'host.json');

/** Options, and what the folder remembers, checked. Changes nothing. `server`: a manager runs here, too. */
export async function planHost(options: HostOptions, server: boolean): Promise<HostPlan> {
  const plan = await decideHost(options, server);
  const { folder, file } = plan;
  const holder = lockHolder(lockPath(folder));
  if (holder !== null) throw hostInUse(folder, holder.pid);
  if (file.api === file.portal) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `the manager and the portal cannot both have ${file.portal}: choose another --api-port or --portal-port`,
    );
  }
  await requirePorts([
    ...(file.api === null
      ? []
      : [
          {
            address: file.api,
            option: '--address or --api-port',
            runDir: managerRunDir(folder),
            field: 'listen' as const,
          },
        ]),
    { address: file.portal, option: '--address or --portal-port', runDir: join(folder, 'target'), field: 'portal' },
  ]);
  return plan;
}

export function hostInUse(folder: string, pid: number): HoldfastError {
  return new HoldfastError('IN_USE', `a "holdfast server" or "agent" runs on ${folder} (pid ${pid}): stop it first`);
}

/** As planHost, for a host that is not to be started. */
export async function decideHost(options: HostOptions, server: boolean): Promise<HostPlan> {
  const folder = resolve(options.folder);
  const stored = readHostFile(folder);
  if (stored !== null) return { folder, made: null, file: updated(stored, options, server, folder) };
  const address = options.address;
  if (address === null)
    throw new HoldfastError('INVALID_ARGUMENT', 'say at which address other hosts reach this one: --address 192.0.2.7');
  parseHostPort(formatHostPort({ host: address, port: 1 }), '--address');
  if (!server && options.join === null)
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      'say which cluster to join: --join TOKEN ("holdfast token create --role agent" prints one)',
    );
  const api = server ? formatHostPort({ host: address, port: options.apiPort ?? defaults.apiPort }) : null;
  const joined = options.join === null ? null : parseJoinToken(options.join);
  const own = joined === null ? await ownTokens() : null;
  const managers = [...new Set([...(api === null ? [] : [api]), ...(joined?.managers ?? [])])];
  const file: HostFile = {
    format: 'holdfast-host',
    version: hostFileVersion,
    node: options.node ?? nodeName(hostname()),
    address,
    api,
    portal: formatHostPort({ host: address, port: options.portalPort ?? defaults.portalPort }),
    managers,
    token: joined?.token ?? own?.agent.text ?? '',
    store: server ? storeOf(options.store, folder) : null,
    tokens: own === null ? [] : own.records,
    journalBytes: options.journalBytes ?? defaults.journalBytes,
    cacheBytes: options.cacheBytes ?? defaults.cacheBytes,
  };
  const made =
    own === null
      ? null
      : {
          admin: own.admin.text,
          join: formatJoinToken({ managers, token: own.agent.text }),
          authority: own.authority,
        };
  return { folder, file, made };
}

/** Writes what planHost has decided. */
export function keepHost({ folder, file, made }: HostPlan): void {
  writeJsonAtomic(hostFilePath(folder), file);
  if (made === null) return;
  writeJsonAtomic(authorityFilePath(folder), made.authority);
  writeFileSync(join(folder, 'admin-token'), made.admin + '\n', { mode: 0o600 });
  writeFileSync(join(folder, 'join-token'), made.join + '\n', { mode: 0o600 });
}

export function readHostFile(folder: string): HostFile | null {
  if (!existsSync(hostFilePath(folder))) {
    const names = existsSync(folder) ? readdirSync(folder).filter((name) => !name.startsWith('lock')) : [];
    if (names.length === 0) return null;
    throw new HoldfastError(
      'WRONG_DISK',
      `${folder} is not empty and is no host of a cluster: choose another folder with --data`,
    );
  }
  const value = readJson(hostFilePath(folder));
  const head = z.object({ format: z.literal('holdfast-host'), version: z.number() }).safeParse(value);
  if (head.success && head.data.version > hostFileVersion) {
    throw new HoldfastError(
      'FORMAT_TOO_NEW',
      `${hostFilePath(folder)} has version ${head.data.version}: use a newer Holdfast`,
    );
  }
  const parsed = hostFileSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new HoldfastError('CORRUPT', `${hostFilePath(folder)} is damaged: ${z.prettifyError(parsed.error)}`);
}

function updated(stored: HostFile, options: HostOptions, server: boolean, folder: string): HostFile {
  if (server !== (stored.api !== null)) {
    const kind = stored.api === null ? 'an agent' : 'a server';
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `${folder} belongs to ${kind}: start it as that, or choose another folder`,
    );
  }
  if (options.node !== null && options.node !== stored.node)
    throw new HoldfastError('INVALID_ARGUMENT', `${folder} belongs to ${stored.node}, not ${options.node}`);
  const joined = options.join === null ? null : parseJoinToken(options.join);
  const address = options.address ?? stored.address;
  const move = (text: string) => formatHostPort({ host: address, port: parseHostPort(text, 'address').port });
  return {
    ...stored,
    address,
    api: stored.api === null ? null : move(stored.api),
    portal: move(stored.portal),
    managers: joined === null ? stored.managers : [...new Set([...stored.managers, ...joined.managers])],
    token: joined?.token ?? stored.token,
    journalBytes: options.journalBytes ?? stored.journalBytes,
    cacheBytes: options.cacheBytes ?? stored.cacheBytes,
  };
}

async function ownTokens() {
  const authority = await createAuthority('Holdfast cluster', new Date());
  const fingerprint = fingerprintOf(authority.certificate);
  const [admin, agent] = [makeToken(randomBytes, fingerprint), makeToken(randomBytes, fingerprint)];
  const record = (role: 'admin' | 'agent', { id, hash }: { readonly id: string; readonly hash: string }) => ({
    id,
    hash,
    role,
  });
  return { authority, admin, agent, records: [record('admin', admin), record('agent', agent)] };
}

function storeOf(store: StoreInput | null, folder: string): StoreSettings {
  if (store === null || store.choice.kind === 'lmdb')
    return { kind: 'lmdb', directory: join(folder, 'manager', 'metastore') };
  if (store.choice.kind === 'etcd') return { kind: 'etcd', etcd: { ...store.etcd, urls: [...store.choice.urls] } };
  throw new HoldfastError('INVALID_ARGUMENT', 'a private etcd is for "holdfast up": use --store etcd=URL,…');
}

function nodeName(host: string): string {
  const name = (host.split('.')[0] ?? '').toLowerCase().replaceAll(/[^a-z0-9-]/g, '-');
  return /^[a-z0-9]/.test(name) ? name : `node-${name}`;
}
