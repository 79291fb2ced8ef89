// Takes in what agents report: nodes and disks become records (so that they are known while their agent is away), the rest is
// observed state.
import { isDeepStrictEqual } from 'node:util';
import { isHoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import type { DiskOrder } from '../generated/holdfast/v1/manager.js';
import type { AgentSink } from './grpc-services.js';
import type { ManagerContext } from './context.js';
import { disksLock, withhold } from './disk-moves.js';
import { claimName } from './node-names.js';
import type { AgentReport, Observed, ObservedProcess } from './observed.js';
import { recordVersion } from './records.js';
import type { DiskRecord, NodeRecord } from './records.js';
import type { Repository } from './repository.js';

/** Says that records of disks have changed. */
export class DiskChanges {
  readonly #listeners = new Set<() => void>();

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  announce(): void {
    for (const listener of this.#listeners) listener();
  }
}

async function ordersFor(repository: Repository, node: string): Promise<readonly DiskOrder[]> {
  const disks = await repository.listDisks();
  return disks.flatMap(({ node: at, name, order }) => {
    if (at !== node || order === null) return [];
    return [
      {
        name,
        directory: order.directory,
        journalPath: order.journalPath ?? '',
        journalBytes: BigInt(order.journalBytes),
        cacheBytes: BigInt(order.cacheBytes),
        capacityBytes: BigInt(order.capacityBytes),
        removed: order.removed,
        format: order.format ?? false,
      },
    ];
  });
}

export function createAgentSink(
  context: Pick<ManagerContext, 'repository' | 'observed' | 'logger' | 'locks' | 'now' | 'events'>,
  diskChanges: DiskChanges,
): AgentSink {
  const { repository, observed, logger, locks, events } = context;
  // By node: the folder of the agent that was refused last, so that it is told once.
  const refused = new Map<string, string>();
  return {
    report: async (connection, report, orderShares) => {
      // One after the other: of two agents of one name, the second is to find the first.
      await locks.run(`agent ${report.node}`, async () => {
        await recordNode(context, report).catch((error: unknown) => {
          const { node, place } = report;
          if (!isHoldfastError(error, 'IN_USE')) {
            logger.error('cannot record a node', { node, ...errorFields(error) });
          } else if (refused.get(node) !== place?.folderId) {
            refused.set(node, place?.folderId ?? '');
            events.emit({ severity: 'warning', object: `node ${node}`, message: `refused an agent: ${error.message}` });
            logger.warn('refused an agent', { node, ...errorFields(error) });
          }
          throw error;
        });
        const processes = await locks.run(disksLock, () => recordDisks(repository, report));
        await forgetRemoved(repository, report);
        observed.report(connection, { ...report, processes }, orderShares);
      });
    },
    disconnected: (connection, node) => {
      observed.disconnected(connection, node);
    },
    followOrders: (node, send) => {
      let last = '';
      const look = () => {
        void ordersFor(repository, node).then(
          (orders) => {
            const text = JSON.stringify(orders, (_, value: unknown) =>
              typeof value === 'bigint' ? String(value) : value,
            );
            if (text !== last && orders.length > 0) send(orders);
            last = text;
          },
          (error: unknown) => {
            logger.warn('cannot look up the disks of a node', { node, ...errorFields(error) });
          },
        );
      };
      look();
      return diskChanges.subscribe(look);
    },
  };
}

// The agent does not report it any more: it has been stopped.
async function forgetRemoved(repository: Repository, report: AgentReport): Promise<void> {
  for (const { node, name, order } of await repository.listDisks()) {
    if (node !== report.node || order?.removed !== true) continue;
    if (!report.processes.some(({ disk }) => disk === name)) await repository.removeDisk(node, name);
  }
}

// IN_USE when the name is another agent's.
async function recordNode(
  { repository, observed, now }: Pick<ManagerContext, 'repository' | 'observed' | 'now'>,
  { node, processes, place }: AgentReport,
): Promise<void> {
  const portal = processes.find(({ role }) => role === 'target')?.portal ?? null;
  await repository.updateNode(node, (former) => {
    const moment = { awayMs: awayMsOf(observed, node), now: now() };
    const record: NodeRecord = {
      ...(former ?? { zone: null, cordoned: false, draining: false }),
      version: recordVersion,
      name: node,
      portal: portal ?? former?.portal ?? null,
      ...(place === undefined ? {} : { agent: claimName(node, former?.agent, place, moment) }),
    };
    return former !== null && isDeepStrictEqual(former, record) ? null : record;
  });
}

function awayMsOf(observed: Observed, name: string): number {
  const node = observed.node(name);
  // It has not been here since the start of this manager.
  if (node === undefined) return observed.now() - observed.startedAt;
  return node.agentAwaySince === null ? 0 : observed.now() - node.agentAwaySince;
}

async function recordDisks(
  repository: Repository,
  { node, processes }: AgentReport,
): Promise<readonly ObservedProcess[]> {
  const recorded: ObservedProcess[] = [];
  for (const process of processes) {
    // Read again: of two disks with one identity in one report, the second is withheld.
    const disks = process.role === 'replica' ? await repository.listDisks() : [];
    recorded.push(process.role === 'replica' ? await recordDisk(repository, disks, node, process) : process);
  }
  return recorded;
}

// Another disk at the place of a known one must not be used: its replicas are not those of the records. Nor must one that counts
// as being in another place.
async function recordDisk(
  repository: Repository,
  disks: readonly DiskRecord[],
  node: string,
  process: ObservedProcess,
): Promise<ObservedProcess> {
  const name = process.disk ?? '';
  const former = disks.find((disk) => disk.node === node && disk.name === name) ?? null;
  const known = former?.diskId ?? null;
  const holder = known === null && process.diskId !== null ? holderOf(disks, process.diskId) : null;
  if (known !== null && process.diskId !== null && known !== process.diskId) {
    const message = `${process.directory ?? 'its folder'} holds disk ${process.diskId}, but ${name} of ${node} is disk ${known}: put the right disk in its place`;
    return { ...process, state: 'failed', failure: { code: 'WRONG_DISK', message } };
  }
  await repository.updateDisk(node, name, (present) => {
    const record: DiskRecord = {
      ...(present ?? { tags: [], class: null, cordoned: false, evicting: false, order: null }),
      version: recordVersion,
      node,
      name,
      diskId: holder === null ? (process.diskId ?? known) : null,
      directory: process.directory ?? present?.directory ?? '',
      address: (holder === null ? process.address : null) ?? present?.address ?? null,
      class: present?.class ?? process.diskClass,
      order: orderOf(present?.order ?? null, process.diskId),
    };
    const unchanged =
      present?.diskId === record.diskId &&
      (present.order?.format ?? false) === (record.order?.format ?? false) &&
      present.class === record.class &&
      present.directory === record.directory &&
      present.address === record.address;
    return unchanged ? null : record;
  });
  return holder === null ? process : withhold(process, former, holder);
}

// Once there is a disk, nothing is to be formatted at its place any more.
function orderOf(order: DiskRecord['order'], diskId: string | null): DiskRecord['order'] {
  if (order?.format === undefined || diskId === null) return order;
  const { format: _, ...rest } = order;
  return rest;
}

function holderOf(disks: readonly DiskRecord[], diskId: string): DiskRecord | null {
  return disks.find((disk) => disk.diskId === diskId) ?? null;
}
