// Which metadata store a cluster uses, as it is written on the command line and in configuration files, and opening it.
//   lmdb                              embedded: one manager
//   etcd                              a private etcd that `holdfast up` starts
//   etcd=URL[,URL…]                   an etcd cluster of yours
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { HoldfastError } from '../errors/holdfast-error.js';
import { openEtcdMetastore } from './etcd-metastore.js';
import { openLmdbMetastore } from './lmdb-metastore.js';
import type { Metastore } from './metastore.js';

export const etcdSettingsSchema = z.strictObject({
  urls: z.array(z.string()).min(1),
  ca: z.string().nullable(),
  certificate: z.string().nullable(),
  key: z.string().nullable(),
  user: z.string().nullable(),
  /** Holds the password of `user`, so that it is in no list of processes. */
  passwordFile: z.string().nullable(),
  prefix: z.string(),
});
export type EtcdSettings = z.infer<typeof etcdSettingsSchema>;

export const storeSettingsSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('lmdb'), directory: z.string() }),
  z.strictObject({ kind: z.literal('etcd'), etcd: etcdSettingsSchema }),
]);
export type StoreSettings = z.infer<typeof storeSettingsSchema>;

export const defaultPrefix = '/holdfast';

export type StoreChoice =
  | { readonly kind: 'lmdb' }
  | { readonly kind: 'private-etcd' }
  | { readonly kind: 'etcd'; readonly urls: readonly string[] };

/** INVALID_ARGUMENT when the text is none of the above. */
export function parseStoreChoice(text: string): StoreChoice {
  if (text === 'lmdb') return { kind: 'lmdb' };
  if (text === 'etcd') return { kind: 'private-etcd' };
  const urls = text.startsWith('etcd=') ? text.slice('etcd='.length).split(',') : [];
  if (urls.length > 0 && urls.every(isMemberUrl)) return { kind: 'etcd', urls };
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    `--store "${text}" is not valid: use lmdb, etcd, or etcd=http://HOST:PORT,… with the URLs of an etcd cluster`,
  );
}

export async function openStore(settings: StoreSettings): Promise<Metastore> {
  if (settings.kind === 'lmdb') return await openLmdbMetastore(settings.directory);
  const { urls, ca, certificate, key, user, passwordFile, prefix } = settings.etcd;
  return await openEtcdMetastore({
    urls,
    ca,
    certificate,
    key,
    prefix,
    user: user === null ? null : { name: user, password: readPassword(passwordFile) },
  });
}

function isMemberUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, port, pathname } = new URL(text);
  return (protocol === 'http:' || protocol === 'https:') && port !== '' && pathname === '/';
}

function readPassword(path: string | null): string {
  if (path === null) {
    throw new HoldfastError('INVALID_ARGUMENT', 'a user of etcd needs a password: give --store-password-file FILE');
  }
  try {
    return readFileSync(path, 'utf8').trimEnd();
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', `${path} cannot be read: ${(error as Error).message}`);
  }
}
