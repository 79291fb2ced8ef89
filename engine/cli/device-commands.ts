// holdfast map, unmap, mount, umount
import { existsSync, realpathSync, statSync } from 'node:fs';
import { isAbsolute, resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { validateVolumeName } from '../config/volume-input.js';
import { sleep } from '../async/wait.js';
import { HoldfastError, isHoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import {
  ensureFilesystem,
  filesystemTypes,
  mountFilesystem,
  mountOf,
  unmountFilesystem,
} from '../filesystem/filesystem.js';
import type { FilesystemType } from '../filesystem/filesystem.js';
import type { VolumeView } from '../manager/views.js';
import { makeFolders } from '../os/folders.js';
import { listMounts } from '../os/mounts.js';
import { deviceHere, mapHere, unmapHere } from './local-devices.js';
import type { LocalDevice, Via } from './local-devices.js';
import { table } from './output.js';
import { checkUsage, openSession, printResult, UsageError, withCommonOptions, withProgress } from './run.js';
import type { CommonOptions, Session, Streams } from './run.js';
import { examples } from './volume-commands.js';

type MapOptions = CommonOptions & { readonly node?: string; readonly via?: Via };
type MountOptions = MapOptions & { readonly fs?: FilesystemType; readonly options?: string };

const unmountedInUseMs = 3_000;

export type MountView = LocalDevice & { readonly directory: string; readonly fs: string };
export type MapRow = {
  readonly volume: string;
  readonly node: string;
  readonly via: Via;
  /** On this host; null when it is mapped elsewhere, or waits for its target process. */
  readonly device: string | null;
  readonly directory: string | null;
};

const viaOption = () =>
  new Option(
    '--via <way>',
    "iscsi: the kernel's initiator; fuse: a loop device (default: iscsi where this host has it)",
  ).choices(['iscsi', 'fuse']);

export function addDeviceCommands(program: Command, streams: Streams): void {
  addMap(program, streams);

  withCommonOptions(program.command('unmap'))
    .argument('<volume>', 'name of the volume')
    .option('--force', 'although it is in use: whoever uses it gets errors')
    .description('end the block device of a volume; detach it when map attached it')
    .addHelpText('after', examples('holdfast unmap db'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { readonly force?: boolean }>();
      checkUsage(() => validateVolumeName(name));
      const work = unmapHere(openSession(options, process.env), name, options.force === true);
      const unmapped = await withProgress(streams, () => Promise.resolve(`unmapping ${name}`), work);
      printResult(streams, options.json === true, unmapped, () => `Volume ${name} is no block device any more.`);
    });

  withCommonOptions(program.command('mount'))
    .argument('<volume>', 'name of the volume')
    .argument('<directory>', 'where; made when it is missing')
    .addOption(new Option('--fs <type>', 'made when the volume is empty (default: ext4)').choices(filesystemTypes))
    .addOption(viaOption())
    .option('--node <node>', 'where to attach it when it is detached')
    .option('-o, --options <options>', 'mount options, such as noatime,ro')
    .description('map a volume and mount its file system; makes one on an empty volume')
    .addHelpText('after', examples('holdfast mount db /mnt/db', 'holdfast mount db /mnt/db --fs xfs -o noatime'))
    .action(async (name: string, directory: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<MountOptions>();
      checkUsage(() => validateVolumeName(name));
      const work = mountVolume(openSession(options, process.env), name, directory, options);
      const mounted = await withProgress(streams, () => Promise.resolve(`mounting ${name}`), work);
      printResult(streams, options.json === true, mounted, (view) => {
        return `Volume ${view.volume} (${view.fs} on ${view.device}) is mounted on ${view.directory}.`;
      });
    });

  withCommonOptions(program.command('umount'))
    .argument('<volume-or-directory>', 'name of the volume, or where it is mounted')
    .description('unmount the file system of a volume and unmap the volume')
    .addHelpText('after', examples('holdfast umount db', 'holdfast umount /mnt/db'))
    .action(async (what: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const work = unmountVolume(openSession(options, process.env), what);
      const unmounted = await withProgress(streams, () => Promise.resolve(`unmounting ${what}`), work);
      printResult(streams, options.json === true, unmounted, ({ name }) => `Volume ${name} is unmounted.`);
    });
}

function addMap(program: Command, streams: Streams): void {
  const map = withCommonOptions(program.command('map'))
    .helpCommand(false)
    .argument('<volume>', 'name of the volume')
    .option('--node <node>', 'where to attach it when it is detached')
    .addOption(viaOption())
    .description('make a volume a block device of this host; prints the device')
    .addHelpText('after', examples('holdfast map db', 'mkfs.xfs $(holdfast map db)'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<MapOptions>();
      checkUsage(() => validateVolumeName(name));
      const wanted = { node: options.node ?? null, via: options.via ?? null };
      const work = mapHere(openSession(options, process.env), name, wanted);
      const mapped = await withProgress(streams, () => Promise.resolve(`mapping ${name}`), work);
      printResult(streams, options.json === true, mapped, ({ device }) => device);
    });

  withCommonOptions(map.command('ls'))
    .description('list the volumes that are block devices')
    .addHelpText('after', examples('holdfast map ls'))
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const volumes = await openSession(options, process.env).call<readonly VolumeView[]>('GET', '/v1/volumes');
      printResult(streams, options.json === true, volumes.flatMap(mapRow), mapTable);
    });
}

