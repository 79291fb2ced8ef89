// What healing takes: a full rebuild on an idle machine beside the rate of its disk, what a rebuild takes from the host, what is copied
// after an outage, and what snapshots cost.
// Three nodes and three replicas on one disk: a rebuild reads from it and writes to it at the same time. Bytes are those that the
// processes of replicas caused (/proc/PID/io), so what the copy itself needs is in them.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { request } from '../engine/api/rest-client.js';
import { Cluster, root } from '../test/lib/cluster.js';
import { startNbd } from '../test/lib/initiator.js';
import type { NbdExport } from '../test/lib/initiator.js';
import { endProcess, run, until } from '../test/lib/process.js';
import { benchCases } from './cases.js';
import type { BenchCase } from './cases.js';
import { drain, fill, measure } from './fio.js';
import type { FioDestination } from './fio.js';
import { benchOptions, refuse } from './options.js';

const partNames = ['rebuild', 'throttled', 'outage', 'snapshots'];
const usage = `Usage: node scripts/bench.mjs healing [options]

What healing takes: a full rebuild, one beside random writes, what is copied after an outage, and snapshots.

  --folder DIR     where the replicas' data goes (default build/bench-healing)
  --data-mib N     size of the volume (default 4096)
  --seconds N      length of one measurement (default 5)
  --snapshots N    how many (default 1000)
  --only A,B       only these: ${partNames.join(', ')}`;
const values = benchOptions(usage, {
  folder: { type: 'string', default: join(root, 'build/bench-healing') },
  'data-mib': { type: 'string', default: '4096' },
  seconds: { type: 'string', default: '5' },
  snapshots: { type: 'string', default: '1000' },
  only: { type: 'string', default: partNames.join(',') },
});
const folder = resolve(values.folder);
const dataMib = Number(values['data-mib']);
const dataBytes = dataMib * 2 ** 20;
const seconds = Number(values.seconds);
const snapshotCount = Number(values.snapshots);
const parts = new Set(values.only.split(','));
if (![dataMib, seconds, snapshotCount].every((value) => value > 0)) refuse(usage, 'these numbers are above 0');
for (const part of parts) {
  if (!partNames.includes(part)) refuse(usage, `there is no part "${part}"`);
}

const replicaRows = z.array(
  z.object({
    id: z.string(),
    node: z.string(),
    state: z.string(),
    rebuild: z.object({ bytesCopied: z.number() }).nullable(),
  }),
);

function caseOf(id: string): BenchCase {
  const found = benchCases.find((each) => each.id === id);
  if (found === undefined) throw new Error(`there is no case ${id}`);
  return found;
}

const tell = (text: string) => {
  console.log(text);
};
const ratio = (part: number, whole: number) => `${((100 * part) / whole).toFixed(1)} %`;
const median = (figures: readonly number[]) => [...figures].sort((a, b) => a - b)[figures.length >> 1] ?? 0;

class Subject {
  readonly cluster: Cluster;
  readonly nbd: NbdExport;
  readonly destination: FioDestination;

  private constructor(cluster: Cluster, nbd: NbdExport) {
    this.cluster = cluster;
    this.nbd = nbd;
    this.destination = { kind: 'nbd', socket: nbd.socket };
  }

  static async start(): Promise<Subject> {
    const cluster = await Cluster.start({ folder: join(folder, 'holdfast') });
    await cluster.createVolume('bench', String(dataBytes));
    const { iscsi } = await cluster.attach('bench', '--node', 'node1');
    return new Subject(cluster, await startNbd(folder, 'healing', iscsi.url));
  }

  async stop(): Promise<void> {
    await this.nbd.stop();
    await this.cluster.stop();
  }

  async replicas() {
    return replicaRows.parse(await request<unknown>(this.cluster.server, 'GET', '/v1/volumes/bench/replicas'));
  }

  async untilInSync(): Promise<void> {
    await until('three replicas to be in-sync', 600_000, async () => {
      const rows = await this.replicas();
      return rows.length === 3 && rows.every(({ state }) => state === 'in-sync');
    });
  }

  /** Bytes that all replica processes have written, and read, so far. */
  async moved(): Promise<{ readonly written: number; readonly read: number }> {
    const pids = (await this.cluster.processes()).filter(({ role }) => role === 'replica').map(({ pid }) => pid);
    const texts = pids.map((pid) => readFileSync(`/proc/${pid}/io`, 'utf8'));
    const sum = (name: string) =>
      texts.reduce((total, text) => total + Number(new RegExp(`^${name}: (\\d+)$`, 'm').exec(text)?.[1] ?? 0), 0);
    return { written: sum('write_bytes'), read: sum('read_bytes') };
  }

