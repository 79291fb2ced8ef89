// Many changes on one stream: outcomes in any order, changes that fail, streams that break or are not used any more.
import { Server, ServerCredentials, credentials } from '@grpc/grpc-js';
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { TargetClient, TargetService } from '../generated/holdfast/v1/target.js';
import type { NumberedSnapshotChange, SnapshotOutcome } from '../generated/holdfast/v1/target.js';
import { SnapshotChannel } from './snapshot-channel.js';

type Call = ServerDuplexStream<NumberedSnapshotChange, SnapshotOutcome>;

let server: Server;
let client: TargetClient;
let channel: SnapshotChannel;
let calls: Call[];
let asked: NumberedSnapshotChange[];
let ended: number;

beforeEach(async () => {
  [calls, asked, ended] = [[], [], 0];
  server = new Server();
  server.addService(
    { changeSnapshots: TargetService.changeSnapshots },
    {
      changeSnapshots: (call: Call) => {
        calls.push(call);
        call.on('error', () => undefined);
        call.on('data', (change: NumberedSnapshotChange) => asked.push(change));
        call.on('end', () => {
          ended++;
          call.end();
        });
      },
    },
  );
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) => {
      if (error === null) resolve(bound);
      else reject(error);
    });
  });
  client = new TargetClient(`127.0.0.1:${port}`, credentials.createInsecure());
  channel = new SnapshotChannel(() => client.changeSnapshots(), 'target process', 100);
});

afterEach(() => {
  channel.close();
  client.close();
  server.forceShutdown();
});

const change = (snapshotId: bigint, timeoutMs = 10_000) =>
  channel.change({ volumeId: 1n, snapshotId, change: 'create' }, timeoutMs);
const whenAsked = async (count: number) => {
  await vi.waitFor(() => {
    expect(asked.length).toBe(count);
  });
};
const good = { frozen: false, note: '' };
const answer = (index: number, note = '') => {
  calls[0]!.write({ number: asked[index]!.number, response: { frozen: false, note }, errorCode: '', error: '' });
};

test('outcomes find their changes, whatever their order; one that fails leaves the others alone', async () => {
  const [first, second, third] = [change(1n), change(2n), change(3n)];
  await whenAsked(3);
  expect(asked.map((one) => one.change?.snapshotId)).toEqual([1n, 2n, 3n]);
  answer(2, 'third');
  calls[0]!.write({ number: asked[1]!.number, response: undefined, errorCode: 'ALREADY_EXISTS', error: 'it is there' });
  answer(0, 'first');
  expect(await third).toEqual({ ...good, note: 'third' });
  await expect(second).rejects.toMatchObject({ code: 'ALREADY_EXISTS', message: 'it is there' });
  expect(await first).toEqual({ ...good, note: 'first' });
  expect(calls.length).toBe(1);
});

test('a process that dies, and one that ends the stream, fail what is under way; the next change gets a new stream', async () => {
  const lost = change(1n);
  await whenAsked(1);
  calls[0]!.end();
  await expect(lost).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  const again = change(2n);
  await whenAsked(2);
  calls[1]!.write({ number: asked[1]!.number, response: good, errorCode: '', error: '' });
  expect(await again).toEqual(good);
  const killed = change(3n);
  await whenAsked(3);
  server.forceShutdown();
  await expect(killed).rejects.toMatchObject({ code: expect.stringMatching('CONNECTION_LOST|CANCELLED') as string });
});

test('one that is not answered in time fails by itself, and its late outcome is nobody’s', async () => {
  const late = expect(change(1n, 50)).rejects.toMatchObject({ code: 'TIMED_OUT' });
  const other = change(2n);
  await whenAsked(2);
  await late;
  answer(0);
  answer(1, 'other');
  expect(await other).toEqual({ ...good, note: 'other' });
});

test('a stream that is not used is ended, but not one that an answer is waited for on', async () => {
  const slow = change(1n);
  await whenAsked(1);
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(ended).toBe(0);
  answer(0);
  expect(await slow).toEqual(good);
  await vi.waitFor(() => {
    expect(ended).toBe(1);
  });
  const next = change(2n);
  await whenAsked(2);
  calls[1]!.write({ number: asked[1]!.number, response: good, errorCode: '', error: '' });
  expect(await next).toEqual(good);
});

test('closing fails what is under way', async () => {
  const underWay = change(1n);
  await whenAsked(1);
  channel.close();
  await expect(underWay).rejects.toMatchObject({ code: 'CANCELLED' });
});
