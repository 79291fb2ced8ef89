// npm run test:guest: the initiator and the NFS client that most users have, those of Linux, against a real cluster. They run in
// a small guest (guest/build-guest.mjs) under qemu without KVM; this machine's loopback is 10.0.2.2 there. Takes root, FUSE,
// loop devices and some minutes; needs no kernel modules of this machine.
//   node scripts/test-guest.mjs [iscsi|nfs|fail-over]...
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from './build.mjs';
import { setupNpm, setupSystem } from './setup.mjs';
import { buildGuest, guestFolder } from './guest/build-guest.mjs';
import { endKeepers } from './guest/keepers.mjs';

const began = performance.now();
const say = (text) => console.log(`${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}`);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const folder = mkdtempSync(join(tmpdir(), 'holdfast-test-guest-'));
const children = new Set();
const usedLoops = () =>
  readdirSync('/sys/block').filter((name) => existsSync(join('/sys/block', name, 'loop/backing_file')));
const devicesBefore = new Set(usedLoops());

async function until(what, timeoutMs, look) {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (performance.now() > deadline) throw new Error(`${what}: not within ${timeoutMs / 1000} s`);
    await sleep(100);
  }
}

// ---- the guest ----

/** Runs a script in a guest; resolves when it ended with 0. `share` is /share there. */
async function guest(name, share, script, timeoutMs = 300_000) {
  const work = mkdtempSync(join(folder, `${name}-`));
  mkdirSync(join(work, 'job'));
  writeFileSync(join(work, 'job/run.sh'), script);
  spawnSync('sh', ['-c', 'find job | cpio -o -H newc --quiet >"$0"', join(work, 'job.cpio')], { cwd: work });
  // A second archive behind the first: the kernel unpacks both.
  const joined = spawnSync('sh', [
    '-c',
    'cat "$0" "$1" >"$2"',
    join(guestFolder, 'initramfs'),
    join(work, 'job.cpio'),
    join(work, 'initrd'),
  ]);
  if (joined.status !== 0) throw new Error('the initramfs could not be written');
  const [console_, output, status] = ['console', 'output', 'status'].map((file) => join(work, file));
  const port = (id, path) => [
    '-chardev',
    `file,id=${id},path=${path}`,
    '-device',
    `virtserialport,chardev=${id},name=${id}`,
  ];
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...['-M', 'pc', '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '1', '-m', '640'],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
      ...['-kernel', join(guestFolder, 'vmlinuz'), '-initrd', join(work, 'initrd'), '-serial', `file:${console_}`],
      ...[
        '-device',
        'virtio-rng-pci',
        '-device',
        'virtio-serial-pci',
        ...port('output', output),
        ...port('status', status),
      ],
      ...['-netdev', 'user,id=net,ipv6=off', '-device', 'virtio-net-pci,netdev=net'],
      ...['-virtfs', `local,path=${share},mount_tag=share,security_model=none,multidevs=remap`],
      ...[
        '-append',
        `console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on net.ifnames=0 holdfast.name=${name}`,
      ],
    ],
    { stdio: 'ignore' },
  );
  children.add(child);
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  await new Promise((resolve) => child.once('exit', resolve));
  clearTimeout(timer);
  children.delete(child);
  const read = (path) => (existsSync(path) ? readFileSync(path, 'utf8') : '');
  for (const line of read(output).trimEnd().split('\n')) say(`  ${name}: ${line}`);
  const code = read(status).trim();
  if (code === '0') return;
  throw new Error(
    `guest ${name} ${code === '' ? `gave no status:\n${read(console_).slice(-2_000)}` : `ended with ${code}`}`,
  );
}

// ---- the cluster ----

