// The replica process as an operating system process, and its API as any gRPC client sees it.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { credentials } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { AppendRequest, Op, ReadRequest, ReplicaClient } from '../engine/generated/holdfast/v1/replica.js';
import type {
  AppendResponse,
  ReadResponse,
  ReplicaState as LogState,
} from '../engine/generated/holdfast/v1/replica.js';
import { fromServiceError } from '../engine/errors/grpc-errors.js';
import { crc32c, killLaunched, launch, replicaConfig, startProcess } from './lib/data-plane.js';
import type { ReplicaState } from './lib/data-plane.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-replica-'));
});
afterAll(() => {
  killLaunched();
  rmSync(folder, { recursive: true, force: true });
});

const blockBytes = 4096;
const replicaId = 0xa1b2_c3d4_e5f6_0718n;
const volumeId = 0xffff_ffff_ffff_fff0n;

type Done<T> = (error: ServiceError | null, response: T) => void;
function unary<T>(start: (done: Done<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, response) => {
      if (error === null) resolve(response);
      else reject(fromServiceError(error, 'replica'));
    });
  });
}

function connect(state: ReplicaState): ReplicaClient {
  return new ReplicaClient(state.listen[0]!, credentials.createInsecure());
}

function blockOf(byte: number): Buffer {
  return Buffer.alloc(blockBytes, byte);
}

function crcOf(data: Buffer): Buffer {
  const out = Buffer.alloc((data.length / blockBytes) * 4);
  for (let i = 0; i < data.length / blockBytes; i++) {
    out.writeUInt32LE(crc32c(data.subarray(i * blockBytes, (i + 1) * blockBytes)), i * 4);
  }
  return out;
}

function writeOf(seq: bigint, firstBlock: bigint, data: Buffer): AppendRequest {
  const blockCount = data.length / blockBytes;
  const entry = { epoch: 1n, seq, op: Op.OP_WRITE, firstBlock, blockCount, crc: crcOf(data), data };
  return AppendRequest.fromPartial({ committedSeq: seq - 1n, entry });
}

/** Sends the requests and returns once `seq` is journalled. */
async function append(client: ReplicaClient, requests: AppendRequest[], seq: bigint): Promise<void> {
  const stream = client.append();
  const journalled = new Promise<void>((resolve, reject) => {
    stream.on('data', (response: AppendResponse) => {
      if (response.journalledSeq >= seq) resolve();
    });
    stream.on('error', reject);
  });
  stream.write(AppendRequest.fromPartial({ hello: { replicaId, epoch: 1n } }));
  for (const request of requests) stream.write(request);
  await journalled;
  stream.on('error', () => undefined);
  stream.cancel();
}

async function read(
  client: ReplicaClient,
  epoch: bigint,
  firstBlock: bigint,
  blockCount: number,
): Promise<ReadResponse> {
  const stream = client.read();
  stream.on('error', () => undefined);
  stream.write(ReadRequest.fromPartial({ hello: { replicaId, epoch } }));
  stream.write(ReadRequest.fromPartial({ id: 7n, firstBlock, blockCount }));
  const [response] = (await once(stream, 'data')) as [ReadResponse];
  stream.cancel();
  return response;
}

