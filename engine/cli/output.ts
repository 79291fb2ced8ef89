// What commands print: tables and key-value lists for people, JSON for scripts.
import { formatSize } from '../config/volume-input.js';
import type { ExplanationView } from '../manager/admin-api.js';
import type {
  AttachmentView,
  DiskView,
  NodeView,
  ProcessView,
  RebuildView,
  ReplicaView,
  ScrubView,
  SnapshotView,
  VolumeView,
} from '../manager/views.js';

/** Columns as wide as their content, two spaces apart; the head in capitals. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [head.map((name) => name.toUpperCase()), ...rows];
  // There may be more lines than a function takes arguments.
  const widths = head.map((_, column) =>
    lines.reduce((width, line) => Math.max(width, (line[column] ?? '').length), 0),
  );
  return lines
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** A share of 0 to 1 as a bar of fixed width. */
export function bar(share: number, width = 20): string {
  const full = Math.round(Math.min(1, Math.max(0, share)) * width);
  return `[${'#'.repeat(full)}${'.'.repeat(width - full)}]`;
}

export function fields(pairs: readonly (readonly [name: string, value: string | null])[]): string {
  const shown = pairs.filter((pair): pair is readonly [string, string] => pair[1] !== null);
  const width = Math.max(...shown.map(([name]) => name.length));
  return shown.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}

const bytes = (value: number | null) => (value === null ? '-' : formatSize(value));
const text = (value: string | null) => value ?? '-';

export function volumeTable(volumes: readonly VolumeView[]): string {
  if (volumes.length === 0) return 'There are no volumes: "holdfast volume create NAME --size 10Gi" makes one.';
  return table(
    ['name', 'size', 'used', 'state', 'health', 'replicas', 'node'],
    volumes.map((volume) => [
      volume.name,
      formatSize(volume.size),
      bytes(volume.usedBytes),
      volume.state,
      volume.health,
      `${volume.inSync.length}/${volume.replicas.length}`,
      text(volume.node),
    ]),
  );
}

/** Children stand below what they build on, deeper. */
export function snapshotTable(volume: string, snapshots: readonly SnapshotView[]): string {
  if (snapshots.length === 0) return `Volume ${volume} has no snapshots.`;
  const rows: string[][] = [];
  // Not by recursion: a chain of snapshots may be very long. Only where it branches does it go deeper.
  const children = new Map<string | null, SnapshotView[]>();
  for (const view of snapshots) children.set(view.parent, [...(children.get(view.parent) ?? []), view]);
  const waiting = (children.get(null) ?? []).toReversed().map((view) => ({ view, depth: 0 }));
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const { view, depth } = next;
    rows.push([
      `${'  '.repeat(depth)}${view.name}`,
      view.createdAt,
      view.size === null ? '-' : formatSize(view.size),
      bytes(view.usedBytes),
      view.state,
    ]);
    const below = children.get(view.name) ?? [];
    for (const child of below.toReversed()) waiting.push({ view: child, depth: depth + (below.length > 1 ? 1 : 0) });
  }
  return table(['snapshot', 'taken', 'size', 'holds', 'state'], rows);
}

export function volumeDetails(volume: VolumeView): string {
  const head = fields([
    ['name', volume.name],
    ['id', volume.id],
    ['size', `${formatSize(volume.size)} (${volume.size} bytes)`],
    ['used', `${bytes(volume.usedBytes)} per replica`],
    ['block size', `${volume.blockSize} bytes`],
    ['state', volume.state],
    ['health', volume.reason === null ? volume.health : `${volume.health}: ${volume.reason}`],
    ['epoch', String(volume.epoch)],
    ['node', volume.node],
    ['portal', volume.iscsi?.portal ?? null],
    ['iqn', volume.iscsi?.iqn ?? null],
    ['url', volume.iscsi?.url ?? null],
    ['access', volume.access],
    ['mount', volume.nfs === null ? null : `mount ${volume.nfs.mount} DIRECTORY`],
    ['device', volume.device === null ? null : (volume.device.path ?? 'by an initiator')],
    ['created', volume.createdAt],
    ['policy', volume.policy],
    ['disks', constraintsText(volume.constraints)],
    ['limits', limitsText(volume.qos)],
    ['login', loginText(volume)],
    ['linked to', volume.linkedTo],
    ['maintenance', volume.maintenance === null ? null : `an engine on ${volume.maintenance} rebuilds or repairs it`],
    ['verified', scrubSummary(volume.scrub)],
  ]);
  return `${head}\n\n${replicaTable(volume.replicas)}`;
}

