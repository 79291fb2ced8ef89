// Files in snapshots of the volumes that are served here. A snapshot becomes a block device (a view, whose writes are forgotten), and
// a process of its own mounts that in a mount namespace of its own and sends the files; when it has ended the view goes. A process
// that dies takes its mount with it; what a target process that died has left, its successor clears away.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { choosePartition, filesystemOn, partitionsOn } from '../filesystem/snapshot-content.js';
import type { ReaderRequest } from '../filesystem/snapshot-content.js';
import { mountsOfVolumes } from '../filesystem/volume-mounts.js';
import type { Logger } from '../log/logger.js';
import { errorFields } from '../log/logger.js';
import { runCommand } from '../os/command.js';
import { makeFolders } from '../os/folders.js';
import { listMounts } from '../os/mounts.js';
import type { TargetVolumes } from './volumes.js';

export type FilesRequest = {
  readonly volumeId: bigint;
  readonly snapshotId: bigint;
  /** Of the volume when the snapshot was taken. */
  readonly sizeBytes: bigint;
  /** 0: the whole device. */
  readonly partition: number;
  readonly path: string;
  readonly list: boolean;
  readonly recursive: boolean;
};

/** Resolves when more may be written. */
export type Send = (frames: Buffer) => Promise<void>;

const readersMax = 16;

export class SnapshotFiles {
  readonly #volumes: Pick<TargetVolumes, 'openView' | 'closeView'>;
  readonly #directory: string;
  readonly #log: Logger;
  #readers = 0;

  /** `directory`: absolute; what is there belongs to views of this process. */
  constructor(volumes: Pick<TargetVolumes, 'openView' | 'closeView'>, directory: string, log: Logger) {
    this.#volumes = volumes;
    this.#directory = directory;
    this.#log = log;
  }

  /** Sends frames of file-frames.ts, until the last one or until the signal aborts. */
  async read(request: FilesRequest, send: Send, signal: AbortSignal): Promise<void> {
    if (this.#readers >= readersMax) {
      throw new HoldfastError('FAILED_PRECONDITION', `${readersMax} snapshots are being read on this node already`);
    }
    this.#readers += 1;
    const directory = join(this.#directory, randomUUID());
    makeFolders(directory, 0o700);
    try {
      const { device, fs } = await this.#open(request, join(directory, 'view'));
      mkdirSync(join(directory, 'fs'));
      const { path, list, recursive } = request;
      await runReader({ device, fs, directory: join(directory, 'fs'), path, list, recursive }, send, signal);
    } finally {
      this.#readers -= 1;
      await this.#close(directory);
    }
  }

  async #open(request: FilesRequest, directory: string): Promise<{ readonly device: string; readonly fs: string }> {
    const { volumeId, snapshotId, sizeBytes, partition } = request;
    const open = (firstByte: bigint, size: bigint) =>
      this.#volumes.openView({ volumeId, snapshotId, firstByte, sizeBytes: size, directory });
    const whole = await open(0n, sizeBytes);
    const fs = await filesystemOn(whole, 'the snapshot');
    if (fs !== null) {
      if (partition === 0) return { device: whole, fs };
      throw new HoldfastError('NOT_FOUND', `the snapshot has no partitions: it holds ${fs} as a whole`);
    }
    const chosen = choosePartition(await partitionsOn(whole), partition, 'the snapshot');
    await this.#volumes.closeView(directory);
    const device = await open(BigInt(chosen.firstByte), BigInt(chosen.sizeBytes));
    const inside = await filesystemOn(device, `partition ${chosen.number} of the snapshot`);
    if (inside !== null) return { device, fs: inside };
    throw new HoldfastError('FAILED_PRECONDITION', `partition ${chosen.number} holds partitions itself`);
  }

  async #close(directory: string): Promise<void> {
    try {
      await this.#volumes.closeView(join(directory, 'view'));
      removeFolders(directory);
    } catch (error) {
      this.#log.warn('a view of a snapshot could not be cleared away', { directory, ...errorFields(error) });
    }
  }

  /** What an earlier process left; its devices give nothing but errors. */
  async clear(): Promise<void> {
    if (!existsSync(this.#directory)) return;
    for (const loop of readdirSync('/sys/block').filter((name) => name.startsWith('loop'))) {
      if (backingFileOf(loop)?.startsWith(`${this.#directory}/`) === true) {
        await runCommand('losetup', ['--detach', `/dev/${loop}`]);
      }
    }
    for (const name of readdirSync(this.#directory)) {
      const directory = join(this.#directory, name);
      await runCommand('umount', ['-l', join(directory, 'view/device')]);
      await runCommand('rm', ['-rf', '--one-file-system', directory]);
    }
  }
}

function backingFileOf(loop: string): string | null {
  try {
    return readFileSync(`/sys/block/${loop}/loop/backing_file`, 'utf8').trim();
  } catch {
    return null;
  }
}

// Empty ones only.
function removeFolders(directory: string): void {
  for (const folder of [join(directory, 'fs'), join(directory, 'view'), directory]) {
    if (existsSync(folder)) rmdirSync(folder);
  }
}

const readerProgram = fileURLToPath(new URL('../filesystem/reader-main.js', import.meta.url));
const complaintBytesMax = 4_096;

// Lets go of the directories that standard input names, and becomes the program of its arguments. A volume that is unmounted elsewhere
// meanwhile is not in use for as long as the reader runs, nor while it starts.
const letGo = 'xargs --null --no-run-if-empty umount -l 2>/dev/null; exec "$@" </dev/null';

async function runReader(request: ReaderRequest, send: Send, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const program = [process.execPath, readerProgram, JSON.stringify(request)];
  const foreign = mountsOfVolumes(listMounts(), [request.directory, process.execPath, readerProgram]);
  const child = spawn(
    'unshare',
    ['--mount', '--propagation', 'slave', 'sh', '-c', letGo, 'holdfast-reader', ...program],
    { stdio: ['pipe', 'pipe', 'pipe'] },
  );
  child.stdin.on('error', () => undefined); // it ended early: that shows below
  child.stdin.end(foreign.join('\0'));
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', (error) => {
      reject(new HoldfastError('UNSUPPORTED_SYSTEM', `unshare cannot be run: ${toHoldfastError(error).message}`));
    });
    child.once('close', resolve);
  });
  ended.catch(() => undefined);
  let complaint = '';
  child.stderr.on('data', (part: Buffer) => {
    if (complaint.length < complaintBytesMax) complaint += part.toString();
  });
  const stop = () => child.kill('SIGKILL');
  signal.addEventListener('abort', stop);
  let sent = 0;
  try {
    for await (const part of child.stdout as AsyncIterable<Buffer>) {
      sent += part.length;
      await send(part);
    }
    const code = await ended;
    if (sent > 0 || signal.aborted) return;
    throw new HoldfastError('INTERNAL', `the reader of the snapshot ended (exit code ${code}): ${complaint.trim()}`);
  } finally {
    signal.removeEventListener('abort', stop);
    stop();
    await ended.catch(() => undefined);
  }
}
