// An etcd of Holdfast's own: its command line, and whether it answers. For `holdfast up --store etcd` and for tests.
import { accessSync, constants } from 'node:fs';
import { connect } from 'node:net';
import { delimiter, join } from 'node:path';
import { HoldfastError } from '../errors/holdfast-error.js';
import { parseHostPort } from '../os/addresses.js';

export type PrivateEtcd = {
  readonly name: string;
  readonly directory: string;
  /** HOST:PORT for clients, and for other members. */
  readonly client: string;
  readonly peer: string;
  /** Of all members: NAME=http://HOST:PORT */
  readonly members: readonly string[];
  /** Shorter heartbeats make leases of one second possible; for tests, and for a single member on loopback. */
  readonly fast: boolean;
  /** PEM files; null: without TLS. */
  readonly tls: { readonly ca: string; readonly certificate: string; readonly key: string } | null;
};

/** UNSUPPORTED_SYSTEM when etcd is not installed. */
export function etcdCommand(etcd: PrivateEtcd, environment: NodeJS.ProcessEnv): readonly string[] {
  const scheme = etcd.tls === null ? 'http' : 'https';
  return [
    findEtcd(environment),
    ...option('--name', etcd.name),
    ...option('--data-dir', etcd.directory),
    ...option('--listen-client-urls', `${scheme}://${etcd.client}`),
    ...option('--advertise-client-urls', `${scheme}://${etcd.client}`),
    ...option('--listen-peer-urls', `http://${etcd.peer}`),
    ...option('--initial-advertise-peer-urls', `http://${etcd.peer}`),
    ...option('--initial-cluster', etcd.members.join(',')),
    ...option('--auto-compaction-mode', 'revision'),
    ...option('--auto-compaction-retention', '10000'),
    ...option('--logger', 'zap'),
    ...option('--log-level', 'warn'),
    ...(etcd.tls === null ? [] : tlsOptions(etcd.tls)),
    ...(etcd.fast ? [...option('--heartbeat-interval', '20'), ...option('--election-timeout', '200')] : []),
  ];
}

/** Whether something listens for clients. */
export async function listens(address: string): Promise<boolean> {
  const { host, port } = parseHostPort(address, 'address');
  return await new Promise((resolve) => {
    const socket = connect({ host, port });
    const finish = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.on('connect', () => {
      finish(true);
    });
    socket.on('error', () => {
      finish(false);
    });
  });
}

function tlsOptions({ ca, certificate, key }: NonNullable<PrivateEtcd['tls']>): readonly string[] {
  return [
    ...option('--cert-file', certificate),
    ...option('--key-file', key),
    ...option('--trusted-ca-file', ca),
    '--client-cert-auth',
  ];
}

function option(name: string, value: string): readonly string[] {
  return [name, value];
}

/** Its path. */
export function findEtcd(environment: NodeJS.ProcessEnv): string {
  for (const folder of [...(environment['PATH'] ?? '').split(delimiter), '/usr/bin', '/usr/local/bin']) {
    if (folder === '') continue;
    const path = join(folder, 'etcd');
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this folder.
    }
  }
  throw new HoldfastError(
    'UNSUPPORTED_SYSTEM',
    'etcd is not installed: install it (Debian and Ubuntu: apt-get install etcd-server), or use --store lmdb',
  );
}
