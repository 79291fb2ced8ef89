// Typed access to the records of the metadata store: reading with validation, and changing by compare-and-swap.
import { HoldfastError } from '../errors/holdfast-error.js';
import type { Change, Compare, Metastore } from '../metastore/metastore.js';
import {
  clusterSchema,
  decodeRecord,
  diskSchema,
  doomedReplicaSchema,
  keys,
  nodeSchema,
  recordVersion,
  reservationsSchema,
  trashSchema,
  volumeSchema,
} from './records.js';
import type {
  ClusterRecord,
  DiskRecord,
  DoomedReplicaRecord,
  NodeRecord,
  ReplicaRecord,
  ReservationsRecord,
  TrashRecord,
  VolumeRecord,
} from './records.js';
import type { z } from 'zod';

/** A record with the revision that a compare-and-swap of it names. */
export type Versioned<T> = { readonly record: T; readonly modRevision: number };

export const putRecord = (key: string, record: unknown): Change => ({
  kind: 'put',
  key,
  value: JSON.stringify(record),
});
const deleteKey = (key: string): Change => ({ kind: 'delete', key });
const absent = (key: string): Compare => ({ key, modRevision: 0 });

export class Repository {
  readonly #store: Metastore;

  constructor(store: Metastore) {
    this.#store = store;
  }

  /** The cluster's record; made from `fresh` in an empty store. */
  async openCluster(fresh: ClusterRecord): Promise<ClusterRecord> {
    await this.#store.transact([absent(keys.cluster)], [putRecord(keys.cluster, fresh)]);
    const found = await this.#get(keys.cluster, clusterSchema);
    if (found === null) throw new HoldfastError('INTERNAL', 'the cluster record vanished');
    return found.record;
  }

  listNodes(): Promise<NodeRecord[]> {
    return this.#list(keys.nodes, nodeSchema);
  }

  listDisks(): Promise<DiskRecord[]> {
    return this.#list(keys.disks, diskSchema);
  }

  listVolumes(): Promise<VolumeRecord[]> {
    return this.#list(keys.volumes, volumeSchema);
  }

  listDoomedReplicas(): Promise<DoomedReplicaRecord[]> {
    return this.#list(keys.doomedReplicas, doomedReplicaSchema);
  }

  listTrash(): Promise<TrashRecord[]> {
    return this.#list(keys.trash, trashSchema);
  }

  async putNode(record: NodeRecord): Promise<void> {
    await this.#store.transact([], [putRecord(keys.node(record.name), record)]);
  }

  async putDisk(record: DiskRecord): Promise<void> {
    await this.#store.transact([], [putRecord(keys.disk(record.node, record.name), record)]);
  }

  async findVolume(name: string): Promise<Versioned<VolumeRecord> | null> {
    return await this.#get(keys.volume(name), volumeSchema);
  }

  async volume(name: string): Promise<Versioned<VolumeRecord>> {
    const found = await this.findVolume(name);
    if (found !== null) return found;
    throw new HoldfastError('NOT_FOUND', `volume "${name}" does not exist: "holdfast volume ls" lists the volumes`);
  }

  async findVolumeById(id: string): Promise<Versioned<VolumeRecord> | null> {
    const name = await this.#store.get(keys.volumeName(id));
    const found = name === null ? null : await this.findVolume(name.value);
    return found?.record.id === id ? found : null;
  }

  async insertVolume(record: VolumeRecord): Promise<void> {
    const key = keys.volume(record.name);
    const changes: Change[] = [
      putRecord(key, record),
      { kind: 'put', key: keys.volumeName(record.id), value: record.name },
    ];
    const { succeeded } = await this.#store.transact([absent(key), absent(keys.volumeName(record.id))], changes);
    if (!succeeded) {
      throw new HoldfastError(
        'ALREADY_EXISTS',
        `volume "${record.name}" exists already: choose another name, or delete it first`,
      );
    }
  }

