// The replica process: one disk, served over gRPC by the addon. See engine/process/process-main.ts for how it is run.
// state.json: {pid, startTime, listen, diskId}.
import { ReplicaProcess } from '../addon/replica-process.js';
import { errorFields } from '../log/logger.js';
import { identityOf } from '../process/process-identity.js';
import { runProcess } from '../process/process-main.js';
import { replicaConfigSchema } from './config.js';
import { prepareDiskFolder } from './disk-folder.js';

await runProcess({
  role: 'replica',
  configSchema: replicaConfigSchema,
  logFields: ({ node, disk }) => ({ node, disk }),
  start: async (config, log) => {
    const identity = identityOf(config.identityFile, log);
    prepareDiskFolder(config.directory, config.expectedDiskId);
    const replica = await ReplicaProcess.open({
      directory: config.directory,
      journalPath: config.journalPath,
      listen: config.listen,
      expectedDiskId: config.expectedDiskId,
      journalBytes: BigInt(config.journalBytes),
      cacheBytes: BigInt(config.cacheBytes),
      capacityBytes: BigInt(config.capacityBytes),
      credentials: identity?.current() ?? null,
    });
    identity?.subscribe((next) => {
      replica.setCredentials(next).then(
        () => {
          log.info('serves with a new certificate');
        },
        (error: unknown) => {
          log.error('cannot use the new certificate', errorFields(error));
        },
      );
    });
    return {
      state: { listen: replica.listen, diskId: replica.diskId },
      stop: () => replica.close(),
    };
  },
});
