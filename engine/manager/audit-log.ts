// Every change that somebody asked for, as a line of JSON: when, who, what, and how it ended. Kept in a file beside the manager's log.
import { closeSync, fstatSync, ftruncateSync, openSync, renameSync, statSync, writeSync } from 'node:fs';
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

export type AuditLog = { readonly write: (entry: AuditEntry) => void; readonly close: () => void };

export const noAudit: AuditLog = { write: () => undefined, close: () => undefined };

const fileBytesMax = 32 * 2 ** 20;

/**
 * Appends to `path`; the former file is kept as `path`.1 when it has grown large. What cannot be written (a full disk) is given to `lost`:
 * the change is made by then, and must not look as if it had failed.
 */
export function auditFile(path: string, now: () => Date, lost: (line: string, error: unknown) => void): AuditLog {
  const file = new AppendedFile(path);
  return {
    write: ({ caller, peer, what, body, outcome }) => {
      const line = {
        time: now().toISOString(),
        token: caller?.token ?? null,
        role: caller?.role ?? null,
        peer,
        what,
        body: body ?? null,
        outcome,
      };
      const text = JSON.stringify(line, withoutSecrets);
      try {
        file.append(`${text}\n`);
      } catch (error) {
        lost(text, error);
      }
    },
    close: () => {
      file.close();
    },
  };
}

type OpenFile = { readonly fd: number; readonly inode: number; bytes: number };

/** Stays open. A file that somebody moved away or removed is made anew within a second, as rotating tools expect. */
class AppendedFile {
  readonly #path: string;
  #file: OpenFile | null = null;
  #looked = 0;

  constructor(path: string) {
    this.#path = path;
  }

  append(text: string): void {
    const file = this.#opened();
    const bytes = Buffer.from(text);
    if (writeSync(file.fd, bytes) !== bytes.length) {
      // The next line must not go on where this one breaks off.
      ftruncateSync(file.fd, file.bytes);
      throw new Error(`only a part of a line found room in ${this.#path}`);
    }
    file.bytes += bytes.length;
  }

  close(): void {
    if (this.#file !== null) closeSync(this.#file.fd);
    this.#file = null;
  }

  #opened(): OpenFile {
    const now = performance.now();
    if (this.#file !== null && now - this.#looked > 1_000) {
      this.#looked = now;
      if (statSync(this.#path, { throwIfNoEntry: false })?.ino !== this.#file.inode) this.close();
    }
    let file = (this.#file ??= this.#open(now));
    if (file.bytes > fileBytesMax) {
      this.close();
      renameSync(this.#path, `${this.#path}.1`);
      this.#file = file = this.#open(now);
    }
    return file;
  }

  #open(now: number): OpenFile {
    this.#looked = now;
    const fd = openSync(this.#path, 'a', 0o600);
    const { ino, size } = fstatSync(fd);
    return { fd, inode: ino, bytes: size };
  }
}

function withoutSecrets(key: string, value: unknown): unknown {
  if (key === 'secret') return '…';
  return typeof value === 'bigint' ? String(value) : value;
}
