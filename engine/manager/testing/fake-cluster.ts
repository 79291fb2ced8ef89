// A manager on a store of its own, with nodes whose data plane is in memory.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../../log/logger.js';
import { openLmdbMetastore } from '../../metastore/lmdb-metastore.js';
import { createGrpcDataPlane } from '../grpc-data-plane.js';
import { idToBigint } from '../ids.js';
import { changeInSyncSet } from '../membership.js';
import { startManager } from '../manager.js';
import type { Manager } from '../manager.js';
import type { VolumeRecord } from '../records.js';
import { Repository } from '../repository.js';
import type { VolumeView } from '../views.js';
import { FakeNode } from './fake-data-plane.js';

export class FakeCluster {
  readonly nodes: readonly FakeNode[];
  manager: Manager;
  readonly #folder: string;

  private constructor(folder: string, nodes: readonly FakeNode[], manager: Manager) {
    this.#folder = folder;
    this.nodes = nodes;
    this.manager = manager;
  }

  static async start(count = 3): Promise<FakeCluster> {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-manager-'));
    const nodes = Array.from({ length: count }, (_, index) => new FakeNode(index + 1));
    await Promise.all(nodes.map((node) => node.start()));
    const manager = await startManagerIn(folder, '127.0.0.1:0');
    await Promise.all(nodes.map((node) => node.connect(manager.address)));
    return new FakeCluster(folder, nodes, manager);
  }

  /** Another manager takes over: what only the former one knew is gone. */
  async restartManager(): Promise<void> {
    const { address } = this.manager;
    await this.manager.close();
    this.manager = await startManagerIn(this.#folder, address);
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

  /** As the engine of the volume asks for it. */
  async setInSync(name: string, inSync: readonly string[]): Promise<void> {
    const { id, epoch } = await this.record(name);
    await changeInSyncSet(new Repository(this.manager.store), {
      volumeId: id,
      epoch,
      inSync,
      reason: 'test',
      sequence: 0,
    });
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

async function startManagerIn(folder: string, listen: string): Promise<Manager> {
  return await startManager({
    store: await openLmdbMetastore(join(folder, 'metastore')),
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
