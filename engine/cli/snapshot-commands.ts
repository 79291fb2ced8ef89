// holdfast snapshot …, holdfast volume clone
import type { Command } from 'commander';
import { formatSize, validateSnapshotName, validateVolumeName } from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import type { SnapshotView, VolumeView } from '../manager/views.js';
import { addFileCommands } from './file-commands.js';
import { snapshotTable, volumeDetails } from './output.js';
import { checkUsage, openSession, printResult, withCommonOptions, withProgress } from './run.js';
import type { CommonOptions, Streams } from './run.js';
import { examples } from './volume-commands.js';

export function addSnapshotCommands(program: Command, streams: Streams): void {
  const snapshot = program
    .command('snapshot')
    .description('take, list, delete and revert to snapshots of a volume')
    .helpCommand(false);

  withCommonOptions(snapshot.command('create'))
    .argument('<volume>', 'name of the volume')
    .argument('[name]', 'of the snapshot (default: made of the time)')
    .description('take a snapshot; also while hosts write')
    .addHelpText('after', examples('holdfast snapshot create db before-upgrade', 'holdfast snapshot create db'))
    .action(async (volume: string, name: string | undefined, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const body = checkUsage(() => ({ name: name === undefined ? null : validateSnapshotName(name) }));
      const session = openSession(options, process.env);
      const work = session.call<SnapshotView>('POST', path(volume, '/snapshots'), body);
      const made = await withProgress(streams, () => Promise.resolve(`taking a snapshot of ${volume}`), work);
      printResult(streams, options.json === true, made, takenText);
    });

  withCommonOptions(snapshot.command('ls'))
    .argument('<volume>', 'name of the volume')
    .description('list the snapshots of a volume, as the tree they form')
    .addHelpText('after', examples('holdfast snapshot ls db', 'holdfast snapshot ls db --json'))
    .action(async (volume: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const session = openSession(options, process.env);
      const snapshots = await session.call<readonly SnapshotView[]>('GET', path(volume, '/snapshots'));
      printResult(streams, options.json === true, snapshots, (views) => snapshotTable(volume, views));
    });

  addFileCommands(snapshot, streams);

  named(snapshot, 'delete', 'delete a snapshot; others stay as they are')
    .addHelpText('after', examples('holdfast snapshot delete db before-upgrade'))
    .action(async (volume: string, name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const rest = checkUsage(() => `/snapshots/${validateSnapshotName(name)}`);
      const session = openSession(options, process.env);
      const work = session.call<{ volume: string; name: string }>('DELETE', path(volume, rest));
      const deleted = await withProgress(streams, () => Promise.resolve(`deleting snapshot ${name}`), work);
      printResult(streams, options.json === true, deleted, () => `Snapshot ${name} of ${volume} is deleted.`);
    });

  named(snapshot, 'revert', 'make a detached volume hold what a snapshot holds; later snapshots stay')
    .addHelpText('after', examples('holdfast snapshot revert db before-upgrade'))
    .action(async (volume: string, name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const body = checkUsage(() => ({ snapshot: validateSnapshotName(name) }));
      const session = openSession(options, process.env);
      const work = session.call<VolumeView>('POST', path(volume, '/revert'), body);
      const reverted = await withProgress(streams, () => Promise.resolve(`reverting ${volume}`), work);
      printResult(streams, options.json === true, reverted, () => `Volume ${volume} holds what ${name} holds.`);
    });
}

function takenText({ name, volume, note }: SnapshotView): string {
  return `Snapshot ${name} of ${volume} is taken.` + (note === null ? '' : `\nAs after a crash: ${note}.`);
}

/** `volume` is the command that "clone" belongs to. */
export function addCloneCommand(volume: Command, streams: Streams): void {
  withCommonOptions(volume.command('clone'))
    .argument('<source>', 'VOLUME, or VOLUME@SNAPSHOT')
    .argument('<name>', 'of the new volume')
    .description('make a new volume with what a volume, or a snapshot of it, holds')
    .option('--linked', 'at once: share the blocks on the same disks instead of copying them')
    .addHelpText(
      'after',
      examples(
        'holdfast volume clone db db-copy',
        'holdfast volume clone db@before-upgrade db-old',
        'holdfast volume clone db@before-upgrade db-test --linked',
      ),
    )
    .action(async (source: string, name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { readonly linked?: boolean }>();
      const { from, body } = checkUsage(() => cloneOf(source, name));
      const session = openSession(options, process.env);
      const request = { ...body, linked: options.linked === true };
      const work = session.call<VolumeView>('POST', path(from, '/clone'), request, 0);
      const progress = async () => {
        const { usedBytes, size } = await session.call<VolumeView>('GET', path(name, ''));
        return `copying ${source} to ${name}: ${formatSize(usedBytes ?? 0)} of at most ${formatSize(size)}`;
      };
      const made = await withProgress(streams, progress, work);
      printResult(streams, options.json === true, made, volumeDetails);
    });
}

function cloneOf(source: string, name: string) {
  const [from = '', snapshot, ...rest] = source.split('@');
  if (rest.length > 0) {
    throw new HoldfastError('INVALID_ARGUMENT', `"${source}" is not VOLUME or VOLUME@SNAPSHOT`);
  }
  return {
    from: validateVolumeName(from),
    body: {
      name: validateVolumeName(name),
      snapshot: snapshot === undefined ? null : validateSnapshotName(snapshot),
    },
  };
}

function named(parent: Command, name: string, description: string): Command {
  return withCommonOptions(parent.command(name))
    .argument('<volume>', 'name of the volume')
    .argument('<name>', 'name of the snapshot')
    .description(description);
}

function path(volume: string, rest: string): string {
  return `/v1/volumes/${encodeURIComponent(checkUsage(() => validateVolumeName(volume)))}${rest}`;
}
