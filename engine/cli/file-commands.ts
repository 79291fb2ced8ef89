// holdfast snapshot browse, holdfast snapshot cp
import { basename } from 'node:path';
import type { Command } from 'commander';
import { formatSize, validateSnapshotName, validateVolumeName } from '../config/volume-input.js';
import { HoldfastError, systemErrorCode } from '../errors/holdfast-error.js';
import { decodeFrames } from '../filesystem/file-frames.js';
import type { FileFrame } from '../filesystem/file-frames.js';
import type { FileView, FolderView } from '../manager/snapshot-files.js';
import { extractFiles, streamFile } from './extract-files.js';
import type { Tally } from './extract-files.js';
import { table } from './output.js';
import { checkUsage, openSession, printResult, UsageError, withCommonOptions, withProgress } from './run.js';
import type { CommonOptions, Session, Streams } from './run.js';
import { examples } from './volume-commands.js';

type BrowseOptions = CommonOptions & { readonly partition?: string };
type CopyOptions = BrowseOptions & { readonly recursive?: boolean; readonly force?: boolean };

export type CopyView = {
  readonly volume: string;
  readonly snapshot: string;
  readonly path: string;
  readonly destination: string;
  readonly journal: string;
} & Readonly<Tally>;

const partitionOption = ['--partition <number>', 'of a volume that is partitioned'] as const;

export function addFileCommands(snapshot: Command, streams: Streams): void {
  withCommonOptions(snapshot.command('browse'))
    .argument('<volume>', 'name of the volume')
    .argument('<snapshot>', 'name of the snapshot')
    .argument('[path]', 'of a folder or file in it', '/')
    .option(...partitionOption)
    .description('list files in a snapshot; the volume is not disturbed')
    .addHelpText('after', examples('holdfast snapshot browse db nightly', 'holdfast snapshot browse db nightly /etc'))
    .action(async (volume: string, name: string, path: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<BrowseOptions>();
      const url = checkUsage(() => address(volume, name, 'files', { path, partition: options.partition }));
      const work = openSession(options, process.env).call<FolderView>('GET', url, undefined, 0);
      const folder = await withProgress(streams, () => Promise.resolve(`opening ${volume}@${name}`), work);
      printResult(streams, options.json === true, folder, folderTable);
    });

  withCommonOptions(snapshot.command('cp'))
    .argument('<source>', 'VOLUME@SNAPSHOT:PATH')
    .argument('<destination>', 'file or folder on this host; "-" prints a file')
    .option('-r, --recursive', 'a folder with all that is in it')
    .option('-f, --force', 'replace a file that is there')
    .option(...partitionOption)
    .description('copy files out of a snapshot; the volume is not disturbed')
    .addHelpText(
      'after',
      examples(
        'holdfast snapshot cp db@nightly:/etc/app.conf .',
        'holdfast snapshot cp -r db@nightly:/var/lib restored',
      ),
    )
    .action(async (text: string, destination: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CopyOptions>();
      const source = checkUsage(() => sourceOf(text));
      const session = openSession(options, process.env);
      if (destination === '-') {
        if (options.recursive === true || options.json === true) {
          const reason = '"-" prints one file, without --recursive and --json';
          throw new UsageError(new HoldfastError('INVALID_ARGUMENT', reason));
        }
        await printFile(framesOf(session, source, options));
        return;
      }
      const tally: Tally = { files: 0, directories: 0, links: 0, bytes: 0, skipped: [], attributesSkipped: {} };
      const name = basename(source.path.replace(/\/+$/, '')) || source.snapshot;
      const work = extractFiles(
        framesOf(session, source, options),
        { path: destination, name, force: options.force === true },
        tally,
      );
      const progress = () => Promise.resolve(`copying: ${tally.files} files, ${formatSize(tally.bytes)}`);
      const { opened, path } = await withProgress(streams, progress, work);
      const copied: CopyView = { ...source, destination: path, journal: opened.journal, ...tally };
      printResult(streams, options.json === true, copied, copyText);
    });
}

type Source = { readonly volume: string; readonly snapshot: string; readonly path: string };

function sourceOf(text: string): Source {
  const [, volume = '', snapshot = '', path = ''] = /^([^@:]+)@([^@:]+):(.*)$/s.exec(text) ?? [];
  if (volume === '') throw new HoldfastError('INVALID_ARGUMENT', `"${text}" is not VOLUME@SNAPSHOT:PATH`);
  return {
    volume: validateVolumeName(volume),
    snapshot: validateSnapshotName(snapshot),
    path: path === '' ? '/' : path,
  };
}

