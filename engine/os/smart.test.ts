import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseSmart, smartOf } from './smart.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-smart-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const nvme = {
  smart_status: { passed: true },
  temperature: { current: 41 },
  power_on_time: { hours: 1200 },
  nvme_smart_health_information_log: { percentage_used: 7, media_errors: 0 },
};
const ata = {
  smart_status: { passed: false },
  temperature: { current: 33 },
  ata_smart_attributes: {
    table: [
      { id: 5, raw: { value: 8 } },
      { id: 9, raw: { value: 40_000 } },
      { id: 197, raw: { value: 2 } },
    ],
  },
};

test('the figures of NVMe and ATA drives', () => {
  expect(parseSmart(JSON.stringify(nvme))).toEqual({
    passed: true,
    temperatureCelsius: 41,
    powerOnHours: 1200,
    wearPercent: 7,
    badSectors: 0,
  });
  expect(parseSmart(JSON.stringify(ata))).toEqual({
    passed: false,
    temperatureCelsius: 33,
    powerOnHours: null,
    wearPercent: null,
    badSectors: 10,
  });
  expect(parseSmart('{"smartctl":{"exit_status":2}}')).toBeNull();
  expect(parseSmart('Permission denied')).toBeNull();
  expect(parseSmart('{"temperature":"hot"}')).toBeNull();
});

// A drive `sda` with one partition, on which the folder lies, and a smartctl that says what it was asked.
function fakes(says: object, exitCode: number) {
  const { dev } = statSync(folder);
  const number = `${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >> 12) & 0xfff00)}`;
  mkdirSync(join(folder, 'sys/devices/sda/sda1'), { recursive: true });
  mkdirSync(join(folder, 'sys/devices/sda/queue'));
  mkdirSync(join(folder, 'sys/dev/block'), { recursive: true });
  writeFileSync(join(folder, 'sys/devices/sda/queue/rotational'), '1\n');
  symlinkSync('../../devices/sda/sda1', join(folder, 'sys/dev/block', number));
  const program = join(folder, 'smartctl');
  writeFileSync(
    program,
    `#!/bin/sh\n[ "$*" = "--json -H -A /dev/sda" ] || exit 99\ncat <<'END'\n${JSON.stringify(says)}\nEND\nexit ${exitCode}\n`,
  );
  chmodSync(program, 0o755);
  return { program, sysfs: join(folder, 'sys') };
}

test('asks smartctl about the drive below a folder, whatever its exit code', async () => {
  const { program, sysfs } = fakes(ata, 24);
  expect(await smartOf(folder, program, sysfs)).toMatchObject({ passed: false, badSectors: 10 });
});

test('without smartctl, or without a drive, nothing is known', async () => {
  const { program, sysfs } = fakes(ata, 0);
  expect(await smartOf(folder, join(folder, 'missing'), sysfs)).toBeNull();
  expect(await smartOf(folder, program, join(folder, 'no-sysfs'))).toBeNull();
});
