// Typed access to the records of the metadata store: reading with validation, and changing by compare-and-swap.
import { isDeepStrictEqual } from 'node:util';
import { HoldfastError } from '../errors/holdfast-error.js';
import type { Place } from '../placement/place-replicas.js';
import type { Change, Compare, Metastore } from '../metastore/metastore.js';
import {
  clusterSchema,
  decodeRecord,
  defaultSettings,
  diskSchema,
  doomedReplicaSchema,
  eventsSchema,
  keys,
  nodeSchema,
  policySchema,
  recordVersion,
  reservationsSchema,
  scrubSchema,
  settingsSchema,
  tokenSchema,
  snapshotSchema,
  trashSchema,
  volumeSchema,
} from './records.js';
import type {
  ClusterRecord,
  DiskRecord,
  DoomedReplicaRecord,
  EventsRecord,
  NodeRecord,
  PolicyRecord,
  ReplicaRecord,
  ReservationsRecord,
  ScrubRecord,
  SettingsRecord,
  TokenRecord,
  SnapshotRecord,
  TrashRecord,
  VolumeRecord,
} from './records.js';
import { SnapshotConfirmations } from './snapshot-confirmations.js';
import type { z } from 'zod';

/** A record with the revision that a compare-and-swap of it names. */
export type Versioned<T> = { readonly record: T; readonly modRevision: number };

export const putRecord = (key: string, record: unknown): Change => ({
  kind: 'put',
  key,
  value: JSON.stringify(record),
});
export const deleteKey = (key: string): Change => ({ kind: 'delete', key });
const absent = (key: string): Compare => ({ key, modRevision: 0 });

const recentMax = 256;

const diskConflict = ({ node, name }: DiskRecord) =>
  new HoldfastError('CONFLICT', `${name} of ${node} was changed by someone else meanwhile: try again`);

export class Repository {
  readonly #store: Metastore;
  // Records as they were decoded last, by prefix and key, and by key.
  readonly #decoded = new Map<string, ReadonlyMap<string, Versioned<unknown>>>();
  readonly #recent = new Map<string, Versioned<unknown>>();
  readonly #confirmations: SnapshotConfirmations;

  constructor(store: Metastore) {
    this.#store = store;
    this.#confirmations = new SnapshotConfirmations(store);
  }

  /** After the last change, before the store is closed. */
  async close(): Promise<void> {
    await this.#confirmations.stop();
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

  async findTrashed(id: string): Promise<Versioned<TrashRecord> | null> {
    return await this.#get(keys.trashed(id), trashSchema);
  }

  /** CONFLICT when it has changed since it was read. */
  async removeTrashed(id: string, modRevision: number, doomed: readonly DoomedReplicaRecord[]): Promise<void> {
    const { succeeded } = await this.#store.transact(
      [{ key: keys.trashed(id), modRevision }],
      [deleteKey(keys.trashed(id)), ...doomed.map((each) => putRecord(keys.doomedReplica(each.id), each))],
    );
    if (!succeeded) throw new HoldfastError('CONFLICT', `volume ${id} was restored or purged meanwhile`);
  }

  async removeDisk(node: string, name: string): Promise<void> {
    await this.#store.transact([], [deleteKey(keys.disk(node, name))]);
  }

