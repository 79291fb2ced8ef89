// What the manager has been told about the world: agents' reports and what targets serve. In memory only; rebuilt within
// moments after a restart, because every agent reconnects and reports everything.
//
// An agent that disconnects says nothing about the processes it supervised: they outlive it, so what they last were stays.
import type { DiskClass } from './records.js';
import type { ShareOrder, ShareStatus } from '../nfs/share-types.js';
import type { SmartHealth } from '../os/smart.js';
import type { ErrorCode } from '../errors/error-codes.js';

// An agent is back once it has been connected for so long.
const steadyAfterMs = 3_000;

export type Failure = { readonly code: ErrorCode; readonly message: string };

export type ObservedProcess = {
  readonly role: 'target' | 'replica';
  /** Replica processes: the name of the disk. */
  readonly disk: string | null;
  readonly state: 'starting' | 'running' | 'failed';
  readonly pid: number | null;
  readonly failure: Failure | null;
  readonly instanceId: string | null;
  readonly address: string | null;
  readonly portal: string | null;
  readonly directory: string | null;
  readonly diskId: string | null;
  readonly diskClass: DiskClass | null;
  /** What the drive says; absent or null: nothing is known. */
  readonly smart?: SmartHealth | null;
  /** What was reported, and is not to be used: the disk counts as being elsewhere (disk-moves.ts). */
  readonly withheld?: ObservedProcess;
};

/** Which agent it is: `folderId` is of the folder that it runs on, and no copy has it. */
export type AgentPlace = { readonly folderId: string; readonly host: string; readonly folder: string };

export type AgentReport = {
  readonly node: string;
  readonly pid: number;
  /** Absent: of an agent of an earlier version. */
  readonly place?: AgentPlace;
  readonly processes: readonly ObservedProcess[];
  readonly shares?: readonly ShareStatus[];
};

/** Tells the agent at the other end which shares it is to serve: all of them. */
export type OrderShares = (orders: readonly ShareOrder[]) => void;

/** A volume that a target process serves, or tries to. */
export type ServedVolume = {
  readonly volumeId: string;
  readonly epoch: number;
  readonly state: string;
  /** /dev/loopN of the target's host; empty or absent when it is not mapped */
  readonly device?: string;
  /** The replicas it was last configured with (see configurationKey); null when another manager did that. */
  readonly configurationKey: string | null;
};

export type ObservedNode = {
  readonly name: string;
  /** Null while no agent is connected. */
  readonly agentPid: number | null;
  readonly processes: readonly ObservedProcess[];
  /** Of the target instance `servedBy`; null while unknown. */
  readonly served: readonly ServedVolume[] | null;
  readonly servedBy: string | null;
  /** The redirect table that this target instance was last given; null: none yet. */
  readonly redirectsKey: string | null;
  /** Since when its agent is not connected (ms of the manager's clock); null while it is. */
  readonly agentAwaySince: number | null;
  /** By disk: since when its replica process does not run. */
  readonly disksAwaySince: ReadonlyMap<string, number>;
  /** What the agent says of the shares it serves. */
  readonly shares?: readonly ShareStatus[];
  /** The shares that this connection was last told to serve; null: nothing yet. */
  readonly shareOrdersKey?: string | null;
};

export type Share = ShareStatus;

export function shareOrdersKey(orders: readonly ShareOrder[]): string {
  return JSON.stringify(orders);
}

export type RunningTarget = { readonly instanceId: string; readonly control: string; readonly portal: string };

export function runningTarget(node: ObservedNode | undefined): RunningTarget | null {
  const process = node?.processes.find(({ role }) => role === 'target');
  if (process?.state !== 'running') return null;
  const { instanceId, address, portal } = process;
  return instanceId === null || address === null || portal === null ? null : { instanceId, control: address, portal };
}

