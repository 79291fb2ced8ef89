// REST/JSON: the same handlers as gRPC. Methods that change something take application/json only, which keeps web pages of other
// origins out (a browser asks before it sends that, and is never answered); so does the check of the Host header.
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { z } from 'zod';
import { errorBody, HoldfastError, httpStatusOf, toHoldfastError } from '../errors/holdfast-error.js';
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import type { ManagerApi } from './api.js';

const bodyBytesMax = 64 * 1024;

type Request = { readonly name: string; readonly body: unknown };
type Route = {
  readonly method: string;
  /** Segments after /v1; ":name" takes any. */
  readonly path: readonly string[];
  readonly handle: (api: ManagerApi, request: Request) => Promise<unknown>;
};

const createSchema = z.strictObject({
  name: z.string(),
  size: z.number(),
  replicas: z.number().optional(),
  blockSize: z.number().optional(),
});
const attachSchema = z.strictObject({ node: z.string().nullish() });
const detachSchema = z.strictObject({ force: z.boolean().optional() });
const resizeSchema = z.strictObject({ size: z.number() });

const routes: readonly Route[] = [
  { method: 'GET', path: ['cluster'], handle: (api) => api.getCluster() },
  { method: 'GET', path: ['volumes'], handle: (api) => api.listVolumes() },
  {
    method: 'POST',
    path: ['volumes'],
    handle: async (api, { body }) => {
      const { name, size, replicas = 3, blockSize = 512 } = parse(createSchema, body);
      return await api.createVolume({ name, size, replicas, blockSize });
    },
  },
  { method: 'GET', path: ['volumes', ':name'], handle: (api, { name }) => api.getVolume(name) },
  { method: 'DELETE', path: ['volumes', ':name'], handle: (api, { name }) => api.deleteVolume(name) },
  { method: 'GET', path: ['volumes', ':name', 'replicas'], handle: (api, { name }) => api.listReplicas(name) },
  {
    method: 'POST',
    path: ['volumes', ':name', 'attach'],
    handle: async (api, { name, body }) => await api.attachVolume(name, parse(attachSchema, body).node ?? null),
  },
  {
    method: 'POST',
    path: ['volumes', ':name', 'detach'],
    handle: async (api, { name, body }) => await api.detachVolume(name, parse(detachSchema, body).force ?? false),
  },
  {
    method: 'POST',
    path: ['volumes', ':name', 'resize'],
    handle: async (api, { name, body }) => await api.resizeVolume(name, parse(resizeSchema, body).size),
  },
  { method: 'GET', path: ['nodes'], handle: (api) => api.listNodes() },
  { method: 'GET', path: ['disks'], handle: (api) => api.listDisks() },
  { method: 'GET', path: ['processes'], handle: (api) => api.listProcesses() },
];

export function createHttpHandler(api: ManagerApi, logger: Logger): RequestListener {
  return (request, response) => {
    void answer(api, logger, request, response);
  };
}

async function answer(
  api: ManagerApi,
  logger: Logger,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  try {
    requireLocalHost(request);
    const { route, name } = findRoute(request);
    const body = route.method === 'GET' ? {} : await readBody(request);
    send(response, 200, await route.handle(api, { name, body }));
  } catch (thrown) {
    const error = toHoldfastError(thrown);
    if (error.code === 'INTERNAL') logger.error('request failed', { url: request.url, ...errorFields(error) });
    send(response, httpStatusOf(error.code), errorBody(error));
  }
}

function findRoute(request: IncomingMessage): { readonly route: Route; readonly name: string } {
  const { pathname } = new URL(request.url ?? '/', 'http://localhost');
  const [version, ...segments] = pathname.split('/').filter((segment) => segment !== '');
  const candidates = routes.filter(
    ({ path }) =>
      version === 'v1' &&
      path.length === segments.length &&
      path.every((part, index) => part === ':name' || part === segments[index]),
  );
  const route = candidates.find(({ method }) => method === request.method);
  if (route !== undefined) return { route, name: decodeSegment(segments[route.path.indexOf(':name')] ?? '') };
  if (candidates.length === 0)
    throw new HoldfastError('NOT_FOUND', `there is nothing at ${pathname}: see docs/cli.md for the paths`);
  const methods = candidates.map(({ method }) => method).join(', ');
  throw new HoldfastError('UNIMPLEMENTED', `${pathname} takes ${methods}, not ${request.method ?? 'this'}`);
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
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > bodyBytesMax)
      throw new HoldfastError('MESSAGE_TOO_LARGE', `a request has at most ${bodyBytesMax} bytes`);
    chunks.push(chunk);
  }
  if (!/^application\/json\b/.test(request.headers['content-type'] ?? '')) {
    throw new HoldfastError('INVALID_ARGUMENT', 'the request must have content-type application/json');
  }
  if (bytes === 0) return {};
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8')) as unknown;
  } catch {
    throw new HoldfastError('INVALID_ARGUMENT', 'the body of the request is not JSON');
  }
}

function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  throw new HoldfastError('INVALID_ARGUMENT', z.prettifyError(parsed.error));
}

function send(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' });
  response.end(JSON.stringify(body) + '\n');
}
