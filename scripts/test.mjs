// Everything that CI runs: `npm test`. Set-up, build, format, lint, C++ tests (plain, under sanitizers), fuzz targets for
// a short while, and vitest (unit, then end to end). A stage that fails does not stop those that do not need it. Many tests
// wait more than they work: what only computes runs beside them with the least priority, and takes what they leave.
//   npm test -- --only lint,native      some stages
//   npm test -- --skip asan,tsan,fuzz   all but some
// The last line is `N passed, N failed, N skipped`; the exit code is 1 when anything failed. Logs: build/test-logs/.
import { AsyncLocalStorage } from 'node:async_hooks';
import { spawn, spawnSync } from 'node:child_process';
import { createWriteStream, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { jobs, root } from './build.mjs';
import { setupNpm, setupSystem } from './setup.mjs';

const logs = join(root, 'build/test-logs');
const minutes = 60_000;
const fuzzSeconds = Number(process.env.HOLDFAST_FUZZ_SECONDS ?? 5);
const fuzzSeed = Number(process.env.HOLDFAST_FUZZ_SEED ?? 1);
const simSeeds = 400;
const asanSimSeeds = 40;

/** What a stage found. `notes` are lines for the summary: what failed, what was skipped and why. */
function outcome(passed = 0, failed = 0, skipped = 0, notes = []) {
  return { passed, failed, skipped, notes };
}

function sum(outcomes) {
  return outcomes.reduce(
    (total, each) => ({
      passed: total.passed + each.passed,
      failed: total.failed + each.failed,
      skipped: total.skipped + each.skipped,
      notes: [...total.notes, ...each.notes],
    }),
    outcome(),
  );
}

// ---- running programs ----

/** True for what runs beside the others. */
const background = new AsyncLocalStorage();

/** Runs a program with its output in build/test-logs/NAME.log, or shown where `show` is set. Resolves to its end. */
function program(name, command, args, { show = false, timeoutMs = 10 * minutes, env = {} } = {}) {
  return new Promise((resolve) => {
    const nice = background.getStore() ? ['nice', '-n', '19'] : [];
    const [first, ...rest] = [...nice, command, ...args];
    const child = spawn(first, rest, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', show ? 'inherit' : 'pipe', show ? 'inherit' : 'pipe'],
    });
    const file = join(logs, `${name}.log`);
    const log = show ? null : createWriteStream(file);
    if (log !== null) {
      log.on('error', (error) => {
        child.kill('SIGKILL');
        resolve({ ok: false, problem: `its log cannot be written: ${error.message}`, log: null });
      });
      child.stdout.pipe(log, { end: false });
      child.stderr.pipe(log, { end: false });
    }
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
    }, timeoutMs);
    const end = (problem) => {
      clearTimeout(timer);
      const result = { ok: problem === null, problem, log: show ? null : file };
      if (log === null) resolve(result);
      else log.end(() => resolve(result)); // who reads the file finds all of it
    };
    child.on('error', (error) => end(error.message));
    child.on('close', (code, signal) => {
      if (timedOut) end(`did not end within ${timeoutMs / minutes} minutes`);
      else end(code === 0 ? null : signal === null ? `exit code ${code}` : `ended by ${signal}`);
    });
  });
}

function tail(file, lines = 60) {
  if (file === null) return '';
  const text = readFileSync(file, 'utf8').trimEnd().split('\n');
  return text
    .slice(-lines)
    .map((line) => `    ${line}`)
    .join('\n');
}

/** One program that counts as one check. */
async function check(name, command, args, options) {
  const { ok, problem, log } = await program(name, command, args, options);
  if (ok) return outcome(1);
  console.log(tail(log));
  return outcome(0, 1, 0, [`${name}: ${problem}`]);
}

async function concurrently(limit, tasks) {
  const results = [];
  const waiting = [...tasks];
  await Promise.all(
    Array.from({ length: Math.min(limit, tasks.length) }, async () => {
      for (let task = waiting.shift(); task !== undefined; task = waiting.shift()) results.push(await task());
    }),
  );
  return results;
}

// ---- C++ ----

const nodeScript = (...args) => [process.execPath, args];

async function buildNative(folder, options, targets) {
  const name = folder.replaceAll('/', '-');
  const configure = ['-S', root, '-B', join(root, folder), '-G', 'Ninja', '-Wno-dev', ...options];
  const configured = await program(`${name}-configure`, 'cmake', configure);
  if (!configured.ok) {
    console.log(tail(configured.log));
    return outcome(0, 1, 0, [`${folder}: cmake: ${configured.problem}`]);
  }
  return await check(`${name}-build`, 'ninja', ['-C', join(root, folder), `-j${jobs}`, ...targets], {
    timeoutMs: 40 * minutes,
  });
}

