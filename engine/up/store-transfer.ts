// Dump and restore of the metadata store of a folder of `up`, or of one that is named directly.
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { HoldfastError } from '../errors/holdfast-error.js';
import { dumpStore, restoreStore } from '../metastore/dump.js';
import type { Metastore } from '../metastore/metastore.js';
import { listens } from '../metastore/private-etcd.js';
import { defaultPrefix, openStore } from '../metastore/store-options.js';
import type { StoreSettings } from '../metastore/store-options.js';
import { writeJsonAtomic } from '../os/atomic-file.js';
import { clusterFilePath, defaultFolder, inspectFolder, lockPath, managerRunDir } from './cluster-folder.js';
import type { ClusterFile } from './cluster-folder.js';
import { takeLock } from './folder-lock.js';
import type { StoreInput } from './plan.js';

export type StorePlace = {
  readonly folder: string | null;
  readonly store: StoreInput | null;
  readonly environment: NodeJS.ProcessEnv;
};

export async function dumpFrom({ folder, store, environment }: StorePlace, now: Date): Promise<string> {
  if (folder === null && store !== null) return await withStore(namedStore(store), (open) => dumpStore(open, now));
  const path = folder === null ? defaultFolder(environment) : resolve(folder);
  const present = clusterFileOf(path).store;
  await requirePrivateEtcd(path, present, `start "holdfast up --data ${path}", which runs it, and dump meanwhile`);
  return await withStore(storeOfFolder(path, present), (open) => dumpStore(open, now));
}

/** Into the store that is named; the folder, where one is given, uses that store from then on. */
export async function restoreInto({ folder, store }: StorePlace, text: string): Promise<number> {
  if (folder === null) {
    if (store === null) throw new HoldfastError('INVALID_ARGUMENT', 'say where to: --store etcd=URL, or --data DIR');
    return await withStore(namedStore(store), (open) => restoreStore(open, text));
  }
  const path = resolve(folder);
  const file = clusterFileOf(path);
  const release = takeLock(lockPath(path), path);
  try {
    const next = store === null ? file.store : storeOfInput(store);
    await requirePrivateEtcd(path, next, 'restore into another store, with --store lmdb or --store etcd=URL');
    const entries = await withStore(storeOfFolder(path, next, true), (open) => restoreStore(open, text));
    writeJsonAtomic(clusterFilePath(path), { ...file, store: next });
    return entries;
  } finally {
    release();
  }
}

/** STORE_UNAVAILABLE when the store is an etcd that `up` runs, and does not at this moment. */
async function requirePrivateEtcd(folder: string, store: ClusterFile['store'], action: string): Promise<void> {
  if (store.kind !== 'private-etcd' || (await listens(store.client))) return;
  throw new HoldfastError(
    'STORE_UNAVAILABLE',
    `the records of ${folder} are in its private etcd (${store.client}), which does not run: ${action}`,
  );
}

async function withStore<T>(settings: StoreSettings, task: (store: Metastore) => Promise<T>): Promise<T> {
  const store = await openStore(settings);
  try {
    return await task(store);
  } finally {
    await store.close();
  }
}

function clusterFileOf(folder: string): ClusterFile {
  const state = inspectFolder(folder);
  if (state.kind === 'ours') return state.file;
  throw new HoldfastError('NOT_FOUND', `${folder} holds no cluster: name its folder with --data`);
}

function storeOfFolder(folder: string, store: ClusterFile['store'], fresh = false): StoreSettings {
  switch (store.kind) {
    case 'lmdb': {
      const directory = join(managerRunDir(folder), 'metastore');
      if (!fresh && !existsSync(directory)) throw new HoldfastError('NOT_FOUND', `${directory} does not exist`);
      return { kind: 'lmdb', directory };
    }
    case 'private-etcd':
      return { kind: 'etcd', etcd: { ...plainEtcd, urls: [`http://${store.client}`] } };
    case 'etcd':
      return store;
  }
}

const plainEtcd = { ca: null, certificate: null, key: null, user: null, passwordFile: null, prefix: defaultPrefix };

function namedStore(store: StoreInput): StoreSettings {
  if (store.choice.kind === 'etcd') return { kind: 'etcd', etcd: { ...store.etcd, urls: [...store.choice.urls] } };
  throw new HoldfastError('INVALID_ARGUMENT', 'without --data the store must be etcd=URL');
}

function storeOfInput(store: StoreInput): ClusterFile['store'] {
  if (store.choice.kind === 'lmdb') return { kind: 'lmdb' };
  if (store.choice.kind === 'etcd') return { kind: 'etcd', etcd: { ...store.etcd, urls: [...store.choice.urls] } };
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    'a private etcd has no records before it runs: restore into lmdb or etcd=URL',
  );
}