  /** Destaging is over: nothing has been written for a second. */
  async untilCalm(): Promise<void> {
    for (let last = -1; ;) {
      const { written } = await this.moved();
      if (written === last) return;
      last = written;
      await sleep(1_000);
    }
  }

  async dropOne(): Promise<void> {
    const victim = (await this.replicas()).find(({ node }) => node === 'node3');
    if (victim === undefined) throw new Error('node3 has no replica');
    await this.cluster.cli('replica', 'rm', 'bench', victim.id);
    await this.untilCalm();
  }
}

interface RawRates {
  readonly read: number;
  readonly write: number;
  /** Of as much reading as writing at the same time, as a copy does: MB/s of the copy. */
  readonly copy: number;
}

async function rawRates(): Promise<RawRates> {
  const paths = [join(folder, 'raw-source.img'), join(folder, 'raw-copy.img')] as const;
  for (const path of paths) {
    await run('fallocate', ['-l', String(dataBytes), path]);
    await fill({ kind: 'file', path }, dataBytes);
  }
  const [source, copy] = [
    { kind: 'file', path: paths[0] },
    { kind: 'file', path: paths[1] },
  ] as const;
  const rate = async (id: string, path: FioDestination) =>
    (await measure(caseOf(id), path, dataBytes, seconds)).megabytesPerSecond;
  const rates = {
    read: await rate('seq-read-d8', source),
    write: await rate('seq-write-d8', source),
    copy: await copyRate(source, copy),
  };
  for (const path of paths) rmSync(path);
  return rates;
}

/** Reads one file and writes the other, the same number of bytes, both at once. */
async function copyRate(source: FioDestination, copy: FioDestination): Promise<number> {
  const began = performance.now();
  await Promise.all([drain(source, dataBytes), fill(copy, dataBytes)]);
  return dataBytes / 1e6 / ((performance.now() - began) / 1000);
}

async function rebuild(subject: Subject): Promise<void> {
  const raw = await rawRates();
  tell(
    `raw disk: sequential read ${raw.read.toFixed(0)} MB/s, write ${raw.write.toFixed(0)} MB/s, both at once ${raw.copy.toFixed(0)} MB/s each`,
  );
  await subject.dropOne();
  const began = performance.now();
  await subject.cluster.cli('volume', 'set', 'bench', '--replicas', '3');
  await subject.untilInSync();
  const rate = dataBytes / 1e6 / ((performance.now() - began) / 1000);
  tell(
    `full rebuild of ${dataMib} MiB, idle: ${rate.toFixed(0)} MB/s, ${ratio(rate, raw.read)} of the disk's sequential read, ` +
      `${ratio(rate, raw.write)} of its write, ${ratio(rate, raw.copy)} of both at once`,
  );
}

/** What a rebuild takes from random writes of the host. */
async function throttled(subject: Subject): Promise<void> {
  // In turn, as the machine changes: without and with a rebuild under way.
  const [quiet, busy]: [number[], number[]] = [[], []];
  for (let round = 0; round < 3; round++) {
    const writes = async () => (await measure(caseOf('rand-write-d32'), subject.destination, dataBytes, seconds)).iops;
    quiet.push(await writes());
    await subject.dropOne();
    await subject.cluster.cli('volume', 'set', 'bench', '--replicas', '3');
    await until('a rebuild', 60_000, async () =>
      (await subject.replicas()).some(({ state }) => state === 'rebuilding'),
    );
    busy.push(await writes());
    const over = (await subject.replicas()).every(({ state }) => state === 'in-sync');
    tell(
      `round ${round + 1}: ${quiet.at(-1)?.toFixed(0)} random writes a second, ${busy.at(-1)?.toFixed(0)} while rebuilding${over ? ' (which ended before the measurement)' : ''}`,
    );
    await subject.untilInSync();
    await subject.untilCalm();
  }
  tell(`random writes, depth 32, while a replica is rebuilt: ${ratio(median(busy), median(quiet))}`);
}

