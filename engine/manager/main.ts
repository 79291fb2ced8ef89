// The manager process: `node dist/manager/main.js --run-dir DIR`. state.json: {pid, startTime, listen}.
import { holdfastVersion } from '../config/version.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import { runSupervised } from '../process/supervised-main.js';
import { managerConfigSchema } from './config.js';
import { createGrpcDataPlane } from './grpc-data-plane.js';
import { startManager } from './manager.js';

await runSupervised({
  role: 'manager',
  configSchema: managerConfigSchema,
  start: async ({ listen, metastore }, logger) => {
    const manager = await startManager({
      store: await openLmdbMetastore(metastore),
      dataPlane: createGrpcDataPlane(),
      logger,
      listen,
      version: holdfastVersion(),
    });
    return { state: { listen: manager.address }, stop: () => manager.close() };
  },
});