function mapRow(volume: VolumeView): readonly MapRow[] {
  if (volume.device === null) return [];
  const { via, node } = volume.device;
  const device = deviceHere(volume);
  const directory = device === null ? null : (mountOf(device)?.directory ?? null);
  return [{ volume: volume.name, node, via, device, directory }];
}

function mapTable(rows: readonly MapRow[]): string {
  if (rows.length === 0) return 'No volume is mapped: "holdfast map VOLUME" makes one a block device of this host.';
  return table(
    ['volume', 'device', 'mounted on', 'node', 'via'],
    rows.map(({ volume, device, directory, node, via }) => [volume, device ?? '-', directory ?? '-', node, via]),
  );
}

async function mountVolume(
  session: Session,
  name: string,
  wantedDirectory: string,
  options: MountOptions,
): Promise<MountView> {
  checkFolder(resolve(wantedDirectory));
  const before = await session.call<VolumeView>('GET', `/v1/volumes/${name}`);
  const directory = makeFolder(resolve(wantedDirectory));
  const mapped = await mapHere(session, name, { node: options.node ?? null, via: options.via ?? null });
  try {
    const present = mountOf(mapped.device);
    if (present !== null) {
      if (present.directory === directory) return { ...mapped, directory, fs: present.type };
      throw new HoldfastError('IN_USE', `volume "${name}" is mounted on ${present.directory} already`);
    }
    const fs = await ensureFilesystem(mapped.device, options.fs ?? null, `volume "${name}"`);
    await mountFilesystem(mapped.device, directory, fs, options.options?.split(',') ?? []);
    return { ...mapped, directory, fs };
  } catch (error) {
    if (before.device === null) await unmapHere(session, name, false);
    throw error;
  }
}

// A path, or the name of a volume: a name has no slash.
async function unmountVolume(session: Session, what: string): Promise<VolumeView> {
  const volumes = await session.call<readonly VolumeView[]>('GET', '/v1/volumes');
  const isPath = isAbsolute(what) || what.includes('/') || !volumes.some(({ name }) => name === what);
  const volume = isPath ? mountedOn(volumes, resolve(what)) : volumes.find(({ name }) => name === what);
  if (volume === undefined) throw new HoldfastError('NOT_FOUND', `no volume is mounted on ${resolve(what)}`);
  const device = deviceHere(volume);
  if (device !== null && isShareOf(volume, mountOf(device)?.directory)) {
    throw new HoldfastError(
      'IN_USE',
      `volume "${volume.name}" is shared over NFS, which mounts it: end the share with "holdfast volume detach ${volume.name}"`,
    );
  }
  for (let mounted = device && mountOf(device); mounted !== null && mounted !== '';) {
    await unmountFilesystem(mounted.directory);
    mounted = device === null ? null : mountOf(device);
  }
  return await unmapUnmounted(session, volume.name);
}

// Where the agent of its node mounts it (agent/share.ts).
function isShareOf({ id, access }: VolumeView, directory: string | undefined): boolean {
  return access === 'rwx' && directory?.endsWith(`/shares/${id}/fs`) === true;
}

// Another mount namespace that began while it was mounted (a container, ip netns exec) may have it for a moment more.
async function unmapUnmounted(session: Session, name: string): Promise<VolumeView> {
  const deadline = performance.now() + unmountedInUseMs;
  for (;;) {
    try {
      return await unmapHere(session, name, false);
    } catch (error) {
      if (!isHoldfastError(error, 'IN_USE') || performance.now() > deadline) throw error;
      await sleep(100);
    }
  }
}

function mountedOn(volumes: readonly VolumeView[], directory: string): VolumeView | undefined {
  const device = listMounts().findLast((mount) => mount.directory === directory)?.source;
  return device === undefined ? undefined : volumes.find((volume) => deviceHere(volume) === device);
}

function checkFolder(path: string): void {
  if (existsSync(path) && !statSync(path).isDirectory())
    throw new UsageError(new HoldfastError('INVALID_ARGUMENT', `${path} is not a folder`));
}

function makeFolder(path: string): string {
  try {
    makeFolders(path);
    return realpathSync(path);
  } catch (error) {
    const reason = toHoldfastError(error).message;
    throw new HoldfastError('INVALID_ARGUMENT', `${path} cannot be made (${reason}): mount in another folder`);
  }
}
