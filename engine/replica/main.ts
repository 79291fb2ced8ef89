// The replica process: one disk, served over gRPC by the addon. See engine/process/process-main.ts for how it is run.
// state.json: {pid, startTime, listen, diskId}.
import { ReplicaProcess } from '../addon/replica-process.js';
import { errorFields } from '../log/logger.js';
import { identityOf } from '../process/process-identity.js';
import { runProcess } from '../process/process-main.js';
import { mountDisk, unmountDisk } from './block-device.js';
import { replicaConfigSchema } from './config.js';
import { prepareDiskFolder } from './disk-folder.js';

await runProcess({
  role: 'replica',
  configSchema: replicaConfigSchema,
  logFields: ({ node, disk }) => ({ node, disk }),
  start: async (config, log) => {
    const identity = identityOf(config.identityFile, log);
    const { device, directory, expectedDiskId, format } = config;
    if (device !== null) await mountDisk({ device, directory, expectedDiskId, format });
    prepareDiskFolder(directory, expectedDiskId);
    const opening = ReplicaProcess.open({
      directory,
      journalPath: config.journalPath,
      listen: config.listen,
      expectedDiskId,
      journalBytes: BigInt(config.journalBytes),
      cacheBytes: BigInt(config.cacheBytes),
      capacityBytes: BigInt(config.capacityBytes),
      credentials: identity?.current() ?? null,
    });
    const replica = await opening.catch(async (error: unknown) => {
      if (device !== null) await unmountDisk(directory).catch(() => undefined);
      throw error;
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
      stop: async () => {
        await replica.close();
        if (device === null) return;
        await unmountDisk(directory).catch((error: unknown) => {
          log.warn('the device of the disk stays mounted', errorFields(error));
        });
      },
    };
  },
});
