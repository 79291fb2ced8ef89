// Makes a fresh Debian 12 (or newer) or Ubuntu 24.04 able to build, try and test Holdfast:
//   node scripts/setup.mjs [build|demo|test|guest]      (default: test)
// Installs what is missing with apt-get, as root or through sudo. Where it may not, it prints the exact line to run and
// ends with exit code 1. With nothing missing it takes some milliseconds.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { root } from './build.mjs';

const buildPackages = [
  'g++',
  'cmake',
  'ninja-build',
  'pkg-config',
  'ccache',
  'protobuf-compiler',
  'liburing-dev',
  'libnghttp2-dev',
  'libprotozero-dev',
  'librocksdb-dev',
  'libisal-dev',
  'libssl-dev',
];
// Real initiators, and file systems to put on a volume.
const demoPackages = [...buildPackages, 'libiscsi-bin', 'qemu-utils', 'qemu-block-extra', 'e2fsprogs'];
const testPackages = [
  ...demoPackages,
  'git',
  'libgtest-dev',
  'libgmock-dev',
  'libbenchmark-dev',
  'clang',
  'clang-format-14?', // the version that the sources are formatted with; newer distributions lack it
  'qemu-system-common', // qemu-storage-daemon
  'libnbd-bin',
  'fuse3',
  'xfsprogs',
  'fio',
  'util-linux',
  'iproute2',
  'nftables',
  'etcd-server',
];
// What the test of shared volumes needs, and an NFS server for the shared volumes themselves.
const sharePackages = ['nfs-ganesha', 'nfs-ganesha-vfs'];
testPackages.push(...sharePackages, 'libnfs-utils', 'rpcbind');
const guestPackages = [...testPackages, 'qemu-system-x86', 'cpio', 'kmod', 'busybox-static?'];
const groups = {
  build: buildPackages,
  demo: demoPackages,
  test: testPackages,
  guest: guestPackages,
};

/** Those of `packages` that are not installed. A name that ends in `?` may be missing where the distribution lacks it. */
function missingPackages(packages) {
  const names = packages.map((name) => name.replace('?', ''));
  const query = spawnSync('dpkg-query', ['-W', '-f', '${Package} ${db:Status-Status}\\n', ...names], {
    encoding: 'utf8',
  });
  if (query.error) return null; // not a Debian
  const installed = new Set();
  for (const line of query.stdout.split('\n')) {
    const [name, status] = line.split(' ');
    if (status === 'installed') installed.add(name);
  }
  // pkgconf has taken the place of pkg-config where the old name is only an alias.
  if (!installed.has('pkg-config') && existsSync('/usr/bin/pkg-config')) installed.add('pkg-config');
  return packages.filter((name) => !installed.has(name.replace('?', '')));
}

function isKnownToApt(name) {
  const policy = spawnSync('apt-cache', ['policy', name], { encoding: 'utf8' });
  return /Candidate: (?!\(none\))/.test(policy.stdout ?? '');
}

/**
 * The runtimes of clang's sanitizers and fuzzer, without which it compiles but does not link. They are a package of their
 * own where clang only recommends them, named after the version that the distribution calls clang.
 */
function missingClangRuntime() {
  const query = spawnSync('dpkg-query', ['-W', '-f', '${db:Status-Status}\\n', 'libclang-rt-*-dev'], {
    encoding: 'utf8',
  });
  if (query.stdout.split('\n').includes('installed')) return [];
  const depends = spawnSync('apt-cache', ['depends', 'clang'], { encoding: 'utf8' });
  const name = `libclang-rt-${/Depends: clang-(\d+)/.exec(depends.stdout ?? '')?.[1]}-dev`;
  return isKnownToApt(name) ? [name] : [];
}

/** How to become root without a question: a list of words before the command, or null. */
function rootPrefix() {
  if (process.getuid() === 0) return [];
  if (spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0) return ['sudo', '-n'];
  const asks = process.stdin.isTTY && spawnSync('sudo', ['-V'], { stdio: 'ignore' }).status === 0;
  return asks ? ['sudo'] : null;
}

function aptGet(prefix, args) {
  const [command, ...rest] = [...prefix, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', ...args];
  return spawnSync(command, rest, { stdio: ['inherit', 'inherit', 'inherit'] }).status === 0;
}

class SetupError extends Error {}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  throw new SetupError(`Node ${process.versions.node} is too old: Holdfast needs 20.19 or later.`);
}

/** Installs the Debian packages of a group. Throws a SetupError that says what to do. */
export function setupSystem(group, log = console.log) {
  checkNode();
  if (process.platform !== 'linux') throw new SetupError('Holdfast runs on Linux only: its data plane is io_uring.');
  if (process.env.HOLDFAST_SKIP_SETUP === '1') return;
  let missing = missingPackages(groups[group]);
  if (missing === null) {
    throw new SetupError(
      'This script knows Debian and Ubuntu only. Install what these packages hold, then set HOLDFAST_SKIP_SETUP=1:\n' +
        `  ${groups[group].map((name) => name.replace('?', '')).join(' ')}`,
    );
  }
  const missingRuntime = () => (groups[group].includes('clang') ? missingClangRuntime() : []);
  const required = [...missing.filter((name) => !name.endsWith('?')), ...missingRuntime()];
  if (required.length === 0) return; // an optional one alone is not worth asking for rights
  const prefix = rootPrefix();
  if (prefix === null) {
    throw new SetupError(
      'System packages are missing, and installing them takes root. Run this line, then try again:\n' +
        `  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${required.join(' ')}`,
    );
  }
  log(`setup: installing ${required.join(' ')}`);
  const updated = aptGet(prefix, ['update', '-q']);
  missing = missing.filter((name) => !name.endsWith('?') || isKnownToApt(name.replace('?', '')));
  missing.push(...missingRuntime()); // the lists of packages are there now
  const install = ['install', '-y', '-q', '--no-install-recommends', ...missing.map((name) => name.replace('?', ''))];
  if (!aptGet(prefix, install)) {
    throw new SetupError(
      `apt-get could not install the packages${updated ? '' : ' (and apt-get update failed: is there a network?)'}. ` +
        `Its messages are above. When they are dealt with, run:\n  apt-get ${install.join(' ')}`,
    );
  }
}

function lockedPackages(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).packages;
  } catch {
    return {};
  }
}

/** Runs `npm ci` unless node_modules holds exactly what package-lock.json says. */
export function setupNpm(log = console.log) {
  const wanted = lockedPackages(join(root, 'package-lock.json'));
  const present = lockedPackages(join(root, 'node_modules/.package-lock.json'));
  const stale = Object.entries(wanted).some(
    ([path, { optional, version }]) => path !== '' && !optional && present[path]?.version !== version,
  );
  if (!stale) return;
  log('setup: installing npm packages');
  const result = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (result.status !== 0) throw new SetupError('npm ci failed; its messages are above. Is the registry reachable?');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const group = process.argv[2] ?? 'test';
  if (!Object.hasOwn(groups, group)) {
    console.error(`unknown group ${group}; there are: ${Object.keys(groups).join(', ')}`);
    process.exit(2);
  }
  try {
    setupSystem(group);
    setupNpm();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    console.error(`setup: ${error.message}`);
    process.exit(1);
  }
}
