// What REST has, gRPC has: one table of which method of service Manager answers what a route answers, and how a message becomes the
// request of a route. Both are then served by the same handler (http/routes.ts), with the same checks.
//
// A field of a request is a parameter of the route's path, else of its query (GET and DELETE), else a field of its body.
import { HoldfastError } from '../errors/holdfast-error.js';
import { checkedBody, routes } from './http/routes.js';
import type { Route, RouteRequest } from './http/routes.js';

/** Routes by what REST calls them; "GET /metrics" and the stream of events are not in the table of routes. */
export const twins: Readonly<Record<string, string>> = {
  'GET /cluster': 'GetCluster',
  'GET /status': 'GetStatus',
  'GET /metrics': 'GetMetrics',
  'GET /events': 'ListEvents',
  'GET /events?watch=true': 'WatchEvents',
  'GET /volumes': 'ListVolumes',
  'POST /volumes': 'CreateVolume',
  'GET /volumes/{name}': 'GetVolume',
  'DELETE /volumes/{name}': 'DeleteVolume',
  'PATCH /volumes/{name}': 'SetVolume',
  'GET /volumes/{name}/explain': 'ExplainVolume',
  'GET /volumes/{name}/replicas': 'ListReplicas',
  'POST /volumes/{name}/attach': 'AttachVolume',
  'POST /volumes/{name}/replicas': 'AddReplica',
  'DELETE /volumes/{name}/replicas/{id}': 'RemoveReplica',
  'POST /volumes/{name}/scrub': 'ScrubVolume',
  'POST /volumes/{name}/detach': 'DetachVolume',
  'POST /volumes/{name}/move': 'MoveVolume',
  'POST /volumes/{name}/resize': 'ResizeVolume',
  'GET /volumes/{name}/snapshots': 'ListSnapshots',
  'POST /volumes/{name}/snapshots': 'CreateSnapshot',
  'DELETE /volumes/{name}/snapshots/{snapshot}': 'DeleteSnapshot',
  'GET /volumes/{name}/snapshots/{snapshot}/files': 'ListSnapshotFiles',
  'GET /volumes/{name}/snapshots/{snapshot}/content': 'ReadSnapshotFiles',
  'POST /volumes/{name}/revert': 'RevertVolume',
  'POST /volumes/{name}/clone': 'CloneVolume',
  'POST /volumes/{name}/map': 'MapVolume',
  'POST /volumes/{name}/unmap': 'UnmapVolume',
  'GET /nodes': 'ListNodes',
  'GET /nodes/{node}': 'GetNode',
  'PATCH /nodes/{node}': 'SetNode',
  'GET /nodes/{node}/emptying': 'GetNodeEmptying',
  'POST /nodes/{node}/disks': 'AddDisk',
  'PATCH /nodes/{node}/disks/{disk}': 'SetDisk',
  'DELETE /nodes/{node}/disks/{disk}': 'RemoveDisk',
  'GET /nodes/{node}/disks/{disk}/emptying': 'GetDiskEmptying',
  'GET /trash': 'ListTrash',
  'POST /trash/{id}/restore': 'RestoreVolume',
  'DELETE /trash/{id}': 'PurgeVolume',
  'GET /settings': 'GetSettings',
  'PATCH /settings': 'SetSettings',
  'GET /policies': 'ListPolicies',
  'PUT /policies': 'PutPolicy',
  'DELETE /policies/{name}': 'DeletePolicy',
  'GET /tokens': 'ListTokens',
  'POST /tokens': 'CreateToken',
  'DELETE /tokens/{id}': 'DeleteToken',
  'POST /certificates': 'CertifyNode',
  'GET /disks': 'ListDisks',
  'GET /processes': 'ListProcesses',
};

const routeOfMethod = new Map(routes.map((route) => [twins[`${route.method} ${route.path}`] ?? '', route] as const));

/** The route that a method of service Manager answers like. */
export function routeOf(method: string): Route {
  const route = routeOfMethod.get(method);
  if (route === undefined) throw new HoldfastError('UNIMPLEMENTED', `there is no route like ${method}`);
  return route;
}

type Fields = Readonly<Record<string, unknown>>;

export function routeRequest(route: Route, message: object, certificate: string | null): RouteRequest {
  const fields = plain(message) as Fields;
  const names = new Set([...route.path.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => name));
  const params: Record<string, string> = {};
  const query = new URLSearchParams();
  const body: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(fields)) {
    if (names.has(name)) params[name] = String(value);
    else if (route.method === 'GET' || route.method === 'DELETE') query.set(name, String(value));
    else body[name] = (name === 'zone' || name === 'class') && value === '' ? null : value;
  }
  return { params, query, body: route.body === null ? null : checkedBody(route.body, body), certificate };
}

/** As REST has it: numbers, lists, and nothing that is absent. */
export function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return safeNumber(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).filter(([, field]) => field !== undefined);
  const [only] = entries;
  // message Strings
  if (entries.length === 1 && only?.[0] === 'values' && Array.isArray(only[1])) return only[1];
  return Object.fromEntries(entries.map(([name, field]) => [name, plain(field)]));
}

function safeNumber(value: bigint): number {
  const number = Number(value);
  if (Number.isSafeInteger(number)) return number;
  throw new HoldfastError('INVALID_ARGUMENT', `${value} is too large`);
}
