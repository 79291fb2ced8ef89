// Every change that somebody asked for, as a line of JSON: when, who, what, and how it ended. Kept in a file beside the manager's log.
import { appendFileSync, renameSync, statSync } from 'node:fs';
import type { ErrorCode } from '../errors/error-codes.js';
import type { Caller } from './access-control.js';

export type AuditEntry = {
  readonly caller: Caller | null;
  /** Address of the client. */
  readonly peer: string;
  /** "POST /v1/volumes", "CreateVolume" */
  readonly what: string;
  readonly body: unknown;
  readonly outcome: 'done' | ErrorCode;
};

export type AuditLog = { readonly write: (entry: AuditEntry) => void };

export const noAudit: AuditLog = { write: () => undefined };

const fileBytesMax = 32 * 2 ** 20;

/**
 * Appends to `path`; the former file is kept as `path`.1 when it has grown large. What cannot be written (a full disk) is given to `lost`:
 * the change is made by then, and must not look as if it had failed.
 */
export function auditFile(path: string, now: () => Date, lost: (line: string, error: unknown) => void): AuditLog {
  return {
    write: ({ caller, peer, what, body, outcome }) => {
      const line = {
        time: now().toISOString(),
        token: caller?.token ?? null,
        role: caller?.role ?? null,
        peer,
        what,
        body: withoutSecrets(body),
        outcome,
      };
      const text = JSON.stringify(line);
      try {
        if (sizeOf(path) > fileBytesMax) renameSync(path, `${path}.1`);
        appendFileSync(path, text + '\n', { mode: 0o600 });
      } catch (error) {
        lost(text, error);
      }
    },
  };
}

function sizeOf(path: string): number {
  try {
    return statSync(path).size;
  } catch {
    return 0;
  }
}

function withoutSecrets(body: unknown): unknown {
  const text = JSON.stringify(body ?? null, (key, value: unknown) => {
    if (key === 'secret') return '…';
    return typeof value === 'bigint' ? String(value) : value;
  });
  return JSON.parse(text) as unknown;
}
