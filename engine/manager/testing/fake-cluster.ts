// A manager on a store of its own, with nodes whose data plane is in memory.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HoldfastError, isHoldfastError } from '../../errors/holdfast-error.js';
import { silentLogger } from '../../log/logger.js';
import { openLmdbMetastore } from '../../metastore/lmdb-metastore.js';
import type { Metastore } from '../../metastore/metastore.js';
import { createGrpcDataPlane } from '../grpc-data-plane.js';
import { idToBigint } from '../ids.js';
import { changeInSyncSet } from '../membership.js';
import { startManager } from '../manager.js';
import type { Manager } from '../manager.js';
import type { DiskRecord, VolumeRecord } from '../records.js';
import { Repository } from '../repository.js';
import type { VolumeView } from '../views.js';
import { FakeNode } from './fake-data-plane.js';

/** Of the store of this manager. */
type StoreState = {
  /** How often all records below a prefix were read. */
  readonly reads: Map<string, number>;
  /** How many more transactions with changes it takes. */
  changesLeft: number;
};

export class FakeCluster {
  readonly nodes: readonly FakeNode[];
  manager: Manager;
  readonly #folder: string;
  readonly #store: StoreState;

  private constructor(folder: string, nodes: readonly FakeNode[], manager: Manager, store: StoreState) {
    this.#folder = folder;
    this.nodes = nodes;
    this.manager = manager;
    this.#store = store;
  }

  static async start(count = 3): Promise<FakeCluster> {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-manager-'));
    const nodes = Array.from({ length: count }, (_, index) => new FakeNode(index + 1));
    await Promise.all(nodes.map((node) => node.start()));
    const store: StoreState = { reads: new Map(), changesLeft: Infinity };
    const manager = await startManagerIn(folder, '127.0.0.1:0', store);
    await Promise.all(nodes.map((node) => node.connect(manager.address)));
    return new FakeCluster(folder, nodes, manager, store);
  }

  /** How often this manager has read all records below `prefix`. */
  reads(prefix: string): number {
    return this.#store.reads.get(prefix) ?? 0;
  }

  /** The store takes that many more transactions with changes, those of what was observed apart; then it fails. */
  breakStoreAfter(changes: number): void {
    this.#store.changesLeft = changes;
  }

  /** Whether it has come to that. */
  get storeIsBroken(): boolean {
    return this.#store.changesLeft < 0;
  }

  /** Another manager takes over: what only the former one knew is gone. `alone`: before any agent has found it. */
  async restartManager(alone: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    const { address } = this.manager;
    await this.manager.close();
    this.#store.reads.clear();
    this.#store.changesLeft = Infinity;
    this.manager = await startManagerIn(this.#folder, address, this.#store);
    await alone();
    await Promise.all(this.nodes.map((node) => node.connect(this.manager.address)));
    await this.manager.settle();
  }

  async stop(): Promise<void> {
    for (const node of this.nodes) node.stop();
    await this.manager.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  node(name: string): FakeNode {
    const found = this.nodes.find((node) => node.name === name);
    if (found === undefined) throw new Error(`there is no ${name}`);
    return found;
  }

  create(name: string, replicas = 3): Promise<VolumeView> {
    return this.manager.api.createVolume({ name, size: 10 * 2 ** 20, replicas, blockSize: 512 });
  }

  async record(name: string): Promise<VolumeRecord> {
    return (await new Repository(this.manager.store).volume(name)).record;
  }

  disks(): Promise<readonly DiskRecord[]> {
    return new Repository(this.manager.store).listDisks();
  }

  /** As the engine of the volume asks for it. */
  async setInSync(name: string, inSync: readonly string[]): Promise<void> {
    const repository = new Repository(this.manager.store);
    for (let changed = false; !changed;) {
      const { id, epoch } = await this.record(name);
      const change = { volumeId: id, epoch, inSync, reason: 'test', sequence: 0 };
      // The volume may just be given to another engine.
      changed = await changeInSyncSet(repository, change).then(
        () => true,
        (error: unknown) => {
          if (isHoldfastError(error, 'EPOCH_SUPERSEDED')) return false;
          throw error;
        },
      );
    }
    this.manager.kick();
    await this.manager.settle();
  }

  /** The replica process of a node goes away, or comes back. */
  async setReplicaRuns(name: string, runs: boolean): Promise<void> {
    const node = this.node(name);
    if (runs && !node.replicaRuns) await node.replica.start();
    if (!runs) node.replica.kill();
    node.replicaRuns = runs;
    await node.report();
  }

  setPosition(volume: VolumeView, node: string, lastEpoch: number, lastSeq: number): void {
    const replica = replicaOn(volume, node);
    this.node(node).replica.positions.set(idToBigint(replica), {
      lastEpoch: BigInt(lastEpoch),
      lastSeq: BigInt(lastSeq),
    });
  }
}

export function replicaOn({ replicas }: VolumeView, node: string): string {
  const found = replicas.find((replica) => replica.node === node);
  if (found === undefined) throw new Error(`no replica on ${node}`);
  return found.id;
}

async function startManagerIn(folder: string, listen: string, state: StoreState): Promise<Manager> {
  const store = await openLmdbMetastore(join(folder, 'metastore'));
  const range: Metastore['range'] = (prefix) => {
    state.reads.set(prefix, (state.reads.get(prefix) ?? 0) + 1);
    return store.range(prefix);
  };
  const transact: Metastore['transact'] = async (compares, changes) => {
    if (!changes.some(({ key }) => /^\/(events|nodes|disks)/.test(key)) && --state.changesLeft < 0)
      throw new HoldfastError('STORE_UNAVAILABLE', 'the store is broken for this test');
    return await store.transact(compares, changes);
  };
  return await startManager({
    store: { ...store, range, transact },
    dataPlane: createGrpcDataPlane(),
    logger: silentLogger,
    listen,
    version: '1.2.3',
    settleMs: 2_000,
    patienceMs: 500,
    restartMs: 0,
    choresEveryMs: 50,
    auditEveryMs: 100,
  });
}
