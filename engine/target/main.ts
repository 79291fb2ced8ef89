// The target process: the engines of the volumes attached on this node and their iSCSI portal, run by the addon and told
// what to do over gRPC. See engine/process/process-main.ts for how it is run.
// state.json: {pid, startTime, control, portal, instanceId}.
import { randomUUID } from 'node:crypto';
import { realpathSync } from 'node:fs';
import { join } from 'node:path';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import { TargetProcess } from '../addon/target-process.js';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { TargetService } from '../generated/holdfast/v1/target.js';
import { formatHostPort, parseHostPort } from '../os/addresses.js';
import { runProcess } from '../process/process-main.js';
import { targetConfigSchema } from './config.js';
import { createMembershipClient } from './membership-client.js';
import { createTargetService } from './service.js';
import { SnapshotFiles } from './snapshot-files.js';
import { TargetVolumes } from './volumes.js';

await runProcess({
  role: 'target',
  configSchema: targetConfigSchema,
  logFields: ({ node }) => ({ node }),
  start: async (config, log, runDir) => {
    const instanceId = randomUUID();
    const membership = createMembershipClient(config.managers, config.token, log);
    const volumes = new TargetVolumes(membership, log, join(realpathSync(runDir), 'devices'));
    const target = await TargetProcess.open({ portal: config.portal }, volumes.questions);
    volumes.serveWith(target);
    const files = new SnapshotFiles(volumes, join(realpathSync(runDir), 'views'), log);
    await files.clear();

    const server = new Server();
    server.addService(TargetService, createTargetService({ instanceId, target, volumes, files }));
    const control = await bind(server, config.control);
    return {
      state: { control, portal: target.portal, instanceId },
      stop: async () => {
        server.forceShutdown();
        await target.close();
        membership.close();
      },
    };
  },
});

async function bind(server: Server, address: string): Promise<string> {
  const wanted = parseHostPort(address, 'control');
  return await new Promise((resolve, reject) => {
    server.bindAsync(formatHostPort(wanted), ServerCredentials.createInsecure(), (error, port) => {
      if (error === null) {
        resolve(formatHostPort({ host: wanted.host, port }));
        return;
      }
      reject(
        new HoldfastError('IN_USE', `the control address ${address} cannot be used: ${toHoldfastError(error).message}`),
      );
    });
  });
}