export function replicaProcess(node: ObservedNode | undefined, disk: string): ObservedProcess | null {
  return node?.processes.find((process) => process.role === 'replica' && process.disk === disk) ?? null;
}

/** The address of a disk's replica process while that runs. */
export function replicaAddress(node: ObservedNode | undefined, disk: string): string | null {
  const process = replicaProcess(node, disk);
  return process?.state === 'running' ? process.address : null;
}

function awaySince(
  former: ObservedNode | undefined,
  processes: readonly ObservedProcess[],
  now: number,
): ReadonlyMap<string, number> {
  const away = processes.flatMap(({ role, disk, state }) =>
    role === 'replica' && disk !== null && state !== 'running' ? [disk] : [],
  );
  return new Map(away.map((disk) => [disk, former?.disksAwaySince.get(disk) ?? now]));
}

export class Observed {
  /** Milliseconds, monotonic. */
  readonly now: () => number;
  /** Nodes that have not reported since then are away. */
  readonly startedAt: number;
  readonly #nodes = new Map<string, ObservedNode>();
  // Which connection spoke last for a node: the end of an older one must not declare a newer one gone.
  readonly #connections = new Map<string, symbol>();
  readonly #orderShares = new Map<string, OrderShares>();
  // When an agent that had been away came back, and since when it had been.
  readonly #returns = new Map<string, { readonly at: number; readonly awaySince: number }>();
  readonly #listeners = new Set<() => void>();
  // When replicas left in-sync sets, while this manager looked.
  readonly #leftAt = new Map<string, number>();

  constructor(now: () => number = () => performance.now()) {
    this.now = now;
    this.startedAt = now();
  }

  get nodes(): ReadonlyMap<string, ObservedNode> {
    return this.#nodes;
  }

  node(name: string): ObservedNode | undefined {
    return this.#nodes.get(name);
  }

  onChange(listener: () => void): void {
    this.#listeners.add(listener);
  }

  report(connection: symbol, report: AgentReport, orderShares?: OrderShares): void {
    const former = this.#nodes.get(report.node);
    const isNew = this.#connections.get(report.node) !== connection;
    this.#connections.set(report.node, connection);
    if (orderShares !== undefined) this.#orderShares.set(report.node, orderShares);
    const awaySinceThen = former?.agentAwaySince ?? null;
    if (awaySinceThen !== null) this.#returns.set(report.node, { at: this.now(), awaySince: awaySinceThen });
    const next: ObservedNode = {
      name: report.node,
      agentPid: report.pid,
      processes: report.processes,
      served: former?.served ?? null,
      servedBy: former?.servedBy ?? null,
      redirectsKey: former?.redirectsKey ?? null,
      agentAwaySince: null,
      disksAwaySince: awaySince(former, report.processes, this.now()),
      shares: report.shares ?? [],
      shareOrdersKey: isNew ? null : (former?.shareOrdersKey ?? null),
    };
    const instance = runningTarget(next)?.instanceId ?? null;
    const sameInstance = instance !== null && instance === next.servedBy;
    this.#set(sameInstance ? next : { ...next, served: null, servedBy: null, redirectsKey: null });
  }

