// Scrubs: every replica of a volume re-reads all it has and checks it, the digests of the replicas are compared, and what is bad is
// written again from a good copy by the volume's engine (one without a front-end when the volume is detached).
//
// One scrub of a volume at a time; by schedule, one volume at a time. The record of a scrub that was asked for stays until it has
// ended, so that a manager that takes over begins it again.
import { HoldfastError, isHoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { sleep } from '../async/wait.js';
import { errorFields } from '../log/logger.js';
import { beginMaintenance, endMaintenance } from './attachment.js';
import type { ManagerContext } from './context.js';
import type { ChunkVersion, DamagedChunk } from './data-plane.js';
import { engineNode, goodCopies, isUp, maintenanceNode } from './maintenance.js';
import { replicaAddress, runningTarget } from './observed.js';
import { recordVersion } from './records.js';
import type { ReplicaRecord, ScrubRecord, VolumeRecord } from './records.js';
import { withVolume } from './volume-operations.js';

const blocksPerChunk = 64;
const chunkBytes = 262_144;
/** Digests of so many chunks are compared at a time. */
const chunksPerComparison = 16_384;
/** Of one call, when connections are lost. */
const attemptsMax = 4;
/** After a start of the manager, for the agents to say that the copies run, before a scrub that was under way begins again. */
const returnPatienceMs = 60_000;

export type ScrubProgressView = { readonly chunksTotal: number; readonly chunksChecked: number };

type Finding = {
  readonly replicaId: string;
  readonly chunk: number;
  readonly blocks: bigint;
  readonly differs: boolean;
};

type Running = {
  readonly work: Promise<void>;
  readonly stop: AbortController;
  readonly checked: Map<string, number>;
  chunksTotal: number;
};

type Tally = {
  checkedBlocks: number;
  damagedBlocks: number;
  repairedBlocks: number;
  unrepairableBlocks: number;
  differingChunks: number;
};

export class Scrubber {
  readonly #context: ManagerContext;
  readonly #running = new Map<string, Running>();
  #stopped = false;

  constructor(context: ManagerContext) {
    this.#context = context;
  }

  /** Begins one, or lets the one that runs go on. */
  async request(name: string, bytesPerSecond: number | null): Promise<VolumeRecord> {
    const { repository, now } = this.#context;
    const { record } = await repository.volume(name);
    if (record.phase !== 'ready') throw new HoldfastError('FAILED_PRECONDITION', `volume "${name}" is being created`);
    if (this.#running.has(record.id)) return record;
    const former = (await repository.scrub(record.id)) ?? emptyScrub(record.id);
    await repository.putScrub({ ...former, requestedAt: now().toISOString(), bytesPerSecond });
    this.#start(record.id);
    return record;
  }

  progress(volumeId: string): ScrubProgressView | null {
    const running = this.#running.get(volumeId);
    if (running === undefined) return null;
    // All replicas are read side by side: the slowest counts.
    const checked = running.checked.size === 0 ? 0 : Math.min(...running.checked.values());
    return { chunksTotal: running.chunksTotal, chunksChecked: checked };
  }

  /** What was asked for and did not end, and, one at a time, what is due by schedule. "waits": to be asked again soon. */
  async startDue(): Promise<'waits' | 'done'> {
    const { repository, observed, now } = this.#context;
    const [volumes, scrubs, settings] = await Promise.all([
      repository.listVolumes(),
      repository.listScrubs(),
      repository.settings(),
    ]);
    const records = new Map(scrubs.map((scrub) => [scrub.volume, scrub]));
    // Until agents have reported, every copy looks as if it were gone.
    const patient = observed.now() - observed.startedAt < returnPatienceMs;
    let waits = false;
    const allUp = (volume: VolumeRecord) => goodCopies(volume).every((copy) => isUp(observed.nodes, copy));
    for (const volume of volumes) {
      const requested = (records.get(volume.id)?.requestedAt ?? null) !== null;
      if (volume.phase !== 'ready' || !requested) continue;
      if (patient && !allUp(volume)) waits = true;
      else this.#start(volume.id);
    }
    if (waits) return 'waits';
    if (settings.scrubIntervalSeconds === 0 || this.#running.size > 0) return 'done';
    const latest = now().getTime() - settings.scrubIntervalSeconds * 1_000;
    const due = volumes
      .filter((volume) => volume.phase === 'ready' && allUp(volume))
      .map((volume) => ({ volume, at: Date.parse(records.get(volume.id)?.verifiedAt ?? volume.createdAt) }))
      .filter(({ at }) => at < latest)
      .sort((a, b) => a.at - b.at)[0];
    if (due !== undefined) await this.request(due.volume.name, null);
    return 'done';
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    for (const { stop } of this.#running.values()) stop.abort();
    await Promise.allSettled([...this.#running.values()].map(({ work }) => work));
  }

  #start(volumeId: string): void {
    if (this.#running.has(volumeId) || this.#stopped) return;
    const stop = new AbortController();
    const checked = new Map<string, number>();
    const running: Running = { work: Promise.resolve(), stop, checked, chunksTotal: 0 };
    this.#running.set(volumeId, running);
    const work = this.#run(volumeId, running).finally(() => this.#running.delete(volumeId));
    this.#running.set(volumeId, Object.assign(running, { work }));
  }

  async #run(volumeId: string, running: Running): Promise<void> {
    const { repository, events, logger, now } = this.#context;
    const tally: Tally = {
      checkedBlocks: 0,
      damagedBlocks: 0,
      repairedBlocks: 0,
      unrepairableBlocks: 0,
      differingChunks: 0,
    };
    let failure: string | null = null;
    let name = volumeId;
    try {
      const found = await repository.findVolumeById(volumeId);
      if (found === null) return;
      ({ name } = found.record);
      await this.#scrub(found.record, running, tally);
    } catch (error) {
      failure = toHoldfastError(error).message;
      logger.warn('scrub ended early', { volume: name, ...errorFields(error) });
    }
    if (this.#stopped) return;
    try {
      if ((await repository.findVolumeById(volumeId)) === null) return;
      const former = (await repository.scrub(volumeId)) ?? emptyScrub(volumeId);
      const verifiedAt = failure === null ? now().toISOString() : former.verifiedAt;
      await repository.putScrub({ ...former, ...tally, requestedAt: null, verifiedAt, failure });
    } catch (error) {
      logger.error('cannot store what a scrub found', { volume: name, ...errorFields(error) });
    }
    const { severity, message } = describe(tally, failure);
    events.emit({ severity, object: `volume ${name}`, message });
  }

  async #scrub(volume: VolumeRecord, running: Running, tally: Tally): Promise<void> {
    const { repository, observed } = this.#context;
    const copies = goodCopies(volume).filter(({ node, disk }) => replicaAddress(observed.node(node), disk) !== null);
    if (copies.length === 0) {
      throw new HoldfastError('NO_IN_SYNC_REPLICA', `no in-sync replica of volume "${volume.name}" can be reached`);
    }
    running.chunksTotal = Math.ceil(volume.size / chunkBytes);
    const scrub = await repository.scrub(volume.id);
    const bytesPerSecond = scrub?.bytesPerSecond ?? (await repository.settings()).scrubBytesPerSecond;
    const findings = await this.#readAgain(copies, running, bytesPerSecond, tally);
    const differing = await this.#compare(copies, running);
    tally.differingChunks = new Set(differing.map(({ chunk }) => chunk)).size;
    for (const { blocks } of findings) tally.damagedBlocks += countBits(blocks);
    await this.#repair(volume, [...findings, ...differing], tally);
    if (copies.length < goodCopies(volume).length) {
      throw new HoldfastError('CONNECTION_LOST', 'not every in-sync replica could be reached');
    }
  }

  async #readAgain(
    copies: readonly ReplicaRecord[],
    running: Running,
    bytesPerSecond: number,
    tally: Tally,
  ): Promise<readonly Finding[]> {
    const findings: Finding[] = [];
    await Promise.all(
      copies.map(async (replica) => {
        const { id } = replica;
        const note = ({ chunk, blocks }: DamagedChunk) => {
          findings.push({ replicaId: id, chunk, blocks, differs: false });
        };
        running.checked.set(id, 0);
        await this.#again(replica, running, async (address) => {
          let blocks = 0;
          const request = { replicaId: id, firstChunk: running.checked.get(id) ?? 0, endChunk: 0, bytesPerSecond };
          await this.#context.dataPlane.scrub(
            address,
            request,
            (progress) => {
              running.checked.set(id, progress.nextChunk);
              tally.checkedBlocks += progress.blocksChecked - blocks;
              blocks = progress.blocksChecked;
              for (const damaged of progress.damaged) note(damaged);
            },
            running.stop.signal,
          );
        });
      }),
    );
    return findings;
  }

  // A connection that was cut off for a while, or a process that is started again, ends a call and not the scrub.
  async #again<T>({ node, disk }: ReplicaRecord, { stop }: Running, work: (address: string) => Promise<T>): Promise<T> {
    const { observed, logger, patienceMs } = this.#context;
    for (let attempts = 1; ; attempts++) {
      try {
        const address = await observed.waitFor(() => replicaAddress(observed.node(node), disk), patienceMs);
        if (address !== null) return await work(address);
        throw new HoldfastError('CONNECTION_LOST', `the replica process of ${disk} on ${node} does not run`);
      } catch (error) {
        if (!isHoldfastError(error, 'CONNECTION_LOST') || attempts >= attemptsMax || stop.signal.aborted) throw error;
        logger.info('a scrub goes on after a lost connection', { node, disk, ...errorFields(error) });
        await sleep(attempts * 200);
      }
    }
  }

  // Equal versions must mean equal content. Versions that differ belong to writes that are under way: nothing is said of those.
  async #compare(copies: readonly ReplicaRecord[], running: Running): Promise<readonly Finding[]> {
    const findings: Finding[] = [];
    for (let first = 0; first < running.chunksTotal && copies.length > 1; first += chunksPerComparison) {
      if (running.stop.signal.aborted) break;
      const end = Math.min(first + chunksPerComparison, running.chunksTotal);
      const answers = await Promise.all(
        copies.map(async (replica) => {
          const versions = await this.#again(replica, running, (address) =>
            this.#context.dataPlane.chunkVersions(address, replica.id, first, end),
          );
          return {
            replicaId: replica.id,
            versions: new Map(versions.map((version) => [`${version.chunk}/${version.layer}`, version])),
          };
        }),
      );
      findings.push(...differences(answers));
    }
    return findings;
  }

  async #repair(volume: VolumeRecord, findings: readonly Finding[], tally: Tally): Promise<void> {
    if (findings.length === 0) return;
    const control = await this.#engine(volume);
    try {
      for (const finding of findings) await this.#repairOne(control, volume, finding, tally);
    } finally {
      const { record } = (await this.#context.repository.findVolumeById(volume.id)) ?? { record: null };
      if (record?.maintenance?.reason === 'scrub') {
        await withVolume(this.#context, record.name, () => endMaintenance(this.#context, record.id));
      }
    }
  }

  async #repairOne(control: string, volume: VolumeRecord, finding: Finding, tally: Tally): Promise<void> {
    const { dataPlane, events } = this.#context;
    const { replicaId, chunk, differs } = finding;
    const first = chunk * blocksPerChunk;
    const blockCount = Math.min(blocksPerChunk, volume.size / 4_096 - first);
    if (blockCount <= 0) return;
    try {
      const repaired = await dataPlane.repair(control, {
        volumeId: volume.id,
        replicaId,
        firstBlock: first,
        blockCount,
        differs,
      });
      if (repaired > 0) tally.repairedBlocks += differs ? repaired : countBits(finding.blocks);
    } catch (thrown) {
      const error = toHoldfastError(thrown);
      // A replica that left the set meanwhile is rebuilt, which repairs it.
      if (error.code === 'REPLICA_INCOMPLETE') return;
      // Nothing is known of the damage: the next scrub finds it again.
      if (error.code === 'CONNECTION_LOST') throw error;
      tally.unrepairableBlocks += differs ? blockCount : countBits(finding.blocks);
      events.emit({
        severity: 'error',
        object: `volume ${volume.name}`,
        message: `chunk ${chunk} of replica ${replicaId} is damaged and cannot be repaired: ${error.message}`,
      });
    }
  }

  // The control address of the target process with the volume's engine.
  async #engine(volume: VolumeRecord): Promise<string> {
    const { observed } = this.#context;
    await withVolume(this.#context, volume.name, async ({ record }) => {
      if (engineNode(record) !== null) return;
      const node = maintenanceNode(record, observed.nodes);
      if (node !== null) await beginMaintenance(this.#context, record.id, { node, reason: 'scrub' });
    });
    const found = await this.#context.repository.findVolumeById(volume.id);
    const node = found === null ? null : engineNode(found.record);
    const target = node === null ? null : runningTarget(observed.node(node));
    if (target !== null) return target.control;
    throw new HoldfastError(
      'CONNECTION_LOST',
      `no node runs a target process that could repair volume "${volume.name}"`,
    );
  }
}

