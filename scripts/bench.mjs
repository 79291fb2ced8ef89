// Makes ready what a benchmark needs (packages, build) and runs it: `node scripts/bench.mjs PROGRAM [options]`, where PROGRAM is
// main (npm run bench), scaling (npm run bench:scaling), healing, snapshots, nfs, cluster-scale or thousand-volumes.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import process from 'node:process';
import { root, run } from './build.mjs';
import { setupNpm, setupSystem } from './setup.mjs';

const programs = ['main', 'scaling', 'healing', 'snapshots', 'nfs', 'cluster-scale', 'thousand-volumes'];
const [program = '', ...args] = process.argv.slice(2);
if (!programs.includes(program)) {
  console.error(`usage: node scripts/bench.mjs PROGRAM [options]; programs are: ${programs.join(', ')}`);
  process.exit(2);
}
try {
  setupSystem('test');
  setupNpm();
  if (!args.includes('--help'))
    run(process.execPath, ['scripts/build.mjs'], { stdio: ['ignore', 'ignore', 'inherit'] });
  run(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'bench']);
} catch (error) {
  console.error(`bench: ${error.message}`);
  process.exit(1);
}
// A group of its own, which ends as a whole however this is ended: clusters must not be left running.
const bench = spawn(process.execPath, [join(root, 'build/bench/bench', `${program}.js`), ...args], {
  stdio: 'inherit',
  detached: true,
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    if (bench.exitCode === null && bench.signalCode === null) process.kill(-bench.pid, 'SIGINT');
  });
}
const [code] = await once(bench, 'exit');
process.exitCode = code ?? 1;