// Null everywhere: nothing that somebody has asked for.
function constraintsText({ class: diskClass, tags, zonesRequired, local }: VolumeView['constraints']): string | null {
  const asks = [
    diskClass,
    tags.length === 0 ? null : `tagged ${tags.join(', ')}`,
    zonesRequired ? 'in different zones' : null,
    local ? 'one where it is attached' : null,
  ].filter((part) => part !== null);
  return asks.length === 0 ? null : asks.join(', ');
}

function limitsText(qos: VolumeView['qos']): string | null {
  if (qos === null || (qos.operationsPerSecond === 0 && qos.bytesPerSecond === 0)) return null;
  const limits = [
    qos.operationsPerSecond === 0 ? null : `${qos.operationsPerSecond} operations/s`,
    qos.bytesPerSecond === 0 ? null : `${formatSize(qos.bytesPerSecond)}/s`,
    `bursts of ${qos.burstSeconds} s`,
  ];
  return limits.filter((part) => part !== null).join(', ');
}

function loginText({ chapUser, mutualChapUser, initiators }: VolumeView): string | null {
  const rules = [
    chapUser === null ? null : `as ${chapUser}`,
    mutualChapUser === null ? null : `the target answers as ${mutualChapUser}`,
    initiators.length === 0 ? null : `by ${initiators.join(', ')}`,
  ].filter((part) => part !== null);
  return rules.length === 0 ? null : rules.join('; ');
}

/** Null: never. */
export function scrubSummary(scrub: ScrubView | null): string | null {
  if (scrub === null) return null;
  const { state, verifiedAt, chunksTotal, chunksChecked, failure } = scrub;
  if (state === 'running') {
    const share = chunksTotal === null || chunksChecked === null ? '' : `, ${chunksChecked} of ${chunksTotal} chunks`;
    return `being scrubbed${share}`;
  }
  const found =
    `${scrub.checkedBlocks} blocks checked, ${scrub.damagedBlocks} damaged, ${scrub.differingChunks} chunks differed, ` +
    `${scrub.repairedBlocks} blocks repaired, ${scrub.unrepairableBlocks} cannot be`;
  return `${verifiedAt ?? 'never to the end'}: ${found}${failure === null ? '' : `; ended early: ${failure}`}`;
}

export function attachmentDetails(attachment: AttachmentView): string {
  const { volume, node, epoch, iscsi, nfs, takeover, servedFrom } = attachment;
  return fields([
    ['volume', volume],
    ['node', node],
    ['epoch', String(epoch)],
    ['portal', iscsi?.portal ?? null],
    ['iqn', iscsi?.iqn ?? null],
    ['lun', iscsi === null ? null : String(iscsi.lun)],
    ['url', iscsi?.url ?? null],
    ['server', nfs?.server ?? null],
    ['port', nfs === null ? null : String(nfs.port)],
    ['path', nfs?.path ?? null],
    ['mount', nfs === null ? null : `mount ${nfs.mount} DIRECTORY`],
    ['taken from', takeover === null ? null : `${takeover.from}, ${takeover.former}; waited for ${takeover.waitedFor}`],
    ['older data', servedFrom === null ? null : `of replica ${servedFrom}: what was written since is lost`],
  ]);
}

export function replicaTable(replicas: readonly ReplicaView[]): string {
  return table(
    ['replica', 'node', 'disk', 'state', 'address', 'progress', 'reason'],
    replicas.map((replica) => [
      replica.id,
      replica.node,
      replica.disk,
      replica.state,
      text(replica.address),
      progress(replica),
      text(replica.reason),
    ]),
  );
}

