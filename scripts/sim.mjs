// Builds the cluster simulation natively and runs it: `npm run sim -- --seeds N [--seed S] [--jobs J] [--trace]`.
//   npm run sim -- --plants [--seeds N]   every planted bug must be found within N seeds (2,000); a build of its own
// What it does and how to read a failing seed: docs/simulator.md.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

import { jobs, root, run } from './build.mjs';

/** Configures and builds the program; returns its path. Plants never get into any other build. */
export function buildSimulation({ plants = false } = {}) {
  const folder = join(root, plants ? 'build/plants' : 'build/native');
  const options = plants ? ['-DHOLDFAST_PLANTS=ON', '-DHOLDFAST_TESTS=OFF'] : [];
  const quiet = { stdio: ['ignore', 'ignore', 'inherit'] };
  run('cmake', ['-S', root, '-B', folder, '-G', 'Ninja', '-Wno-dev', ...options], quiet);
  run('ninja', ['-C', folder, `-j${jobs}`, 'sim'], quiet);
  return join(folder, 'sim');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const args = process.argv.slice(2);
  const plants = args.some((arg) => arg === '--plants' || arg === '--plant');
  const program = buildSimulation({ plants });
  const result = spawnSync(program, args, { stdio: 'inherit' });
  process.exitCode = result.status ?? 1;
}
