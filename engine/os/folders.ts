// Folders where people say they are to be.
import { mkdirSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { systemErrorCode } from '../errors/holdfast-error.js';

/**
 * Makes a folder with all that lead to it; there already: fine. Throws what mkdir(2) says. The recursive mkdir of Node.js never returns
 * where the kernel allows none, as below /proc.
 */
export function makeFolders(path: string, mode = 0o777): void {
  if (tryMake(path, mode)) return;
  makeFolders(dirname(path), mode);
  if (!tryMake(path, mode)) mkdirSync(path, { mode });
}

// False: what leads to it is missing.
function tryMake(path: string, mode: number): boolean {
  try {
    mkdirSync(path, { mode });
    return true;
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'EEXIST' && statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) return true;
    if (code === 'ENOENT' && dirname(path) !== path) return false;
    throw error;
  }
}
