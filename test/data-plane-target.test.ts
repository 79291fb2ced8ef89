// The target process over real replica processes: attach, I/O through a real initiator, the loss of a replica, of the
// manager and of the target itself, and being fenced.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials, Metadata, status } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { fromServiceError } from '../engine/errors/grpc-errors.js';
import { ReplicaClient } from '../engine/generated/holdfast/v1/replica.js';
import { AttachVolumeRequest, TargetClient } from '../engine/generated/holdfast/v1/target.js';
import type { AttachedVolume, AttachVolumeResponse, TargetStatus } from '../engine/generated/holdfast/v1/target.js';
import { FakeManager, killLaunched, replicaConfig, startProcess } from './lib/data-plane.js';
import type { DataPlaneProcess, ReplicaState, TargetState } from './lib/data-plane.js';
import { attempt, run, until } from './lib/process.js';

const volumeId = 0xfedc_ba98_7654_3210n;
const sizeBytes = 256n << 20n;
const iqn = 'iqn.2026-11.io.holdfast:data-plane';
const replicaIds = [0x8000_0000_0000_0001n, 2n, 3n];

let base: string;
let folder: string;
let manager: FakeManager;
let replicas: DataPlaneProcess<ReplicaState>[];
let target: DataPlaneProcess<TargetState>;
let client: TargetClient;

type Done<T> = (error: ServiceError | null, response: T) => void;
function unary<T>(start: (done: Done<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, response) => {
      if (error === null) resolve(response);
      else reject(fromServiceError(error, 'peer'));
    });
  });
}

function addressOf(replica: DataPlaneProcess<ReplicaState>): string {
  return replica.state.listen[0]!;
}

async function startReplica(index: number, listen = '127.0.0.1:0'): Promise<DataPlaneProcess<ReplicaState>> {
  const config = replicaConfig(join(folder, `disk${index}`), { disk: `disk${index}`, listen: [listen] });
  return await startProcess<ReplicaState>('replica', join(folder, `replica${index}`), config);
}

async function startTarget(): Promise<void> {
  target = await startProcess<TargetState>('target', join(folder, 'target'), {
    role: 'target',
    node: 'node1',
    control: '127.0.0.1:0',
    portal: '127.0.0.1:0',
    managers: [manager.address],
  });
  client = new TargetClient(target.state.control, credentials.createInsecure());
}

function attachRequest(epoch: bigint, inSync: readonly bigint[] = replicaIds): AttachVolumeRequest {
  return AttachVolumeRequest.fromPartial({
    volumeId,
    name: 'data-plane',
    epoch,
    sizeBytes,
    logicalBlockSize: 512,
    iqn,
    replicas: replicas.map((replica, i) => ({
      replicaId: replicaIds[i]!,
      address: addressOf(replica),
      local: i === 0,
      inSync: inSync.includes(replicaIds[i]!),
    })),
  });
}

const attach = (request: AttachVolumeRequest) =>
  unary<AttachVolumeResponse>((done) =>
    client.attach(request, new Metadata(), { deadline: Date.now() + 20_000 }, done),
  );
const getStatus = () => unary<TargetStatus>((done) => client.getStatus({}, done));
async function volumeNow(): Promise<AttachedVolume | undefined> {
  return (await getStatus()).volumes[0];
}

const url = () => `iscsi://${target.state.portal}/${iqn}/0`;
const qemuIo = (...commands: string[]) =>
  run('qemu-io', ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), url()], {
    timeoutMilliseconds: 25_000,
  });

/** Verifies a pattern; qemu-io says so in its text and not by its exit code. */
async function expectPattern(pattern: number, offset: string, length: string): Promise<void> {
  const text = await qemuIo(`read -P ${pattern} ${offset} ${length}`);
  expect(text).toMatch(/^read \d+\/\d+ bytes/m);
  expect(text).not.toMatch(/verification failed|failed/i);
}

