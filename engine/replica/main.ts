// The replica process: one disk, served over gRPC by the addon. See engine/process/process-main.ts for how it is run.
// state.json: {pid, startTime, listen, diskId}.
import { ReplicaProcess } from '../addon/replica-process.js';
import { runProcess } from '../process/process-main.js';
import { replicaConfigSchema } from './config.js';
import { prepareDiskFolder } from './disk-folder.js';

await runProcess({
  role: 'replica',
  configSchema: replicaConfigSchema,
  logFields: ({ node, disk }) => ({ node, disk }),
  start: async (config) => {
    prepareDiskFolder(config.directory, config.expectedDiskId);
    const replica = await ReplicaProcess.open({
      directory: config.directory,
      journalPath: config.journalPath,
      listen: config.listen,
      expectedDiskId: config.expectedDiskId,
      journalBytes: BigInt(config.journalBytes),
      cacheBytes: BigInt(config.cacheBytes),
      capacityBytes: BigInt(config.capacityBytes),
    });
    return {
      state: { listen: replica.listen, diskId: replica.diskId },
      stop: () => replica.close(),
    };
  },
});
