// holdfast volume …, holdfast replica ls
import { Option } from 'commander';
import type { Command } from 'commander';
import {
  parseCount,
  parseSize,
  parseSizeText,
  validateBlockSize,
  validateReplicaCount,
  validateVolumeName,
} from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { filesystemNames, squashes } from '../nfs/share-types.js';
import type { DeletionView } from '../manager/api.js';
import type { AttachmentView, VolumeView } from '../manager/views.js';
import { growHere } from './local-devices.js';
import { addCloneCommand } from './snapshot-commands.js';
import type { ExplanationView } from '../manager/admin-api.js';
import { accessOf, constraintsOf, qosOf, withAccessOptions, withPlacementOptions } from './volume-options.js';
import type { AccessOptions, PlacementOptions } from './volume-options.js';
import { explanationTable, attachmentDetails, volumeDetails, volumeTable } from './output.js';
import { checkUsage, openSession, printResult, UsageError, withCommonOptions, withProgress } from './run.js';
import type { CommonOptions, Session, Streams } from './run.js';

const sizeHelp = 'such as 10Gi, 500Mi or 1Ti; a multiple of 4096 bytes';

type AttachCliOptions = CommonOptions & {
  readonly node?: string;
  readonly force?: boolean;
  readonly acceptDataLoss?: boolean;
  readonly replica?: string;
};
type CreateOptions = CommonOptions &
  PlacementOptions &
  AccessOptions & {
    readonly size: string;
    readonly replicas?: string;
    readonly blockSize: string;
    readonly policy?: string;
    readonly access: 'rwo' | 'rwx';
    readonly fs?: string;
    readonly nfsClients?: string;
    readonly nfsSquash?: string;
    readonly nfsV3?: boolean;
    readonly nfsSecurity?: string;
    readonly nfsPrincipal?: string;
    readonly nfsKeytab?: string;
    readonly nfsAddress?: string;
  };

// Each of them has a meaning for shared volumes only.
function shareOf(options: CreateOptions): object | null {
  const { access, fs, nfsClients, nfsSecurity } = options;
  const chosen = {
    fs,
    squash: options.nfsSquash,
    v3: options.nfsV3,
    clients: words(nfsClients),
    security: words(nfsSecurity),
    principal: options.nfsPrincipal,
    keytab: options.nfsKeytab,
    address: options.nfsAddress,
  };
  if (access === 'rwx') return chosen;
  if (Object.values(chosen).every((value) => value === undefined)) return null;
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    'options of file systems and NFS are for shared volumes: add --access rwx',
  );
}

function words(list: string | undefined): readonly string[] | undefined {
  return list?.split(',').filter((word) => word !== '');
}