test('a replica process makes a disk, takes entries, gives them back, and keeps them through SIGKILL and SIGTERM', async () => {
  const directory = join(folder, 'disk');
  const runDir = join(folder, 'run');
  let process_ = await startProcess<ReplicaState>('replica', runDir, replicaConfig(directory));
  const { diskId } = process_.state;
  expect(diskId).toMatch(/^[0-9a-f]{32}$/);

  let client = connect(process_.state);
  const created = { replicaId, volumeId, sizeBlocks: 1024n, complete: true, sourceReplicaId: 0n, snapshotId: 0n };
  await unary((done) => client.createReplica(created, done));
  await unary((done) => client.createReplica(created, done)); // idempotent
  const opened = await unary<LogState>((done) => client.open({ replicaId, epoch: 1n }, done));
  expect(opened).toMatchObject({
    replicaId,
    volumeId,
    sizeBlocks: 1024n,
    promisedEpoch: 1n,
    lastSeq: 0n,
    complete: true,
  });
  await append(
    client,
    [writeOf(1n, 0n, blockOf(0x11)), writeOf(2n, 5n, Buffer.concat([blockOf(0x22), blockOf(0x33)]))],
    2n,
  );
  client.close();

  expect(await process_.end('SIGKILL')).toBeNull();
  process_ = await startProcess<ReplicaState>('replica', runDir, replicaConfig(directory, { expectedDiskId: diskId }));
  expect(process_.state.diskId).toBe(diskId);
  client = connect(process_.state);
  const state = await unary<LogState>((done) => client.open({ replicaId, epoch: 2n }, done));
  expect(state).toMatchObject({ lastEpoch: 1n, lastSeq: 2n, complete: true });
  const response = await read(client, 2n, 4n, 3);
  expect(response).toMatchObject({ id: 7n, error: 0, present: Buffer.from([0b110]) });
  expect(response.data.equals(Buffer.concat([blockOf(0x22), blockOf(0x33)]))).toBe(true);
  expect(response.crc.equals(crcOf(response.data))).toBe(true);
  await expect(unary((done) => client.open({ replicaId, epoch: 1n }, done))).rejects.toMatchObject({
    code: 'EPOCH_SUPERSEDED',
  });
  client.close();

  expect(await process_.end('SIGTERM')).toBe(0);
  process_ = await startProcess<ReplicaState>('replica', runDir, replicaConfig(directory));
  client = connect(process_.state);
  expect((await read(client, 2n, 0n, 1)).data.equals(blockOf(0x11))).toBe(true);
  client.close();
  expect(await process_.end('SIGINT')).toBe(0);
});

test('a hang-up of the terminal does not end it', async () => {
  const process_ = await startProcess<ReplicaState>(
    'replica',
    join(folder, 'hup'),
    replicaConfig(join(folder, 'hup-disk')),
  );
  process_.child.kill('SIGHUP');
  const client = connect(process_.state);
  expect(await unary((done) => client.getDisk({}, done))).toMatchObject({ diskId: process_.state.diskId, failure: '' });
  client.close();
  expect(await process_.end('SIGTERM')).toBe(0);
});

async function failure(name: string, config: object | null): Promise<Record<string, unknown>> {
  const { child, log } = launch('replica', join(folder, name), config);
  const [code] = (await once(child, 'exit')) as [number | null];
  expect(code).toBe(1);
  return log().at(-1) ?? {};
}

test('a start that fails says why in its last log line', async () => {
  const directory = join(folder, 'not-there');
  expect(await failure('no-config', null)).toMatchObject({ level: 'error', code: 'NOT_FOUND' });
  expect(await failure('bad-config', { role: 'replica' })).toMatchObject({ code: 'INVALID_ARGUMENT' });
  expect(await failure('other-role', replicaConfig(directory, { role: 'target' }))).toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
  expect(await failure('host-name', replicaConfig(directory, { listen: ['localhost:0'] }))).toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
  const foreign = join(folder, 'foreign');
  mkdirSync(foreign);
  writeFileSync(join(foreign, 'holiday.jpg'), 'not a disk');
  expect(await failure('foreign-folder', replicaConfig(foreign))).toMatchObject({ code: 'WRONG_DISK' });
  // A known disk that is not mounted: nothing is made in its place.
  const missing = replicaConfig(join(folder, 'missing'), { expectedDiskId: '0'.repeat(32) });
  expect(await failure('missing-disk', missing)).toMatchObject({ code: 'WRONG_DISK' });
});

test('a second process on the same disk is refused and leaves the first alone', async () => {
  const directory = join(folder, 'shared');
  const first = await startProcess<ReplicaState>('replica', join(folder, 'first'), replicaConfig(directory));
  expect(await failure('second', replicaConfig(directory))).toMatchObject({ code: 'IN_USE' });
  const client = connect(first.state);
  expect(await unary((done) => client.getDisk({}, done))).toMatchObject({ failure: '' });
  client.close();
  expect(await first.end('SIGTERM')).toBe(0);
});