  /**
   * Reads, edits, and stores unless the record changed meanwhile; then again. `edit` returns null for "nothing to
   * change", and throws to refuse. NOT_FOUND when the volume (this very one, by id) is gone.
   */
  async updateVolume(id: string, edit: (record: VolumeRecord) => VolumeRecord | null): Promise<VolumeRecord> {
    for (;;) {
      const found = await this.findVolumeById(id);
      if (found === null) throw new HoldfastError('NOT_FOUND', `volume ${id} does not exist any more`);
      const edited = edit(found.record);
      if (edited === null) return found.record;
      volumeSchema.parse(edited);
      const key = keys.volume(edited.name);
      const { succeeded } = await this.#store.transact(
        [{ key, modRevision: found.modRevision }],
        [putRecord(key, edited)],
      );
      if (succeeded) return edited;
    }
  }

  /** Removes the volume and dooms its replicas, in one transaction. CONFLICT when it changed since it was read. */
  async removeVolume({ record, modRevision }: Versioned<VolumeRecord>): Promise<DoomedReplicaRecord[]> {
    const doomed = record.replicas.map((replica) => doom(replica, record.name));
    const { succeeded } = await this.#store.transact(
      [{ key: keys.volume(record.name), modRevision }],
      [
        deleteKey(keys.volume(record.name)),
        deleteKey(keys.volumeName(record.id)),
        deleteKey(keys.reservations(record.id)),
        ...doomed.map((each) => putRecord(keys.doomedReplica(each.id), each)),
      ],
    );
    if (succeeded) return doomed;
    throw new HoldfastError('CONFLICT', `volume "${record.name}" was changed by someone else meanwhile: try again`);
  }

  async removeDoomedReplica(id: string): Promise<void> {
    await this.#store.transact([], [deleteKey(keys.doomedReplica(id))]);
  }

  async reservations(volumeId: string): Promise<ReservationsRecord | null> {
    return (await this.#get(keys.reservations(volumeId), reservationsSchema))?.record ?? null;
  }

  /** EPOCH_SUPERSEDED unless the volume's epoch is this one at the moment of storing. */
  async saveReservations(volumeId: string, epoch: number, state: Uint8Array): Promise<void> {
    for (;;) {
      const found = await this.findVolumeById(volumeId);
      requireEpoch(found?.record ?? null, volumeId, epoch);
      const record: ReservationsRecord = {
        version: recordVersion,
        volume: volumeId,
        epoch,
        state: Buffer.from(state).toString('base64'),
      };
      const { succeeded } = await this.#store.transact(
        [{ key: keys.volume(found?.record.name ?? ''), modRevision: found?.modRevision ?? -1 }],
        [putRecord(keys.reservations(volumeId), record)],
      );
      if (succeeded) return;
    }
  }

  async #get<T>(key: string, schema: z.ZodType<T>): Promise<Versioned<T> | null> {
    const entry = await this.#store.get(key);
    if (entry === null) return null;
    return { record: decodeRecord(schema, key, entry.value), modRevision: entry.modRevision };
  }

  async #list<T>(prefix: string, schema: z.ZodType<T>): Promise<T[]> {
    const { entries } = await this.#store.range(prefix);
    return entries.map(({ key, value }) => decodeRecord(schema, key, value));
  }
}

/** A volume that is gone supersedes every epoch: its engine must stop. */
export function requireEpoch(
  record: VolumeRecord | null,
  volumeId: string,
  epoch: number,
): asserts record is VolumeRecord {
  if (record === null) throw new HoldfastError('EPOCH_SUPERSEDED', `volume ${volumeId} was deleted`);
  if (record.epoch !== epoch) {
    throw new HoldfastError(
      'EPOCH_SUPERSEDED',
      `volume "${record.name}" is at epoch ${record.epoch}: epoch ${epoch} does not own it any more`,
    );
  }
}

function doom(replica: ReplicaRecord, volume: string): DoomedReplicaRecord {
  return { version: recordVersion, id: replica.id, node: replica.node, disk: replica.disk, volume };
}
