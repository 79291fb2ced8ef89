// The replica process: one disk, served over gRPC by the addon. See engine/process/process-main.ts for how it is run.
// state.json: {pid, startTime, listen, diskId}.
import { mkdirSync } from 'node:fs';
import { ReplicaProcess } from '../addon/replica-process.js';
import { runProcess } from '../process/process-main.js';
import { replicaConfigSchema } from './config.js';

await runProcess({
  role: 'replica',
  configSchema: replicaConfigSchema,
  logFields: ({ node, disk }) => ({ node, disk }),
  start: async (config) => {
    // A known disk whose folder is missing is not mounted: nothing may be made in its place.
    if (config.expectedDiskId === null) mkdirSync(config.directory, { recursive: true });
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