export function addVolumeCommands(program: Command, streams: Streams): void {
  const volume = program.command('volume').description('make, attach, show and delete volumes').helpCommand(false);

  withAccessOptions(withPlacementOptions(withCommonOptions(volume.command('create'))))
    .argument('<name>', 'lower-case letters, digits and "-"')
    .requiredOption('--size <size>', sizeHelp)
    .option('--replicas <count>', 'copies, each on another node (default: 3, or as the policy says)')
    .option('--policy <name>', 'take what is not given from this policy')
    .option('--block-size <bytes>', 'logical blocks as hosts see them: 512 or 4096', '512')
    .addOption(
      new Option('--access <access>', 'rwo: one host, over iSCSI; rwx: shared by many, over NFS')
        .choices(['rwo', 'rwx'])
        .default('rwo'),
    )
    .addOption(new Option('--fs <type>', 'file system of a shared volume (default: ext4)').choices(filesystemNames))
    .option('--nfs-clients <list>', 'who may mount it: addresses, networks, names, @netgroups (default: all)')
    .addOption(new Option('--nfs-squash <whom>', 'who becomes nobody (default: root)').choices(squashes))
    .option('--nfs-v3', 'NFSv3 besides NFSv4')
    .option('--nfs-security <list>', 'sys, krb5, krb5i, krb5p (default: sys)')
    .option('--nfs-principal <name>', 'Kerberos principal of the server (default: nfs)')
    .option('--nfs-keytab <file>', "on the nodes (default: the system's)")
    .option(
      '--nfs-address <address>',
      'IP/PREFIX[%INTERFACE] that goes where the share goes (default: that of its node)',
    )
    .description('make a volume')
    .addHelpText(
      'after',
      examples('holdfast volume create db --size 10Gi', 'holdfast volume create scratch --size 500Mi --replicas 1'),
    )
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CreateOptions>();
      const body = checkUsage(() => ({
        name: validateVolumeName(name),
        size: parseSize(options.size),
        ...(options.replicas === undefined
          ? {}
          : { replicas: validateReplicaCount(parseCount(options.replicas, '--replicas')) }),
        policy: options.policy,
        constraints: constraintsOf(options),
        qos: qosOf(options),
        access: accessOf(options),
        blockSize: validateBlockSize(parseCount(options.blockSize, '--block-size')),
        share: shareOf(options),
      }));
      const session = openSession(options, process.env);
      const work = session.call<VolumeView>('POST', '/v1/volumes', body);
      const made = await withProgress(streams, () => Promise.resolve(`making the replicas of ${name}`), work);
      printResult(streams, options.json === true, made, volumeDetails);
    });

  named(volume, 'attach', 'serve a volume to hosts; prints how to reach it')
    .option('--node <node>', 'where (default: a node that holds an in-sync replica)')
    .option('--force', 'take it over from the node where it is attached, also when that does not answer')
    .option(
      '--accept-data-loss',
      'with no in-sync replica in reach, serve the newest older copy; later writes are lost',
    )
    .option('--replica <id>', 'with --accept-data-loss: serve this copy')
    .addHelpText('after', examples('holdfast volume attach db', 'holdfast volume attach db --node node2 --json'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<AttachCliOptions>();
      if (options.replica !== undefined && options.acceptDataLoss !== true) {
        throw new UsageError(new HoldfastError('INVALID_ARGUMENT', '--replica is for --accept-data-loss'));
      }
      const session = openSession(options, process.env);
      const work = session.call<AttachmentView>('POST', path(name, '/attach'), {
        node: options.node ?? null,
        force: options.force === true,
        acceptDataLoss: options.acceptDataLoss === true,
        replica: options.replica ?? null,
      });
      const attachment = await withProgress(streams, progressOf(session, name, 'attaching'), work);
      printResult(streams, options.json === true, attachment, attachmentDetails);
    });

  named(volume, 'detach', 'stop serving a volume; its data stays')
    .option('--force', 'also when the node that serves it cannot be reached')
    .addHelpText('after', examples('holdfast volume detach db'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { readonly force?: boolean }>();
      const session = openSession(options, process.env);
      const work = session.call<VolumeView>('POST', path(name, '/detach'), { force: options.force === true });
      const detached = await withProgress(streams, progressOf(session, name, 'detaching'), work);
      printResult(streams, options.json === true, detached, ({ name: done }) => `Volume ${done} is detached.`);
    });

  named(volume, 'move', 'serve an attached volume on another node')
    .requiredOption('--node <node>', 'where to')
    .addHelpText('after', examples('holdfast volume move home --node node2'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { readonly node: string }>();
      const session = openSession(options, process.env);
      const work = session.call<AttachmentView>('POST', path(name, '/move'), { node: options.node });
      const moved = await withProgress(streams, progressOf(session, name, 'moving'), work);
      printResult(streams, options.json === true, moved, attachmentDetails);
    });

  named(volume, 'show', 'show a volume with its replicas')
    .addHelpText('after', examples('holdfast volume show db', 'holdfast volume show db --json'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const shown = await openSession(options, process.env).call<VolumeView>('GET', path(name));
      printResult(streams, options.json === true, shown, volumeDetails);
    });

  named(volume, 'resize', 'make a volume larger; hosts that use it see it at once')
    .requiredOption('--size <size>', `new size, ${sizeHelp}`)
    .addHelpText('after', examples('holdfast volume resize db --size 20Gi'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { readonly size: string }>();
      const size = checkUsage(() => parseSize(options.size));
      const session = openSession(options, process.env);
      const work = session.call<VolumeView>('POST', path(name, '/resize'), { size });
      const resized = await withProgress(streams, progressOf(session, name, 'resizing'), work);
      await growHere(resized);
      printResult(streams, options.json === true, resized, volumeDetails);
    });

  named(volume, 'delete', 'move a volume to the trash; it must be detached')
    .option('--purge', 'delete it for good, at once')
    .addHelpText('after', examples('holdfast volume delete scratch', 'holdfast volume delete scratch --purge'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { readonly purge?: boolean }>();
      const query = options.purge === true ? '?purge=true' : '';
      const deleted = await openSession(options, process.env).call<DeletionView>('DELETE', path(name, query));
      printResult(streams, options.json === true, deleted, describeDeletion);
    });

  withAccessOptions(withPlacementOptions(named(volume, 'set', 'change a volume while it is used')))
    .option('--replicas <count>', 'how many copies there are to be')
    .option('--rebuild-rate <rate>', 'of its rebuilds at most, bytes per second such as 100Mi; 0: no limit')
    .option('--foreground-share <percent>', 'what hosts get while it is rebuilt, 0 to 99')
    .addHelpText(
      'after',
      '\nWhat is not given stays; "" takes away a tag, a class, a user or an initiator. Who may log in is changed for the next attach on.\n' +
        examples('holdfast volume set db --replicas 2', 'holdfast volume set db --iops 1000 --bandwidth 50Mi'),
    )
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CreateOptions & PaceOptions>();
      const body = checkUsage(() => ({
        ...(options.replicas === undefined
          ? {}
          : { replicas: validateReplicaCount(parseCount(options.replicas, '--replicas')) }),
        constraints: constraintsOf(options),
        qos: qosOf(options),
        access: accessOf(options),
        ...paceOf(options),
      }));
      const { constraints, ...rest } = body;
      if (Object.keys(constraints).length === 0 && Object.values(rest).every((each) => each === undefined)) {
        throw new UsageError(new HoldfastError('INVALID_ARGUMENT', 'say what to set: see --help'));
      }
      const changed = await openSession(options, process.env).call<VolumeView>('PATCH', path(name), body);
      printResult(streams, options.json === true, changed, volumeDetails);
    });

  named(volume, 'explain', 'show for every disk whether it could take a replica of the volume, or why not')
    .addHelpText('after', examples('holdfast volume explain db'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const explained = await openSession(options, process.env).call<ExplanationView>('GET', path(name, '/explain'));
      printResult(streams, options.json === true, explained, explanationTable);
    });

  addCloneCommand(volume, streams);

  withCommonOptions(volume.command('ls'))
    .description('list the volumes')
    .addHelpText('after', examples('holdfast volume ls'))
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const volumes = await openSession(options, process.env).call<readonly VolumeView[]>('GET', '/v1/volumes');
      printResult(streams, options.json === true, volumes, volumeTable);
    });
}

