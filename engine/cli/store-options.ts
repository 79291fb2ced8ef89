// --store and its companions, which several commands take.
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { HoldfastError } from '../errors/holdfast-error.js';
import { defaultPrefix, parseStoreChoice } from '../metastore/store-options.js';
import type { StoreInput } from '../up/plan.js';

export type StoreCliOptions = {
  readonly store?: string;
  readonly storeCa?: string;
  readonly storeCert?: string;
  readonly storeKey?: string;
  readonly storeUser?: string;
  readonly storePasswordFile?: string;
  readonly storePrefix?: string;
};

export function withStoreOptions(command: Command): Command {
  return command
    .option('--store <store>', 'where the records are: lmdb, etcd (a private one), or etcd=URL,… (default: lmdb)')
    .option('--store-ca <file>', 'authority of the etcd members (PEM)')
    .option('--store-cert <file>', 'certificate for etcd (PEM)')
    .option('--store-key <file>', 'key of that certificate (PEM)')
    .option('--store-user <name>', 'user of etcd')
    .option('--store-password-file <file>', 'holds the password of that user')
    .option('--store-prefix <prefix>', `what all keys in etcd begin with (default: ${defaultPrefix})`);
}

/** Null: --store was not given. */
export function parseStoreInput(options: StoreCliOptions): StoreInput | null {
  if (options.store === undefined) return null;
  const file = (path: string | undefined) => (path === undefined ? null : resolve(path));
  const prefix = options.storePrefix ?? defaultPrefix;
  if (!/^\/[\w/-]*\w$/.test(prefix)) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `--store-prefix "${prefix}" is not valid: for example ${defaultPrefix}`,
    );
  }
  if ((options.storeUser === undefined) !== (options.storePasswordFile === undefined)) {
    throw new HoldfastError('INVALID_ARGUMENT', '--store-user and --store-password-file go together');
  }
  return {
    choice: parseStoreChoice(options.store),
    etcd: {
      ca: file(options.storeCa),
      certificate: file(options.storeCert),
      key: file(options.storeKey),
      user: options.storeUser ?? null,
      passwordFile: file(options.storePasswordFile),
      prefix,
    },
  };
}
