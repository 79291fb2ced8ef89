// At most one `holdfast up` per folder. The lock names its holder by pid and start time, so that one left behind by a kill
// is known as stale. Taken by link(2), which fails when the name exists; a stale one is moved away by rename(2), which only one
// contender can do.
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import { HoldfastError, systemErrorCode } from '../errors/holdfast-error.js';
import { isAlive, selfIdentity } from '../os/proc.js';
import type { ProcessIdentity } from '../os/proc.js';

const holderSchema = z.object({ pid: z.number(), startTime: z.string() });

/** The live holder, if any. */
export function lockHolder(path: string): ProcessIdentity | null {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return null;
  }
  const holder = parseHolder(text);
  return holder !== null && isAlive(holder) ? holder : null;
}

/** IN_USE when somebody holds it. Returns what releases it. */
export function takeLock(path: string, folder: string): () => void {
  const mine = `${path}.${process.pid}`;
  writeFileSync(mine, JSON.stringify(selfIdentity()));
  try {
    for (;;) {
      try {
        linkSync(mine, path);
        return () => {
          rmSync(path, { force: true });
        };
      } catch (error) {
        if (systemErrorCode(error) !== 'EEXIST') throw error;
      }
      const holder = lockHolder(path);
      if (holder !== null) throw folderInUse(folder, holder.pid);
      moveStaleAway(path);
    }
  } finally {
    rmSync(mine, { force: true });
  }
}

export function folderInUse(folder: string, pid: number): HoldfastError {
  return new HoldfastError(
    'IN_USE',
    `${folder} is in use by another "holdfast up" (pid ${pid}): stop it, or choose another folder with --data`,
  );
}

// Between looking and renaming, another contender may have replaced the stale lock by its own: give that back.
function moveStaleAway(path: string): void {
  const aside = `${path}.stale.${process.pid}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return;
    throw error;
  }
  if (lockHolder(aside) !== null) {
    try {
      linkSync(aside, path);
    } catch {
      // A third one has it; the loop sees that.
    }
  }
  rmSync(aside, { force: true });
}

function parseHolder(text: string): ProcessIdentity | null {
  try {
    const parsed = holderSchema.safeParse(JSON.parse(text));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}
