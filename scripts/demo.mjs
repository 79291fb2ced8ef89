// npm run demo: from a fresh checkout to a replicated volume that survives the loss of a replica, told step by step.
//   npm run demo                 everything, then the cluster is stopped
//   npm run demo -- --keep       leaves the cluster running
//   npm run demo -- --stop       stops a cluster that was left running
// Installs what is missing, builds, starts three nodes on loopback with `holdfast up`, and uses the public command line and
// real initiators (libiscsi inside qemu) only. Everything it makes is in build/demo.
import { execFile, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { run as runShown, root } from './build.mjs';
import { setupNpm, setupSystem } from './setup.mjs';

const folder = join(root, 'build/demo');
const dataFolder = join(folder, 'cluster');
const upFile = join(folder, 'up.json'); // which cluster a demo left running
const upLog = join(folder, 'up.log');
const cli = join(root, 'dist/cli/main.js');
const volumeMiB = 512;
const fileMiB = 192;
const writeMiBPerSecond = 48; // slow enough that there is a middle to kill something in

class DemoError extends Error {}

// ---- telling ----

const colours = process.stdout.isTTY && !process.env.NO_COLOR;
const bold = (text) => (colours ? `\x1b[1m${text}\x1b[0m` : text);
const faint = (text) => (colours ? `\x1b[2m${text}\x1b[0m` : text);
const began = performance.now();
let step = 0;

function say(text) {
  console.log(`\n${bold(`${++step}. ${text}`)} ${faint(`(${((performance.now() - began) / 1000).toFixed(1)} s)`)}`);
}
function note(text) {
  console.log(`   ${text}`);
}
function shown(command) {
  console.log(faint(`   $ ${command}`));
}

// ---- running programs ----

function output(command, args, { timeoutMs = 120_000 } = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: timeoutMs });
  if (result.error) throw new DemoError(`${command}: ${result.error.message}`);
  if (result.status !== 0) {
    throw new DemoError(`${command} ${args.join(' ')} ended with ${result.status}:\n${result.stderr}${result.stdout}`);
  }
  return result.stdout;
}

/** One command of the public CLI, with its answer as data. */
function holdfast(server, ...args) {
  shown(`npx holdfast ${args.join(' ')}`);
  return query(server, ...args);
}
function query(server, ...args) {
  return JSON.parse(output(process.execPath, [cli, ...args, '--json', '--server', server]));
}

/** Lets go on what this process has to see in time. */
async function queryBeside(server, ...args) {
  const { stdout } = await promisify(execFile)(process.execPath, [cli, ...args, '--json', '--server', server]);
  return JSON.parse(stdout);
}

async function firstFreePort(wanted, count) {
  for (let first = wanted; first < wanted + 1000; first += count) {
    const free = await Promise.all(Array.from({ length: count }, (_, i) => isFree(first + i)));
    if (free.every(Boolean)) return first;
  }
  throw new DemoError(`no ${count} free ports from ${wanted} on`);
}
function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

// ---- the cluster ----

// A pid alone may be somebody else's by now; with the start time it is not.
function startTimeOf(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    return null;
  }
}

function keptCluster() {
  try {
    const kept = JSON.parse(readFileSync(upFile, 'utf8'));
    return startTimeOf(kept.pid) === kept.startTime ? kept : null;
  } catch {
    return null;
  }
}

async function stopCluster({ pid, startTime }) {
  if (startTimeOf(pid) !== startTime) return;
  process.kill(pid, 'SIGTERM');
  for (let waited = 0; startTimeOf(pid) === startTime; waited += 100) {
    if (waited > 40_000) throw new DemoError(`the cluster (pid ${pid}) does not stop; its log is ${upLog}`);
    await sleep(100);
  }
  rmSync(upFile, { force: true });
}

async function startCluster() {
  const api = `127.0.0.1:${await firstFreePort(7600, 1)}`;
  const iscsi = `127.0.0.1:${await firstFreePort(3260, 3)}`;
  const args = ['up', '--data', dataFolder, '--nodes', '3', '--api', api, '--iscsi', iscsi];
  shown(`npx holdfast ${args.join(' ')}`);
  const log = openSync(upLog, 'w');
  // A session of its own: Ctrl-C here must not take it down before this program has said goodbye, and --keep leaves it.
  const child = spawn(process.execPath, [cli, ...args, '--json'], { detached: true, stdio: ['ignore', log, log] });
  closeSync(log);
  let exited = false;
  child.once('exit', () => (exited = true));
  child.unref();
  for (let waited = 0; ; waited += 50) {
    const ready = readFileSync(upLog, 'utf8')
      .split('\n')
      .find((line) => line.includes('"ready":true'));
    if (ready !== undefined) {
      const cluster = { pid: child.pid, startTime: startTimeOf(child.pid), server: JSON.parse(ready).server };
      writeFileSync(upFile, JSON.stringify(cluster));
      return cluster;
    }
    if (exited || waited > 60_000) {
      throw new DemoError(`the cluster did not start; its log is ${upLog}:\n${readFileSync(upLog, 'utf8')}`);
    }
    await sleep(50);
  }
}

