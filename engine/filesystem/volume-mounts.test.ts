import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { mountsOfVolumes } from './volume-mounts.js';

let sysfs: string;
beforeEach(() => {
  sysfs = mkdtempSync(join(tmpdir(), 'holdfast-sysfs-'));
  mkdirSync(join(sysfs, 'dev/block'), { recursive: true });
});
afterEach(() => {
  rmSync(sysfs, { recursive: true });
});

function device(number: string, folder: string, files: Readonly<Record<string, string>>): void {
  const at = join(sysfs, 'devices', folder);
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(at, name)), { recursive: true });
    writeFileSync(join(at, name), `${text}\n`);
  }
  symlinkSync(at, join(sysfs, 'dev/block', number));
}

test('mounts of volumes: by loop device, by iSCSI, of partitions and of what lies on them', () => {
  device('7:0', 'loop0', { 'loop/backing_file': '/run/target/devices/00ff00ff00ff00ff/device' });
  device('7:1', 'loop1', { 'loop/backing_file': '/srv/somebody/device' });
  device('8:0', 'sda', { 'device/vendor': 'HOLDFAST' });
  device('8:1', 'sda/sda1', { partition: '1' });
  device('8:16', 'sdb', { 'device/vendor': 'QEMU' });
  device('253:0', 'dm-0', { 'dm/name': 'data' });
  mkdirSync(join(sysfs, 'devices/dm-0/slaves'));
  symlinkSync(join(sysfs, 'devices/sda/sda1'), join(sysfs, 'devices/dm-0/slaves/sda1'));
  const mount = (number: string, directory: string) => ({ device: number, directory, source: 'x', type: 'ext4' });
  const mounts = [
    mount('8:16', '/'),
    mount('7:0', '/one'),
    mount('7:1', '/other'),
    mount('8:1', '/two'),
    mount('253:0', '/three'),
    mount('0:31', '/proc'),
    mount('7:0', '/srv/run'),
    mount('8:0', '/srv/running'),
  ];
  expect(mountsOfVolumes(mounts, [], sysfs)).toEqual(['/srv/running', '/srv/run', '/three', '/two', '/one']);
  // What the process itself needs stays.
  expect(mountsOfVolumes(mounts, ['/srv/run/view', '/two'], sysfs)).toEqual(['/srv/running', '/three', '/one']);
});