/** Programs that take longer than all others together: their tests are dealt out to several processes. */
const shards = { store_test: 4 };

/** Runs `folder/NAME_test`, or one of `of` shards of it, and counts its tests. */
async function googleTest(folder, name, { env, shard = 0, of = 1 }) {
  const id = `${folder.replaceAll('/', '-')}-${name}${of > 1 ? `-${shard + 1}` : ''}`;
  const report = join(logs, `${id}.json`);
  rmSync(report, { force: true });
  const { problem, log } = await program(id, join(root, folder, name), [`--gtest_output=json:${report}`], {
    env: { ...env, GTEST_TOTAL_SHARDS: `${of}`, GTEST_SHARD_INDEX: `${shard}` },
  });
  if (!existsSync(report)) {
    console.log(tail(log));
    return outcome(0, 1, 0, [`${folder}/${name}: ${problem ?? 'gave no report'}`]);
  }
  const all = JSON.parse(readFileSync(report, 'utf8')).testsuites.flatMap((suite) =>
    suite.testsuite.map((test) => ({ ...test, full: `${name}: ${suite.name}.${test.name}` })),
  );
  const failed = all.filter((test) => test.failures !== undefined);
  const skipped = all.filter((test) => test.failures === undefined && test.result === 'SKIPPED');
  const notes = [
    ...failed.map((test) => `${folder} ${test.full} failed, see ${log?.slice(root.length + 1) ?? 'above'}`),
    ...skipped.map((test) => `${folder} ${test.full} skipped: ${test.skipped?.[0]?.message?.split('\n').at(-1) ?? ''}`),
  ];
  const crashed = problem !== null && failed.length === 0 ? 1 : 0;
  if (crashed) notes.push(`${folder}/${name}: ${problem}`);
  if (problem !== null) console.log(tail(log));
  return outcome(all.length - failed.length - skipped.length, failed.length + crashed, skipped.length, notes);
}

async function googleTests(folder, { only, env = {}, limit = jobs } = {}) {
  const names = readdirSync(join(root, folder)).filter(
    (name) => name.endsWith('_test') && (only?.includes(name) ?? true),
  );
  if (names.length === 0) return outcome(0, 1, 0, [`${folder}: no test program was built`]);
  return sum(
    await concurrently(
      limit,
      names.flatMap((name) => {
        const of = shards[name] ?? 1;
        return Array.from({ length: of }, (_, shard) => () => googleTest(folder, name, { env, shard, of }));
      }),
    ),
  );
}

/** ASan with UBSan, built by clang: twice as fast to build as with GCC, and the fuzz targets are made of the same objects. */
async function addressSanitized() {
  const folder = 'build/address';
  const fuzzers = fuzzTargets().map((target) => target.program);
  const options = ['-DHOLDFAST_SANITIZE=address', '-DCMAKE_CXX_COMPILER=clang++'];
  const built = await buildNative(folder, options, [...nativeTestTargets(), 'sim', ...fuzzers]);
  if (built.failed > 0) return built;
  const seeds = ['--seeds', `${asanSimSeeds}`];
  return sum([built, await googleTests(folder, { env: asanEnv }), await simulation(folder, seeds, asanEnv)]);
}

async function threadSanitized() {
  const only = ['io_test'];
  const built = await buildNative('build/thread', ['-DHOLDFAST_SANITIZE=thread'], only);
  return built.failed > 0 ? built : sum([built, await googleTests('build/thread', { only, env: tsanEnv })]);
}

/** Seeds of the cluster simulation (docs/simulator.md): one check, whatever their number. */
const simulation = (folder, args, env = {}) =>
  check(`${folder.replaceAll('/', '-')}-sim`, join(root, folder, 'sim'), args, { env, timeoutMs: 30 * minutes });

async function plants() {
  const folder = 'build/plants';
  const built = await buildNative(folder, ['-DHOLDFAST_PLANTS=ON', '-DHOLDFAST_TESTS=OFF'], ['sim']);
  if (built.failed > 0) return built;
  return sum([built, await simulation(folder, ['--plants'])]);
}

