// What a block device, or the file that stands for one, holds, by the addon.
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
