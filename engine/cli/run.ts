// How every command runs: JSON or text on stdout, errors on stderr, and the exit code. Never a stack trace.
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { requestBytes, requestLines, requestText, requestWithPatience } from '../api/rest-client.js';
import { errorBody, HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { formatHostPort, parseHostPort } from '../os/addresses.js';

export const exitCodes = { done: 0, failed: 1, usage: 2 } as const;

/** What the command line itself is wrong about: exit code 2. Everything else that fails: 1. */
export class UsageError extends Error {
  readonly reason: HoldfastError;

  constructor(reason: HoldfastError) {
    super(reason.message);
    this.reason = reason;
  }
}

/** Runs a check of something that was typed. */
export function checkUsage<T>(check: () => T): T {
  try {
    return check();
  } catch (error) {
    throw new UsageError(toHoldfastError(error));
  }
}

export type Streams = {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
};

export type CommonOptions = { readonly json?: boolean; readonly server?: string; readonly tokenFile?: string };

export const defaultServer = '127.0.0.1:7600';

/** The manager, as a command sees it. */
export type Session = {
  /** `timeoutMs` 0: as long as it takes. */
  readonly call: <T>(method: string, path: string, body?: unknown, timeoutMs?: number) => Promise<T>;
  readonly lines: <T>(path: string, signal: AbortSignal) => AsyncIterable<T>;
  readonly text: (path: string) => Promise<string>;
  readonly bytes: (path: string) => AsyncIterable<Buffer>;
};

export function openSession(options: CommonOptions, environment: NodeJS.ProcessEnv): Session {
  const set = (name: string) => (environment[name] === '' ? undefined : environment[name]);
  const servers = checkUsage(() =>
    (options.server ?? set('HOLDFAST_SERVER') ?? defaultServer)
      .split(',')
      .map((server) => formatHostPort(parseHostPort(server.replace(/^https?:\/\/|\/$/g, ''), '--server'))),
  );
  const file = options.tokenFile ?? set('HOLDFAST_TOKEN_FILE');
  const token = set('HOLDFAST_TOKEN') ?? (file === undefined ? null : checkUsage(() => readToken(file)));
  const [first = ''] = servers;
  return {
    call: (method, path, body, timeoutMs) => requestWithPatience(servers, method, path, body, token, timeoutMs),
    lines: (path, signal) => requestLines(first, path, signal, token),
    text: (path) => requestText(first, path, token),
    bytes: (path) => requestBytes(first, path, token),
  };
}

function readToken(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', `${file} cannot be read: ${toHoldfastError(error).message}`);
  }
}

export function printResult<T>(streams: Streams, json: boolean, value: T, show: (value: T) => string): void {
  streams.out((json ? JSON.stringify(value) : show(value)) + '\n');
}

export function printError(streams: Streams, json: boolean, error: HoldfastError): void {
  streams.err(json ? JSON.stringify(errorBody(error)) + '\n' : `holdfast: ${error.message}\n`);
}

/** Says on stderr every few seconds that something is still going on. */
export async function withProgress<T>(
  streams: Streams,
  what: () => Promise<string>,
  work: Promise<T>,
  everyMs = 2_000,
): Promise<T> {
  const began = performance.now();
  let done = false;
  const say = async () => {
    const text = await what().catch(() => 'working');
    if (!done) streams.err(`${text} (${Math.round((performance.now() - began) / 1000)} s)\n`);
  };
  const timer = setInterval(() => void say(), everyMs);
  try {
    return await work;
  } finally {
    done = true;
    clearInterval(timer);
  }
}

/** `--json` and `--server` at this command; both may also stand before it. */
export function withCommonOptions(command: Command): Command {
  return command
    .option('--json', 'print JSON')
    .option(
      '--server <host:port>',
      `the manager, or several with commas (default: $HOLDFAST_SERVER, else ${defaultServer})`,
    )
    .option('--token-file <file>', 'holds the token (default: $HOLDFAST_TOKEN, or the file $HOLDFAST_TOKEN_FILE)');
}
