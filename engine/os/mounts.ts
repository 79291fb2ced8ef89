// What is mounted in this mount namespace: /proc/self/mountinfo (proc(5)).
import { readFileSync } from 'node:fs';

export type MountEntry = {
  /** What is mounted: /dev/loop0 */
  readonly source: string;
  readonly directory: string;
  readonly type: string;
  /** MAJOR:MINOR of the file system */
  readonly device: string;
};

/** In the order of mounting: of several on one directory the last one is seen. */
export function parseMountinfo(text: string): readonly MountEntry[] {
  return text.split('\n').flatMap((line) => {
    const [before = '', after] = line.split(' - ');
    const [, , device = '', , directory] = before.split(' ');
    if (after === undefined || directory === undefined) return [];
    const [type = '', source = ''] = after.split(' ');
    return [{ source: unescape(source), directory: unescape(directory), type, device }];
  });
}

export function listMounts(): readonly MountEntry[] {
  return parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8'));
}

// Space, tab, newline and backslash are octal.
function unescape(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
