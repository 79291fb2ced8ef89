// Structured logs: one JSON object per line. The last line of a process that could not start carries `code` and
// `message`, and whoever started the process shows them.
import { writeSync } from 'node:fs';
import { toHoldfastError } from '../errors/holdfast-error.js';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';
export type LogFields = Readonly<Record<string, unknown>>;

export type Logger = {
  readonly debug: (message: string, fields?: LogFields) => void;
  readonly info: (message: string, fields?: LogFields) => void;
  readonly warn: (message: string, fields?: LogFields) => void;
  readonly error: (message: string, fields?: LogFields) => void;
  readonly child: (fields: LogFields) => Logger;
};

const order: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

export function createLogger(
  write: (line: string) => void,
  base: LogFields = {},
  threshold: LogLevel = 'info',
): Logger {
  const log =
    (level: LogLevel) =>
    (message: string, fields: LogFields = {}) => {
      if (order[level] < order[threshold]) return;
      write(
        JSON.stringify({ time: new Date().toISOString(), level, ...base, message, ...fields }, encodeBigint) + '\n',
      );
    };
  return {
    debug: log('debug'),
    info: log('info'),
    warn: log('warn'),
    error: log('error'),
    child: (fields) => createLogger(write, { ...base, ...fields }, threshold),
  };
}

function encodeBigint(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value;
}

// Synchronous, so that the last words of a dying process are not lost. A full or closed stderr must not end a process.
export function stderrLogger(fields: LogFields = {}): Logger {
  const threshold = process.env['HOLDFAST_LOG'] === 'debug' ? 'debug' : 'info';
  return createLogger(
    (line) => {
      try {
        writeSync(2, line);
      } catch {
        // Nowhere left to report it to.
      }
    },
    fields,
    threshold,
  );
}

export const silentLogger: Logger = createLogger(() => undefined);

export function errorFields(thrown: unknown): LogFields {
  const error = toHoldfastError(thrown);
  return { code: error.code, error: error.message };
}
