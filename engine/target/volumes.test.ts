import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import type { AttachRequest, VolumeStatus } from '../addon/target-process.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import type {
  ChangeInSyncSetRequest,
  ReportDamageRequest,
  ReportLostDataRequest,
} from '../generated/holdfast/v1/target.js';
import { silentLogger } from '../log/logger.js';
import { TargetVolumes } from './volumes.js';
import type { VolumeHost } from './volumes.js';

const volumeId = 0x17n;

function request(epoch: bigint): AttachRequest {
  return {
    volumeId,
    name: 'v',
    epoch,
    sizeBytes: 1n << 30n,
    logicalBlockSize: 512,
    replicas: [{ replicaId: 1n, address: '127.0.0.1:1', local: true, inSync: true, holdRebuild: false }],
    iqn: 'iqn.2026-11.io.holdfast:v',
    chap: null,
    mutualChap: null,
    initiatorAllowList: [],
    reservations: Buffer.alloc(0),
    rebuildBytesPerSecond: 0n,
    foregroundPercent: 80,
    qos: null,
    internal: false,
  };
}

function statusOf(epoch: bigint, failure = ''): VolumeStatus {
  return {
    volumeId,
    epoch,
    failure,
    stopped: false,
    lostData: false,
    writesPaused: false,
    sizeBytes: 1n << 30n,
    lastSeq: 0n,
    committedSeq: 0n,
    reads: 0n,
    writes: 0n,
    flushes: 0n,
    readBytes: 0n,
    writtenBytes: 0n,
    repairedBlocks: 0n,
    throttled: 0n,
    readLatency: { counts: [], totalMicros: 0n },
    writeLatency: { counts: [], totalMicros: 0n },
    flushLatency: { counts: [], totalMicros: 0n },
    replicas: [],
    sessions: [],
    device: '',
    copiedBytes: 0n,
  };
}

// An addon that attaches at once and fails the test when it is told two things about one volume at a time.
class FakeHost implements VolumeHost {
  readonly portal = '127.0.0.1:3260';
  readonly calls: string[] = [];
  failure = '';
  attachError: HoldfastError | null = null;
  #attached: bigint | null = null;
  #busy = false;

