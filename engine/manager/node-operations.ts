// What people ask for of nodes, disks and the cluster: cordon, drain, evict, tags, zones, disks that come and go, settings.
import { validateLabel } from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { objection } from '../placement/place-replicas.js';
import { diskCandidates, neighboursOf, requestOf } from './candidates.js';
import type { ManagerContext } from './context.js';
import { recordVersion } from './records.js';
import type { DiskClass, DiskOrder, DiskRecord, NodeRecord, SettingsRecord, VolumeRecord } from './records.js';

/** What a drain or an eviction has to move, and what is in its way. */
export type EmptyingView = {
  readonly node: string;
  /** Null: the whole node. */
  readonly disk: string | null;
  /** Volumes with a replica there. */
  readonly replicas: readonly string[];
  /** Volumes that are served there. */
  readonly attachments: readonly string[];
  /** Volumes that cannot be moved, and why. */
  readonly blocked: readonly { readonly volume: string; readonly reason: string }[];
  readonly done: boolean;
};

export type NodeChange = { readonly zone?: string | null; readonly cordoned?: boolean; readonly draining?: boolean };
export type DiskChange = {
  readonly tags?: readonly string[];
  readonly class?: DiskClass | null;
  readonly cordoned?: boolean;
  readonly evicting?: boolean;
};

export async function changeNode(context: ManagerContext, name: string, change: NodeChange): Promise<NodeRecord> {
  const { repository } = context;
  const node = await requireNode(context, name);
  if (change.zone != null) validateLabel(change.zone, 'zone');
  return (await repository.updateNode(name, (latest) => ({ ...(latest ?? node), ...change }))) ?? node;
}

export async function changeDisk(
  context: ManagerContext,
  node: string,
  name: string,
  change: DiskChange,
): Promise<DiskRecord> {
  const disk = await requireDisk(context, node, name);
  for (const tag of change.tags ?? []) validateLabel(tag, 'tag');
  const { tags, ...rest } = change;
  const edited = tags === undefined ? rest : { ...rest, tags: [...new Set(tags)].sort() };
  return (await context.repository.updateDisk(node, name, (latest) => ({ ...(latest ?? disk), ...edited }))) ?? disk;
}

export type NewDisk = Pick<
  DiskOrder,
  'directory' | 'journalPath' | 'journalBytes' | 'cacheBytes' | 'capacityBytes' | 'format'
> & {
  readonly node: string;
  readonly name: string;
};

/** The agent of the node starts it; `holdfast disk ls` shows when it is online. */
export async function addDisk(context: ManagerContext, { node, name, ...order }: NewDisk): Promise<DiskRecord> {
  const { repository } = context;
  await requireNode(context, node);
  validateLabel(name, 'disk name');
  if (!order.directory.startsWith('/'))
    throw new HoldfastError('INVALID_ARGUMENT', `"${order.directory}" is not an absolute path`);
  const disks = (await repository.listDisks()).filter((disk) => disk.node === node);
  const same = disks.find((disk) => disk.name === name || disk.directory === order.directory);
  if (same !== undefined)
    throw new HoldfastError('ALREADY_EXISTS', `${node} has ${same.name} at ${same.directory} already`);
  const record: DiskRecord = {
    version: recordVersion,
    node,
    name,
    diskId: null,
    directory: order.directory,
    address: null,
    tags: [],
    class: null,
    cordoned: false,
    evicting: false,
    order: { ...order, removed: false },
  };
  const stored = await repository.updateDisk(node, name, (latest) => (latest === null ? record : null));
  if (stored !== record) throw new HoldfastError('ALREADY_EXISTS', `${node} has ${name} already`);
  return record;
}

/** Only an empty disk goes; `force` takes one that is lost with whatever it held. */
export async function removeDisk(context: ManagerContext, node: string, name: string, force: boolean): Promise<void> {
  const { repository, observed } = context;
  const disk = await requireDisk(context, node, name);
  await requireEmpty(context, node, name);
  const process = observed.node(node)?.processes.find((each) => each.disk === name);
  if (disk.order === null && process !== undefined && !force) {
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `${name} is part of the configuration of ${node}: take it out there and restart the agent, then use --force`,
    );
  }
  if (disk.order === null) await repository.removeDisk(node, name);
  else {
    const order = { ...disk.order, removed: true };
    await repository.updateDisk(node, name, (latest) => ({ ...(latest ?? disk), order }));
  }
}