async function freePorts(count) {
  const servers = [];
  for (let i = 0; i < count; i++) {
    const server = createServer();
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    servers.push(server);
  }
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

let server = '';

function cli(...args) {
  const result = spawnSync(process.execPath, [join(root, 'dist/cli/main.js'), ...args, '--json', '--server', server], {
    encoding: 'utf8',
    timeout: 120_000,
  });
  if (result.status !== 0) throw new Error(`holdfast ${args.join(' ')}: ${result.stderr.trim()}`);
  return JSON.parse(result.stdout);
}

async function startCluster() {
  const [api] = await freePorts(1);
  server = `127.0.0.1:${api}`;
  const child = spawn(
    process.execPath,
    [
      join(root, 'dist/cli/main.js'),
      'up',
      '--json',
      '--data',
      join(folder, 'cluster'),
      '--api',
      server,
      '--iscsi',
      '127.0.0.1:0',
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  await new Promise((resolve, reject) => {
    child.stdout.once('data', resolve);
    child.once('exit', () => reject(new Error('holdfast up ended')));
  });
  return child;
}

function processesOf(node) {
  const marker = `${join(folder, 'cluster', node)}/`;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/cmdline`, 'latin1').includes(marker);
      } catch {
        return false;
      }
    })
    .map(Number);
}

function killAll(pids) {
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It is gone already.
    }
  }
}

// ---- the tests ----

const shareFolder = (name) => {
  const path = join(folder, `share-${name}`);
  mkdirSync(path);
  return path;
};

/** What guest and host tell each other: files in the shared folder. */
const shellHelpers = `
say() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }
tell() { : >/share/$1; }
hear() { n=0; while [ ! -e /share/$1 ]; do n=$((n+1)); [ $n -lt 1200 ] || { say "nobody said $1"; exit 9; }; sleep 0.2; done; }
`;

async function testInitiator(fs) {
  cli('volume', 'create', `disk-${fs}`, '--size', '512Mi');
  const { iscsi } = cli('volume', 'attach', `disk-${fs}`);
  const share = shareFolder(fs);
  const grow = fs === 'ext4' ? 'resize2fs /dev/sda >/dev/null 2>&1' : 'xfs_growfs /mnt/d >/dev/null';
  const check = fs === 'ext4' ? 'e2fsck -fn' : 'xfs_repair -n';
  const portal = `10.0.2.2:${iscsi.portal.split(':').at(-1)}`;
  // Those that "holdfast map --via iscsi" runs.
  const { loginCommands, logoutCommands } = await import(join(root, 'dist/cli/kernel-initiator.js'));
  const shell = (commands) => commands.map((args) => `iscsiadm ${args.join(' ')} >/dev/null`).join('; ');
  const login = shell(loginCommands(iscsi.iqn, portal));
  const logout = shell(logoutCommands(iscsi.iqn));
  const script = `${shellHelpers}
iscsid
# Where the command finds the disk: LUN 0 of the session with this target.
sysfs() { for s in /sys/class/iscsi_session/*; do [ "$(cat $s/targetname)" != ${iscsi.iqn} ] || ls $s/device/target*/*:*:*:0/block; done 2>/dev/null; }
disk() { n=0; while [ "$(sysfs)" != sda ] || [ ! -b /dev/sda ]; do n=$((n+1)); [ $n -lt 100 ] || exit 8; sleep 0.1; done; }
${login}; disk; say "logged in"
mkfs.${fs} -q /dev/sda; mkdir -p /mnt/d; mount -t ${fs} /dev/sda /mnt/d; say "mkfs, mount"
dd if=/dev/urandom of=/mnt/d/data bs=1M count=24 2>/dev/null; sync
(cd /mnt/d && sha256sum data >sum); sync; say "24 MiB written and synced"
umount /mnt/d; echo 3 >/proc/sys/vm/drop_caches
mount -t ${fs} /dev/sda /mnt/d; (cd /mnt/d && sha256sum -c sum >/dev/null); say "the same after another mount"
fstrim /mnt/d && say "trimmed"
umount /mnt/d; tell snapshot; hear snapshot-taken
mount -t ${fs} /dev/sda /mnt/d; dd if=/dev/zero of=/mnt/d/data bs=1M count=24 2>/dev/null; sync; umount /mnt/d
${logout}; tell revert; hear reverted
${login}; disk; mount -t ${fs} /dev/sda /mnt/d; (cd /mnt/d && sha256sum -c sum >/dev/null); say "the snapshot's content after the revert"
tell resize; hear resized; echo 1 >/sys/block/sda/device/rescan
[ "$(blockdev --getsize64 /dev/sda)" = ${640 * 2 ** 20} ]; ${grow}; say "grown with its volume, while mounted"
umount /mnt/d; ${check} /dev/sda >/dev/null 2>&1; say "fsck finds it clean"
${logout}
[ -z "$(sysfs)" ]; [ -z "$(iscsiadm -m node 2>/dev/null)" ]; say "nothing is left after the logout"
`;
  const running = guest(`initiator-${fs}`, share, script);
  const failed = running.then(
    () => null,
    (error) => error,
  );
  const heard = (name) =>
    Promise.race([
      until(name, 240_000, () => existsSync(join(share, name))),
      failed.then((error) => {
        if (error) throw error;
      }),
    ]);
  await heard('snapshot');
  const name = `disk-${fs}`;
  cli('snapshot', 'create', name, 'before');
  writeFileSync(join(share, 'snapshot-taken'), '');
  await heard('revert');
  cli('volume', 'detach', name);
  cli('snapshot', 'revert', name, 'before');
  cli('volume', 'attach', name);
  writeFileSync(join(share, 'reverted'), '');
  await heard('resize');
  cli('volume', 'resize', name, '--size', '640Mi');
  writeFileSync(join(share, 'resized'), '');
  await running;
}

const mountAt = ({ port, path }, version) =>
  `mkdir -p /mnt/n; mount.nfs 10.0.2.2:${path} /mnt/n -o vers=${version},proto=tcp,port=${port},hard; say "mounted over NFS ${version}"`;

async function testNfs() {
  cli('volume', 'create', 'shared', '--size', '512Mi', '--access', 'rwx', '--nfs-squash', 'none');
  const { nfs } = cli('volume', 'attach', 'shared');
  const share = shareFolder('nfs');
  const first = `${shellHelpers}
for version in 4.0 4.1 4.2; do
  ${mountAt(nfs, '$version')}
  d=/mnt/n/d$version; mkdir $d; dd if=/dev/urandom of=/tmp/x bs=64k count=64 2>/dev/null
  cp /tmp/x $d/x; sync; echo 3 >/proc/sys/vm/drop_caches; cmp /tmp/x $d/x
  mv $d/x $d/y; ln $d/y $d/hard; ln -s y $d/soft; [ "$(readlink $d/soft)" = y ]; [ "$(stat -c %h $d/y)" = 2 ]
  chmod 640 $d/y; chown 1001:1002 $d/y; [ "$(stat -c '%a %u %g' $d/y)" = "640 1001 1002" ]; truncate -s 1000 $d/y
  exec 8<$d/y; rm $d/y $d/hard; [ "$(wc -c <&8)" = 1000 ]; exec 8<&-
  rm -r $d; umount /mnt/n; say "files, links, attributes"
done
${mountAt(nfs, '4.2')}
for kind in fcntl flock; do
  locker $kind hold /mnt/n/lock.$kind /share/$kind.free >/tmp/held & holder=$!
  until grep -q locked /tmp/held; do sleep 0.1; done
  echo "from the first" >/mnt/n/seen.$kind; sync; tell $kind.held; hear $kind.refused
  tell $kind.free; wait $holder; tell $kind.let-go; hear $kind.taken; say "$kind excludes the other guest"
done
grep -q "from the second" /mnt/n/answer && say "sees what the other wrote"
umount /mnt/n
`;
  const second = `${shellHelpers}
${mountAt(nfs, '4.2')}
for kind in fcntl flock; do
  hear $kind.held; grep -q "from the first" /mnt/n/seen.$kind
  rc=0; locker $kind try /mnt/n/lock.$kind || rc=$?; [ $rc = 3 ] || { say "$kind: not refused ($rc)"; exit 7; }
  tell $kind.refused; hear $kind.let-go; locker $kind try /mnt/n/lock.$kind
  echo "from the second" >/mnt/n/answer; sync; tell $kind.taken
done
umount /mnt/n
`;
  await Promise.all([guest('first', share, first), guest('second', share, second)]);
}

/** Two guests write and hold locks while the NFS server, and then its whole node, are killed. */
async function testFailOver() {
  cli('volume', 'create', 'hardy', '--size', '512Mi', '--access', 'rwx', '--nfs-squash', 'none');
  const { nfs, node } = cli('volume', 'attach', 'hardy', '--node', 'node3');
  const share = shareFolder('fail-over');
  const kinds = { 'holder-a': 'fcntl', 'holder-b': 'flock' };
  // Each holds a lock under which a synced line is written every second, checks that the other's is refused, and writes numbered
  // records whose last acknowledged one it tells.
  const script = (me, other) => `${shellHelpers}
${mountAt(nfs, '4.1')}
locker ${kinds[me]} hold /mnt/n/lock.${me} /share/end >/tmp/held & holder=$!
until grep -q locked /tmp/held; do sleep 0.1; done
tell ${me}.ready; hear ${other}.ready
i=0
while [ ! -e /share/end ]; do
  i=$((i+1)); echo "record $i" >>/mnt/n/log.${me}; sync /mnt/n/log.${me} 2>/dev/null || sync; echo $i >/share/${me}.count.new; mv /share/${me}.count.new /share/${me}.count
  for phase in server node; do
    if [ -e /share/$phase.check ] && [ ! -e /share/${me}.$phase.checked ]; then
      rc=0; locker ${kinds[other]} try /mnt/n/lock.${other} || rc=$?
      [ $rc = 3 ] || { say "$phase: the other's lock was not kept ($rc)"; exit 7; }
      say "the other's lock was kept after the loss of the $phase"; tell ${me}.$phase.checked
    fi
  done
  sleep 0.2
done
wait $holder
seq 1 $i | sed 's/^/record /' >/tmp/expected; cmp /tmp/expected /mnt/n/log.${me}; say "all $i records are there"
umount /mnt/n
`;
  const running = Promise.all([
    guest('holder-a', share, script('holder-a', 'holder-b'), 420_000),
    guest('holder-b', share, script('holder-b', 'holder-a'), 420_000),
  ]);
  const broken = running.then(
    () => null,
    (error) => error,
  );
  const orBroken = (promise) =>
    Promise.race([
      promise,
      broken.then((error) => {
        throw error ?? new Error('the guests ended early');
      }),
    ]);
  const counts = () =>
    Object.keys(kinds).map((name) => {
      const path = join(share, `${name}.count`);
      return existsSync(path) ? Number(readFileSync(path, 'utf8')) : 0;
    });
  const bothGoOn = async (what, limitMs) => {
    const start = performance.now();
    const before = counts();
    await orBroken(
      until(`${what}: both guests write again`, limitMs + 30_000, () =>
        counts().every((count, i) => count > before[i] + 1),
      ),
    );
    const took = performance.now() - start;
    say(`${what}: both write again after ${(took / 1000).toFixed(1)} s`);
    if (took > limitMs) throw new Error(`${what}: that is more than ${limitMs / 1000} s`);
  };
  const checkLocks = async (phase) => {
    writeFileSync(join(share, `${phase}.check`), '');
    const names = Object.keys(kinds).map((name) => join(share, `${name}.${phase}.checked`));
    await orBroken(until('both have looked at locks', 60_000, () => names.every((path) => existsSync(path))));
  };
  await orBroken(until('both guests write', 120_000, () => counts().every((count) => count > 3)));

  const { pid } = cli('process', 'ls').find((row) => row.role === 'nfs' && row.volume === 'hardy');
  process.kill(pid, 'SIGKILL');
  await bothGoOn('NFS server killed', 10_000);
  await checkLocks('server');

  // The node stays away: whatever `holdfast up` starts of it is killed again.
  killAll(processesOf(node));
  const doomed = setInterval(() => killAll(processesOf(node)), 50);
  try {
    await bothGoOn('node killed', 30_000);
    await checkLocks('node');
    writeFileSync(join(share, 'end'), '');
    await running;
  } finally {
    clearInterval(doomed);
  }
}

// What a killed node left mounted is let go of first.
function removeFolder() {
  for (const line of readFileSync('/proc/mounts', 'utf8').split('\n').reverse()) {
    const directory = line.split(' ')[1] ?? '';
    if (directory.startsWith(`${folder}/`)) spawnSync('umount', ['-l', '-i', '-n', directory], { timeout: 10_000 });
  }
  for (const loop of usedLoops().filter((name) => !devicesBefore.has(name))) {
    const file = join('/sys/block', loop, 'loop/backing_file');
    if (/^\/( \(deleted\))?$|holdfast-test-guest-/.test(readFileSync(file, 'utf8').trim()))
      spawnSync('losetup', ['-d', `/dev/${loop}`]);
  }
  rmSync(folder, { recursive: true, force: true });
}

const tests = {
  iscsi: async () => {
    for (const fs of ['ext4', 'xfs']) await testInitiator(fs);
  },
  nfs: testNfs,
  'fail-over': testFailOver,
};

async function main() {
  const chosen = process.argv.slice(2);
  const names = chosen.length > 0 ? chosen : Object.keys(tests);
  const unknown = names.find((name) => !Object.hasOwn(tests, name));
  if (unknown !== undefined) throw new Error(`unknown test ${unknown}; there are: ${Object.keys(tests).join(', ')}`);
  setupSystem('guest');
  setupNpm();
  if (process.getuid() !== 0) throw new Error('local devices take root');
  buildGuest(say);
  const up = await startCluster();
  let failed = 0;
  try {
    for (const name of names) {
      say(`${name}:`);
      try {
        await tests[name]();
        say(`${name}: passed`);
      } catch (error) {
        failed++;
        say(`${name}: FAILED: ${error.message}`);
      }
    }
  } finally {
    for (const child of children) child.kill('SIGKILL');
    try {
      for (const { name, access } of cli('volume', 'ls'))
        if (access === 'rwx') cli('volume', 'detach', name, '--force');
    } catch (error) {
      say(`cleaning up: ${error.message}`);
    }
    const gone = new Promise((resolve) => up.once('exit', resolve));
    up.kill('SIGTERM');
    await gone;
    await endKeepers(join(folder, 'cluster'));
    removeFolder();
  }
  console.log(`${names.length - failed} passed, ${failed} failed`);
  process.exitCode = failed > 0 ? 1 : 0;
}

main().catch((error) => {
  console.error(`test-guest: ${error.message}`);
  process.exitCode = 1;
});
