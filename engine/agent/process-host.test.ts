// With real processes: small scripts that keep the contract of run directories.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { isAlive } from '../os/proc.js';
import { systemProcessHost as host } from './process-host.js';

const serving = `
const fs = require('node:fs');
const stat = fs.readFileSync('/proc/self/stat', 'latin1');
const startTime = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
fs.writeFileSync('state.tmp', JSON.stringify({ pid: process.pid, startTime, hello: JSON.parse(fs.readFileSync('config.json')).hello }));
fs.renameSync('state.tmp', 'state.json');
setInterval(() => {}, 1000);
`;
const failing = `
console.error(JSON.stringify({ level: 'info', message: 'starting' }));
console.error(JSON.stringify({ level: 'error', message: 'the disk is in use', code: 'IN_USE' }));
process.exit(1);
`;
const node = (script: string) => [process.execPath, '-e', script];

let runDir: string;
beforeEach(() => {
  runDir = mkdtempSync(join(tmpdir(), 'holdfast-host-'));
});
afterEach(async () => {
  const left = host.find(runDir);
  if (left !== null) await host.stop(left);
  rmSync(runDir, { recursive: true, force: true });
});

test('starts a process, is told when it serves, finds it again, stops it', async () => {
  const started = host.start(runDir, node(serving), { hello: 'you' });
  expect(await host.ready(runDir, started)).toMatchObject({ pid: started.identity.pid, hello: 'you' });
  const found = host.find(runDir);
  expect(found?.identity).toEqual(started.identity);
  expect(host.configOf(runDir)).toEqual({ hello: 'you' });
  await host.stop(found!);
  await Promise.all([started.exited, found?.exited]);
  expect(isAlive(started.identity)).toBe(false);
  expect(host.find(runDir)).toBeNull();
});

test('a process that fails to start leaves its last words', async () => {
  const started = host.start(runDir, node(failing), {});
  expect(await host.ready(runDir, started)).toBeNull();
  expect(host.lastWords(runDir, await started.exited)).toEqual({ code: 'IN_USE', message: 'the disk is in use' });
});

test('a process that says nothing is reported with how it ended', async () => {
  const started = host.start(runDir, node('process.exit(3)'), {});
  expect(await host.ready(runDir, started)).toBeNull();
  expect(host.lastWords(runDir, await started.exited).message).toContain('exit code 3');
});

test('a pid that was given to another process is not taken for the former one', () => {
  const stale = JSON.stringify({ pid: process.pid, startTime: '1' });
  writeFileSync(join(runDir, 'process.json'), stale);
  writeFileSync(join(runDir, 'state.json'), stale);
  expect(host.find(runDir)).toBeNull();
});

test('the state of a former life does not count as ready', async () => {
  const first = host.start(runDir, node(serving), { hello: 1 });
  await host.ready(runDir, first);
  const left = readFileSync(join(runDir, 'state.json'));
  process.kill(first.identity.pid, 'SIGKILL');
  await first.exited;
  const second = host.start(runDir, node(`setTimeout(() => { ${serving} }, 100)`), { hello: 2 });
  writeFileSync(join(runDir, 'state.json'), left);
  expect(await host.ready(runDir, second)).toMatchObject({ pid: second.identity.pid, hello: 2 });
});
