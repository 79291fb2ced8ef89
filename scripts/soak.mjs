// Long runs, for nights and before releases: `npm run soak [-- --seeds N] [--cycles N]`.
//   1. the cluster simulation on N seeds (20,000) that no earlier run has seen
//   2. every planted bug is found
//   3. N kills (200) of real processes under load: test/crash-cycles.test.ts
// Exit code 1 when any of it failed; a failing seed prints how to replay it.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';

import { root, run } from './build.mjs';
import { buildSimulation } from './sim.mjs';

const usage = `Usage: npm run soak [-- --seeds N] [--cycles N]
  --seeds N   seeds of the cluster simulation (20000)
  --cycles N  kills of real processes (200)
  --fuzz N    seconds for each fuzz target (300)`;

function options() {
  try {
    const { values } = parseArgs({
      options: {
        seeds: { type: 'string', default: '20000' },
        cycles: { type: 'string', default: '200' },
        fuzz: { type: 'string', default: '300' },
        help: { type: 'boolean' },
      },
    });
    if (values.help) {
      console.log(usage);
      process.exit(0);
    }
    return Object.fromEntries(
      ['seeds', 'cycles', 'fuzz'].map((name) => {
        const value = Number(values[name]);
        if (!Number.isSafeInteger(value) || value <= 0) throw new Error(`--${name} takes a positive number`);
        return [name, value];
      }),
    );
  } catch (error) {
    console.error(`soak: ${error.message}\n${usage}`);
    process.exit(2);
  }
}

const { seeds, cycles, fuzz } = options();
const minutes = Math.floor(Date.now() / 60_000);
const first = minutes * 100_000; // seeds of other runs lie elsewhere

const steps = [
  {
    name: `simulation of ${seeds} seeds from ${first} on`,
    run: () => spawnSync(buildSimulation(), ['--seed', `${first}`, '--seeds', `${seeds}`], { stdio: 'inherit' }),
  },
  {
    name: 'planted bugs',
    run: () => spawnSync(buildSimulation({ plants: true }), ['--plants'], { stdio: 'inherit' }),
  },
  {
    name: `every fuzz target for ${fuzz} s, from seed ${minutes} on`,
    run: () =>
      spawnSync(process.execPath, [join(root, 'scripts/test.mjs'), '--only', 'asan,fuzz'], {
        stdio: 'inherit',
        env: { ...process.env, HOLDFAST_FUZZ_SECONDS: `${fuzz}`, HOLDFAST_FUZZ_SEED: `${minutes}` },
      }),
  },
  {
    name: `${cycles} kills of real processes`,
    run: () => {
      run(process.execPath, [join(root, 'scripts/build.mjs')]);
      const vitest = join(root, 'node_modules/vitest/vitest.mjs');
      return spawnSync(process.execPath, [vitest, 'run', '--project', 'e2e', 'test/crash-cycles.test.ts'], {
        cwd: root,
        stdio: 'inherit',
        env: { ...process.env, HOLDFAST_CRASH_CYCLES: `${cycles}` },
      });
    },
  },
];

const failed = [];
for (const step of steps) {
  console.log(`soak: ${step.name}`);
  if (step.run().status !== 0) failed.push(step.name);
}
console.log(failed.length === 0 ? 'soak: all passed' : `soak: FAILED: ${failed.join('; ')}`);
process.exitCode = failed.length === 0 ? 0 : 1;
