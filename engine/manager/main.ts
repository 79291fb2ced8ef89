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
  start: async ({ listen, advertise, store: settings, tokens, auditFile, managers }, logger) => {
    const store = await openStore(settings);
    const common = {
      version: holdfastVersion(),
      managers,
      ...(tokens === null ? {} : { tokens }),
      ...(auditFile === null ? {} : { auditFile }),
    };
    if (settings.kind === 'lmdb') {
      const manager = await startManager({ store, dataPlane: createGrpcDataPlane(), logger, listen, ...common });
      return { state: { listen: manager.address }, stop: () => manager.close() };
    }
    const candidate = await startCandidate({
      store,
      dataPlane: createGrpcDataPlane,
      logger,
      listen,
      advertise,
      ...common,
    });
    return { state: { listen: candidate.address }, stop: () => candidate.stop() };
  },
});
