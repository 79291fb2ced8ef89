// Volumes as block devices of a host: map and unmap. What is wanted is in the record of the attachment, so that an engine that is
// started again is mapped again (attachment.ts).
import { HoldfastError, isHoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import { ensureAttached } from './attachment.js';
import type { EngineAt } from './attachment.js';
import type { ManagerContext } from './context.js';
import { runningTarget } from './observed.js';
import type { VolumeRecord } from './records.js';
import { attachPlainly } from './attach-operation.js';
import { detachVolume, withVolume } from './volume-operations.js';

export type DeviceKind = 'fuse' | 'iscsi';

export type MapInput = {
  readonly name: string;
  /** null: where it is attached, else the manager chooses */
  readonly node: string | null;
  /** "fuse": the target process makes the device. "iscsi": an initiator of some host does; nothing but a note is kept. */
  readonly via: DeviceKind;
};

/** Attaches the volume when it is not, and maps it. Mapped already: the same answer. */
export async function mapVolume(context: ManagerContext, input: MapInput): Promise<EngineAt> {
  const { repository } = context;
  const { name, node, via } = input;
  const before = (await repository.volume(name)).record;
  refuseShared(before);
  await attachPlainly(context, name, node);
  try {
    return await withVolume(context, name, async ({ record }) => {
      refuseShared(record);
      const present = record.attachment?.device ?? null;
      if (present !== null && present.via !== via) {
        throw new HoldfastError(
          'IN_USE',
          `volume "${name}" is mapped already, by ${present.via === 'fuse' ? 'its target process' : 'an initiator'}: ` +
            `unmap it first ("holdfast unmap ${name}")`,
        );
      }
      const implicit = present?.implicit ?? before.attachment === null;
      await repository.updateVolume(record.id, (latest) => withDevice(latest, { via, implicit }));
      try {
        return await ensureAttached(context, record.id);
      } catch (error) {
        if (present === null) await repository.updateVolume(record.id, (latest) => withDevice(latest, null));
        throw error;
      }
    });
  } catch (error) {
    if (before.attachment === null) {
      await detachVolume(context, name, false).catch((detachError: unknown) => {
        context.logger.warn('cannot undo the attach of a map', { volume: name, ...errorFields(detachError) });
      });
    }
    throw error;
  }
}

/** Detaches the volume too when it was attached by `map`. Not mapped: success. */
export async function unmapVolume(context: ManagerContext, name: string, force: boolean): Promise<VolumeRecord> {
  const { repository } = context;
  const { record, implicit } = await withVolume(context, name, async ({ record: found }) => {
    refuseShared(found);
    const device = found.attachment?.device ?? null;
    if (found.attachment === null || device === null) return { record: found, implicit: false };
    if (device.via === 'fuse') await endDevice(context, found, found.attachment.node, force);
    const updated = await repository.updateVolume(found.id, (latest) => withDevice(latest, null));
    return { record: updated, implicit: device.implicit };
  });
  return implicit ? await detachVolume(context, name, force) : record;
}

// Its device is that of its file system, and nobody else's: a second user of it would destroy what the first one writes.
function refuseShared({ name, share, attachment }: VolumeRecord): void {
  if (share?.wanted !== true || attachment === null) return;
  throw new HoldfastError(
    'IN_USE',
    `volume "${name}" is shared over NFS, and its block device belongs to the share: detach it first ("holdfast volume detach ${name}")`,
  );
}

export async function endDevice(
  context: ManagerContext,
  record: VolumeRecord,
  node: string,
  force: boolean,
): Promise<void> {
  const { observed, dataPlane, patienceMs } = context;
  try {
    const target = await observed.waitFor(() => runningTarget(observed.node(node)), patienceMs);
    if (target === null) {
      throw new HoldfastError(
        'CONNECTION_LOST',
        `the target process of ${node} does not run, and only it can end the device of volume "${record.name}": ` +
          `start the node, or unmap with --force`,
      );
    }
    await dataPlane.unmap(target.control, record.id, force);
  } catch (error) {
    if (!force || !isHoldfastError(error, 'CONNECTION_LOST')) throw error;
    context.logger.warn('unmapped by force', { volume: record.name, node, ...errorFields(error) });
  }
}

type Device = NonNullable<NonNullable<VolumeRecord['attachment']>['device']>;

function withDevice(record: VolumeRecord, device: Device | null): VolumeRecord | null {
  return record.attachment === null ? null : { ...record, attachment: { ...record.attachment, device } };
}