function progress({ rebuild }: ReplicaView): string {
  if (rebuild === null) return '-';
  const share = rebuild.chunksTotal === 0 ? 0 : Math.floor((100 * rebuild.chunksExamined) / rebuild.chunksTotal);
  return `${bar(share / 100, 10)} ${share} %, ${formatSize(rebuild.bytesCopied)} copied, ${formatSize(rebuild.bytesPerSecond)}/s${remaining(rebuild)}`;
}

function remaining({ remainingSeconds }: RebuildView): string {
  if (remainingSeconds === null) return '';
  const minutes = Math.floor(remainingSeconds / 60);
  return `, ${minutes === 0 ? '' : `${minutes} min `}${remainingSeconds % 60} s left`;
}

export function nodeTable(nodes: readonly NodeView[]): string {
  if (nodes.length === 0) return 'No node has reported yet.';
  return table(
    ['node', 'state', 'zone', 'portal', 'disks', 'attached', 'reason'],
    nodes.map((node) => [
      node.name,
      withNotes(node.state, [node.draining ? 'draining' : node.cordoned ? 'cordoned' : null]),
      text(node.zone),
      text(node.portal),
      String(node.disks),
      String(node.volumes),
      text(node.reason),
    ]),
  );
}

function withNotes(state: string, notes: readonly (string | null)[]): string {
  return [state, ...notes.filter((note) => note !== null)].join(', ');
}

function smartText(smart: DiskView['smart']): string {
  if (smart === null) return '-';
  const { passed, temperatureCelsius, wearPercent, badSectors } = smart;
  const parts = [
    passed === null ? null : passed ? 'ok' : 'FAILING',
    temperatureCelsius === null ? null : `${temperatureCelsius} °C`,
    wearPercent === null ? null : `${wearPercent} % worn`,
    badSectors === null || badSectors === 0 ? null : `${badSectors} bad`,
  ];
  return parts.filter((part) => part !== null).join(', ');
}

export function diskTable(disks: readonly DiskView[]): string {
  if (disks.length === 0) return 'No disk has reported yet.';
  return table(
    [
      'node',
      'disk',
      'state',
      'class',
      'tags',
      'total',
      'used',
      'free',
      'promised',
      'replicas',
      'SMART',
      'address',
      'reason',
    ],
    disks.map((disk) => [
      disk.node,
      disk.name,
      withNotes(disk.state, [disk.evicting ? 'evicting' : disk.cordoned ? 'cordoned' : null]),
      text(disk.class),
      disk.tags.join(', ') || '-',
      bytes(disk.totalBytes),
      bytes(disk.usedBytes),
      bytes(disk.freeBytes),
      formatSize(disk.scheduledBytes),
      String(disk.replicas),
      smartText(disk.smart),
      text(disk.address),
      text(disk.reason),
    ]),
  );
}

export function explanationTable({ volume, wants, disks }: ExplanationView): string {
  const asks = [
    `${wants.replicas} replicas`,
    wants.class === null ? null : `on ${wants.class}`,
    wants.tags.length === 0 ? null : `with the tags ${wants.tags.join(', ')}`,
    wants.zonesRequired ? 'in different zones' : null,
    wants.local ? 'one where it is attached' : null,
  ].filter((part) => part !== null);
  const rows = disks.map(({ node, disk, zone, holds, accepted, reason, promisedShare }) => [
    node,
    disk,
    text(zone),
    holds ? 'holds a replica' : accepted ? 'could take one' : 'no',
    promisedShare === null ? '-' : `${Math.round(100 * promisedShare)} %`,
    holds ? '-' : text(reason),
  ]);
  return `Volume ${volume} wants ${asks.join(', ')}.\n\n${table(['node', 'disk', 'zone', 'replica', 'promised', 'reason'], rows)}`;
}

export function processTable(processes: readonly ProcessView[]): string {
  return table(
    ['node', 'role', 'pid', 'disk'],
    processes.map(({ node, role, pid, disk }) => [text(node), role, String(pid), text(disk)]),
  );
}
