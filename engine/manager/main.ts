// The manager process: `node dist/manager/main.js --run-dir DIR`. state.json: {pid, startTime, listen}.
import { holdfastVersion } from '../config/version.js';
import { openStore } from '../metastore/store-options.js';
import { runSupervised } from '../process/supervised-main.js';
import { startCandidate } from './candidate.js';
import { managerConfigSchema } from './config.js';
import { createGrpcDataPlane } from './grpc-data-plane.js';
import { startManager } from './manager.js';

await runSupervised({
  role: 'manager',
  configSchema: managerConfigSchema,
  start: async ({ listen, advertise, store: settings }, logger) => {
    const store = await openStore(settings);
    const version = holdfastVersion();
    if (settings.kind === 'lmdb') {
      const manager = await startManager({ store, dataPlane: createGrpcDataPlane(), logger, listen, version });
      return { state: { listen: manager.address }, stop: () => manager.close() };
    }
    const candidate = await startCandidate({
      store,
      dataPlane: createGrpcDataPlane,
      logger,
      listen,
      advertise,
      version,
    });
    return { state: { listen: candidate.address }, stop: () => candidate.stop() };
  },
});