function framesOf(session: Session, { volume, snapshot, path }: Source, { recursive, partition }: CopyOptions) {
  const url = checkUsage(() =>
    address(volume, snapshot, 'content', { path, partition, recursive: recursive === true ? 'true' : undefined }),
  );
  return decodeFrames(session.bytes(url));
}

function address(
  volume: string,
  snapshot: string,
  what: string,
  query: Readonly<Record<string, string | undefined>>,
): string {
  const { partition } = query;
  if (partition !== undefined && !/^[1-9]\d{0,4}$/.test(partition)) {
    throw new HoldfastError('INVALID_ARGUMENT', `"${partition}" is not the number of a partition`);
  }
  const given = Object.entries(query).flatMap(([key, value]) =>
    value === undefined ? [] : [[key, value] as [string, string]],
  );
  const [name, taken] = [validateVolumeName(volume), validateSnapshotName(snapshot)];
  return `/v1/volumes/${name}/snapshots/${encodeURIComponent(taken)}/${what}?${new URLSearchParams(given).toString()}`;
}

class ReaderGone extends Error {}

// Like cat: a reader that has seen enough is no error.
async function printFile(frames: AsyncIterable<FileFrame>): Promise<void> {
  // What a write says, its callback is told as well.
  process.stdout.on('error', () => undefined);
  try {
    await streamFile(frames, print);
  } catch (error) {
    if (!(error instanceof ReaderGone)) throw error;
  }
}

function print(bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => {
      if (error === null || error === undefined) resolve();
      else if (systemErrorCode(error) === 'EPIPE') reject(new ReaderGone());
      else reject(new HoldfastError('DISK_IO', `the file cannot be printed: ${error.message}`));
    });
  });
}

const journalNote = 'The journal of its file system could not be replayed: what was written last may be missing.';

function folderTable({ entries, path, journal }: FolderView): string {
  const lines =
    entries.length === 0
      ? `${printable(path)} is empty.`
      : table(
          ['mode', 'owner', 'size', 'modified', 'name'],
          entries.map((entry) => [
            modeText(entry),
            `${entry.uid}:${entry.gid}`,
            entry.type === 'file' ? String(entry.size) : '-',
            entry.modifiedAt.replace('T', ' ').slice(0, 19),
            printable(entry.name) + (entry.target === null ? '' : ` -> ${printable(entry.target)}`),
          ]),
        );
  return journal === 'replayed' ? lines : `${lines}\n${journalNote}`;
}

function copyText(view: CopyView): string {
  const { files, directories, links, bytes, skipped, attributesSkipped, destination, journal } = view;
  const attributes = Object.entries(attributesSkipped).map(([name, count]) => `${printable(name)} (${count})`);
  return [
    `Copied ${files} files, ${directories} folders, ${links} links (${formatSize(bytes)}) to ${destination}.`,
    ...(skipped.length === 0
      ? []
      : [`Left out, being devices, pipes or sockets: ${skipped.map(printable).join(', ')}`]),
    ...(attributes.length === 0 ? [] : [`Attributes that are not kept here: ${attributes.join(', ')}`]),
    ...(journal === 'replayed' ? [] : [journalNote]),
  ].join('\n');
}

const letters: Readonly<Record<string, string>> = { directory: 'd', link: 'l', special: '?' };

function modeText({ type, mode }: FileView): string {
  const bits = Array.from('rwxrwxrwx', (letter, index) => ((mode & (0o400 >> index)) === 0 ? '-' : letter));
  if ((mode & 0o4000) !== 0) bits[2] = bits[2] === 'x' ? 's' : 'S';
  if ((mode & 0o2000) !== 0) bits[5] = bits[5] === 'x' ? 's' : 'S';
  if ((mode & 0o1000) !== 0) bits[8] = bits[8] === 'x' ? 't' : 'T';
  return (letters[type] ?? '-') + bits.join('');
}

// Names come from the snapshot: none of them may speak to the terminal.
function printable(text: string): string {
  return text.replaceAll(
    // eslint-disable-next-line no-control-regex -- these are meant
    /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (letter) => `\\x${letter.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}
