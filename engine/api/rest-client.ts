// Calls the manager's REST API. A small one, so that every command of the CLI starts fast.
import { request as httpRequest } from 'node:http';
import type { IncomingMessage, RequestOptions } from 'node:http';
import { z } from 'zod';
import { sleep } from '../async/wait.js';
import { HoldfastError, isErrorCode, systemErrorCode, toHoldfastError } from '../errors/holdfast-error.js';
import { isLoopback, parseHostPort } from '../os/addresses.js';
import type { Identity } from '../security/identity.js';
import { connectPinned } from '../security/pinned-connection.js';
import { fingerprintIn } from '../security/tokens.js';

// A manager that was killed is back within a moment; of several another one leads within five seconds.
const restartPatienceMs = 1_500;
const takeOverPatienceMs = 10_000;
// They say what shall be, so that it does not matter how often.
const repeatable: ReadonlySet<string> = new Set(['GET', 'PUT', 'PATCH']);
const repeatablePost = /^\/v1\/volumes\/[^/]+\/(?:attach|detach|move|resize|map|unmap)$/;
const connectTimeoutMs = 10_000;
const answerTimeoutMs = 100_000;

const errorSchema = z.object({ error: z.object({ code: z.string(), message: z.string() }) });

/**
 * `server` is HOST:PORT. The answer's shape is the server's word. `timeoutMs` 0: as long as it takes. With a token that names the
 * cluster's authority other hosts are spoken to with TLS, showing `identity` if there is one.
 */
export async function request<T>(
  server: string,
  method: string,
  path: string,
  body?: unknown,
  token: string | null = null,
  timeoutMs = answerTimeoutMs,
  identity: Identity | null = null,
): Promise<T> {
  const { status, text } = await send(server, method, path, body, token, timeoutMs, identity);
  if (status < 300) return parseBody(server, text) as T;
  throw refusal(server, status, text);
}

function refusal(server: string, status: number, body: string | Buffer): HoldfastError {
  const value = parseBody(server, body.toString());
  const parsed = errorSchema.safeParse(value);
  if (!parsed.success) return new HoldfastError('PROTOCOL', `${server} answered ${status} without saying why`);
  const { code, message } = parsed.data.error;
  return new HoldfastError(isErrorCode(code) ? code : 'INTERNAL', message);
}

/**
 * As `request`, asking one manager after the other, and patient with one that is just being started again or hands the lead over:
 * what was never sent is sent again, and what may be repeated also when its answer got lost.
 */
export async function requestWithPatience<T>(
  servers: readonly string[],
  method: string,
  path: string,
  body?: unknown,
  token: string | null = null,
  timeoutMs = answerTimeoutMs,
): Promise<T> {
  const deadline = performance.now() + (servers.length > 1 ? takeOverPatienceMs : restartPatienceMs);
  for (let attempt = 0; ; attempt++) {
    try {
      return await request<T>(servers[attempt % servers.length] ?? '', method, path, body, token, timeoutMs);
    } catch (error) {
      if (!passes(error, isRepeatable(method, path)) || performance.now() >= deadline) throw error;
      await sleep(100);
    }
  }
}

function isRepeatable(method: string, path: string): boolean {
  return repeatable.has(method) || (method === 'POST' && repeatablePost.test(path));
}

function passes(error: unknown, mayHaveArrived: boolean): boolean {
  if (!(error instanceof HoldfastError)) return false;
  const code = systemErrorCode(error.cause) ?? '';
  if (['ECONNREFUSED', 'EHOSTUNREACH'].includes(code)) return true;
  return mayHaveArrived && (['ECONNRESET', 'EPIPE'].includes(code) || error.code === 'STORE_UNAVAILABLE');
}

/** The lines of a stream that goes on until the server or the signal ends it, each a JSON value. */
export async function* requestLines<T>(
  server: string,
  path: string,
  signal: AbortSignal,
  token: string | null = null,
): AsyncGenerator<T> {
  const connection = await connectionTo(server, token, null, signal);
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const call = httpRequest({ ...connection, method: 'GET', path, signal, headers: bearer(token) }, resolve);
    call.on('error', (error) => {
      reject(unreachable(server, error));
    });
    call.end();
  });
  let rest = '';
  try {
    for await (const chunk of response.setEncoding('utf8') as AsyncIterable<string>) {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) yield JSON.parse(line) as T;
    }
  } catch (error) {
    if (!signal.aborted) throw unreachable(server, error);
  }
}

