/** What tests of volumes as local devices need from the machine. */
import { existsSync } from 'node:fs';

/** Why local devices, and what else takes `programs`, cannot be had here; null: they can. */
export function whyNoLocalDevices(...programs: readonly string[]): string | null {
  if (process.getuid?.() !== 0) return 'local devices take root';
  const missing = ['/dev/fuse', '/dev/loop-control', ...programs].find((path) => !existsSync(path));
  return missing === undefined ? null : `there is no ${missing} here`;
}
