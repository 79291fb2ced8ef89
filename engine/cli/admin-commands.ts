// holdfast node cordon|uncordon|drain|set, disk add|rm|set|cordon|uncordon|evict, trash …, policy …, settings …
import { isAbsolute, normalize } from 'node:path';
import type { Command } from 'commander';
import {
  formatSize,
  parseCount,
  parseSizeText,
  validateLabel,
  validateReplicaCount,
  validateVolumeName,
} from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { sleep } from '../async/wait.js';
import type { PolicyView, SettingsView } from '../manager/admin-api.js';
import type { EmptyingView } from '../manager/node-operations.js';
import type { TrashView } from '../manager/trash-operations.js';
import { diskClassSchema, trashSecondsMax } from '../manager/records.js';
import type { DiskView, VolumeView } from '../manager/views.js';
import { duration } from './status-commands.js';
import { bar, fields, table, volumeDetails } from './output.js';
import { checkUsage, openSession, printResult, UsageError, withCommonOptions } from './run.js';
import type { CommonOptions, Session, Streams } from './run.js';
import { constraintsOf, qosOf, withPlacementOptions } from './volume-options.js';
import type { PlacementOptions } from './volume-options.js';
import { examples } from './volume-commands.js';

/** Of a disk that fails, for the next try to succeed. */
const addPatienceMs = 15_000;

type Flags = Readonly<Record<string, unknown>> & CommonOptions;

type Wiring = { readonly streams: Streams };

export function addAdminCommands(program: Command, streams: Streams): void {
  const wiring = { streams };
  addNodeCommands(groupOf(program, 'node'), wiring);
  addDiskCommands(groupOf(program, 'disk'), wiring);
  addTrashCommands(program, wiring);
  addPolicyCommands(program, wiring);
  addSettingsCommands(program, wiring);
}

// ---- nodes ----

function addNodeCommands(node: Command, wiring: Wiring): void {
  const simple = (name: string, what: string, body: object, done: string) => {
    withCommonOptions(node.command(name))
      .argument('<node>', 'name of the node')
      .description(what)
      .addHelpText('after', examples(`holdfast node ${name} node2`))
      .action(async (which: string, _: unknown, command: Command) => {
        const { session, json } = sessionOf(command);
        const view = await session.call<EmptyingView>('PATCH', nodePath(which), body);
        printResult(wiring.streams, json, view, () => `Node ${which} ${done}.`);
      });
  };
  simple('cordon', 'give a node no new replicas and attachments', { cordoned: true }, 'takes nothing new');
  simple('uncordon', 'end a cordon or a drain', { cordoned: false, draining: false }, 'takes replicas and attachments');

  withCommonOptions(node.command('drain'))
    .argument('<node>', 'name of the node')
    .option('--dry-run', 'only show what would move, and what blocks it')
    .option('--wait', 'until the node is empty')
    .description('move all replicas and attachments to other nodes; volumes stay fully replicated')
    .addHelpText('after', examples('holdfast node drain node2 --dry-run', 'holdfast node drain node2 --wait'))
    .action(async (which: string, flags: Flags, command: Command) => {
      const { session, json } = sessionOf(command);
      const path = nodePath(which);
      const view =
        flags['dryRun'] === true
          ? await session.call<EmptyingView>('GET', `${path}/emptying`)
          : await session.call<EmptyingView>('PATCH', path, { draining: true });
      await finishEmptying(wiring, session, `${path}/emptying`, view, json, flags['wait'] === true);
    });

  withCommonOptions(node.command('set'))
    .argument('<node>', 'name of the node')
    .option('--zone <zone>', 'nodes of one zone fail together; "" for none')
    .description('say where a node is')
    .addHelpText('after', examples('holdfast node set node2 --zone rack-b'))
    .action(async (which: string, flags: Flags, command: Command) => {
      const { session, json } = sessionOf(command);
      const zone = flags['zone'];
      if (typeof zone !== 'string') throw usage('say what to set: --zone');
      const body = { zone: zone === '' ? null : checkUsage(() => validateLabel(zone, 'zone')) };
      const view = await session.call<EmptyingView>('PATCH', nodePath(which), body);
      printResult(wiring.streams, json, view, () => `Node ${which} is changed.`);
    });
}

// ---- disks ----

