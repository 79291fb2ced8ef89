// The etcd of a `holdfast up --store etcd`: one member on loopback, supervised like a data-plane process (it outlives `up`), but it
// writes no state.json: it is ready when it listens.
import { join } from 'node:path';
import { systemProcessHost } from '../agent/process-host.js';
import type { ProcessHost } from '../agent/process-host.js';
import { supervise } from '../agent/supervisor.js';
import { sleep } from '../async/wait.js';
import type { Logger } from '../log/logger.js';
import { etcdCommand, listens } from '../metastore/private-etcd.js';
import type { PrivateEtcd } from '../metastore/private-etcd.js';

const readyPollMs = 50;

export async function superviseEtcd(
  runDir: string,
  { client, peer }: { readonly client: string; readonly peer: string },
  logger: Logger,
  signal: AbortSignal,
): Promise<void> {
  const etcd: PrivateEtcd = {
    name: 'private',
    directory: join(runDir, 'data'),
    client,
    peer,
    members: [`private=http://${peer}`],
    fast: true,
    tls: null,
  };
  const host: ProcessHost = {
    ...systemProcessHost,
    ready: async (_, process) => {
      const ended = { yes: false };
      void process.exited.then(() => {
        ended.yes = true;
      });
      while (!ended.yes) {
        if (await listens(client)) return { client };
        await sleep(readyPollMs);
      }
      return null;
    },
  };
  const config = { role: 'etcd', ...etcd };
  const supervision = {
    name: 'etcd',
    runDir,
    command: etcdCommand(etcd, process.env),
    config: () => Promise.resolve(config),
    stillRight: (present: unknown) => JSON.stringify(present) === JSON.stringify(config),
    onState: () => undefined,
    onStartFailure: () => Promise.resolve(),
  };
  await supervise(host, supervision, logger.child({ process: 'etcd', runDir }), signal);
}
