import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
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