/** What is still there, and what blocks it. `disk` null: of the whole node. */
export async function emptying(context: ManagerContext, node: string, disk: string | null): Promise<EmptyingView> {
  const { repository } = context;
  await requireNode(context, node);
  if (disk !== null) await requireDisk(context, node, disk);
  const volumes = await repository.listVolumes();
  const here = (volume: VolumeRecord) =>
    volume.replicas.filter((replica) => replica.node === node && (disk === null || replica.disk === disk));
  const holders = volumes.filter((volume) => here(volume).length > 0);
  const attached = disk === null ? volumes.filter(({ attachment }) => attachment?.node === node) : [];
  const mapped = attached.filter(({ attachment }) => attachment?.device != null);
  const blocked = [
    ...mapped.map(({ name }) => ({ volume: name, reason: `it is mapped on ${node}: "holdfast unmap ${name}" there` })),
    ...(await blockers(context, holders, node, disk)),
  ];
  return {
    node,
    disk,
    replicas: holders.map(({ name }) => name),
    attachments: attached.map(({ name }) => name),
    blocked,
    done: holders.length === 0 && attached.length === 0,
  };
}

async function blockers(
  context: ManagerContext,
  holders: readonly VolumeRecord[],
  node: string,
  disk: string | null,
): Promise<EmptyingView['blocked']> {
  if (holders.length === 0) return [];
  const [candidates, settings] = await Promise.all([diskCandidates(context), context.repository.settings()]);
  return holders.flatMap((volume) => {
    const goes = (place: { readonly node: string; readonly disk: string }) =>
      place.node === node && (disk === null || place.disk === disk);
    const staying = volume.replicas.filter((replica) => !goes(replica));
    const replacements = staying.length >= volume.copies;
    const request = requestOf(volume, settings);
    const neighbours = neighboursOf(staying, candidates);
    const fits = candidates.some((each) => !goes(each) && objection(each, request, neighbours) === null);
    return replacements || fits ? [] : [{ volume: volume.name, reason: 'no other disk can take its replica' }];
  });
}

export async function changeSettings(
  { repository }: ManagerContext,
  change: { readonly [K in keyof Omit<SettingsRecord, 'version'>]?: SettingsRecord[K] | undefined },
): Promise<SettingsRecord> {
  const given = Object.fromEntries(Object.entries(change).filter(([, value]) => value !== undefined));
  return await repository.updateSettings((latest) => ({ ...latest, ...given }));
}

async function requireEmpty({ repository }: ManagerContext, node: string, disk: string): Promise<void> {
  const holds = ({ replicas }: VolumeRecord) => replicas.some((each) => each.node === node && each.disk === disk);
  const [volumes, trash] = await Promise.all([repository.listVolumes(), repository.listTrash()]);
  const holders = volumes.filter(holds).map(({ name }) => name);
  if (holders.length > 0) {
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `${disk} of ${node} holds replicas of ${nameSome(holders)}: empty it first ("holdfast disk evict ${node} ${disk}")`,
    );
  }
  const deleted = trash.filter(({ volume }) => holds(volume)).map(({ volume }) => `${volume.name} (${volume.id})`);
  if (deleted.length > 0) {
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `${disk} of ${node} holds replicas of volumes in the trash: ${nameSome(deleted)}. ` +
        `Delete those for good ("holdfast trash purge"), or restore them and empty the disk`,
    );
  }
}

function nameSome(names: readonly string[]): string {
  return names.length <= 5 ? names.join(', ') : `${names.slice(0, 5).join(', ')} and ${names.length - 5} more`;
}

async function requireNode({ repository }: ManagerContext, name: string): Promise<NodeRecord> {
  const nodes = await repository.listNodes();
  const found = nodes.find((node) => node.name === name);
  if (found !== undefined) return found;
  throw new HoldfastError('NOT_FOUND', `node "${name}" does not exist: "holdfast node ls" lists the nodes`);
}

async function requireDisk({ repository }: ManagerContext, node: string, name: string): Promise<DiskRecord> {
  const found = (await repository.listDisks()).find((disk) => disk.node === node && disk.name === name);
  if (found !== undefined) return found;
  throw new HoldfastError('NOT_FOUND', `${node} has no disk "${name}": "holdfast disk ls" lists the disks`);
}