function addDiskCommands(disk: Command, wiring: Wiring): void {
  const withDisk = (name: string) =>
    withCommonOptions(disk.command(name)).argument('<node>', 'name of the node').argument('<disk>', 'name of the disk');

  withDisk('add')
    .argument('<path>', 'folder (empty, or a disk of this cluster) or block device on that node')
    .option('--journal <path>', 'keep its journal there, on a faster device')
    .option('--journal-size <size>', 'default: 256Mi')
    .option('--cache-size <size>', 'default: 128Mi')
    .option('--capacity <size>', 'use at most this much (default: what the file system has)')
    .option('--force', 'also when a block device holds something: all of it is lost')
    .option('--wait', 'until it is online; fails with the reason when it cannot be used')
    .description('give a node another disk, at run time')
    .addHelpText('after', examples('holdfast disk add node2 disk2 /srv/holdfast/disk2 --wait'))
    .action(async (node: string, name: string, path: string, flags: Flags, command: Command) => {
      const { session, json } = sessionOf(command);
      const size = (option: string) => {
        const text = flags[option];
        return typeof text === 'string' ? checkUsage(() => parseSizeText(text)) : 0;
      };
      const body = {
        name: checkUsage(() => validateLabel(name, 'disk name')),
        directory: absolute(path),
        journalPath: typeof flags['journal'] === 'string' ? absolute(flags['journal']) : null,
        journalBytes: size('journalSize'),
        cacheBytes: size('cacheSize'),
        capacityBytes: size('capacity'),
        format: flags['force'] === true,
      };
      const added = await session.call<object>('POST', `${nodePath(node)}/disks`, body);
      if (flags['wait'] !== true) {
        const text = () => `Node ${node} is starting disk ${name}: "holdfast disk ls" shows it.`;
        printResult(wiring.streams, json, added, text);
        return;
      }
      const online = await diskOnline(session, node, name);
      printResult(wiring.streams, json, online, () => `Disk ${name} of ${node} is online.`);
    });

  withDisk('rm')
    .option('--force', 'one that is configured at its node, after it was taken out there')
    .description('take an empty disk out of the cluster')
    .addHelpText('after', examples('holdfast disk rm node2 disk1', 'holdfast disk rm node2 disk1 --force'))
    .action(async (node: string, name: string, flags: Flags, command: Command) => {
      const { session, json } = sessionOf(command);
      const path = `${diskPath(node, name)}${flags['force'] === true ? '?force=true' : ''}`;
      printResult(
        wiring.streams,
        json,
        await session.call<object>('DELETE', path),
        () => `Disk ${name} of ${node} is out.`,
      );
    });

  const simple = (name: string, what: string, body: object, done: string) => {
    withDisk(name)
      .description(what)
      .addHelpText('after', examples(`holdfast disk ${name} node2 disk1`))
      .action(async (node: string, which: string, _: unknown, command: Command) => {
        const { session, json } = sessionOf(command);
        const view = await session.call<EmptyingView>('PATCH', diskPath(node, which), body);
        printResult(wiring.streams, json, view, () => `Disk ${which} of ${node} ${done}.`);
      });
  };
  simple('cordon', 'give a disk no new replicas', { cordoned: true }, 'takes no new replicas');
  simple('uncordon', 'end a cordon or an eviction', { cordoned: false, evicting: false }, 'takes replicas');

  withDisk('evict')
    .option('--dry-run', 'only show what would move, and what blocks it')
    .option('--wait', 'until the disk is empty')
    .description('move all replicas to other disks; volumes stay fully replicated')
    .addHelpText('after', examples('holdfast disk evict node2 disk1 --wait'))
    .action(async (node: string, name: string, flags: Flags, command: Command) => {
      const { session, json } = sessionOf(command);
      const path = diskPath(node, name);
      const view =
        flags['dryRun'] === true
          ? await session.call<EmptyingView>('GET', `${path}/emptying`)
          : await session.call<EmptyingView>('PATCH', path, { evicting: true });
      await finishEmptying(wiring, session, `${path}/emptying`, view, json, flags['wait'] === true);
    });

  withDisk('tag')
    .argument('[tags...]', 'all tags it is to have; none: no tags')
    .option('--class <class>', 'hdd, ssd or nvme, where it was not found out')
    .description('set the tags of a disk')
    .addHelpText('after', examples('holdfast disk tag node2 disk1 fast'))
    .action(async (node: string, name: string, tags: readonly string[], flags: Flags, command: Command) => {
      const { session, json } = sessionOf(command);
      const diskClass = flags['class'];
      if (diskClass !== undefined && !diskClassSchema.safeParse(diskClass).success)
        throw usage('--class is hdd, ssd or nvme');
      for (const tag of tags) checkUsage(() => validateLabel(tag, 'tag'));
      const body = diskClass === undefined ? { tags } : { tags, class: diskClass };
      const view = await session.call<EmptyingView>('PATCH', diskPath(node, name), body);
      printResult(
        wiring.streams,
        json,
        view,
        () => `Disk ${name} of ${node} has the tags: ${tags.join(', ') || 'none'}.`,
      );
    });
}

