// The target process: the engines of the volumes attached on this node and their iSCSI portal, run by the addon and told
// what to do over gRPC. See engine/process/process-main.ts for how it is run.
// state.json: {pid, startTime, control, portal, instanceId}.
import { randomUUID } from 'node:crypto';
import { realpathSync } from 'node:fs';
import { join } from 'node:path';
import { Server } from '@grpc/grpc-js';
import { TargetProcess } from '../addon/target-process.js';
import { TargetService } from '../generated/holdfast/v1/target.js';
import { errorFields } from '../log/logger.js';
import { identityOf } from '../process/process-identity.js';
import { runProcess } from '../process/process-main.js';
import { targetConfigSchema } from './config.js';
import { serveControl } from './control-server.js';
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
    const identity = identityOf(config.identityFile, log);
    const membership = createMembershipClient(config.managers, config.token, identity, log);
    const volumes = new TargetVolumes(membership, log, join(realpathSync(runDir), 'devices'));
    const target = await TargetProcess.open(
      { portal: config.portal, credentials: identity?.current() ?? null },
      volumes.questions,
    );
    identity?.subscribe((next) => {
      target.setCredentials(next).then(
        () => {
          log.info('uses a new certificate');
        },
        (error: unknown) => {
          log.error('cannot use the new certificate', errorFields(error));
        },
      );
    });
    volumes.serveWith(target);
    await volumes.clearDeadDevices();
    const files = new SnapshotFiles(volumes, join(realpathSync(runDir), 'views'), log);
    await files.clear();

    const server = new Server();
    server.addService(TargetService, createTargetService({ instanceId, target, volumes, files }));
    const control = await serveControl(server, config.control, config.node, identity, log);
    return {
      state: { control: control.address, portal: target.portal, instanceId },
      stop: async () => {
        control.close();
        await target.close();
        membership.close();
      },
    };
  },
});