type Answer = {
  readonly replicaId: string;
  /** By chunk and layer. */
  readonly versions: ReadonlyMap<string, ChunkVersion>;
};

/** Of each chunk that has the same version everywhere: the replicas whose digest most of the others do not share. */
export function differences(answers: readonly Answer[]): readonly Finding[] {
  const findings: Finding[] = [];
  for (const key of new Set(answers.flatMap(({ versions }) => [...versions.keys()]))) {
    const seen = answers.flatMap(({ replicaId, versions }) => {
      const version = versions.get(key);
      return version === undefined ? [] : [{ replicaId, ...version }];
    });
    const [first] = seen;
    if (first === undefined || seen.length < answers.length) continue;
    if (seen.some(({ epoch, seq, digest }) => epoch !== first.epoch || seq !== first.seq || digest === 0)) continue;
    const count = (digest: number) => seen.filter((each) => each.digest === digest).length;
    const right = [...seen].sort((a, b) => count(b.digest) - count(a.digest))[0] ?? first;
    for (const { replicaId, digest } of seen) {
      if (digest !== right.digest) findings.push({ replicaId, chunk: first.chunk, blocks: 0n, differs: true });
    }
  }
  return findings;
}

export function countBits(bits: bigint): number {
  let count = 0;
  for (let rest = bits; rest !== 0n; rest &= rest - 1n) count++;
  return count;
}

export function emptyScrub(volume: string): ScrubRecord {
  return {
    version: recordVersion,
    volume,
    requestedAt: null,
    bytesPerSecond: null,
    verifiedAt: null,
    checkedBlocks: 0,
    damagedBlocks: 0,
    repairedBlocks: 0,
    unrepairableBlocks: 0,
    differingChunks: 0,
    failure: null,
  };
}

function describe(
  tally: Tally,
  failure: string | null,
): { readonly severity: 'info' | 'warning' | 'error'; readonly message: string } {
  const { checkedBlocks, damagedBlocks, repairedBlocks, unrepairableBlocks, differingChunks } = tally;
  const found =
    damagedBlocks + differingChunks === 0
      ? `${checkedBlocks} blocks are as they should be`
      : `${damagedBlocks} of ${checkedBlocks} blocks were damaged, ${differingChunks} chunks differed; ` +
        `${repairedBlocks} blocks were repaired, ${unrepairableBlocks} cannot be`;
  if (failure !== null) return { severity: 'warning', message: `scrub ended early (${failure}): ${found}` };
  const severity = unrepairableBlocks > 0 ? 'error' : damagedBlocks + differingChunks > 0 ? 'warning' : 'info';
  return { severity, message: `scrub: ${found}` };
}
