// What a process shows to others and whom it believes: its certificate, and the authorities of the cluster. Kept in one file, so that
// the three always belong together; processes look at it now and then and take up what has changed, without a restart.
import { statSync } from 'node:fs';
import { z } from 'zod';
import { HoldfastError } from '../errors/holdfast-error.js';
import { readJson, writeJsonAtomic } from '../os/atomic-file.js';

const identitySchema = z.strictObject({
  /** PEM of every authority that is believed. */
  authority: z.string(),
  /** PEM: the process's own, then its authority's. */
  certificate: z.string(),
  key: z.string(),
});
export type Identity = z.infer<typeof identitySchema>;

export type IdentitySource = {
  readonly current: () => Identity;
  /** Calls `listener` after every change; returns what ends that. */
  readonly subscribe: (listener: (identity: Identity) => void) => () => void;
};
export type HeldIdentity = IdentitySource & { readonly replace: (identity: Identity) => void };

export function holdIdentity(first: Identity): HeldIdentity {
  let identity = first;
  const listeners = new Set<(identity: Identity) => void>();
  return {
    current: () => identity,
    subscribe: (listener) => {
      listeners.add(listener);
      return () => {
        listeners.delete(listener);
      };
    },
    replace: (next) => {
      identity = next;
      for (const listener of listeners) listener(next);
    },
  };
}

/** Null when there is no such file. */
export function readIdentity(path: string): Identity | null {
  const value = readJson(path);
  if (value === undefined) return null;
  const parsed = identitySchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new HoldfastError('CORRUPT', `${path} is damaged: delete it, and the agent asks for another certificate`);
}

/** Readable by its owner only. */
export function writeIdentity(path: string, identity: Identity): void {
  writeJsonAtomic(path, identity);
}

/** The identity in a file, followed until `close`. NOT_FOUND when there is none. */
export function followIdentity(
  path: string,
  onProblem: (error: unknown) => void,
  everyMs = 2_000,
): IdentitySource & { readonly close: () => void } {
  const first = readIdentity(path);
  if (first === null) throw new HoldfastError('NOT_FOUND', `${path} does not exist: the agent writes it`);
  const held = holdIdentity(first);
  let seen = stampOf(path);
  const timer = setInterval(() => {
    try {
      const stamp = stampOf(path);
      if (stamp === seen) return;
      seen = stamp;
      const next = readIdentity(path);
      if (next !== null) held.replace(next);
    } catch (error) {
      onProblem(error);
    }
  }, everyMs).unref();
  return {
    ...held,
    close: () => {
      clearInterval(timer);
    },
  };
}

// The file is replaced, never written in place.
function stampOf(path: string): string {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat === undefined ? '' : `${stat.ino} ${stat.mtimeMs}`;
}