  /** What was withheld of this disk may be used. */
  reinstate(node: string, disk: string, diskId: string): void {
    const { withheld } = replicaProcess(this.#nodes.get(node), disk) ?? {};
    if (withheld?.diskId === diskId) this.replaceProcess(node, withheld);
  }

  /** That of the same role and disk. */
  replaceProcess(node: string, process: ObservedProcess): void {
    this.#edit(node, (former) => {
      const processes = former.processes.map((each) =>
        each.role === process.role && each.disk === process.disk ? process : each,
      );
      return { ...former, processes, disksAwaySince: awaySince(former, processes, this.now()) };
    });
  }

  /** Of a volume: the replicas that have just left its in-sync set, and those that are in it now. */
  inSyncChanged(left: readonly string[], inSync: readonly string[]): void {
    for (const id of left) this.#leftAt.set(id, this.now());
    for (const id of inSync) this.#leftAt.delete(id);
  }

  /** Replicas that left an in-sync set less than so long ago. */
  leftWithin(ms: number): ReadonlySet<string> {
    for (const [id, at] of this.#leftAt) if (this.now() - at >= ms) this.#leftAt.delete(id);
    return new Set(this.#leftAt.keys());
  }

  disconnected(connection: symbol, node: string): void {
    if (this.#connections.get(node) !== connection) return;
    this.#orderShares.delete(node);
    this.#edit(node, (former) => ({
      ...former,
      agentPid: null,
      shareOrdersKey: null,
      agentAwaySince: former.agentAwaySince ?? this.#awaySince(node),
    }));
  }

  // One that comes and goes has never been back.
  #awaySince(node: string): number {
    const back = this.#returns.get(node);
    return back !== undefined && this.now() - back.at < steadyAfterMs ? back.awaySince : this.now();
  }

  /** Tells the agent of a node, if it is connected. */
  orderShares(node: string, orders: readonly ShareOrder[]): void {
    const send = this.#orderShares.get(node);
    if (send === undefined) return;
    send(orders);
    this.#edit(node, (former) => ({ ...former, shareOrdersKey: shareOrdersKey(orders) }));
  }

  /** What `instanceId` answered to GetStatus. Ignored when another instance runs by now. */
  setServed(node: string, instanceId: string, served: readonly Omit<ServedVolume, 'configurationKey'>[]): void {
    this.#edit(node, (former) => {
      if (runningTarget(former)?.instanceId !== instanceId) return former;
      const keyOf = (volumeId: string) =>
        former.served?.find((volume) => volume.volumeId === volumeId)?.configurationKey ?? null;
      return {
        ...former,
        servedBy: instanceId,
        served: served.map((volume) => ({ ...volume, configurationKey: keyOf(volume.volumeId) })),
      };
    });
  }

  setServedVolume(node: string, instanceId: string, volume: ServedVolume): void {
    this.#edit(node, (former) =>
      former.servedBy === instanceId && former.served !== null
        ? { ...former, served: [...former.served.filter(({ volumeId }) => volumeId !== volume.volumeId), volume] }
        : former,
    );
  }

  removeServedVolume(node: string, volumeId: string): void {
    this.#edit(node, (former) => ({
      ...former,
      served: former.served?.filter((volume) => volume.volumeId !== volumeId) ?? null,
    }));
  }

  /** The target did not answer as it should: ask it again before relying on what is known of it. */
  forgetServed(node: string): void {
    this.#edit(node, (former) => ({ ...former, served: null }));
  }

  setRedirectsKey(node: string, instanceId: string, redirectsKey: string): void {
    this.#edit(node, (former) => (former.servedBy === instanceId ? { ...former, redirectsKey } : former));
  }

  /** The first non-null answer of `look`, now or after some change; null after `timeoutMs`. */
  async waitFor<T>(look: () => T | null, timeoutMs: number): Promise<T | null> {
    const now = look();
    if (now !== null || timeoutMs <= 0) return now;
    return await new Promise((resolve) => {
      const finish = (value: T | null) => {
        clearTimeout(timer);
        this.#listeners.delete(listener);
        resolve(value);
      };
      const listener = () => {
        const value = look();
        if (value !== null) finish(value);
      };
      const timer = setTimeout(() => {
        finish(null);
      }, timeoutMs);
      this.#listeners.add(listener);
    });
  }

  #edit(name: string, edit: (former: ObservedNode) => ObservedNode): void {
    const former = this.#nodes.get(name);
    if (former === undefined) return;
    const next = edit(former);
    if (next !== former) this.#set(next);
  }

  #set(node: ObservedNode): void {
    this.#nodes.set(node.name, node);
    for (const listener of [...this.#listeners]) listener();
  }
}
