// The agent process: `node dist/agent/main.js --run-dir DIR`. state.json: {pid, startTime, node}. SIGTERM stops the agent only.
import { realpathSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from '../log/logger.js';
import { fingerprintIn } from '../security/tokens.js';
import { nodeCertificate } from './certificate.js';
import type { AgentConfig } from './config.js';
import type { AgentOptions } from './agent.js';
import { needsTls } from '../security/tls.js';
import { runSupervised } from '../process/supervised-main.js';
import { builtPrograms, runAgent } from './agent.js';
import { agentConfigSchema } from './config.js';
import { systemProcessHost } from './process-host.js';
import { RegistrationFile } from './registration.js';

await runSupervised({
  role: 'agent',
  configSchema: agentConfigSchema,
  start: (config, log, runDir) => {
    const stop = new AbortController();
    const logger = log.child({ node: config.node });
    const registration = new RegistrationFile(runDir);
    const running = certified(config, realpathSync(runDir), registration, logger, stop.signal).then((certificate) =>
      stop.signal.aborted
        ? undefined
        : runAgent(
            { config, certificate, runDir, registration, host: systemProcessHost, programs: builtPrograms(), logger },
            stop.signal,
          ),
    );
    running.catch((error: unknown) => {
      // What runAgent cannot live with: uncaught, as if nothing stood in between.
      setImmediate(() => {
        throw error;
      });
    });
    return Promise.resolve({
      state: { node: config.node },
      stop: async () => {
        stop.abort();
        await running;
      },
    });
  },
});

// A token without a fingerprint is of a cluster on one machine, and so is an address of loopback: nothing leaves the host.
async function certified(
  { node, host, managers, token }: AgentConfig,
  runDir: string,
  registration: RegistrationFile,
  logger: Logger,
  signal: AbortSignal,
): Promise<AgentOptions['certificate']> {
  if (token === null || fingerprintIn(token) === null || !needsTls(`${host.includes(':') ? `[${host}]` : host}:1`))
    return null;
  const path = join(runDir, 'identity.json');
  const identity = await nodeCertificate({ path, node, host, managers, token, registration, logger }, signal);
  return identity === null ? null : { identity, path };
}
