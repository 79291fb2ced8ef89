// Builds Holdfast. `node scripts/build.mjs [generate|addon|native|ts]...`; without a stage: generate, addon, ts.
//   generate  proto/*.proto -> engine/generated/ (protoc with ts-proto), proto/errors.json -> its tables (checked)
//   addon     native/ -> build/addon/holdfast.node (cmake-js)
//   native    native/ with its tests -> build/native (plain CMake, no Node)
//   ts        engine/ -> dist/
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

// A compiler of this code base takes up to 1 GB.
export const jobs = Math.max(1, Math.min(availableParallelism(), Math.floor(totalmem() / 2 ** 30)));

// The same object serves the addon and the plain build: ccache need not tell their folders apart.
process.env.CCACHE_NOHASHDIR ??= 'true';

export function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'], ...options });
  if (result.error) throw new Error(`${command} could not be started: ${result.error.message}`);
  if (result.status !== 0) {
    throw new Error(
      `${command} ${args.slice(0, 3).join(' ')} … ended with ${result.signal ?? `exit code ${result.status}`}`,
    );
  }
}

function protoFiles(folder) {
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.proto'))
    .map((entry) => relative(join(root, folder), join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
}

function generate() {
  run(process.execPath, ['scripts/generate-errors.mjs', '--check']);
  const fresh = join(root, '.cache/generated');
  const options = [
    'env=node',
    'esModuleInterop=true',
    'importSuffix=.js',
    'forceLong=bigint', // 64-bit ids and byte counts must not lose precision
    'outputServices=grpc-js',
    'enumsAsLiterals=true',
    'unrecognizedEnum=false',
    'useExactTypes=false',
  ];
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { recursive: true });
  run('protoc', [
    `--plugin=protoc-gen-ts_proto=${join(root, 'node_modules/.bin/protoc-gen-ts_proto')}`,
    `--ts_proto_out=${fresh}`,
    `--ts_proto_opt=${options.join(',')}`,
    '-I',
    join(root, 'proto'),
    ...protoFiles('proto').map((file) => join(root, 'proto', file)),
  ]);
  replaceChanged(fresh, join(root, 'engine/generated'));
  rmSync(fresh, { recursive: true, force: true });
}

// Unchanged files keep their times, so that whatever depends on them stays up to date.
function replaceChanged(from, to) {
  mkdirSync(to, { recursive: true });
  const names = new Set(readdirSync(from));
  for (const name of readdirSync(to)) {
    if (!names.has(name)) rmSync(join(to, name), { recursive: true });
  }
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const source = join(from, entry.name);
    const target = join(to, entry.name);
    if (entry.isDirectory()) replaceChanged(source, target);
    else if (!existsSync(target) || !readFileSync(source).equals(readFileSync(target))) renameSync(source, target);
  }
}

function addon() {
  const out = join(root, 'build/addon');
  // cmake-js takes the headers of Node-API from the npm package node-api-headers: nothing is downloaded.
  const cmakeJs = join(root, 'node_modules/cmake-js/bin/cmake-js');
  const common = ['--directory', root, '--out', out, '--config', 'RelWithDebInfo', '--log-level', 'warn'];
  if (!existsSync(join(out, 'CMakeCache.txt'))) {
    run(process.execPath, [cmakeJs, 'configure', ...common, '--CDHOLDFAST_ADDON=ON', '--CDHOLDFAST_TESTS=OFF']);
  }
  run(process.execPath, [cmakeJs, 'build', ...common, '--target', 'holdfast_addon', '--parallel', String(jobs)]);
}

export function native(folder = 'build/native', cmakeOptions = [], targets = []) {
  run('cmake', ['-S', root, '-B', join(root, folder), '-G', 'Ninja', '-Wno-dev', ...cmakeOptions]);
  run('ninja', ['-C', join(root, folder), `-j${jobs}`, ...targets]);
}

function ts() {
  run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.build.json']);
  const cli = join(root, 'dist/cli/main.js');
  if (existsSync(cli)) chmodSync(cli, 0o755);
}

const stages = { generate, addon, native: () => native(), ts };

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const chosen = process.argv.slice(2);
  const unknown = chosen.find((name) => !Object.hasOwn(stages, name));
  if (unknown !== undefined) {
    console.error(`unknown stage ${unknown}; there are: ${Object.keys(stages).join(', ')}`);
    process.exit(2);
  }
  for (const name of chosen.length > 0 ? chosen : ['generate', 'addon', 'ts']) {
    const began = performance.now();
    try {
      stages[name]();
    } catch (error) {
      console.error(`build: ${name} failed: ${error.message}`);
      process.exit(1);
    }
    console.log(`build: ${name} done in ${((performance.now() - began) / 1000).toFixed(1)} s`);
  }
}