/** The modules that have tests. */
function nativeTestTargets() {
  return readdirSync(join(root, 'native'), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .filter(({ name }) =>
      readdirSync(join(root, 'native', name), { recursive: true }).some((file) => /_test\.cc$/.test(file)),
    )
    .map(({ name }) => `${name}_test`);
}

function fuzzTargets() {
  return readdirSync(join(root, 'native'), { recursive: true })
    .filter((file) => file.endsWith('_fuzz.cc'))
    .map((file) => ({
      program: file.replace(/^.*\//, '').replace(/\.cc$/, ''),
      corpus: join(root, 'native', dirname(file), 'corpus', file.replace(/^.*\//, '').replace(/_fuzz\.cc$/, '')),
    }));
}

async function fuzz() {
  const targets = fuzzTargets();
  const runs = targets.map((target) => async () => {
    const findings = join(logs, `${target.program}-findings`);
    const fresh = join(logs, `${target.program}-corpus`);
    mkdirSync(findings, { recursive: true });
    rmSync(fresh, { recursive: true, force: true });
    mkdirSync(fresh, { recursive: true });
    const corpora = [fresh, ...(existsSync(target.corpus) ? [target.corpus] : [])];
    // One seed and an empty corpus of its own: every run tries the same inputs. Long runs with seeds of their own: soak.
    const limits = [`-seed=${fuzzSeed}`, `-max_total_time=${fuzzSeconds}`, '-timeout=10', '-rss_limit_mb=2048'];
    const args = [...limits, `-artifact_prefix=${findings}/`, ...corpora];
    const timeoutMs = fuzzSeconds * 1000 + 10 * minutes;
    return await check(target.program, join(root, 'build/address', target.program), args, { timeoutMs });
  });
  return sum(await concurrently(jobs, runs));
}

// ---- TypeScript ----

/**
 * In mount namespaces of their own, tests that run beside each other do not keep what the others unmount: a program that
 * starts with a copy of the mounts (another container, a host of the tests) holds what it copied, and only where they are
 * shared, as on most hosts, it lets go when the original is unmounted. Takes root, as mounting does, and a root that is a mount.
 */
const ownMounts = ['unshare', '--mount', '--propagation', 'shared'];
const canHaveOwnMounts = () =>
  spawnSync(ownMounts[0], [...ownMounts.slice(1), 'true'], { stdio: 'ignore' }).status === 0;

async function vitest(project, { show = true, within = [] } = {}) {
  const report = join(logs, `${project}.json`);
  rmSync(report, { force: true });
  const name = `${project}-vitest`;
  const args = ['run', '--project', project];
  args.push('--reporter=default', '--reporter=json', `--outputFile.json=${report}`);
  const [command, ...rest] = [...within, process.execPath, join(root, 'node_modules/vitest/vitest.mjs'), ...args];
  const { problem } = await program(name, command, rest, {
    show,
    timeoutMs: 40 * minutes,
  });
  if (!show) console.log(readFileSync(join(logs, `${name}.log`), 'utf8').trimEnd());
  if (!existsSync(report)) return outcome(0, 1, 0, [`${project}: ${problem ?? 'gave no report'}`]);
  const result = JSON.parse(readFileSync(report, 'utf8'));
  const tests = result.testResults.flatMap((file) => file.assertionResults);
  const failed = tests.filter((test) => test.status === 'failed');
  const skipped = tests.filter((test) => ['pending', 'skipped', 'todo', 'disabled'].includes(test.status));
  // A file that could not even be loaded has no tests to fail.
  const broken = result.testResults.filter(
    (file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
  );
  const unexplained = problem !== null && failed.length + broken.length === 0 ? 1 : 0;
  return outcome(
    tests.length - failed.length - skipped.length,
    failed.length + broken.length + unexplained,
    skipped.length,
    [
      ...failed.map((test) => `vitest: ${test.fullName} failed`),
      ...broken.map((file) => `vitest: ${file.name.slice(root.length + 1)} failed: ${file.message.split('\n')[0]}`),
      ...skipped.map((test) => `vitest: ${test.fullName} skipped: ${test.meta?.note ?? 'marked so in the test'}`),
      ...(unexplained ? [`${project}: ${problem}`] : []),
    ],
  );
}

/** Those with network namespaces run one by one, beside the others; what they print comes when they are through. */
async function endToEnd() {
  const within = canHaveOwnMounts() ? ownMounts : [];
  return sum(await Promise.all([vitest('e2e', { within }), vitest('e2e-hosts', { within, show: false })]));
}

const eslint = join(root, 'node_modules/eslint/bin/eslint.js');
const prettier = join(root, 'node_modules/prettier/bin/prettier.cjs');
const tsc = join(root, 'node_modules/typescript/bin/tsc');

// ASan with leaks, TSan with the first report as an error.
const asanEnv = {
  ASAN_OPTIONS: 'abort_on_error=0',
  UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
};
const tsanEnv = { TSAN_OPTIONS: 'halt_on_error=1:second_deadlock_stack=1' };

const stages = [
  {
    name: 'build',
    what: 'release build: generated code, addon, TypeScript',
    alone: true,
    run: () => check('build', ...nodeScript('scripts/build.mjs'), { timeoutMs: 40 * minutes }),
  },
  { name: 'native-build', what: 'C++ with its tests', alone: true, run: () => buildNative('build/native', [], []) },
  {
    name: 'format',
    what: 'prettier and clang-format',
    run: async () =>
      sum([
        await check('prettier', ...nodeScript(prettier, '--check', '--log-level', 'warn', '.')),
        await check('clang-format', ...nodeScript('scripts/clang-format.mjs')),
      ]),
  },
  {
    name: 'lint',
    what: 'types of all TypeScript, eslint',
    run: async () =>
      sum([await check('tsc', ...nodeScript(tsc, '--noEmit')), await check('eslint', ...nodeScript(eslint, '.'))]),
  },
  {
    name: 'unit',
    what: 'TypeScript unit tests, rules of the source tree',
    run: () => vitest('unit'),
  },
  { name: 'native', what: 'C++ unit tests', needs: 'native-build', run: () => googleTests('build/native') },
  {
    name: 'sim',
    what: `the cluster simulation, ${simSeeds} seeds`,
    needs: 'native-build',
    run: () => simulation('build/native', ['--seeds', `${simSeeds}`]),
  },
  { name: 'plants', what: 'the simulation finds every planted bug', beside: true, run: plants },
  {
    name: 'asan',
    what: `C++ unit tests and ${asanSimSeeds} seeds of the simulation under ASan and UBSan`,
    beside: true,
    run: addressSanitized,
  },
  {
    name: 'tsan',
    what: 'C++ unit tests of native/io under TSan: the only module with threads',
    beside: true,
    run: threadSanitized,
  },
  { name: 'fuzz', what: `every fuzz target for ${fuzzSeconds} s`, needs: 'asan', beside: true, run: fuzz },
  {
    name: 'e2e',
    what: 'end to end: processes, clusters, real initiators',
    needs: 'build',
    run: endToEnd,
  },
];

// ---- the run ----

function chosenStages() {
  const args = process.argv.slice(2);
  const names = new Set(stages.map((stage) => stage.name));
  let chosen = stages;
  for (let i = 0; i < args.length; i += 2) {
    const list = (args[i + 1] ?? '').split(',');
    const unknown = list.find((name) => !names.has(name));
    if (!['--only', '--skip'].includes(args[i]) || unknown !== undefined) {
      console.error(`usage: npm test -- [--only|--skip STAGE,STAGE]; stages: ${[...names].join(', ')}`);
      process.exit(2);
    }
    chosen = chosen.filter((stage) => list.includes(stage.name) === (args[i] === '--only'));
  }
  return chosen;
}

const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

async function main() {
  const began = performance.now();
  const chosen = chosenStages();
  try {
    setupSystem('test');
    setupNpm();
  } catch (error) {
    console.error(`setup: ${error.message}`);
    process.exit(1);
  }
  mkdirSync(logs, { recursive: true });
  const results = [];
  const left = stages.filter((stage) => !chosen.includes(stage)).map((stage) => stage.name);
  const failedStages = new Set();
  const runStage = async (stage) => {
    console.log(`[${chosen.indexOf(stage) + 1}/${chosen.length}] ${stage.name}: ${stage.what}`);
    const start = performance.now();
    const blocked = stage.needs !== undefined && failedStages.has(stage.needs);
    const result = blocked
      ? outcome(0, 1, 0, [`${stage.name}: not run, because ${stage.needs} failed`])
      : await stage.run();
    if (result.failed > 0) failedStages.add(stage.name);
    results.push(result);
    console.log(
      `    ${stage.name} ${result.failed > 0 ? 'FAILED' : 'ok'} in ${seconds(start)}: ` +
        `${result.passed} passed, ${result.failed} failed, ${result.skipped} skipped`,
    );
  };
  const runAll = async (some) => {
    for (const stage of some) await runStage(stage);
  };
  await runAll(chosen.filter((stage) => stage.alone));
  const beside = chosen.filter((stage) => stage.beside);
  const others = chosen.filter((stage) => !stage.alone && !stage.beside);
  await Promise.all([runAll(others), background.run(true, () => runAll(beside))]);
  const total = sum(results);
  console.log(`\nAll of it took ${seconds(began)}.`);
  for (const note of total.notes) console.log(`  ${note}`);
  if (left.length > 0) console.log(`  stages not asked for: ${left.join(', ')}`);
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  process.exitCode = total.failed > 0 ? 1 : 0;
}

await main();