// ---- an image worth keeping ----

function makeImage(file) {
  const tree = join(folder, 'tree');
  mkdirSync(join(tree, 'docs'), { recursive: true });
  for (const name of readdirSync(join(root, 'docs'))) {
    if (statSync(join(root, 'docs', name)).isFile()) copyFileSync(join(root, 'docs', name), join(tree, 'docs', name));
  }
  mkdirSync(join(tree, 'photos'), { recursive: true });
  for (let i = 0; i < fileMiB / 8; i++) {
    writeFileSync(join(tree, 'photos', `${String(i).padStart(3, '0')}.jpg`), randomBytes(8 << 20));
  }
  rmSync(file, { force: true });
  output('mkfs.ext4', ['-q', '-F', '-L', 'holdfast-demo', '-d', tree, file, `${volumeMiB}M`]);
  rmSync(tree, { recursive: true });
}

function sha256(file) {
  const hash = createHash('sha256');
  const input = openSync(file, 'r');
  const buffer = Buffer.alloc(4 << 20);
  for (;;) {
    const count = readSync(input, buffer);
    if (count === 0) break;
    hash.update(buffer.subarray(0, count));
  }
  closeSync(input);
  return hash.digest('hex');
}

/** Writes the image through the initiator and kills the replica process half-way. */
async function writeAndKill(server, image, url, victim) {
  const args = [
    'convert',
    '-p',
    '-n',
    '-f',
    'raw',
    '-O',
    'raw',
    '-t',
    'none',
    '-r',
    `${writeMiBPerSecond}M`,
    image,
    url,
  ];
  shown(`qemu-img ${args.filter((arg) => arg !== '-p').join(' ')}`);
  const start = performance.now();
  const child = spawn('qemu-img', args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let problem = '';
  let percent = 0;
  let killedAt = null;
  let longestPause = 0;
  let lastProgress = performance.now();
  child.stderr.on('data', (chunk) => (problem += chunk));
  child.stdout.on('data', (chunk) => {
    const now = Number(/\((\d+\.\d+)\/100%\)[^(]*$/.exec(chunk.toString())?.[1] ?? percent);
    if (now <= percent) return;
    // The last step waits for zeros at the end of the image, which qemu-img holds to the same rate and counts beforehand.
    if (killedAt !== null && now < 99.9) longestPause = Math.max(longestPause, performance.now() - lastProgress);
    lastProgress = performance.now();
    percent = now;
    if (killedAt === null && percent >= 40 && percent < 100) {
      process.kill(victim.pid, 'SIGKILL');
      killedAt = percent;
      note(
        `at ${percent.toFixed(0)} %: kill -9 ${victim.pid}  (the replica process of ${victim.node}, ${victim.disk})`,
      );
    }
  });
  const seen = [];
  let running = true;
  const watching = (async () => {
    while (running) {
      const replicas = await queryBeside(server, 'replica', 'ls', 'demo');
      const states = replicas.map(({ node, state }) => `${node} ${state}`);
      if (states.join() !== seen.at(-1)?.join()) {
        seen.push(states);
        note(faint(`replicas: ${states.join(', ')}`));
      }
      await sleep(100);
    }
  })();
  const code = await new Promise((resolve) => child.once('close', resolve));
  running = false;
  await watching;
  if (code !== 0) throw new DemoError(`qemu-img could not write the image: ${problem}`);
  if (killedAt === null) throw new DemoError('the image was written before anything could be killed');
  return { seconds: (performance.now() - start) / 1000, longestPauseMs: longestPause };
}

async function waitUntilInSync(server) {
  for (let waited = 0; ; waited += 200) {
    const replicas = query(server, 'replica', 'ls', 'demo');
    if (replicas.every(({ state }) => state === 'in-sync')) return;
    if (waited > 90_000) throw new DemoError(`the replica is not back: ${JSON.stringify(replicas)}`);
    await sleep(200);
  }
}

// ---- the story ----

async function tell(keep) {
  say('System packages and npm packages');
  setupSystem('demo', note);
  setupNpm(note);
  note('all there');

  say('Build: the C++ data plane and the TypeScript control plane');
  runShown(process.execPath, ['scripts/build.mjs']);

  say('A cluster of three nodes on this machine');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const cluster = await startCluster();
  const { server } = cluster;
  try {
    await act(server);
  } catch (error) {
    await stopCluster(cluster);
    throw error;
  }
  return finish(cluster, keep);
}

const results = [];

async function act(server) {
  const processes = query(server, 'process', 'ls');
  note(
    `${processes.length} processes: a manager, and on each node an agent, an iSCSI target and a replica process per disk`,
  );

  say('A volume with three replicas, attached on node1');
  holdfast(server, 'volume', 'create', 'demo', '--size', `${volumeMiB}Mi`, '--replicas', '3');
  const { iscsi } = holdfast(server, 'volume', 'attach', 'demo', '--node', 'node1');
  for (const { node, disk, state } of query(server, 'replica', 'ls', 'demo'))
    note(`replica on ${node}, ${disk}: ${state}`);
  shown(`iscsi-ls iscsi://${iscsi.portal}`);
  note(
    output('iscsi-ls', [`iscsi://${iscsi.portal}`])
      .trim()
      .split('\n')
      .join('\n   '),
  );

  say(`A file system image: ext4 with the docs of Holdfast and ${fileMiB} MiB of photos`);
  const image = join(folder, 'image.ext4');
  makeImage(image);
  const wanted = sha256(image);
  note(`${volumeMiB} MiB, sha256 ${wanted.slice(0, 16)}…`);

  say('Write it through a real iSCSI initiator, and kill a replica process in the middle');
  const victim = query(server, 'process', 'ls').find(({ node, role }) => node === 'node2' && role === 'replica');
  const written = await writeAndKill(server, image, iscsi.url, victim);
  note(
    `written in ${written.seconds.toFixed(1)} s (held to ${writeMiBPerSecond} MiB/s); the longest pause after the kill: ${written.longestPauseMs.toFixed(0)} ms`,
  );
  results.push(
    `${volumeMiB} MiB written while a replica process was killed: no error, longest pause ${written.longestPauseMs.toFixed(0)} ms`,
  );

  say('Read it back and compare');
  const back = join(folder, 'read-back.ext4');
  shown(`qemu-img convert -f raw -O raw ${iscsi.url} ${back}`);
  output('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', iscsi.url, back]);
  if (sha256(back) !== wanted) throw new DemoError('what was read back differs from what was written');
  note('sha256 is the same');
  shown(`e2fsck -f -n ${back}`);
  note(output('e2fsck', ['-f', '-n', back]).trim().split('\n').at(-1) ?? '');
  results.push('read back: identical, and e2fsck finds nothing');

  say('The killed replica comes back by itself and is rebuilt');
  await waitUntilInSync(server);
  for (const { node, disk, state } of query(server, 'replica', 'ls', 'demo'))
    note(`replica on ${node}, ${disk}: ${state}`);
  results.push('the agent restarted the process, the engine rebuilt the replica: three in-sync replicas again');
  rmSync(image);
  rmSync(back);
  return iscsi;
}

async function finish(cluster, keep) {
  if (!keep) await stopCluster(cluster);
  console.log(`\n${bold('Done')} in ${((performance.now() - began) / 1000).toFixed(0)} s:`);
  for (const result of results) note(`- ${result}`);
  if (keep) {
    const { iscsi } = query(cluster.server, 'volume', 'show', 'demo');
    console.log(`\n${bold('The cluster runs on.')} Try next:`);
    if (cluster.server !== '127.0.0.1:7600') note(`export HOLDFAST_SERVER=${cluster.server}`);
    note('npx holdfast volume ls; npx holdfast replica ls demo; npx holdfast process ls');
    if (iscsi?.url) note(`qemu-img info ${iscsi.url}`);
    note('npx holdfast volume create mine --size 10Gi && npx holdfast volume attach mine');
    note('kill -9 any process of `npx holdfast process ls`, and watch it come back');
    note('npm run demo -- --stop      stops the cluster');
  } else {
    console.log('\nTry next:');
    note('npm run demo -- --keep      the same, and the cluster stays for you to play with');
    note('npx holdfast up             a cluster of your own; README.md goes on from there');
    note('npm test                    everything that CI runs');
  }
}

async function main() {
  const args = process.argv.slice(2);
  const unknown = args.find((arg) => arg !== '--keep' && arg !== '--stop');
  if (unknown !== undefined) {
    console.error(`unknown option ${unknown}: there are --keep and --stop`);
    process.exit(2);
  }
  const kept = keptCluster();
  if (args.includes('--stop')) {
    if (kept === null) return console.log('No cluster of a demo is running.');
    await stopCluster(kept);
    return console.log('Stopped.');
  }
  if (kept !== null) {
    throw new DemoError(
      `the cluster of an earlier demo is still running (server ${kept.server}). Stop it first: npm run demo -- --stop`,
    );
  }
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, () => {
      const cluster = keptCluster();
      if (cluster !== null) process.kill(cluster.pid, 'SIGTERM');
      console.error(`\n${signal}: the demo ends, and its cluster with it`);
      process.exit(1);
    });
  }
  await tell(args.includes('--keep'));
}

try {
  await main();
} catch (error) {
  console.error(`\n${bold('The demo failed')}: ${error instanceof Error ? error.message : error}`);
  if (step > 2) console.error(`Logs: ${upLog} and the log files below ${dataFolder}`);
  process.exit(1);
}
