// REST/JSON: the same handlers as gRPC (routes.ts), /metrics, /openapi.json, and the stream of events. Web pages of other origins are kept
// out: a POST has to say application/json, and a browser asks before it sends that, or any other method that changes something, and is
// never allowed to; so does the check of the Host header.
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { errorBody, HoldfastError, httpStatusOf, toHoldfastError } from '../../errors/holdfast-error.js';
import { errorFields } from '../../log/logger.js';
import type { Logger } from '../../log/logger.js';
import { refusedCaller } from '../access-control.js';
import type { Caller } from '../access-control.js';
import { peerName } from '../front-door.js';
import type { Entrance } from '../entrance.js';
import type { ManagerApi } from '../api.js';
import { expositionType } from '../exposition.js';
import { openApiDocument } from './openapi.js';
import { checkedBody, routes } from './routes.js';
import type { Route, RouteRequest } from './routes.js';

const bodyBytesMax = 64 * 1024;

export type HttpOptions = Entrance & {
  readonly api: ManagerApi;
  readonly version: string;
  readonly logger: Logger;
};

export function createHttpHandler(options: HttpOptions): RequestListener {
  const openApi = JSON.stringify(openApiDocument(routes, options.version));
  return (request, response) => {
    void answer(options, openApi, request, response);
  };
}

async function answer(
  { api, access, audit, connection, logger }: HttpOptions,
  openApi: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  try {
    requireLocalHost(request);
    const from = connection(peerName(request.socket));
    const url = new URL(request.url ?? '/', 'http://localhost');
    if (request.method === 'GET' && url.pathname === '/openapi.json') {
      sendText(response, 'application/json', openApi);
    } else if (request.method === 'GET' && url.pathname === '/metrics') {
      await access.admit(request.headers.authorization ?? null, 'read-only', from);
      sendText(response, expositionType, await api.getMetrics());
    } else if (url.pathname === '/v1/events' && url.searchParams.get('watch') === 'true') {
      await access.admit(request.headers.authorization ?? null, 'read-only', from);
      await streamEvents(api, request, response);
    } else {
      const found = findRoute(request.method ?? 'GET', url.pathname);
      if ('allow' in found) {
        refuseMethod(response, found.allow, `${url.pathname} takes ${found.allow}, not ${request.method}`);
        return;
      }
      const { route, params } = found;
      const note = { peer: request.socket.remoteAddress ?? '', what: `${route.method} ${url.pathname}${url.search}` };
      let caller: Caller | null = null;
      let body: unknown = null;
      try {
        caller = await access.admit(request.headers.authorization ?? null, route.role, from);
        body = route.body === null ? null : checkedBody(route.body, await readBody(request));
        const asked = { params, query: url.searchParams, body, certificate: from?.certificate ?? null };
        if (route.stream !== undefined) {
          await streamBytes(route.stream, api, asked, response);
          audit.write({ caller, ...note, body, outcome: 'done' });
          return;
        }
        const answered = await route.handle(api, asked);
        if (route.method !== 'GET') audit.write({ caller, ...note, body, outcome: 'done' });
        send(response, 200, answered);
      } catch (error) {
        if (route.method !== 'GET' || route.stream !== undefined)
          audit.write({ caller: caller ?? refusedCaller(error), ...note, body, outcome: toHoldfastError(error).code });
        throw error;
      }
    }
  } catch (thrown) {
    const error = toHoldfastError(thrown);
    if (error.code === 'INTERNAL') logger.error('request failed', { url: request.url, ...errorFields(error) });
    if (response.headersSent) response.destroy();
    else send(response, httpStatusOf(error.code), errorBody(error));
  }
}

// One JSON object per line, until the client goes.
async function streamEvents(api: ManagerApi, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const gone = new AbortController();
  request.on('close', () => {
    gone.abort();
  });
  response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' });
  response.flushHeaders();
  for await (const event of api.watchEvents(gone.signal)) {
    if (!response.write(JSON.stringify(event) + '\n')) {
      await new Promise((resolve) => {
        response.once('drain', resolve);
        gone.signal.addEventListener('abort', resolve, { once: true });
      });
    }
  }
}

