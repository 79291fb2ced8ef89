// A small Linux guest with the kernel's own iSCSI initiator and NFS client, made of this distribution's packages: a kernel, and an
// initramfs in .cache/guest. Made once; made again when this folder changes or the kernel package does.
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createHash } from 'node:crypto';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { root } from '../build.mjs';

const here = import.meta.dirname;
export const guestFolder = join(root, '.cache/guest');

const packages = ['busybox-static', 'open-iscsi', 'libopeniscsiusr', 'libisns0', 'nfs-common', 'e2fsprogs', 'xfsprogs'];
const programs = [
  'sbin/iscsid',
  'sbin/iscsiadm',
  'sbin/mount.nfs',
  'usr/sbin/mount.nfs',
  'usr/sbin/xfs_growfs',
  'sbin/mke2fs',
  'sbin/e2fsck',
  'sbin/resize2fs',
  'sbin/mkfs.xfs',
  'sbin/xfs_repair',
];
const modules = [
  'virtio_pci',
  'virtio_net',
  'virtio_console',
  '9p',
  '9pnet_virtio',
  'iscsi_tcp',
  'sd_mod',
  'ext4',
  'xfs',
  'nfs',
  'nfsv4',
  'crc32c_generic',
  'crc32c_intel',
];

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  if (result.error) throw new Error(`${command} could not be run: ${result.error.message}`);
  if (result.status !== 0 && options.mayFail !== true) {
    throw new Error(`${command} ${args.slice(0, 4).join(' ')} failed: ${result.stderr.trim().slice(-500)}`);
  }
  return result.stdout;
}

/** Makes the guest if it is missing or out of date. Throws with the reason when that is not possible. */
export function buildGuest(log = console.log) {
  const kernel = kernelPackage();
  const sources = readdirSync(here).map((name) => readFileSync(join(here, name), 'utf8'));
  const version = createHash('sha256')
    .update(JSON.stringify([kernel, sources]))
    .digest('hex');
  const stamp = join(guestFolder, 'version');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === version) return;
  log(`guest: making it of ${kernel}`);
  const work = mkdtempSync(join(tmpdir(), 'holdfast-guest-'));
  try {
    const stage = join(work, 'stage');
    for (const name of [kernel, ...packages]) run('dpkg-deb', ['-x', fetchPackage(name), stage]);
    const image = join(work, 'image');
    mkdirSync(image);
    addPrograms(stage, image);
    addModules(stage, image, work);
    addConfiguration(stage, image);
    run('sh', ['-c', 'find . | cpio -o -H newc --quiet >"$0"', join(guestFolder, 'initramfs')], { cwd: image });
    const [vmlinuz] = readdirSync(join(stage, 'boot')).filter((name) => name.startsWith('vmlinuz-'));
    copyFileSync(join(stage, 'boot', vmlinuz), join(guestFolder, 'vmlinuz'));
    writeFileSync(stamp, version);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function kernelPackage() {
  const meta = run('dpkg', ['--print-architecture']).trim() === 'amd64' ? 'linux-image-amd64' : 'linux-image-arm64';
  for (const name of [meta, 'linux-image-generic']) {
    const found = /Depends: (linux-image-\d\S*)/.exec(run('apt-cache', ['depends', name], { mayFail: true }));
    if (found) return found[1];
  }
  throw new Error('no kernel package is known to apt');
}

// Each is downloaded once.
function fetchPackage(name) {
  const folder = join(guestFolder, 'debs');
  mkdirSync(folder, { recursive: true });
  const find = () => readdirSync(folder).find((file) => file.startsWith(`${name}_`));
  if (find() === undefined) run('apt-get', ['download', '-q', name], { cwd: folder });
  return join(folder, find());
}

function put(from, image, path) {
  const target = join(image, path);
  if (existsSync(target)) return;
  mkdirSync(dirname(target), { recursive: true });
  copyFileSync(from, target);
  chmodSync(target, 0o755);
}

// Programs of the packages, with the shared libraries that they name; those that the packages lack come from this host.
function addPrograms(stage, image) {
  put(join(stage, 'bin/busybox'), image, 'bin/busybox');
  const libraryPath = ['lib/x86_64-linux-gnu', 'usr/lib/x86_64-linux-gnu', 'usr/lib', 'lib'].map((part) =>
    join(stage, part),
  );
  const env = { ...process.env, LD_LIBRARY_PATH: libraryPath.join(':') };
  for (const program of programs.filter((path) => existsSync(join(stage, path)))) {
    put(join(stage, program), image, program);
    for (const line of run('ldd', [join(stage, program)], { env, mayFail: true }).split('\n')) {
      const [, library] = /(?:=> |^\s+)(\/\S+)/.exec(line) ?? [];
      if (library === undefined) continue;
      put(library, image, library.startsWith(stage) ? library.slice(stage.length + 1) : library);
    }
  }
  const locker = join(image, 'usr/bin/locker');
  mkdirSync(dirname(locker), { recursive: true });
  run('cc', ['-O2', '-static', '-o', locker, join(here, 'locker.c')]);
}

function addModules(stage, image, work) {
  const [version] = readdirSync(join(stage, 'lib/modules'));
  run('depmod', ['-b', stage, version]);
  const files = new Set();
  for (const name of modules) {
    const list = run('modprobe', ['-d', stage, '-S', version, '--show-depends', name], { mayFail: true });
    for (const [, file] of list.matchAll(/^insmod (\S+)/gm)) files.add(file);
  }
  for (const file of files) put(file, image, file.slice(stage.length + 1));
  for (const name of ['modules.order', 'modules.builtin', 'modules.builtin.modinfo']) {
    put(join(stage, 'lib/modules', version, name), image, join('lib/modules', version, name));
  }
  run('depmod', ['-b', image, version]);
  if (lstatSync(work).isDirectory()) mkdirSync(join(image, 'sbin'), { recursive: true });
}

function addConfiguration(stage, image) {
  put(join(here, 'init.sh'), image, 'init');
  for (const link of ['sbin/mkfs.ext4']) symlinkSync('mke2fs', join(image, link));
  symlinkSync('../bin/busybox', join(image, 'sbin/modprobe'));
  const [mountNfs] = ['sbin/mount.nfs', 'usr/sbin/mount.nfs'].filter((path) => existsSync(join(image, path)));
  for (const name of ['mount.nfs4', 'umount.nfs', 'umount.nfs4']) {
    symlinkSync(basename(mountNfs), join(image, dirname(mountNfs), name));
  }
  const files = {
    'etc/iscsi/iscsid.conf':
      'node.startup = manual\nnode.session.timeo.replacement_timeout = 120\nnode.conn[0].timeo.noop_out_interval = 2\n' +
      'node.conn[0].timeo.noop_out_timeout = 3\nnode.session.scan = auto\n',
    'etc/passwd': 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n',
    'etc/group': 'root:x:0:\nnogroup:x:65534:\n',
    'etc/hosts': '127.0.0.1 localhost\n',
    'etc/nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files\n',
    'etc/protocols': 'tcp 6 TCP\nudp 17 UDP\n',
  };
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(image, dirname(path)), { recursive: true });
    writeFileSync(join(image, path), text);
  }
  symlinkSync('/proc/mounts', join(image, 'etc/mtab'));
  const netconfig =
    ['etc/netconfig'].map((path) => join(stage, path)).find((path) => existsSync(path)) ?? '/etc/netconfig';
  if (existsSync(netconfig)) put(netconfig, image, 'etc/netconfig');
}
