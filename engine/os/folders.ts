// Folders with all that is above them. mkdirSync's own `recursive` never returns where the system says ENOENT although the folder above
// exists, as below /proc; and it does not say which folder could not be made.
import { mkdirSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { systemErrorCode } from '../errors/holdfast-error.js';

/** Makes what is missing of the path; those that exist stay as they are. `mode` is that of every folder made. Throws what mkdir(2) says. */
export function makeFolders(path: string, mode = 0o777): void {
  const missing: string[] = [];
  for (let folder = path; !isThere(folder); folder = dirname(folder)) missing.push(folder);
  for (const folder of missing.reverse()) {
    try {
      mkdirSync(folder, { mode });
    } catch (error) {
      if (systemErrorCode(error) !== 'EEXIST' || !isFolder(folder)) throw error;
    }
  }
}

// What is there and no folder is for mkdir(2) of the one below to refuse.
function isThere(path: string): boolean {
  return dirname(path) === path || isFolder(path);
}

function isFolder(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  } catch {
    return false;
  }
}