// What fails before the first byte is an ordinary error; after that the connection breaks off.
async function streamBytes(
  stream: NonNullable<Route['stream']>,
  api: ManagerApi,
  request: RouteRequest,
  response: ServerResponse,
): Promise<void> {
  const gone = new AbortController();
  response.on('close', () => {
    gone.abort();
  });
  const parts = stream(api, request, gone.signal)[Symbol.asyncIterator]();
  try {
    for (let part = await parts.next(); part.done !== true; part = await parts.next()) {
      if (!response.headersSent) {
        response.writeHead(200, { 'content-type': 'application/octet-stream', 'cache-control': 'no-store' });
      }
      if (response.write(part.value)) continue;
      await new Promise<void>((resolve) => {
        response.once('drain', resolve);
        response.once('close', resolve);
      });
    }
    response.end();
  } finally {
    await parts.return?.();
  }
}

const splitRoutes = routes.map((route) => ({ route, parts: partsOf(route.path) }));

function partsOf(path: string): string[] {
  return path.split('/').filter((part) => part !== '');
}

type FoundRoute = { readonly route: Route; readonly params: Readonly<Record<string, string>> };

/** `allow`: what the path takes instead of this method. */
function findRoute(method: string, pathname: string): FoundRoute | { readonly allow: string } {
  const [version, ...segments] = partsOf(pathname);
  const methods: string[] = [];
  for (const { route, parts } of version === 'v1' ? splitRoutes : []) {
    if (parts.length !== segments.length) continue;
    if (!parts.every((part, index) => part.startsWith('{') || part === segments[index])) continue;
    if (route.method === method) return { route, params: paramsOf(parts, segments) };
    methods.push(route.method);
  }
  if (methods.length > 0) return { allow: methods.join(', ') };
  throw new HoldfastError('NOT_FOUND', `there is nothing at ${pathname}: /openapi.json lists the paths`);
}

// RFC 9110: 405, and "Allow".
function refuseMethod(response: ServerResponse, allow: string, message: string): void {
  response.setHeader('allow', allow);
  send(response, 405, errorBody(new HoldfastError('UNIMPLEMENTED', message)));
}

function paramsOf(parts: readonly string[], segments: readonly string[]): Readonly<Record<string, string>> {
  const params: Record<string, string> = {};
  for (const [index, part] of parts.entries()) {
    if (part.startsWith('{')) params[part.slice(1, -1)] = decodeSegment(segments[index] ?? '');
  }
  return params;
}

function decodeSegment(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw new HoldfastError('INVALID_ARGUMENT', `"${segment}" is not a valid part of a path`);
  }
}

// A page whose host name was made to resolve to 127.0.0.1 still says its own name here.
function requireLocalHost(request: IncomingMessage): void {
  const host = (request.headers.host ?? '').replace(/:\d+$/, '');
  if (host === 'localhost' || /^[\d.]+$/.test(host) || /^\[[\da-fA-F:.]+\]$/.test(host)) return;
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    `host "${host}" is refused: address the manager by IP address or as localhost`,
  );
}

async function readBody(request: IncomingMessage): Promise<unknown> {
  const text = await new Promise<string>((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes <= bodyBytesMax) {
        chunks.push(chunk);
        return;
      }
      request.pause();
      reject(new HoldfastError('MESSAGE_TOO_LARGE', `a request has at most ${bodyBytesMax} bytes`));
    });
    request.on('end', () => {
      resolve(Buffer.concat(chunks).toString('utf8'));
    });
    request.on('error', reject);
  });
  const isJson = /^application\/json\b/.test(request.headers['content-type'] ?? '');
  const needsNoType = text === '' && request.method !== 'POST';
  if (!isJson && !needsNoType) {
    throw new HoldfastError('INVALID_ARGUMENT', 'the request must have content-type application/json');
  }
  if (text === '') return {};
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw new HoldfastError('INVALID_ARGUMENT', 'the body of the request is not JSON');
  }
}

function sendText(response: ServerResponse, type: string, body: string): void {
  response.writeHead(200, { 'content-type': type, 'cache-control': 'no-store' });
  response.end(body);
}

function send(response: ServerResponse, status: number, body: unknown): void {
  // What is left of a body that is too large is not read.
  const end = status === 413 ? { connection: 'close' } : {};
  response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store', ...end });
  response.end(JSON.stringify(body) + '\n');
}