  /**
   * From now on the disk is at `target`, and not where `holder` had it; `movedFrom` stays until nothing names that place. CONFLICT when
   * either record has changed since it was read.
   */
  async claimDisk(
    target: DiskRecord,
    holder: DiskRecord | null,
    diskId: string,
    { address, diskClass }: { readonly address: string | null; readonly diskClass: DiskRecord['class'] },
  ): Promise<void> {
    const compares: Compare[] = [];
    const changes: Change[] = [];
    const { copyOf: _, ...rest } = target;
    const change = async (before: DiskRecord, after: DiskRecord) => {
      const key = keys.disk(before.node, before.name);
      const found = await this.#get(key, diskSchema);
      if (found === null || !isDeepStrictEqual(found.record, before)) throw diskConflict(before);
      compares.push({ key, modRevision: found.modRevision });
      changes.push(putRecord(key, after));
    };
    if (holder === null) {
      await change(target, { ...rest, diskId, address });
    } else {
      const { tags, cordoned, evicting } = holder;
      const movedFrom = { node: holder.node, disk: holder.name };
      const diskClassNow = diskClass ?? holder.class;
      await change(target, { ...rest, tags, cordoned, evicting, class: diskClassNow, diskId, address, movedFrom });
      const order = holder.order === null ? null : { ...holder.order, removed: true };
      await change(holder, { ...holder, diskId: null, address: null, cordoned: true, order });
    }
    if (!(await this.#store.transact(compares, changes)).succeeded) throw diskConflict(target);
  }

  /** Nothing names the former place any more. Its record goes, unless its agent has to be told first. */
  async finishDiskMove(from: Place, to: Place): Promise<void> {
    const former = await this.#get(keys.disk(from.node, from.disk), diskSchema);
    if (former !== null && former.record.order === null && former.record.diskId === null) {
      await this.removeDisk(from.node, from.disk);
    }
    await this.updateDisk(to.node, to.disk, (latest) => {
      if (latest === null) return null;
      const { movedFrom: _, ...rest } = latest;
      return rest;
    });
  }

  async updateTrashed(id: string, edit: (former: TrashRecord) => TrashRecord): Promise<void> {
    await this.#update(keys.trashed(id), trashSchema, (former) => (former === null ? null : edit(former)));
  }

  async updateDoomedReplica(id: string, edit: (former: DoomedReplicaRecord) => DoomedReplicaRecord): Promise<void> {
    await this.#update(keys.doomedReplica(id), doomedReplicaSchema, (former) =>
      former === null ? null : edit(former),
    );
  }

  listPolicies(): Promise<PolicyRecord[]> {
    return this.#list(keys.policies, policySchema);
  }

  async policy(name: string): Promise<PolicyRecord> {
    const found = await this.#get(keys.policy(name), policySchema);
    if (found !== null) return found.record;
    throw new HoldfastError('NOT_FOUND', `policy "${name}" does not exist: "holdfast policy ls" lists the policies`);
  }

  async putPolicy(record: PolicyRecord): Promise<void> {
    await this.#store.transact([], [putRecord(keys.policy(record.name), record)]);
  }

  async removePolicy(name: string): Promise<void> {
    await this.#store.transact([], [deleteKey(keys.policy(name))]);
  }

  listTokens(): Promise<TokenRecord[]> {
    return this.#list(keys.tokens, tokenSchema);
  }

  async token(id: string): Promise<TokenRecord | null> {
    return (await this.#get(keys.token(id), tokenSchema))?.record ?? null;
  }

  async putToken(record: TokenRecord): Promise<void> {
    await this.#store.transact([], [putRecord(keys.token(record.id), record)]);
  }

  async removeToken(id: string): Promise<void> {
    await this.#store.transact([], [deleteKey(keys.token(id))]);
  }

  listScrubs(): Promise<ScrubRecord[]> {
    return this.#list(keys.scrubs, scrubSchema);
  }

  async scrub(volumeId: string): Promise<ScrubRecord | null> {
    return (await this.#get(keys.scrub(volumeId), scrubSchema))?.record ?? null;
  }

  async putScrub(record: ScrubRecord): Promise<void> {
    await this.#store.transact([], [putRecord(keys.scrub(record.volume), record)]);
  }

  async settings(): Promise<SettingsRecord> {
    return (await this.#get(keys.settings, settingsSchema))?.record ?? defaultSettings;
  }

  async updateSettings(edit: (former: SettingsRecord) => SettingsRecord): Promise<SettingsRecord> {
    const edited = await this.#update(keys.settings, settingsSchema, (former) => edit(former ?? defaultSettings));
    return edited ?? defaultSettings;
  }

  async doomedReplica(id: string): Promise<DoomedReplicaRecord | null> {
    return (await this.#get(keys.doomedReplica(id), doomedReplicaSchema))?.record ?? null;
  }

  async putDoomedReplica(record: DoomedReplicaRecord): Promise<void> {
    await this.#store.transact([], [putRecord(keys.doomedReplica(record.id), record)]);
  }

  /** `edit` gets null when there is none, and returns null for "leave it as it is". */
  async updateNode(name: string, edit: (former: NodeRecord | null) => NodeRecord | null): Promise<NodeRecord | null> {
    return await this.#update(keys.node(name), nodeSchema, edit);
  }

  async updateDisk(
    node: string,
    name: string,
    edit: (former: DiskRecord | null) => DiskRecord | null,
  ): Promise<DiskRecord | null> {
    return await this.#update(keys.disk(node, name), diskSchema, edit);
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

  async insertVolume(
    record: VolumeRecord,
    conditions: readonly Compare[] = [],
    also: readonly Change[] = [],
  ): Promise<void> {
    const key = keys.volume(record.name);
    const changes: Change[] = [
      putRecord(key, record),
      { kind: 'put', key: keys.volumeName(record.id), value: record.name },
      ...also,
    ];
    const { succeeded } = await this.#store.transact(
      [absent(key), absent(keys.volumeName(record.id)), ...conditions],
      changes,
    );
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
  async updateVolume(
    id: string,
    edit: (record: VolumeRecord) => VolumeRecord | null,
    /** Made in the same transaction. */
    also: readonly Change[] = [],
  ): Promise<VolumeRecord> {
    for (;;) {
      const found = await this.findVolumeById(id);
      if (found === null) throw new HoldfastError('NOT_FOUND', `volume ${id} does not exist any more`);
      const edited = edit(found.record);
      if (edited === null) return found.record;
      volumeSchema.parse(edited);
      const key = keys.volume(edited.name);
      const { succeeded } = await this.#store.transact(
        [{ key, modRevision: found.modRevision }],
        [putRecord(key, edited), ...also],
      );
      if (succeeded) return edited;
    }
  }

  /** Removes the volume and dooms its replicas, in one transaction. CONFLICT when it changed since it was read. */
  async removeVolume(found: Versioned<VolumeRecord>): Promise<DoomedReplicaRecord[]> {
    const doomed = found.record.replicas.map((replica) => doom(replica, found.record.name));
    await this.replaceVolume(
      found,
      doomed.map((each) => putRecord(keys.doomedReplica(each.id), each)),
    );
    return doomed;
  }

  /** Removes the volume's records and makes `changes` instead. CONFLICT when it changed since it was read. */
  async replaceVolume({ record, modRevision }: Versioned<VolumeRecord>, changes: readonly Change[]): Promise<void> {
    const { succeeded } = await this.#store.transact(
      [{ key: keys.volume(record.name), modRevision }],
      [
        deleteKey(keys.volume(record.name)),
        deleteKey(keys.volumeName(record.id)),
        deleteKey(keys.reservations(record.id)),
        deleteKey(keys.scrub(record.id)),
        ...changes,
      ],
    );
    if (succeeded) return;
    throw new HoldfastError('CONFLICT', `volume "${record.name}" was changed by someone else meanwhile: try again`);
  }

  async listSnapshots(volumeId: string): Promise<SnapshotRecord[]> {
    const records = await this.#list(keys.snapshots(volumeId), snapshotSchema);
    return records.map((record) => this.#confirmations.of(record));
  }

  /** Of all volumes, also of those that are gone. */
  async listAllSnapshots(): Promise<SnapshotRecord[]> {
    const { entries } = await this.#store.range(keys.allSnapshots);
    return entries.map(({ key, value }) => this.#confirmations.of(decodeRecord(snapshotSchema, key, value)));
  }

  async findSnapshot(volumeId: string, name: string): Promise<SnapshotRecord | null> {
    const found = await this.#get(keys.snapshot(volumeId, name), snapshotSchema);
    return found === null ? null : this.#confirmations.of(found.record);
  }

  /** Its revision; null: there is one of that name. */
  async insertSnapshot(record: SnapshotRecord): Promise<number | null> {
    const key = keys.snapshot(record.volume, record.name);
    const stored = this.#store.transact([absent(key)], [putRecord(key, record)]);
    this.#confirmations.writeAlong();
    const { succeeded, revision } = await stored;
    return succeeded ? revision : null;
  }

  /** Stored a little later, unless something else becomes of it: `record` is what everybody sees from now on. */
  confirmSnapshot(record: SnapshotRecord, modRevision: number): void {
    const key = keys.snapshot(record.volume, record.name);
    this.#confirmations.add({ record, compare: { key, modRevision }, change: putRecord(key, record) });
  }

  /** What is to be found in the store, by whoever comes next, is there. */
  async storeConfirmations(): Promise<void> {
    await this.#confirmations.write();
  }

  async putSnapshot(record: SnapshotRecord): Promise<void> {
    await this.#store.transact([], [putRecord(keys.snapshot(record.volume, record.name), record)]);
    this.#confirmations.forget(record.id);
  }

  async removeSnapshots(records: readonly SnapshotRecord[], onlyIf: readonly Compare[] = []): Promise<void> {
    const atOnce = 64;
    for (let first = 0; first < records.length; first += atOnce) {
      const some = records.slice(first, first + atOnce);
      const { succeeded } = await this.#store.transact(
        onlyIf,
        some.map(({ volume, name }) => deleteKey(keys.snapshot(volume, name))),
      );
      if (!succeeded) return;
      for (const { id } of some) this.#confirmations.forget(id);
    }
  }

  /** What is left of the snapshots of a volume that is gone. Nothing is removed while the volume, or its trash, is there. */
  async removeSnapshotsOfGone(volumeId: string): Promise<void> {
    const gone = [absent(keys.volumeName(volumeId)), absent(keys.trashed(volumeId))];
    await this.removeSnapshots(await this.listSnapshots(volumeId), gone);
  }

  async events(): Promise<EventsRecord['events']> {
    return (await this.#get(keys.events, eventsSchema))?.record.events ?? [];
  }

  async putEvents(events: readonly EventsRecord['events'][number][]): Promise<void> {
    await this.#store.transact([], [putRecord(keys.events, { version: recordVersion, events })]);
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

  async #update<T>(key: string, schema: z.ZodType<T>, edit: (former: T | null) => T | null): Promise<T | null> {
    for (;;) {
      const found = await this.#get(key, schema);
      const edited = edit(found?.record ?? null);
      if (edited === null) return found?.record ?? null;
      const compare = { key, modRevision: found?.modRevision ?? 0 };
      if ((await this.#store.transact([compare], [putRecord(key, edited)])).succeeded) return edited;
    }
  }

  // A request reads the record of its volume once or more, and few requests change it: what has not changed is not decoded again.
  async #get<T>(key: string, schema: z.ZodType<T>): Promise<Versioned<T> | null> {
    const entry = await this.#store.get(key);
    if (entry === null) return null;
    const { value, modRevision } = entry;
    const former = this.#recent.get(key);
    if (former?.modRevision === modRevision) return former as Versioned<T>;
    const decoded = { record: decodeRecord(schema, key, value), modRevision };
    this.#recent.delete(key);
    this.#recent.set(key, decoded);
    const [oldest] = this.#recent.keys();
    if (this.#recent.size > recentMax && oldest !== undefined) this.#recent.delete(oldest);
    return decoded;
  }

  // Whole ranges are read again and again, and few of their records have changed: those that have not are not decoded again.
  async #list<T>(prefix: string, schema: z.ZodType<T>): Promise<T[]> {
    const { entries } = await this.#store.range(prefix);
    const known = this.#decoded.get(prefix);
    const fresh = new Map<string, Versioned<unknown>>();
    const records = entries.map(({ key, value, modRevision }) => {
      const former = known?.get(key);
      const decoded =
        former?.modRevision === modRevision ? former : { record: decodeRecord(schema, key, value), modRevision };
      fresh.set(key, decoded);
      return decoded.record as T;
    });
    this.#decoded.set(prefix, fresh);
    return records;
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

export function doom(replica: ReplicaRecord, volume: string): DoomedReplicaRecord {
  return { version: recordVersion, id: replica.id, node: replica.node, disk: replica.disk, volume };
}
