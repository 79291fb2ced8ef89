// Files in snapshots, for people: which engine can show the snapshot, and what its target process says. A volume that is detached gets
// an engine without a front-end while somebody reads; a host that attaches it has precedence, and ends the reading with an error.
import { HoldfastError } from '../errors/holdfast-error.js';
import { decodeFrames } from '../filesystem/file-frames.js';
import type { FileEntry, JournalState } from '../filesystem/file-frames.js';
import { errorFields } from '../log/logger.js';
import { beginMaintenance, endMaintenance } from './attachment.js';
import type { ManagerContext } from './context.js';
import { engineNode, filesReason, maintenanceNode } from './maintenance.js';
import { runningTarget } from './observed.js';
import type { VolumeRecord } from './records.js';
import { replicaSnapshots, requireComplete, requireSnapshot } from './snapshot-operations.js';
import { withVolume } from './volume-operations.js';

export type FilesInput = {
  readonly volume: string;
  readonly snapshot: string;
  /** Inside the file system; "/" is its root. */
  readonly path: string;
  /** 0: the volume as a whole. */
  readonly partition: number;
  /** What is in a folder, instead of its content. */
  readonly list: boolean;
  readonly recursive: boolean;
};

export type FileView = {
  readonly name: string;
  /** In base64, where the name is not UTF-8. */
  readonly rawName: string | null;
  readonly type: string;
  readonly size: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly modifiedAt: string;
  /** Of links. */
  readonly target: string | null;
};

export type FolderView = {
  readonly volume: string;
  readonly snapshot: string;
  readonly path: string;
  readonly fs: string;
  readonly journal: JournalState;
  readonly entries: readonly FileView[];
};

const entriesMax = 200_000;

export class SnapshotFiles {
  readonly #context: ManagerContext;
  // By volume id: how many read.
  readonly #readers = new Map<string, number>();

  constructor(context: ManagerContext) {
    this.#context = context;
  }

  /** Frames of file-frames.ts, cut anywhere. */
  async *read(input: FilesInput, signal: AbortSignal): AsyncGenerator<Buffer> {
    const { repository, dataPlane } = this.#context;
    await this.#context.ready;
    const { record } = await repository.volume(input.volume);
    if (record.phase !== 'ready') {
      throw new HoldfastError('FAILED_PRECONDITION', `volume "${input.volume}" is being created`);
    }
    const snapshot = await requireSnapshot(this.#context, record, input.snapshot);
    requireComplete(input.volume, snapshot);
    const sizeBytes = (await replicaSnapshots(this.#context, record)).get(snapshot.id)?.sizeBytes ?? record.size;
    this.#readers.set(record.id, (this.#readers.get(record.id) ?? 0) + 1);
    try {
      const control = await this.#engine(record);
      const { path, partition, list, recursive } = input;
      const request = { volumeId: record.id, snapshotId: snapshot.id, sizeBytes, path, partition, list, recursive };
      yield* dataPlane.readSnapshotFiles(control, request, signal);
    } finally {
      this.#readers.set(record.id, (this.#readers.get(record.id) ?? 1) - 1);
      await this.#letGo(record.id);
    }
  }

  async list(input: Omit<FilesInput, 'list' | 'recursive'>): Promise<FolderView> {
    const { volume, snapshot, path } = input;
    const stop = new AbortController();
    const entries: FileView[] = [];
    let opened: { readonly fs: string; readonly journal: JournalState } | null = null;
    try {
      for await (const frame of decodeFrames(this.read({ ...input, list: true, recursive: false }, stop.signal))) {
        if (frame.kind === 'error') throw new HoldfastError(frame.code, frame.message);
        if (frame.kind === 'opened') opened = frame;
        if (frame.kind === 'entry') entries.push(fileView(frame));
        if (entries.length > entriesMax) {
          throw new HoldfastError('MESSAGE_TOO_LARGE', `${path} holds more than ${entriesMax} files: copy it instead`);
        }
      }
    } finally {
      stop.abort();
    }
    if (opened === null) throw new HoldfastError('PROTOCOL', 'the target process did not say what it opened');
    return { volume, snapshot, path, fs: opened.fs, journal: opened.journal, entries };
  }

  /** Engines that a manager which died had started for readers. */
  async endStale(): Promise<void> {
    for (const { id, maintenance } of await this.#context.repository.listVolumes()) {
      if (maintenance?.reason === filesReason) await this.#letGo(id);
    }
  }

  // The control address of the target process with the volume's engine.
  async #engine(volume: VolumeRecord): Promise<string> {
    const { observed, repository } = this.#context;
    await withVolume(this.#context, volume.name, async ({ record }) => {
      if (engineNode(record) !== null) return;
      if (record.lostData !== null) throw new HoldfastError('DATA_LOSS', record.lostData);
      const node = maintenanceNode(record, observed.nodes);
      if (node === null) {
        throw new HoldfastError('NO_IN_SYNC_REPLICA', `no in-sync replica of volume "${record.name}" can be reached`);
      }
      await beginMaintenance(this.#context, record.id, { node, reason: filesReason });
    });
    const found = await repository.findVolumeById(volume.id);
    const node = found === null ? null : engineNode(found.record);
    const target = node === null ? null : runningTarget(observed.node(node));
    if (target !== null) return target.control;
    throw new HoldfastError('CONNECTION_LOST', `the target process that serves volume "${volume.name}" does not run`);
  }

  async #letGo(volumeId: string): Promise<void> {
    if ((this.#readers.get(volumeId) ?? 0) > 0) return;
    this.#readers.delete(volumeId);
    const { repository, logger } = this.#context;
    try {
      const found = await repository.findVolumeById(volumeId);
      if (found?.record.maintenance?.reason !== filesReason) return;
      await withVolume(this.#context, found.record.name, async ({ record }) => {
        const idle = (this.#readers.get(volumeId) ?? 0) === 0;
        if (idle && record.maintenance?.reason === filesReason) await endMaintenance(this.#context, record.id);
      });
    } catch (error) {
      logger.warn('an engine for readers of a snapshot could not be ended yet', { volumeId, ...errorFields(error) });
    }
  }
}

function fileView(entry: FileEntry): FileView {
  const { path, rawPath, type, size, mode, uid, gid, modifiedMs, target } = entry;
  return {
    name: path,
    rawName: rawPath ?? null,
    type,
    size,
    mode,
    uid,
    gid,
    modifiedAt: timeText(modifiedMs),
    target: target ?? null,
  };
}

// A file system may hold times that no calendar has.
function timeText(ms: number): string {
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? new Date(0).toISOString() : date.toISOString();
}