beforeAll(() => {
  base = mkdtempSync(join(tmpdir(), 'holdfast-target-'));
});
afterAll(() => {
  rmSync(base, { recursive: true, force: true });
});
beforeEach(async () => {
  folder = mkdtempSync(join(base, 'case-'));
  manager = await FakeManager.start();
  replicas = await Promise.all([0, 1, 2].map((index) => startReplica(index)));
  for (const [i, replica] of replicas.entries()) {
    const replicaClient = new ReplicaClient(addressOf(replica), credentials.createInsecure());
    const request = {
      replicaId: replicaIds[i]!,
      volumeId,
      sizeBlocks: sizeBytes / 4096n,
      complete: true,
      sourceReplicaId: 0n,
      snapshotId: 0n,
    };
    await unary((done) => replicaClient.createReplica(request, done));
    replicaClient.close();
  }
  await startTarget();
});
afterEach(() => {
  client.close();
  killLaunched();
  manager.stop();
});

test('a volume that is expected is unavailable, and not unknown: initiators come again', async () => {
  const loginStatus = async () => {
    const { code, stdout, stderr } = await attempt('iscsi-inq', [url()], { timeoutMilliseconds: 10_000 });
    return code === 0 ? 0 : Number(/\((\d+)\)/.exec(stdout + stderr)?.[1]);
  };
  const expectIqns = (...expectedIqns: string[]) =>
    unary((done) => client.setRedirects({ redirects: [], expectedIqns }, done));
  expect(await loginStatus(), 'nobody has said what it serves').toBe(0x0301);
  await expectIqns(iqn);
  expect(await loginStatus(), 'it takes a while').toBe(0x0301);
  await attach(attachRequest(1n));
  expect(await loginStatus()).toBe(0);
  await unary((done) => client.detach({ volumeId, epoch: 0n }, done));
  await expectIqns();
  expect(await loginStatus(), 'it is not to be served here').toBe(0x0203);
}, 60_000);

test('three replicas: what an initiator wrote is there after a replica and then the target were killed', async () => {
  const attached = await attach(attachRequest(1n));
  expect(attached).toMatchObject({ portal: target.state.portal, sizeBytes });
  expect(await attach(attachRequest(1n))).toEqual(attached);
  expect(await volumeNow()).toMatchObject({ volumeId, name: 'data-plane', epoch: 1n, state: 'serving', sizeBytes });
  await qemuIo('write -P 0xa1 0 1M', 'write -P 0xa2 7M 4k', 'flush');
  await expectPattern(0xa1, '0', '1M');

  await replicas[1]!.end('SIGKILL');
  await qemuIo('write -P 0xb1 512k 64k', 'flush');
  expect(manager.changes[0]).toMatchObject({ volumeId, epoch: 1n, sequence: 1n });
  expect(new Set(manager.changes[0]?.inSync)).toEqual(new Set([replicaIds[0], replicaIds[2]]));
  const after = await volumeNow();
  expect(after?.replicas.map(({ phase }) => phase).toSorted()).toEqual(['failed', 'in-sync', 'in-sync']);

  await target.end('SIGKILL');
  await startTarget();
  await attach(attachRequest(2n, [replicaIds[0]!, replicaIds[2]!]));
  await expectPattern(0xa1, '0', '512k');
  await expectPattern(0xb1, '512k', '64k');
  await expectPattern(0xa2, '7M', '4k');
  expect((await volumeNow())?.sessions).toBeDefined();
  expect(await target.end('SIGTERM')).toBe(0);
});

test('a replica that comes back is rebuilt and joins again', async () => {
  await attach(attachRequest(1n));
  await qemuIo('write -P 0x11 0 8M');
  const address = addressOf(replicas[2]!);
  await replicas[2]!.end('SIGKILL');
  await qemuIo('write -P 0x22 4M 1M');
  replicas[2] = await startReplica(2, address);
  await until('the third replica to be in-sync', 20_000, () => {
    return manager.changes.at(-1)?.inSync.length === 3;
  });
  await until('the status to say so', 5_000, async () =>
    (await volumeNow())?.replicas.every(({ phase }) => phase === 'in-sync'),
  );
  // Only the one that was rebuilt is left to read from.
  await replicas[0]!.end('SIGKILL');
  await replicas[1]!.end('SIGKILL');
  await expectPattern(0x11, '0', '4M');
  await expectPattern(0x22, '4M', '1M');
});

