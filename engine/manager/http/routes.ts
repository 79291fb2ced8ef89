// REST: every path with what it takes, what it answers, and the role that it needs. openapi.ts describes them, http-server.ts serves them;
// gRPC has the same handlers (grpc-services.ts).
import { z } from 'zod';
import type { ManagerApi } from '../api.js';
import type { Role } from '../records.js';
import * as shapes from './shapes.js';

export type RouteRequest = {
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  readonly body: unknown;
};

export type Route = {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE';
  /** After /v1; "{name}" is a parameter. */
  readonly path: string;
  readonly summary: string;
  readonly role: Role;
  readonly body: z.ZodType | null;
  readonly answer: z.ZodType;
  readonly handle: (api: ManagerApi, request: RouteRequest) => Promise<unknown>;
};

type Options<B> = {
  readonly summary: string;
  readonly answer: z.ZodType;
  readonly handle: (
    api: ManagerApi,
    params: Readonly<Record<string, string>>,
    body: B,
    query: URLSearchParams,
  ) => Promise<unknown>;
};

function get(path: string, { summary, answer, handle }: Options<null>, role: Role = 'read-only'): Route {
  return {
    method: 'GET',
    path,
    summary,
    role,
    body: null,
    answer,
    handle: (api, { params, query }) => handle(api, params, null, query),
  };
}

function change<S extends z.ZodType>(
  method: Route['method'],
  path: string,
  body: S,
  { summary, answer, handle }: Options<z.infer<S>>,
  role: Role = 'operator',
): Route {
  return {
    method,
    path,
    summary,
    role,
    body,
    answer,
    // Parsed before it gets here.
    handle: (api, request) => handle(api, request.params, request.body as z.infer<S>, request.query),
  };
}

const none = z.strictObject({});
const parameter = (params: Readonly<Record<string, string>>, name: string) => params[name] ?? '';

export const routes: readonly Route[] = [
  get('/cluster', { summary: 'The cluster', answer: shapes.cluster, handle: (api) => api.getCluster() }),
  get('/status', { summary: 'What is wrong, and why', answer: shapes.status, handle: (api) => api.getStatus() }),
  get('/events', {
    summary: 'The newest events; with watch=true, new ones as lines of JSON for as long as the connection lasts',
    answer: z.array(shapes.event),
    handle: (api, _, __, query) =>
      api.listEvents(Number(query.get('limit') ?? '200'), Number(query.get('after') ?? '0')),
  }),
  get('/volumes', { summary: 'All volumes', answer: z.array(shapes.volume), handle: (api) => api.listVolumes() }),
  change('POST', '/volumes', shapes.createVolume, {
    summary: 'Make a volume',
    answer: shapes.volume,
    handle: (api, _, { name, size, replicas = 3, blockSize = 512 }) =>
      api.createVolume({ name, size, replicas, blockSize }),
  }),
  get('/volumes/{name}', {
    summary: 'A volume with its replicas',
    answer: shapes.volume,
    handle: (api, params) => api.getVolume(parameter(params, 'name')),
  }),
  change('DELETE', '/volumes/{name}', none, {
    summary: 'Delete a volume that is detached',
    answer: shapes.deletion,
    handle: (api, params) => api.deleteVolume(parameter(params, 'name')),
  }),
  get('/volumes/{name}/replicas', {
    summary: 'The replicas of a volume',
    answer: z.array(shapes.replica),
    handle: (api, params) => api.listReplicas(parameter(params, 'name')),
  }),
  change('POST', '/volumes/{name}/attach', z.strictObject({ node: z.string().nullish() }), {
    summary: 'Serve a volume to hosts',
    answer: shapes.attachment,
    handle: (api, params, { node }) => api.attachVolume(parameter(params, 'name'), node ?? null),
  }),
  change('POST', '/volumes/{name}/detach', z.strictObject({ force: z.boolean().optional() }), {
    summary: 'Stop serving a volume',
    answer: shapes.volume,
    handle: (api, params, { force }) => api.detachVolume(parameter(params, 'name'), force ?? false),
  }),
  change('POST', '/volumes/{name}/resize', z.strictObject({ size: z.number() }), {
    summary: 'Make a volume larger',
    answer: shapes.volume,
    handle: (api, params, { size }) => api.resizeVolume(parameter(params, 'name'), size),
  }),
  change('POST', '/volumes/{name}/map', shapes.mapVolume, {
    summary: 'Make a volume a block device of the host where it is attached',
    answer: shapes.mapping,
    handle: (api, params, { node, via = 'fuse' }) =>
      api.mapVolume({ name: parameter(params, 'name'), node: node ?? null, via }),
  }),
  change('POST', '/volumes/{name}/unmap', z.strictObject({ force: z.boolean().optional() }), {
    summary: 'End the block device of a volume',
    answer: shapes.volume,
    handle: (api, params, { force }) => api.unmapVolume(parameter(params, 'name'), force ?? false),
  }),
  get('/nodes', { summary: 'All nodes', answer: z.array(shapes.node), handle: (api) => api.listNodes() }),
  get('/disks', { summary: 'All disks', answer: z.array(shapes.disk), handle: (api) => api.listDisks() }),
  get('/processes', {
    summary: 'All processes',
    answer: z.array(shapes.process),
    handle: (api) => api.listProcesses(),
  }),
];