// ---- emptying ----

async function finishEmptying(
  { streams }: Wiring,
  session: Session,
  path: string,
  first: EmptyingView,
  json: boolean,
  wait: boolean,
): Promise<void> {
  let view = first;
  let shown = '';
  const total = Math.max(1, first.replicas.length + first.attachments.length);
  while (wait && !view.done) {
    await sleep(500);
    view = await session.call<EmptyingView>('GET', path);
    const left = view.replicas.length + view.attachments.length;
    const blocked = view.blocked.map(({ volume, reason }) => `  waits for ${volume}: ${reason}\n`).join('');
    const now = `${bar(1 - left / total)} ${left} of ${total} to move\n${blocked}`;
    if (now !== shown) streams.err(now);
    shown = now;
  }
  printResult(streams, json, view, emptyingText);
}

export function emptyingText({ node, disk, replicas, attachments, blocked, done }: EmptyingView): string {
  const what = disk === null ? `Node ${node}` : `Disk ${disk} of ${node}`;
  if (done) return `${what} is empty.`;
  const list = (names: readonly string[]) => (names.length === 0 ? '-' : names.join(', '));
  const head = fields([
    ['to move', `${replicas.length} replicas: ${list(replicas)}`],
    ['served', disk === null ? `${attachments.length} volumes: ${list(attachments)}` : null],
  ]);
  if (blocked.length === 0) return `${what} is not empty yet.\n${head}\nNothing is in the way.`;
  return `${what} is not empty yet.\n${head}\n\n${table(
    ['blocked', 'reason'],
    blocked.map(({ volume, reason }) => [volume, reason]),
  )}`;
}

// ---- trash ----

function addTrashCommands(program: Command, { streams }: Wiring): void {
  const trash = program.command('trash').description('deleted volumes').helpCommand(false);
  withCommonOptions(trash.command('ls'))
    .description('list the deleted volumes that can be restored')
    .addHelpText('after', examples('holdfast trash ls'))
    .action(async (_: unknown, command: Command) => {
      const { session, json } = sessionOf(command);
      printResult(streams, json, await session.call<readonly TrashView[]>('GET', '/v1/trash'), trashTable);
    });
  withCommonOptions(trash.command('restore'))
    .argument('<volume>', 'name, or id where several have had that name')
    .option('--name <name>', 'under another name')
    .description('bring a deleted volume back, with all that was on it')
    .addHelpText('after', examples('holdfast trash restore db', 'holdfast trash restore db --name db-old'))
    .action(async (which: string, flags: Flags, command: Command) => {
      const { session, json } = sessionOf(command);
      const path = `/v1/trash/${encodeURIComponent(which)}/restore`;
      const wanted = flags['name'];
      const name = typeof wanted === 'string' ? checkUsage(() => validateVolumeName(wanted)) : null;
      const restored = await session.call<VolumeView>('POST', path, { name });
      printResult(streams, json, restored, volumeDetails);
    });
  withCommonOptions(trash.command('purge'))
    .argument('<volume>', 'name or id')
    .description('delete a volume of the trash for good')
    .addHelpText('after', examples('holdfast trash purge db'))
    .action(async (which: string, _: unknown, command: Command) => {
      const { session, json } = sessionOf(command);
      const purged = await session.call<object>('DELETE', `/v1/trash/${encodeURIComponent(which)}`);
      printResult(streams, json, purged, () => `Volume ${which} is gone for good.`);
    });
}

function trashTable(trash: readonly TrashView[]): string {
  if (trash.length === 0) return 'The trash is empty.';
  return table(
    ['volume', 'id', 'size', 'deleted', 'kept until'],
    trash.map(({ volume, id, size, deletedAt, purgeAt }) => [volume, id, formatSize(size), deletedAt, purgeAt]),
  );
}

// ---- policies and settings ----