/** The bytes of a stream. What fails before the first one has the code of the server's answer. */
export async function* requestBytes(server: string, path: string, token: string | null = null): AsyncGenerator<Buffer> {
  const connection = await connectionTo(server, token, null, AbortSignal.timeout(connectTimeoutMs));
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const call = httpRequest({ ...connection, method: 'GET', path, headers: bearer(token) }, resolve);
    call.on('error', (error) => {
      reject(unreachable(server, error));
    });
    call.end();
  });
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      if ((response.statusCode ?? 500) < 300) yield chunk;
      else chunks.push(chunk);
    }
  } catch (error) {
    throw new HoldfastError('CONNECTION_LOST', `the connection to ${server} broke: ${toHoldfastError(error).message}`);
  }
  if ((response.statusCode ?? 500) >= 300) throw refusal(server, response.statusCode ?? 500, Buffer.concat(chunks));
}

/** The answer as it is. */
export async function requestText(server: string, path: string, token: string | null = null): Promise<string> {
  return (await send(server, 'GET', path, undefined, token)).text;
}

function bearer(token: string | null): Readonly<Record<string, string>> {
  return token === null ? {} : { authorization: `Bearer ${token}` };
}

function unreachable(server: string, error: unknown): HoldfastError {
  return new HoldfastError(
    'CONNECTION_LOST',
    `cannot reach the manager at ${server} (${toHoldfastError(error).message}): ` +
      `start the cluster with "holdfast up", or name another manager with --server HOST:PORT or HOLDFAST_SERVER`,
    { cause: error },
  );
}

function unanswered(server: string, error: unknown): HoldfastError {
  return new HoldfastError(
    'CONNECTION_LOST',
    `the manager at ${server} did not answer (${toHoldfastError(error).message}), and may have done what was asked: ` +
      `look whether it has before you ask again`,
    { cause: error },
  );
}

async function send(
  server: string,
  method: string,
  path: string,
  body: unknown,
  token: string | null,
  timeoutMs = answerTimeoutMs,
  identity: Identity | null = null,
): Promise<{ readonly status: number; readonly text: string }> {
  const connection = await connectionTo(server, token, identity, AbortSignal.timeout(connectTimeoutMs));
  const payload = body === undefined ? null : Buffer.from(JSON.stringify(body));
  return await new Promise((resolve, reject) => {
    let sent = false;
    const fail = (error: unknown) => {
      reject(sent && method !== 'GET' ? unanswered(server, error) : unreachable(server, error));
    };
    const call = httpRequest(
      {
        ...connection,
        method,
        path,
        timeout: timeoutMs,
        headers:
          method === 'GET'
            ? bearer(token)
            : { ...bearer(token), 'content-type': 'application/json', 'content-length': payload?.length ?? 0 },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', fail);
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 500, text: Buffer.concat(chunks).toString('utf8') });
        });
      },
    );
    call.on('timeout', () => {
      call.destroy(new Error(`no answer within ${timeoutMs / 1000} s`));
    });
    call.on('error', fail);
    call.on('finish', () => {
      sent = true;
    });
    call.end(payload ?? undefined);
  });
}

// A fresh connection for every request.
async function connectionTo(
  server: string,
  token: string | null,
  identity: Identity | null,
  signal: AbortSignal,
): Promise<RequestOptions> {
  const address = parseHostPort(server, 'server');
  const fingerprint = fingerprintIn(token);
  if (fingerprint === null || isLoopback(address.host)) return { ...address, agent: false };
  try {
    const socket = await connectPinned(address, fingerprint, identity, signal);
    return { ...address, createConnection: () => socket };
  } catch (error) {
    if (error instanceof HoldfastError) throw error;
    throw unreachable(server, error);
  }
}

function parseBody(server: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new HoldfastError('PROTOCOL', `what answers at ${server} is not a Holdfast manager: check --server`);
  }
}