test('while no manager answers, writes that need a smaller in-sync set wait', async () => {
  await attach(attachRequest(1n));
  await qemuIo('write -P 0x31 0 4k');
  manager.stop();
  await replicas[0]!.end('SIGKILL');
  const writing = qemuIo('write -P 0x32 0 4k');
  let written = false;
  void writing.then(() => (written = true)).catch(() => undefined);
  await until('the volume to wait', 10_000, async () => (await volumeNow())?.state === 'waiting');
  expect(written).toBe(false);
  manager = await FakeManager.start(manager.address);
  await writing;
  expect(new Set(manager.changes.at(-1)?.inSync)).toEqual(new Set([replicaIds[1], replicaIds[2]]));
  await expectPattern(0x32, '0', '4k');
});

test('an engine that is told of a newer epoch stops for good', async () => {
  await attach(attachRequest(1n));
  await qemuIo('write -P 0x41 0 4k');
  manager.refuse = () => {
    const metadata = new Metadata();
    metadata.set('holdfast-code', 'EPOCH_SUPERSEDED');
    return { code: status.FAILED_PRECONDITION, details: 'epoch 2 was granted', metadata };
  };
  await replicas[0]!.end('SIGKILL');
  const outcome = await attempt('qemu-io', ['-f', 'raw', '-c', 'write -P 0x42 0 4k', url()], {
    timeoutMilliseconds: 15_000,
  });
  expect(outcome.stdout).not.toMatch(/^wrote/m);
  await until('the volume to be fenced', 10_000, async () => (await volumeNow())?.state === 'fenced');
  await expect(attach(attachRequest(1n))).rejects.toMatchObject({ code: 'EPOCH_SUPERSEDED' });
  // A newer epoch brings it back, with what was acknowledged and without what was not.
  manager.refuse = () => null;
  await attach(attachRequest(3n, [replicaIds[1]!, replicaIds[2]!]));
  expect((await volumeNow())?.state).toBe('serving');
});

test('resize and detach reach initiators and replicas; nonsense is refused', async () => {
  await attach(attachRequest(1n));
  await unary((done) => client.resize({ volumeId, sizeBytes: sizeBytes * 2n }, done));
  expect((await volumeNow())?.sizeBytes).toBe(sizeBytes * 2n);
  await qemuIo(`write -P 0x51 ${sizeBytes * 2n - 4096n} 4k`);
  await unary((done) => client.detach({ volumeId, epoch: 0n }, done));
  await unary((done) => client.detach({ volumeId, epoch: 0n }, done));
  expect((await getStatus()).volumes).toEqual([]);

  const refused = (request: AttachVolumeRequest) => expect(attach(request)).rejects;
  await refused({ ...attachRequest(2n), replicas: [] }).toMatchObject({ code: 'INVALID_ARGUMENT' });
  await refused(attachRequest(2n, [])).toMatchObject({ code: 'INVALID_ARGUMENT' });
  await refused({ ...attachRequest(2n), chap: { user: 'u', secret: 'short' } }).toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
  await refused({ ...attachRequest(2n), logicalBlockSize: 1024 }).toMatchObject({ code: 'INVALID_ARGUMENT' });
  const configure = unary((done) =>
    client.configure(
      { volumeId, epoch: 0n, replicas: [], rebuildBytesPerSecond: 0n, foregroundPercent: 80, qos: undefined },
      done,
    ),
  );
  await expect(configure).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

test('no replica answers: attach says so, and works once they are there', async () => {
  const addresses = replicas.map(addressOf);
  for (const replica of replicas) await replica.end('SIGKILL');
  const request = attachRequest(1n);
  await expect(attach(request)).rejects.toMatchObject({ code: 'NO_IN_SYNC_REPLICA' });
  expect((await getStatus()).volumes).toEqual([]);
  replicas = await Promise.all(addresses.map((address, index) => startReplica(index, address)));
  expect(await attach(attachRequest(2n))).toMatchObject({ sizeBytes });
});