function addPolicyCommands(program: Command, { streams }: Wiring): void {
  const policy = program.command('policy').description('named defaults for new volumes').helpCommand(false);
  withCommonOptions(policy.command('ls'))
    .description('list the policies')
    .addHelpText('after', examples('holdfast policy ls'))
    .action(async (_: unknown, command: Command) => {
      const { session, json } = sessionOf(command);
      printResult(streams, json, await session.call<readonly PolicyView[]>('GET', '/v1/policies'), policyTable);
    });
  withPlacementOptions(withCommonOptions(policy.command('set')))
    .argument('<name>', 'name of the policy')
    .option('--replicas <count>', 'copies of its volumes', '3')
    .description('make or replace a policy')
    .addHelpText('after', examples('holdfast policy set fast --replicas 2 --class nvme --iops 5000'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { session, json } = sessionOf(command);
      const options = command.optsWithGlobals<PlacementOptions & { readonly replicas: string }>();
      const body = checkUsage(() => ({
        name: validateLabel(name, 'policy name'),
        replicas: validateReplicaCount(parseCount(options.replicas, '--replicas')),
        constraints: constraintsOf(options),
        qos: qosOf(options) ?? null,
      }));
      const made = await session.call<PolicyView>('PUT', '/v1/policies', body);
      printResult(streams, json, made, (one) => policyTable([one]));
    });
  withCommonOptions(policy.command('rm'))
    .argument('<name>', 'name of the policy')
    .description('delete a policy that no volume has')
    .addHelpText('after', examples('holdfast policy rm fast'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { session, json } = sessionOf(command);
      const gone = await session.call<object>('DELETE', `/v1/policies/${encodeURIComponent(name)}`);
      printResult(streams, json, gone, () => `Policy ${name} is deleted.`);
    });
}

function policyTable(policies: readonly PolicyView[]): string {
  if (policies.length === 0) return 'There are no policies: "holdfast policy set NAME" makes one.';
  return table(
    ['policy', 'replicas', 'class', 'tags', 'zones', 'local', 'iops', 'bandwidth'],
    policies.map(({ name, copies, constraints, qos }) => [
      name,
      String(copies),
      constraints.class ?? 'any',
      constraints.tags.join(', ') || '-',
      constraints.zonesRequired ? 'required' : 'preferred',
      constraints.local ? 'yes' : 'no',
      qos === null || qos.operationsPerSecond === 0 ? '-' : String(qos.operationsPerSecond),
      qos === null || qos.bytesPerSecond === 0 ? '-' : `${formatSize(qos.bytesPerSecond)}/s`,
    ]),
  );
}

function addSettingsCommands(program: Command, { streams }: Wiring): void {
  const settings = program.command('settings').description('what holds for the whole cluster').helpCommand(false);
  withCommonOptions(settings.command('show'))
    .description('show the settings')
    .addHelpText('after', examples('holdfast settings show'))
    .action(async (_: unknown, command: Command) => {
      const { session, json } = sessionOf(command);
      printResult(streams, json, await session.call<SettingsView>('GET', '/v1/settings'), settingsText);
    });
  withCommonOptions(settings.command('set'))
    .option('--over-provisioning <factor>', 'how many times its capacity may be promised on a disk')
    .option('--trash <seconds>', 'how long deleted volumes are kept; 0: not at all')
    .option('--replace-after <seconds>', 'how long a disk or node may be away before its replicas are made anew')
    .option('--failover <seconds>', 'how long a node may be away before its volumes are served elsewhere; 0: never')
    .option('--balance <on|off>', 'move replicas to even out the disks')
    .option('--moves <count>', 'how many replicas move at a time')
    .option('--rebuild-rate <rate>', "of a volume's rebuilds at most, bytes per second such as 100Mi; 0: no limit")
    .option('--foreground-share <percent>', 'what hosts get while a volume is rebuilt, 0 to 99')
    .option('--rebuilds-per-disk <count>', 'replicas on one disk that are rebuilt at a time')
    .option('--scrub-interval <seconds>', 'how old the verification of a volume may get; 0: no scrubs by schedule')
    .option('--scrub-rate <rate>', 'of a scrub per replica, bytes per second; 0: no limit')
    .description('change settings')
    .addHelpText('after', examples('holdfast settings set --trash 604800 --replace-after 600'))
    .action(async (flags: Flags, command: Command) => {
      const { session, json } = sessionOf(command);
      const body = checkUsage(() => settingsOf(flags));
      if (Object.keys(body).length === 0) throw usage('say what to set: see --help');
      printResult(streams, json, await session.call<SettingsView>('PATCH', '/v1/settings', body), settingsText);
    });
}

