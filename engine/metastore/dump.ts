// All of a metadata store as text, and back: to move a cluster to another kind of store, and to keep a copy of it. One JSON object
// per line: a head, one entry per line in order of keys, and an end with a checksum over the lines before it. What hangs on a lease
// belongs to processes that run now and is left out.
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { HoldfastError } from '../errors/holdfast-error.js';
import type { Metastore } from './metastore.js';

const dumpVersion = 1;
/** Keys of processes that run: see election.ts. */
const transientPrefix = '/running/';
// etcd takes 128 operations per transaction.
const batchEntries = 100;

const headSchema = z.object({ format: z.literal('holdfast-store'), version: z.number(), createdAt: z.string() });
const entrySchema = z.object({ key: z.string(), value: z.string() });
const endSchema = z.object({ entries: z.int(), sha256: z.string() });

export async function dumpStore(store: Metastore, now: Date): Promise<string> {
  const { entries } = await store.range('/');
  const kept = entries.filter(({ key }) => !key.startsWith(transientPrefix));
  const lines = [
    JSON.stringify({ format: 'holdfast-store', version: dumpVersion, createdAt: now.toISOString() }),
    ...kept.map(({ key, value }) => JSON.stringify({ key, value })),
  ];
  return [...lines, JSON.stringify({ entries: kept.length, sha256: checksum(lines) }), ''].join('\n');
}

/**
 * The number of entries. Checked as a whole before anything is stored; ALREADY_EXISTS when the store is not empty. The key that makes
 * the store a cluster, "/cluster", comes last: what was cut short is no cluster, and the restore can be repeated into an emptied store.
 */
export async function restoreStore(store: Metastore, text: string): Promise<number> {
  const entries = parseDump(text);
  const present = await store.range('/');
  if (present.entries.some(({ key }) => !key.startsWith(transientPrefix))) {
    throw new HoldfastError(
      'ALREADY_EXISTS',
      'the store is not empty: restore into an empty one (another folder, or another --store-prefix)',
    );
  }
  const ordered = [
    ...entries.filter(({ key }) => key !== '/cluster'),
    ...entries.filter(({ key }) => key === '/cluster'),
  ];
  for (let first = 0; first < ordered.length; first += batchEntries) {
    const batch = ordered.slice(first, first + batchEntries);
    const { succeeded } = await store.transact(
      batch.map(({ key }) => ({ key, modRevision: 0 })),
      batch.map(({ key, value }) => ({ kind: 'put', key, value })),
    );
    if (!succeeded) throw new HoldfastError('CONFLICT', 'the store was changed by someone else during the restore');
  }
  return entries.length;
}

function parseDump(text: string): readonly z.infer<typeof entrySchema>[] {
  const lines = text.split('\n').filter((line) => line !== '');
  const [first = '', ...rest] = lines;
  const head = parseLine(headSchema, first);
  if (head === null) throw new HoldfastError('INVALID_ARGUMENT', 'this is no dump of a metadata store');
  if (head.version > dumpVersion) {
    throw new HoldfastError(
      'FORMAT_TOO_NEW',
      `the dump has version ${head.version}, this Holdfast knows ${dumpVersion}: use a newer Holdfast`,
    );
  }
  const end = parseLine(endSchema, rest.at(-1) ?? '');
  const body = rest.slice(0, -1);
  if (end?.entries !== body.length || end.sha256 !== checksum([first, ...body])) {
    throw new HoldfastError('CORRUPT', 'the dump is damaged or was cut short: use another copy of it');
  }
  return body.map((line) => {
    const entry = parseLine(entrySchema, line);
    if (entry === null)
      throw new HoldfastError('CORRUPT', `the dump has a line that is no entry: ${line.slice(0, 80)}`);
    return entry;
  });
}

function parseLine<T>(schema: z.ZodType<T>, line: string): T | null {
  try {
    return schema.safeParse(JSON.parse(line)).data ?? null;
  } catch {
    return null;
  }
}

function checksum(lines: readonly string[]): string {
  return createHash('sha256').update(lines.join('\n')).digest('hex');
}
