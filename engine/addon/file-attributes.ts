// Extended attributes of files, by the addon.
import { fromNative } from './native-error.js';
import { loadAddon } from './native.js';
import type { NativeAttribute } from './native.js';

export type FileAttribute = NativeAttribute;

/** Of the file itself, not of what a link leads to. null: they cannot be listed. */
export function readFileAttributes(path: Buffer): readonly FileAttribute[] | null {
  return loadAddon().readFileAttributes(path);
}

/** Whether it is kept: not every file system, and not every user, keeps every one. DISK_IO. */
export function writeFileAttribute(path: Buffer, name: Buffer, value: Buffer): boolean {
  try {
    return loadAddon().writeFileAttribute(path, name, value);
  } catch (error) {
    throw fromNative(error);
  }
}
