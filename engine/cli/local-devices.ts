// Volumes as block devices of this host: through the kernel's iSCSI initiator where there is one, else as the loop device that
// the target process of a node on this host makes.
import { readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { growFilesystem } from '../filesystem/filesystem.js';
import type { MappingView, VolumeView } from '../manager/views.js';
import { diskOf, hasKernelInitiator, login, logout } from './kernel-initiator.js';
import type { Session } from './run.js';

export type Via = 'fuse' | 'iscsi';

export type LocalDevice = {
  readonly volume: string;
  readonly node: string;
  readonly via: Via;
  readonly device: string;
};

const volumePath = (name: string, rest = '') => `/v1/volumes/${encodeURIComponent(name)}${rest}`;

/** `via` null: the initiator when this host has one. Mapped already: the same device. */
export async function mapHere(
  session: Session,
  name: string,
  options: { readonly node: string | null; readonly via: Via | null },
): Promise<LocalDevice> {
  const present = await session.call<VolumeView>('GET', volumePath(name));
  const via = options.via ?? present.device?.via ?? ((await hasKernelInitiator()) ? 'iscsi' : 'fuse');
  const body = { node: options.node, via };
  const mapping = await session.call<MappingView>('POST', volumePath(name, '/map'), body);
  const { node, iscsi } = mapping;
  if (via === 'iscsi') {
    try {
      return { volume: name, node, via, device: await login(iscsi.iqn, iscsi.portal) };
    } catch (error) {
      if (present.device === null) await session.call('POST', volumePath(name, '/unmap'), {});
      throw error;
    }
  }
  const device = mapping.device ?? '';
  if (isLoopOf(device, present.id)) return { volume: name, node, via, device };
  if (present.device === null) await session.call('POST', volumePath(name, '/unmap'), {});
  throw new HoldfastError(
    'FAILED_PRECONDITION',
    `${node}, where volume "${name}" is attached, is another host: map it there, or install open-iscsi here and use --via iscsi`,
  );
}

/** IN_USE while the device is mounted or open. Not mapped: success. */
export async function unmapHere(session: Session, name: string, force: boolean): Promise<VolumeView> {
  const present = await session.call<VolumeView>('GET', volumePath(name));
  if (present.device?.via === 'iscsi' && present.iscsi !== null) {
    const disk = diskOf(present.iscsi.iqn);
    if (disk === null && !force) {
      throw new HoldfastError(
        'FAILED_PRECONDITION',
        `volume "${name}" is mapped by an initiator, and not by that of this host: unmap it where it is mapped, ` +
          `or use --force when that host is gone`,
      );
    }
    await logout(present.iscsi.iqn);
  }
  return await session.call<VolumeView>('POST', volumePath(name, '/unmap'), { force });
}

/** The device of a volume as this host has it; null when it has none. */
export function deviceHere({ id, device, iscsi }: VolumeView): string | null {
  if (device?.via === 'fuse') return device.path !== null && isLoopOf(device.path, id) ? device.path : null;
  return device === null || iscsi === null ? null : diskOf(iscsi.iqn);
}

/** After a resize: what is mounted here becomes as large as its volume. */
export async function growHere(volume: VolumeView): Promise<void> {
  // The agent of its node grows a share.
  const device = volume.access === 'rwx' ? null : deviceHere(volume);
  if (device === null) return;
  // The kernel's initiator asks for the size only when told to.
  if (volume.device?.via === 'iscsi') writeFileSync(`/sys/block/${basename(device)}/device/rescan`, '1');
  try {
    await growFilesystem(device);
  } catch (error) {
    const { code, message } = toHoldfastError(error);
    throw new HoldfastError(
      code,
      `volume "${volume.name}" has its new size, but its mounted file system could not be grown: ${message}`,
      { cause: error },
    );
  }
}

// The backing file of the loop device lies in a folder that is named after the volume's id.
function isLoopOf(device: string, volumeId: string): boolean {
  try {
    const file = readFileSync(`/sys/block/${basename(device)}/loop/backing_file`, 'utf8').trim();
    return file.endsWith(`/${volumeId}/device`);
  } catch {
    return false;
  }
}
