// Reads files of one file system and ends: mounts it read-only, in a mount namespace of its own that nobody else sees, and writes
// frames (file-frames.ts) to its standard output. Started by the target process through unshare(1); its argument is a ReaderRequest.
// Whatever happens to it, its mount goes with it.
import { mountFilesystem, unmountFilesystem } from './filesystem.js';
import { encodeMessage } from './file-frames.js';
import type { JournalState } from './file-frames.js';
import { listFolder, readFiles, resolveInside, typeOf } from './file-walk.js';
import { viewMountOptions } from './snapshot-content.js';
import type { ReaderRequest } from './snapshot-content.js';
import { mountsOfVolumes } from './volume-mounts.js';
import { toHoldfastError } from '../errors/holdfast-error.js';
import { runCommand } from '../os/command.js';
import { listMounts } from '../os/mounts.js';

const request = JSON.parse(process.argv[2] ?? '{}') as ReaderRequest;

function write(bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => {
      if (error === null || error === undefined) resolve();
      else reject(error);
    });
  });
}

// A journal that cannot be replayed (damaged, or larger than what the view keeps) is left alone.
async function mount({ device, directory, fs }: ReaderRequest): Promise<JournalState> {
  try {
    await mountFilesystem(device, directory, fs, viewMountOptions(fs, true));
    return 'replayed';
  } catch {
    await mountFilesystem(device, directory, fs, viewMountOptions(fs, false));
    return 'ignored';
  }
}

// This namespace began as a copy of that of the target process, which let go of what it knew when it started this one; more may have
// been mounted in that very moment.
async function letGoOfVolumes({ directory }: ReaderRequest): Promise<void> {
  const directories = mountsOfVolumes(listMounts(), [directory, process.execPath, import.meta.filename]);
  if (directories.length > 0) await runCommand('umount', ['-l', ...directories]);
}

async function main(): Promise<void> {
  const { directory, fs, path, list, recursive } = request;
  await letGoOfVolumes(request);
  const journal = await mount(request);
  try {
    const at = await resolveInside(directory, path);
    await write(encodeMessage({ kind: 'opened', fs, journal, type: await typeOf(at) }));
    if (list) await listFolder(at, path, write);
    else await readFiles(at, path, recursive, write);
    await write(encodeMessage({ kind: 'end' }));
  } finally {
    await unmountFilesystem(directory);
  }
}

// Nobody listens any more.
process.stdout.on('error', () => {
  process.exit(1);
});
main().catch(async (error: unknown) => {
  const { code, message } = toHoldfastError(error);
  await write(encodeMessage({ kind: 'error', code, message }));
});