export function examples(...lines: readonly string[]): string {
  return `\n${lines.length === 1 ? 'Example' : 'Examples'}:\n${lines.map((line) => `  ${line}`).join('\n')}`;
}

export function named(parent: Command, name: string, description: string): Command {
  return withCommonOptions(parent.command(name)).argument('<name>', 'name of the volume').description(description);
}

export function path(name: string, rest = ''): string {
  return `/v1/volumes/${encodeURIComponent(checkUsage(() => validateVolumeName(name)))}${rest}`;
}

export function progressOf(session: Session, name: string, what: string): () => Promise<string> {
  return async () => {
    const { state, reason } = await session.call<VolumeView>('GET', path(name));
    return `${what} ${name}: ${state}${reason === null ? '' : `, ${reason}`}`;
  };
}

function describeDeletion(deletion: DeletionView): string {
  const { linkedClones } = deletion;
  if (linkedClones.length === 0) return whatBecameOf(deletion);
  const which = linkedClones.length === 1 ? 'its linked clone' : 'its linked clones';
  return (
    `${whatBecameOf(deletion)}\nThe blocks that ${which} ${linkedClones.join(', ')} ` +
    `${linkedClones.length === 1 ? 'shares' : 'share'} with it stay on the disks as long as needed.`
  );
}

function whatBecameOf({ volume, pendingReplicas, restorableUntil }: DeletionView): string {
  if (restorableUntil !== null)
    return `Volume ${volume} is in the trash until ${restorableUntil} ("holdfast trash restore ${volume}").`;
  if (pendingReplicas.length === 0) return `Volume ${volume} is deleted.`;
  return `Volume ${volume} is deleted; ${pendingReplicas.length} of its replicas follow when their disks can be reached.`;
}

type PaceOptions = { readonly rebuildRate?: string; readonly foregroundShare?: string };

function paceOf({ rebuildRate, foregroundShare }: PaceOptions): Readonly<Record<string, number>> {
  return {
    ...(rebuildRate === undefined ? {} : { rebuildBytesPerSecond: parseSizeText(rebuildRate) }),
    ...(foregroundShare === undefined ? {} : { foregroundPercent: parseCount(foregroundShare, '--foreground-share') }),
  };
}
