// The folder that becomes, or is, a disk. Looked at before the store opens it: the store formats a folder without a disk,
// and must not do so among somebody's files or below an empty mount point.
import { readdirSync } from 'node:fs';
import { HoldfastError, systemErrorCode } from '../errors/holdfast-error.js';
import { makeFolders } from '../os/folders.js';

// What the store makes (docs/on-disk-format.md), and what a new file system brings along.
const ownNames = /^(?:disk\.json.*|data|journal|meta|lock|lost\+found)$/;

/** Makes the folder of a disk that is not known yet; refuses one that holds anything else. */
export function prepareDiskFolder(directory: string, expectedDiskId: string | null): void {
  const names = namesIn(directory);
  if (names === null) {
    if (expectedDiskId !== null) {
      throw new HoldfastError('WRONG_DISK', `${directory} does not exist: is disk ${expectedDiskId} mounted?`);
    }
    makeFolders(directory);
    return;
  }
  const foreign = names.find((name) => !ownNames.test(name));
  if (foreign !== undefined && !names.includes('disk.json')) {
    throw new HoldfastError(
      'WRONG_DISK',
      `${directory} holds "${foreign}" and no disk of Holdfast: give an empty folder for a new disk`,
    );
  }
}

function namesIn(directory: string): string[] | null {
  try {
    return readdirSync(directory);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT') return null;
    throw new HoldfastError(
      code === 'ENOTDIR' ? 'WRONG_DISK' : 'DISK_IO',
      `${directory} cannot be read as a folder: ${code ?? String(error)}`,
    );
  }
}
