// The manager process: `node dist/manager/main.js --run-dir DIR`. state.json: {pid, startTime, listen}.
import { holdfastVersion } from '../config/version.js';
import { openStore } from '../metastore/store-options.js';
import { z } from 'zod';
import { readJson } from '../os/atomic-file.js';
import { parseHostPort } from '../os/addresses.js';
import { certifyManager, openAuthority } from './authority.js';
import { runSupervised } from '../process/supervised-main.js';
import { startCandidate } from './candidate.js';
import { managerConfigSchema } from './config.js';
import { createGrpcDataPlane } from './grpc-data-plane.js';
import { startManager } from './manager.js';

await runSupervised({
  role: 'manager',
  configSchema: managerConfigSchema,
  start: async ({ listen, advertise, store: settings, tokens, auditFile, authorityFile, managers }, logger) => {
    const store = await openStore(settings);
    const authority = await openAuthority(store, readSeed(authorityFile), new Date());
    const { host } = parseHostPort(listen, 'listen');
    const identity = await certifyManager(authority, listen, [host], logger);
    const common = {
      authority,
      identity,
      version: holdfastVersion(),
      managers,
      ...(tokens === null ? {} : { tokens }),
      ...(auditFile === null ? {} : { auditFile }),
    };
    if (settings.kind === 'lmdb') {
      const manager = await startManager({
        store,
        dataPlane: createGrpcDataPlane(identity),
        logger,
        listen,
        ...common,
      });
      return { state: { listen: manager.address }, stop: () => manager.close() };
    }
    const candidate = await startCandidate({
      store,
      dataPlane: () => createGrpcDataPlane(identity),
      logger,
      listen,
      advertise,
      ...common,
    });
    return { state: { listen: candidate.address }, stop: () => candidate.stop() };
  },
});

function readSeed(file: string | null) {
  if (file === null) return null;
  return z.object({ certificate: z.string(), key: z.string() }).parse(readJson(file));
}