  async attachVolume({ epoch, sizeBytes }: AttachRequest) {
    await this.#turn(`attach ${epoch}`);
    if (this.attachError !== null) throw this.attachError;
    expect(this.#attached).toBeNull();
    this.#attached = epoch;
    return { portal: this.portal, sizeBytes, leaseWaitMs: 0n, leftOut: [] };
  }
  async detachVolume() {
    await this.#turn('detach');
    this.#attached = null;
  }
  configureVolume(): Promise<void> {
    this.calls.push('configure');
    return Promise.resolve();
  }
  resizeVolume(): Promise<void> {
    this.calls.push('resize');
    return Promise.resolve();
  }
  changeSnapshot(): Promise<void> {
    this.calls.push('snapshot');
    return Promise.resolve();
  }
  openView(): Promise<string> {
    this.calls.push('view');
    return Promise.resolve('/dev/loop8');
  }
  closeView(): Promise<void> {
    this.calls.push('close view');
    return Promise.resolve();
  }
  copySnapshot(): Promise<void> {
    this.calls.push('copy');
    return Promise.resolve();
  }
  mapVolume(): Promise<string> {
    this.calls.push('map');
    return Promise.resolve('/dev/loop7');
  }
  unmapVolume(): Promise<void> {
    this.calls.push('unmap');
    return Promise.resolve();
  }
  repairVolume(): Promise<number> {
    this.calls.push('repair');
    return Promise.resolve(1);
  }
  status() {
    return Promise.resolve(this.#attached === null ? [] : [statusOf(this.#attached, this.failure)]);
  }
  async #turn(call: string): Promise<void> {
    expect(this.#busy).toBe(false);
    this.#busy = true;
    this.calls.push(call);
    await new Promise((resolve) => setImmediate(resolve));
    this.#busy = false;
  }
}

let host: FakeHost;
let changes: ChangeInSyncSetRequest[];
let losses: ReportLostDataRequest[];
let damages: ReportDamageRequest[];
let volumes: TargetVolumes;
beforeEach(() => {
  host = new FakeHost();
  changes = [];
  losses = [];
  damages = [];
  const membership = {
    changeInSyncSet: async (change: ChangeInSyncSetRequest) => {
      await new Promise((resolve) => setImmediate(resolve));
      changes.push(change);
    },
    saveReservations: () => Promise.resolve(),
    reportLostData: (loss: ReportLostDataRequest) => {
      losses.push(loss);
      return Promise.resolve();
    },
    reportDamage: (damage: ReportDamageRequest) => {
      damages.push(damage);
      return Promise.reject(new HoldfastError('UNIMPLEMENTED', 'an older manager'));
    },
    close: () => undefined,
  };
  volumes = new TargetVolumes(membership, silentLogger, join(tmpdir(), 'holdfast-no-devices'));
  volumes.serveWith(host);
});

async function stateNow() {
  return (await volumes.report()).map(({ epoch, state }) => ({ epoch, state }));
}

test('damage that an engine found is passed on, and nothing depends on the answer', async () => {
  const damage = { volumeId: 7n, epoch: 3n, reason: 'blocks 5, 7 are damaged on every copy' };
  volumes.questions.damageFound(damage);
  await new Promise((resolve) => setImmediate(resolve));
  expect(damages).toEqual([damage]);
});

describe('attach', () => {
  test('again with the same epoch is the same answer and no second engine', async () => {
    const answers = await Promise.all([volumes.attach(request(3n)), volumes.attach(request(3n))]);
    expect(answers[1]).toEqual(answers[0]);
    expect(host.calls).toEqual(['attach 3']);
  });

  test('with a newer epoch replaces the engine', async () => {
    await volumes.attach(request(3n));
    await volumes.attach(request(4n));
    expect(host.calls).toEqual(['attach 3', 'detach', 'attach 4']);
    expect(await stateNow()).toEqual([{ epoch: 4n, state: 'serving' }]);
  });

  test('with an older epoch is refused and changes nothing', async () => {
    await volumes.attach(request(3n));
    await expect(volumes.attach(request(2n))).rejects.toMatchObject({ code: 'EPOCH_SUPERSEDED' });
    expect(host.calls).toEqual(['attach 3']);
  });

  test('that fails leaves nothing behind', async () => {
    host.attachError = new HoldfastError('NO_IN_SYNC_REPLICA', 'none');
    await expect(volumes.attach(request(3n))).rejects.toMatchObject({ code: 'NO_IN_SYNC_REPLICA' });
    expect(await stateNow()).toEqual([]);
    host.attachError = null;
    await volumes.attach(request(3n));
    expect(await stateNow()).toEqual([{ epoch: 3n, state: 'serving' }]);
  });
});

test('what the network held up is not for a later engine', async () => {
  await volumes.attach(request(3n));
  await volumes.attach(request(4n));
  host.calls.length = 0;
  await volumes.detach(volumeId, 3n);
  const configuration = { volumeId, replicas: [], rebuildBytesPerSecond: 0n, foregroundPercent: 80, qos: null };
  await expect(volumes.configure(configuration, 3n)).rejects.toMatchObject({ code: 'EPOCH_SUPERSEDED' });
  expect(host.calls).toEqual([]);
  await volumes.configure(configuration, 4n);
  await volumes.detach(volumeId, 4n);
  expect(host.calls).toEqual(['configure', 'detach']);
});

test('detach waits for the attach before it, and is success for what is not attached', async () => {
  await volumes.detach(volumeId, 0n);
  await Promise.all([volumes.attach(request(3n)), volumes.detach(volumeId, 0n)]);
  expect(host.calls).toEqual(['attach 3', 'detach']);
  expect(await stateNow()).toEqual([]);
});

test('a volume whose I/O waits says so', async () => {
  await volumes.attach(request(3n));
  host.failure = 'no in-sync replica answers';
  expect(await volumes.report()).toMatchObject([{ state: 'waiting', failure: 'no in-sync replica answers' }]);
});

describe('a fenced volume', () => {
  test('is closed, stays visible, and only a newer epoch brings it back', async () => {
    await volumes.attach(request(3n));
    volumes.questions.fenced({ volumeId, epoch: 3n });
    expect(await stateNow()).toEqual([{ epoch: 3n, state: 'fenced' }]);
    await expect(volumes.attach(request(3n))).rejects.toMatchObject({ code: 'EPOCH_SUPERSEDED' });
    expect(host.calls).toEqual(['attach 3', 'detach']);
    await expect(volumes.resize(volumeId, 1n << 31n)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await volumes.attach(request(5n));
    expect(await stateNow()).toEqual([{ epoch: 5n, state: 'serving' }]);
  });

  test('is told of an epoch that is gone: nothing happens', async () => {
    await volumes.attach(request(3n));
    await volumes.attach(request(4n));
    volumes.questions.fenced({ volumeId, epoch: 3n });
    expect(await stateNow()).toEqual([{ epoch: 4n, state: 'serving' }]);
  });
});

test('changes of the in-sync set go out in order with a rising sequence per epoch', async () => {
  await volumes.attach(request(3n));
  const change = (epoch: bigint, inSync: bigint[]) =>
    volumes.questions.changeInSyncSet({ volumeId, epoch, inSync, reason: 'r' });
  await Promise.all([change(3n, [1n, 2n]), change(3n, [1n]), change(4n, [2n])]);
  expect(changes.map(({ epoch, inSync, sequence }) => ({ epoch, inSync, sequence }))).toEqual([
    { epoch: 3n, inSync: [1n, 2n], sequence: 1n },
    { epoch: 3n, inSync: [1n], sequence: 2n },
    { epoch: 4n, inSync: [2n], sequence: 1n },
  ]);
});
