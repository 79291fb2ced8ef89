import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { auditFile } from './audit-log.js';
import type { AuditEntry } from './audit-log.js';

const entry: AuditEntry = {
  caller: null,
  peer: '127.0.0.1',
  what: 'POST /v1/volumes',
  body: { name: 'db', access: { chap: { user: 'u', secret: 'very secret' } } },
  outcome: 'done',
};

test('a line for each change, without secrets; what cannot be written is not an error of the change', () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-audit-'));
  const lost: string[] = [];
  const now = () => new Date(0);
  const note = (line: string) => lost.push(line);
  auditFile(join(folder, 'audit.log'), now, note).write(entry);
  const text = readFileSync(join(folder, 'audit.log'), 'utf8');
  expect(JSON.parse(text)).toMatchObject({ time: now().toISOString(), what: 'POST /v1/volumes', outcome: 'done' });
  expect(text).not.toContain('very secret');
  expect(lost).toEqual([]);
  auditFile(join(folder, 'missing', 'audit.log'), now, note).write(entry);
  expect(lost.map((line) => line + '\n')).toEqual([text]);
  rmSync(folder, { recursive: true, force: true });
});

afterEach(() => {
  vi.useRealTimers();
});

test('a file that was moved away is made anew; one that has grown large is kept beside the new one', () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-audit-'));
  const path = join(folder, 'audit.log');
  const lost: unknown[] = [];
  const log = auditFile(
    path,
    () => new Date(0),
    (_line, error) => lost.push(error),
  );
  const linesIn = (file: string) => readFileSync(file, 'utf8').split('\n').length - 1;
  log.write(entry);
  log.write(entry);
  renameSync(path, join(folder, 'kept'));
  vi.advanceTimersByTime(2_000);
  log.write(entry);
  expect([linesIn(join(folder, 'kept')), linesIn(path)]).toEqual([2, 1]);
  log.close();

  writeFileSync(path, `${'x'.repeat(1023)}\n`.repeat(33 * 1024));
  log.write(entry);
  expect([linesIn(`${path}.1`), linesIn(path)]).toEqual([33 * 1024, 1]);
  log.close();
  expect(lost).toEqual([]);
  rmSync(folder, { recursive: true, force: true });
});
