// Rules about the source tree itself: who may know whom, how long a file may get, and what must not be in it.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, extname, join, relative, resolve } from 'node:path';
import { expect, test } from 'vitest';
import { errorCodes } from '../engine/errors/error-codes.js';

const root = join(import.meta.dirname, '..');
const notOurs = new Set(['.git', '.cache', 'build', 'dist', 'node_modules', 'generated', 'golden', 'corpus']);

type SourceFile = { readonly path: string; readonly text: string };

function* walk(folder: string): Generator<string> {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory() && !notOurs.has(entry.name)) yield* walk(path);
    else if (entry.isFile()) yield path;
  }
}

const textTypes = new Set([
  '.ts',
  '.js',
  '.mjs',
  '.cc',
  '.h',
  '.md',
  '.json',
  '.proto',
  '.sh',
  '.txt',
  '.gyp',
  '.map',
  '',
]);
const files: readonly SourceFile[] = [...walk('.')]
  .filter(
    (path) => textTypes.has(extname(path)) && path !== 'package-lock.json' && statSync(join(root, path)).size < 2 ** 20,
  )
  .map((path) => ({ path, text: readFileSync(join(root, path), 'utf8') }));
const cpp = files.filter(({ path }) => path.startsWith('native/') && /\.(h|cc)$/.test(path));
const typescript = files.filter(({ path }) => /^(engine|bench|test)\/.*\.ts$/.test(path));

/** `path:line: text` of every match. */
function matches(where: readonly SourceFile[], pattern: RegExp): string[] {
  return where.flatMap(({ path, text }) =>
    text.split('\n').flatMap((line, i) => (pattern.test(line) ? [`${path}:${i + 1}: ${line.trim()}`] : [])),
  );
}

// ---- layers ----

// native/: whose headers a module may include, besides its own. An arrow goes only downwards.
const nativeLayers: Readonly<Record<string, readonly string[]>> = {
  base: [],
  io: ['base'],
  tls: ['io', 'base'],
  rpc: ['tls', 'io', 'base'],
  store: ['io', 'base'],
  replica: ['store', 'rpc', 'tls', 'io', 'base'],
  // The engine speaks the messages of the replica API; it does not use the service.
  engine: ['replica', 'store', 'rpc', 'tls', 'io', 'base'],
  'iscsi/scsi': ['io', 'base'],
  iscsi: ['iscsi/scsi', 'io', 'base'],
  fuse: ['io', 'base'],
  sim: ['io', 'base'],
  sim_cluster: ['sim', 'engine', 'replica', 'store', 'rpc', 'tls', 'io', 'base'],
  addon: ['engine', 'replica', 'iscsi', 'fuse', 'store', 'rpc', 'tls', 'io', 'base'],
};
// Tests, fuzzers, programs and test helpers may also use these.
const nativeForTests = ['test', 'sim', 'io', 'tls', 'rpc', 'store', 'replica', 'engine', 'iscsi'];

function nativeModuleOf(path: string): string {
  const inside = relative('native', path);
  return inside.startsWith('iscsi/scsi/') ? 'iscsi/scsi' : (inside.split('/')[0] ?? '');
}

function isNativeTest(path: string): boolean {
  return /_(fuzz|bench|main)\.cc$/.test(path) || /(^|[/_])(test|testing)[/_.]/.test(path);
}

