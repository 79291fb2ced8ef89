/**
 * Real initiators: libiscsi inside qemu-nbd and qemu-storage-daemon, shown to fio as NBD and to the kernel as a
 * loop device on nbdfuse (this is what works where the kernel has no iSCSI initiator).
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { endProcess, run, until } from './process.js';

export interface NbdExport {
  readonly socket: string;
  /** nbd+unix:// URI for fio, qemu-img and libnbd's tools. */
  readonly uri: string;
  stop(): Promise<void>;
}

/** qemu-nbd with an iscsi:// image. `name` makes the files in `folder` unique. */
export async function startNbd(folder: string, name: string, url: string): Promise<NbdExport> {
  mkdirSync(folder, { recursive: true });
  const socket = join(folder, `${name}.nbd`);
  const logPath = join(folder, `${name}.nbd.log`);
  const log = openSync(logPath, 'w');
  const child = spawn(
    'qemu-nbd',
    ['-t', '-f', 'raw', '--cache=none', '--discard=unmap', '-e', '8', '-k', socket, url],
    {
      stdio: ['ignore', log, log],
    },
  );
  closeSync(log);
  await until(`qemu-nbd for ${url}`, 20_000, () => {
    if (child.exitCode !== null) throw new Error(`qemu-nbd ended: ${readFileSync(logPath, 'utf8')}`);
    return existsSync(socket);
  });
  return { socket, uri: `nbd+unix:///?socket=${socket}`, stop: () => endProcess(child) };
}

export interface BlockDevice {
  /** /dev/loopN */
  readonly path: string;
  detach(): Promise<void>;
}

async function waitEnd(child: ChildProcess): Promise<void> {
  await until('a helper of the block device', 15_000, () => child.exitCode !== null || child.signalCode !== null);
}

/**
 * A kernel block device: qemu-storage-daemon (iSCSI -> NBD), nbdfuse (NBD -> one file), a loop device with direct
 * I/O. Flushes become SYNCHRONIZE CACHE, discards UNMAP. SCSI commands wait for ever while the target is away.
 */
export async function attachBlockDevice(folder: string, url: string, sectorSize = 512): Promise<BlockDevice> {
  mkdirSync(join(folder, 'mnt'), { recursive: true });
  const match = /^iscsi:\/\/([^/]+)\/(.+)\/(\d+)$/.exec(url);
  if (!match) throw new Error(`${url} is no iscsi:// URL`);
  const [, portal = '', target = '', lun = ''] = match;
  const log = openSync(join(folder, 'block.log'), 'w');
  const socket = join(folder, 'block.nbd');
  const daemon = spawn(
    'qemu-storage-daemon',
    [
      '--blockdev',
      `driver=iscsi,node-name=lun,transport=tcp,portal=${portal},target=${target},lun=${lun},discard=unmap,cache.direct=on,timeout=0`,
      '--nbd-server',
      `addr.type=unix,addr.path=${socket}`,
      '--export',
      'type=nbd,id=e0,node-name=lun,name=lun,writable=on',
    ],
    { stdio: ['ignore', log, log] },
  );
  const file = join(folder, 'mnt', 'dev.raw');
  let fuse: ChildProcess | undefined;
  try {
    await until('qemu-storage-daemon', 15_000, () => {
      if (daemon.exitCode !== null) throw new Error(readFileSync(join(folder, 'block.log'), 'utf8'));
      return existsSync(socket);
    });
    fuse = spawn('nbdfuse', ['-C', '4', file, `nbd+unix:///lun?socket=${socket}`], { stdio: ['ignore', log, log] });
    await until('nbdfuse', 15_000, () => existsSync(file) && statSync(file).size > 0);
    const device = (await run('losetup', ['--show', '-f', '--direct-io=on', '-b', String(sectorSize), file])).trim();
    const fuseProcess = fuse;
    return {
      path: device,
      detach: async () => {
        await run('losetup', ['-d', device]);
        await run('fusermount3', ['-u', join(folder, 'mnt')]);
        await waitEnd(fuseProcess);
        await endProcess(daemon);
      },
    };
  } catch (error) {
    if (fuse) await endProcess(fuse);
    await endProcess(daemon);
    throw error;
  } finally {
    closeSync(log);
  }
}