function settingsOf(flags: Flags): Readonly<Record<string, unknown>> {
  const body: Record<string, unknown> = {};
  const number = (flag: string, option: string, field: string, least = 0, most = Number.MAX_SAFE_INTEGER) => {
    const text = flags[flag];
    if (typeof text === 'string') body[field] = within(parseCount(text, option), option, least, most);
  };
  number('trash', '--trash', 'trashSeconds', 0, trashSecondsMax);
  number('replaceAfter', '--replace-after', 'replaceAfterSeconds');
  number('failover', '--failover', 'failoverSeconds');
  number('moves', '--moves', 'movesMax', 1);
  number('foregroundShare', '--foreground-share', 'foregroundPercent', 0, 99);
  number('rebuildsPerDisk', '--rebuilds-per-disk', 'rebuildsPerDisk', 1);
  number('scrubInterval', '--scrub-interval', 'scrubIntervalSeconds');
  const rate = (flag: string, field: string) => {
    const text = flags[flag];
    if (typeof text === 'string') body[field] = parseSizeText(text);
  };
  rate('rebuildRate', 'rebuildBytesPerSecond');
  rate('scrubRate', 'scrubBytesPerSecond');
  const factor = flags['overProvisioning'];
  if (factor !== undefined) body['overProvisioning'] = within(Number(factor), '--over-provisioning', 1, 100);
  if (flags['balance'] !== undefined) {
    if (flags['balance'] !== 'on' && flags['balance'] !== 'off')
      throw new HoldfastError('INVALID_ARGUMENT', '--balance is on or off');
    body['balance'] = flags['balance'] === 'on';
  }
  return body;
}

function within(value: number, option: string, least: number, most: number): number {
  if (value >= least && value <= most) return value;
  const range = most === Number.MAX_SAFE_INTEGER ? `at least ${least}` : `${least} to ${most}`;
  throw new HoldfastError('INVALID_ARGUMENT', `${option} ${value} is not possible: use ${range}`);
}

function settingsText(settings: SettingsView): string {
  return fields([
    ['over-provisioning', `${settings.overProvisioning} times`],
    ['trash', settings.trashSeconds === 0 ? 'off' : duration(settings.trashSeconds)],
    ['replace after', duration(settings.replaceAfterSeconds)],
    ['failover after', settings.failoverSeconds === 0 ? 'never' : duration(settings.failoverSeconds)],
    ['balance', settings.balance ? 'on' : 'off'],
    ['moves at a time', String(settings.movesMax)],
    ['rebuild rate', rateText(settings.rebuildBytesPerSecond)],
    ['foreground share', `${settings.foregroundPercent} %`],
    ['rebuilds per disk', String(settings.rebuildsPerDisk)],
    ['scrub after', settings.scrubIntervalSeconds === 0 ? 'never' : duration(settings.scrubIntervalSeconds)],
    ['scrub rate', rateText(settings.scrubBytesPerSecond)],
  ]);
}

// ---- helpers ----

function rateText(bytesPerSecond: number): string {
  return bytesPerSecond === 0 ? 'no limit' : `${formatSize(bytesPerSecond)}/s`;
}

function sessionOf(command: Command) {
  const options = command.optsWithGlobals<CommonOptions>();
  return { session: openSession(options, process.env), json: options.json === true };
}

function groupOf(program: Command, name: string): Command {
  const group = program.commands.find((command) => command.name() === name);
  if (group === undefined) throw new Error(`there is no command group ${name}`);
  return group;
}

// It is a path of the node's host, and of no folder here.
function absolute(path: string): string {
  if (isAbsolute(path)) return normalize(path);
  throw usage(`"${path}" is not an absolute path: write the whole path, as it is on the host of that node`);
}

// A disk that was elsewhere is only taken over when nothing serves it there: until then it counts as failed, with that reason.
async function diskOnline(session: Session, node: string, name: string): Promise<DiskView> {
  let failedSince: number | null = null;
  for (;;) {
    const found = (await session.call<readonly DiskView[]>('GET', '/v1/disks')).find(
      (disk) => disk.node === node && disk.name === name,
    );
    if (found === undefined) throw new HoldfastError('NOT_FOUND', `${name} of ${node} was taken out again`);
    if (found.state === 'online') return found;
    if (found.state !== 'failed') failedSince = null;
    else failedSince ??= performance.now();
    if (failedSince !== null && performance.now() - failedSince > addPatienceMs) {
      throw new HoldfastError(
        'FAILED_PRECONDITION',
        `disk ${name} of ${node} cannot be used: ${found.reason ?? found.state}`,
      );
    }
    await sleep(200);
  }
}

function nodePath(node: string): string {
  return `/v1/nodes/${encodeURIComponent(node)}`;
}

function diskPath(node: string, disk: string): string {
  return `${nodePath(node)}/disks/${encodeURIComponent(disk)}`;
}

function usage(text: string): UsageError {
  return new UsageError(new HoldfastError('INVALID_ARGUMENT', text));
}
