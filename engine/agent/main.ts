// The agent process: `node dist/agent/main.js --run-dir DIR`. state.json: {pid, startTime, node}. SIGTERM stops the agent only.
import { runSupervised } from '../process/supervised-main.js';
import { builtPrograms, runAgent } from './agent.js';
import { agentConfigSchema } from './config.js';
import { systemProcessHost } from './process-host.js';

await runSupervised({
  role: 'agent',
  configSchema: agentConfigSchema,
  start: (config, logger, runDir) => {
    const stop = new AbortController();
    const running = runAgent(
      {
        config,
        runDir,
        host: systemProcessHost,
        programs: builtPrograms(),
        logger: logger.child({ node: config.node }),
      },
      stop.signal,
    );
    return Promise.resolve({
      state: { node: config.node },
      stop: async () => {
        stop.abort();
        await running;
      },
    });
  },
});
