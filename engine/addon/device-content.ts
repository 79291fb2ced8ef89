// What block devices and files hold, by the addon.
import { fromNative } from './native-error.js';
import { loadAddon } from './native.js';

/** The offset of the first byte that is not zero; null: there is none. What was never written is not read. DISK_IO. */
export async function firstData(path: string): Promise<bigint | null> {
  try {
    return await loadAddon().firstData(path);
  } catch (error) {
    throw fromNative(error);
  }
}

/** The next part of an open file that is no hole; null: there is none. DISK_IO */
export function nextData(fd: number, offset: number): { readonly begin: number; readonly end: number } | null {
  try {
    return loadAddon().nextData(fd, offset);
  } catch (error) {
    throw fromNative(error);
  }
}