test('native includes go only downwards', () => {
  const wrong: string[] = [];
  for (const { path, text } of cpp) {
    const module = nativeModuleOf(path);
    if (module === 'test') continue;
    const allowed = nativeLayers[module];
    expect(allowed, `native/${module} is in the table of layers`).toBeDefined();
    for (const [, header = ''] of text.matchAll(/^#include "([^"]+)"/gm)) {
      const target = nativeModuleOf(join('native', header));
      if (target === module || allowed?.includes(target)) continue;
      if (isNativeTest(path) && (nativeForTests.includes(target) || module === 'iscsi')) continue;
      wrong.push(`${path} includes ${header}`);
    }
  }
  expect(wrong).toEqual([]);
});

test('SCSI knows nothing of iSCSI, and only the addon knows Node', () => {
  const scsi = cpp.filter(({ path }) => path.startsWith('native/iscsi/scsi/'));
  expect(matches(scsi, /#include "iscsi\/(?!scsi\/)/)).toEqual([]);
  const outsideAddon = cpp.filter(({ path }) => !path.startsWith('native/addon/'));
  expect(matches(outsideAddon, /#include [<"](node_api|napi|js_native_api|uv)\.h/)).toEqual([]);
});

// engine/: which folders a folder may import from, besides its own. `generated` and `errors` are open to all.
const engineLayers: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  async: [],
  log: [],
  os: ['async'],
  config: [],
  addon: [],
  process: ['security', 'async', 'log', 'os'],
  replica: ['filesystem', 'security', 'addon', 'process', 'log', 'os'],
  target: ['filesystem', 'security', 'addon', 'process', 'async', 'log', 'os'],
  metastore: ['async', 'log', 'os'],
  security: ['os'],
  placement: ['config'],
  manager: ['filesystem', 'nfs', 'metastore', 'security', 'placement', 'config', 'async', 'log', 'os', 'process'],
  filesystem: ['addon', 'os'],
  nfs: [],
  api: ['security', 'async', 'os'],
  agent: ['api', 'nfs', 'filesystem', 'security', 'config', 'async', 'log', 'os', 'process'],
  up: ['security', 'api', 'manager', 'agent', 'metastore', 'config', 'async', 'log', 'os', 'process'],
  cli: ['nfs', 'filesystem', 'security', 'metastore', 'api', 'up', 'manager', 'agent', 'config', 'async', 'log', 'os'],
};
const openToAll = ['generated', 'errors'];

test('TypeScript imports go only downwards', () => {
  const wrong: string[] = [];
  for (const { path, text } of typescript) {
    // A test may bring together what it tests with.
    if (!path.startsWith('engine/') || /\.test\.ts$|\/testing\//.test(path)) continue;
    const folder = path.split('/')[1] ?? '';
    const allowed = engineLayers[folder];
    expect(allowed, `engine/${folder} is in the table of layers`).toBeDefined();
    for (const [, specifier = ''] of text.matchAll(/(?:from|import) '(\.[^']+)'/g)) {
      const target = relative(root, resolve(root, dirname(path), specifier)).split('/');
      const targetFolder = target[1] ?? '';
      const inside = target[0] === 'engine' && (targetFolder === folder || openToAll.includes(targetFolder));
      if (!inside && !(target[0] === 'engine' && allowed?.includes(targetFolder)))
        wrong.push(`${path} imports ${specifier}`);
    }
  }
  expect(wrong).toEqual([]);
});

test('only engine/addon loads the addon', () => {
  const others = typescript.filter(({ path }) => !path.startsWith('engine/addon/') && !path.startsWith('test/'));
  expect(matches(others, /process\.dlopen|holdfast\.node|addon\/native\.js/)).toEqual([]);
});

// ---- size ----

const linesMax = 700;

test(`no source file is longer than ${linesMax} lines`, () => {
  const long = [...cpp, ...typescript]
    .map(({ path, text }) => ({ path, lines: text.split('\n').length }))
    .filter(({ path, lines }) => lines > linesMax && basename(path) !== 'error-codes.ts');
  expect(long).toEqual([]);
});

test('every source file says at its head what it is', () => {
  const silent = [...cpp, ...typescript]
    .filter(({ path }) => !/\.test\.ts$|_test\.cc$/.test(path))
    // A .cc file is described by the header of its name.
    .filter(({ path }) => !(path.endsWith('.cc') && cpp.some((other) => other.path === path.replace(/\.cc$/, '.h'))))
    .filter(({ text }) => !/^(\/\/|\/\*|#!)/.test(text))
    .map(({ path }) => path);
  expect(silent).toEqual([]);
});

// ---- words ----

test('nothing is left for later', () => {
  const self = 'test/tidy.test.ts';
  const sources = files.filter(({ path }) => path !== self && !path.endsWith('.md'));
  expect(matches(sources, /\b(TODO|FIXME|XXX|HACK)\b/)).toEqual([]);
});

test('no path of one machine, no registry', () => {
  const self = 'test/tidy.test.ts';
  const pattern = /(^|[\s"'`(=:])\/(work|home\/\w+|root)\/|registry\.npmjs|"resolved":/;
  expect(
    matches(
      // Where a checkout of git is not its only one, .git is a file.
      files.filter(({ path }) => path !== self && path !== '.git'),
      pattern,
    ),
  ).toEqual([]);
  expect(readFileSync(join(root, 'package-lock.json'), 'utf8')).not.toMatch(/"resolved":/);
});

// ---- errors ----

test('the table of errors, its code and its page agree', () => {
  execFileSync(process.execPath, [join(root, 'scripts/generate-errors.mjs'), '--check'], { stdio: 'pipe' });
  const page = readFileSync(join(root, 'docs/errors.md'), 'utf8');
  const header = readFileSync(join(root, 'native/base/error_codes.h'), 'utf8');
  for (const code of Object.keys(errorCodes)) {
    expect(page).toContain(`\`${code}\``);
    expect(header).toContain(`"${code}"`);
  }
});

test('every error is produced by a test', () => {
  // Statements of tests that expect something, and rows of their tables.
  const statements = files
    .filter(({ path }) => /(\.test\.ts|_test\.cc)$/.test(path) && path !== 'test/tidy.test.ts')
    .flatMap(({ text }) => text.split(/;\s*\n/))
    .filter((statement) => /\b(expect|EXPECT_\w+|ASSERT_\w+)\b/.test(statement));
  const page = readFileSync(join(root, 'docs/errors.md'), 'utf8');
  const codes = [...page.matchAll(/^\| `([A-Z_]+)` \|/gm)].map(([, code = '']) => code);
  expect(codes.length).toBe(Object.keys(errorCodes).length);
  const unproven = codes.filter((code) => {
    const words = code.split('_').map((word) => word.slice(0, 1) + word.slice(1).toLowerCase());
    const mention = new RegExp(`['"]${code}['"]|ErrorCode::k${words.join('')}\\b`);
    return !statements.some((statement) => mention.test(statement));
  });
  expect(unproven).toEqual([]);
});

test('the entry points of package.json exist among the sources', () => {
  const { bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { bin: Record<string, string> };
  for (const path of Object.values(bin)) {
    expect(files.map((file) => file.path)).toContain(path.replace(/^dist\//, 'engine/').replace(/\.js$/, '.ts'));
  }
});