async function outage(subject: Subject): Promise<void> {
  await subject.untilCalm();
  const frozen = (await subject.cluster.processes()).find(({ role, node }) => role === 'replica' && node === 'node3');
  if (frozen === undefined) throw new Error('node3 has no replica process');
  process.kill(frozen.pid, 'SIGSTOP');
  const began = performance.now();
  const chunks = Math.floor(dataBytes / (256 * 1024) / 100);
  await run('fio', [
    ...['--name=changes', '--ioengine=nbd', `--uri=${subject.nbd.uri}`, '--rw=randwrite', '--bs=256k', '--iodepth=4'],
    ...[`--size=${dataBytes}`, `--io_size=${chunks * 256}k`, '--end_fsync=1'],
  ]);
  await sleep(Math.max(0, 30_000 - (performance.now() - began)));
  await subject.untilCalm();
  let copied = 0;
  const before = await subject.moved();
  const back = performance.now();
  try {
    process.kill(frozen.pid, 'SIGCONT');
  } catch {
    // Its agent has replaced it meanwhile.
  }
  await until('the replica to be back', 120_000, async () => {
    const rows = await subject.replicas();
    copied = Math.max(copied, ...rows.map((row) => row.rebuild?.bytesCopied ?? 0));
    return rows.every(({ state }) => state === 'in-sync');
  });
  const took = performance.now() - back;
  await subject.untilCalm();
  const written = (await subject.moved()).written - before.written;
  tell(
    `after 30 s away, ${chunks} of ${chunks * 100} chunks changed: in-sync after ${(took / 1000).toFixed(1)} s, ${(written / 1e6).toFixed(1)} MB written, ` +
      `${ratio(written, dataBytes)} of the data (last seen in its progress: ${(copied / 1e6).toFixed(1)} MB)`,
  );
}

// Over one connection, as a scheduler or a CSI driver has one: who is at the other end is asked once for each.
async function takeSnapshot(server: string, agent: Agent, name: string): Promise<void> {
  const [host, port] = server.split(':');
  const body = JSON.stringify({ name });
  const call = httpRequest({
    ...{ host, port, agent, method: 'POST', path: '/v1/volumes/bench/snapshots' },
    headers: { 'content-type': 'application/json', 'content-length': body.length },
  });
  call.end(body);
  const [response] = (await once(call, 'response')) as [IncomingMessage];
  response.resume();
  await once(response, 'end');
  if (response.statusCode !== 200) throw new Error(`snapshot ${name}: the manager answered ${response.statusCode}`);
}

async function snapshots(subject: Subject): Promise<void> {
  const rates = async (id: string) => (await measure(caseOf(id), subject.destination, dataBytes, seconds)).iops;
  const before = { write: await rates('rand-write-d32'), read: await rates('rand-read-d32') };
  const load = spawn(
    'fio',
    [
      ...['--name=load', '--ioengine=nbd', `--uri=${subject.nbd.uri}`, '--rw=randwrite', '--bs=4k', '--iodepth=8'],
      ...['--rate_iops=2000', `--size=${dataBytes}`, '--time_based=1', '--runtime=100000'],
    ],
    { stdio: 'ignore' },
  );
  await sleep(1_000);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const taken: number[] = [];
  for (let index = 0; index < snapshotCount; index++) {
    const began = performance.now();
    await takeSnapshot(subject.cluster.server, agent, `s${index}`);
    taken.push(performance.now() - began);
  }
  agent.destroy();
  const sorted = taken.sort((a, b) => a - b);
  const at = (share: number) => (sorted[Math.floor((sorted.length - 1) * share)] ?? 0).toFixed(1);
  tell(
    `${snapshotCount} snapshots under 2,000 writes a second: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, longest ${at(1)} ms`,
  );
  await endProcess(load);
  await subject.untilCalm();
  const after = { write: await rates('rand-write-d32'), read: await rates('rand-read-d32') };
  tell(
    `with ${snapshotCount} snapshots: random writes ${ratio(after.write, before.write)} (${before.write.toFixed(0)} -> ${after.write.toFixed(0)}/s), ` +
      `random reads ${ratio(after.read, before.read)} (${before.read.toFixed(0)} -> ${after.read.toFixed(0)}/s)`,
  );
}

rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const subject = await Subject.start();
try {
  await fill(subject.destination, dataBytes);
  if (parts.has('rebuild')) await rebuild(subject);
  if (parts.has('throttled')) await throttled(subject);
  if (parts.has('outage')) await outage(subject);
  if (parts.has('snapshots')) await snapshots(subject);
} finally {
  await subject.stop();
  rmSync(folder, { recursive: true, force: true });
}
