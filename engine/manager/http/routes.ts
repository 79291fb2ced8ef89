// REST: every path with what it takes, what it answers, and the role that it needs. openapi.ts describes them, http-server.ts serves them;
// gRPC has the same handlers (grpc-services.ts).
import { z } from 'zod';
import { HoldfastError } from '../../errors/holdfast-error.js';
import type { ManagerApi } from '../api.js';
import type { Role } from '../records.js';
import type { ShareInput, VolumeChange } from '../volume-operations.js';
import * as shapes from './shapes.js';

export type RouteRequest = {
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  readonly body: unknown;
  /** Common name of the certificate that the caller shows; null: none. */
  readonly certificate: string | null;
};

/** Parameters after "?", none of which is required. */
export type QueryTypes = Readonly<Record<string, 'string' | 'integer' | 'boolean'>>;

export type Route = {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE';
  /** After /v1; "{name}" is a parameter. */
  readonly path: string;
  readonly summary: string;
  readonly role: Role;
  readonly query?: QueryTypes;
  readonly body: z.ZodType | null;
  readonly answer: z.ZodType;
  readonly handle: (api: ManagerApi, request: RouteRequest) => Promise<unknown>;
  /** Instead of one answer: bytes, until their end. */
  readonly stream?: (api: ManagerApi, request: RouteRequest, signal: AbortSignal) => AsyncIterable<Buffer>;
};

type Options<B> = {
  readonly summary: string;
  readonly query?: QueryTypes;
  readonly answer: z.ZodType;
  readonly handle: (
    api: ManagerApi,
    params: Readonly<Record<string, string>>,
    body: B,
    query: URLSearchParams,
  ) => Promise<unknown>;
};

function get(path: string, { summary, query = {}, answer, handle }: Options<null>, role: Role = 'read-only'): Route {
  return {
    method: 'GET',
    path,
    summary,
    role,
    query,
    body: null,
    answer,
    handle: (api, request) => handle(api, request.params, null, request.query),
  };
}

function change<S extends z.ZodType>(
  method: Route['method'],
  path: string,
  body: S,
  { summary, query = {}, answer, handle }: Options<z.infer<S>>,
  role: Role = 'operator',
): Route {
  return {
    method,
    path,
    summary,
    role,
    query,
    body,
    answer,
    // Parsed before it gets here.
    handle: (api, request) => handle(api, request.params, request.body as z.infer<S>, request.query),
  };
}

/** The body of a request, in the shape that its route wants. INVALID_ARGUMENT says what is wrong with it. */
export function checkedBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const wrong = parsed.error.issues.map(({ path, message }) =>
    path.length === 0 ? message : `${path.join('.')}: ${message}`,
  );
  throw new HoldfastError('INVALID_ARGUMENT', `the request is not valid: ${wrong.join('; ')}`);
}

/** Without the fields that were not given. */
function given<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

function changeOf({ constraints, ...rest }: z.infer<typeof shapes.changeVolume>): VolumeChange {
  return { ...rest, constraints: given(constraints ?? {}) };
}

/** The body of what needs none. */
export const nothing = z.strictObject({});
const parameter = (params: Readonly<Record<string, string>>, name: string) => params[name] ?? '';

function filesInput(params: Readonly<Record<string, string>>, query: URLSearchParams) {
  const partition = Number(query.get('partition') ?? '0');
  if (!Number.isInteger(partition) || partition < 0 || partition > 65_535) {
    throw new HoldfastError('INVALID_ARGUMENT', `"${query.get('partition')}" is not the number of a partition`);
  }
  const path = query.get('path') ?? '/';
  if (path.includes('\0')) throw new HoldfastError('INVALID_ARGUMENT', 'a path has no zero bytes');
  return { volume: parameter(params, 'name'), snapshot: parameter(params, 'snapshot'), path, partition };
}

function shareInput(share: z.infer<typeof shapes.createVolume>['share'] | null): ShareInput | null {
  if (share === null || share === undefined) return null;
  const { fs = 'ext4', clients = [], squash = 'root', v3 = false, security = [] } = share;
  // Over gRPC what is not given is empty.
  const textOrNull = (text: string | undefined) => (text === undefined || text === '' ? null : text);
  const [address, principal, keytab] = [
    textOrNull(share.address),
    textOrNull(share.principal),
    textOrNull(share.keytab),
  ];
  return { fs, options: { clients, squash, v3, security, address, principal, keytab } };
}

export const routes: readonly Route[] = [
  get('/cluster', { summary: 'The cluster', answer: shapes.cluster, handle: (api) => api.getCluster() }),
  get('/status', { summary: 'What is wrong, and why', answer: shapes.status, handle: (api) => api.getStatus() }),
  get('/events', {
    summary: 'The newest events; with watch=true, new ones as lines of JSON for as long as the connection lasts',
    query: { limit: 'integer', after: 'integer', watch: 'boolean' },
    answer: z.array(shapes.event),
    handle: (api, _, __, query) =>
      api.listEvents(Number(query.get('limit') ?? '200'), Number(query.get('after') ?? '0')),
  }),
  get('/volumes', { summary: 'All volumes', answer: z.array(shapes.volume), handle: (api) => api.listVolumes() }),
  change('POST', '/volumes', shapes.createVolume, {
    summary: 'Make a volume',
    answer: shapes.volume,
    handle: (api, _, { replicas = null, blockSize = 512, share, ...rest }) =>
      api.createVolume({
        ...rest,
        constraints: given(rest.constraints ?? {}),
        replicas,
        blockSize,
        share: shareInput(share ?? null),
      }),
  }),
  get('/volumes/{name}', {
    summary: 'A volume with its replicas',
    answer: shapes.volume,
    handle: (api, params) => api.getVolume(parameter(params, 'name')),
  }),
  change('DELETE', '/volumes/{name}', nothing, {
    summary: 'Delete a volume that is detached: into the trash, or with purge=true for good',
    query: { purge: 'boolean' },
    answer: shapes.deletion,
    handle: (api, params, _, query) => api.deleteVolume(parameter(params, 'name'), query.get('purge') === 'true'),
  }),
  change('PATCH', '/volumes/{name}', shapes.changeVolume, {
    summary: 'Change replicas, constraints, limits or access of a volume',
    answer: shapes.volume,
    handle: (api, params, body) => api.changeVolume(parameter(params, 'name'), changeOf(body)),
  }),
  get('/volumes/{name}/explain', {
    summary: 'For every disk, whether it could take a replica of the volume, or why not',
    answer: shapes.explanation,
    handle: (api, params) => api.explainVolume(parameter(params, 'name')),
  }),
  get('/volumes/{name}/replicas', {
    summary: 'The replicas of a volume',
    answer: z.array(shapes.replica),
    handle: (api, params) => api.listReplicas(parameter(params, 'name')),
  }),
  change('POST', '/volumes/{name}/attach', shapes.attachVolume, {
    summary: 'Serve a volume to hosts',
    answer: shapes.attachment,
    handle: (api, params, { node, force, acceptDataLoss, replica }) =>
      api.attachVolume(parameter(params, 'name'), node ?? null, {
        force: force ?? false,
        acceptDataLoss: acceptDataLoss ?? false,
        replicaId: replica ?? null,
      }),
  }),
  change('POST', '/volumes/{name}/replicas', z.strictObject({ node: z.string().nullish() }), {
    summary: 'Make one more replica',
    answer: shapes.volume,
    handle: (api, params, { node }) => api.addReplica(parameter(params, 'name'), node ?? null),
  }),
  change('DELETE', '/volumes/{name}/replicas/{id}', z.strictObject({ replace: z.boolean().optional() }), {
    summary: 'Let a replica go',
    answer: shapes.volume,
    handle: (api, params, { replace }) =>
      api.removeReplica(parameter(params, 'name'), { replicaId: parameter(params, 'id'), replace: replace ?? false }),
  }),
  change('POST', '/volumes/{name}/scrub', z.strictObject({ bytesPerSecond: z.int().nonnegative().nullish() }), {
    summary: 'Re-read and check every replica of a volume',
    answer: shapes.volume,
    handle: (api, params, { bytesPerSecond }) => api.scrubVolume(parameter(params, 'name'), bytesPerSecond ?? null),
  }),
  change('POST', '/volumes/{name}/detach', z.strictObject({ force: z.boolean().optional() }), {
    summary: 'Stop serving a volume',
    answer: shapes.volume,
    handle: (api, params, { force }) => api.detachVolume(parameter(params, 'name'), force ?? false),
  }),
  change('POST', '/volumes/{name}/move', z.strictObject({ node: z.string() }), {
    summary: 'Serve an attached volume on another node',
    answer: shapes.attachment,
    handle: (api, params, { node }) => api.moveVolume(parameter(params, 'name'), node),
  }),
  change('POST', '/volumes/{name}/resize', z.strictObject({ size: z.number() }), {
    summary: 'Make a volume larger',
    answer: shapes.volume,
    handle: (api, params, { size }) => api.resizeVolume(parameter(params, 'name'), size),
  }),
  get('/volumes/{name}/snapshots', {
    summary: 'The snapshots of a volume, oldest first',
    answer: z.array(shapes.snapshot),
    handle: (api, params) => api.listSnapshots(parameter(params, 'name')),
  }),
  change('POST', '/volumes/{name}/snapshots', z.strictObject({ name: z.string().nullish() }), {
    summary: 'Take a snapshot',
    answer: shapes.snapshot,
    handle: (api, params, { name }) => api.createSnapshot(parameter(params, 'name'), name ?? null),
  }),
  change('DELETE', '/volumes/{name}/snapshots/{snapshot}', nothing, {
    summary: 'Delete a snapshot; what it held alone is given back in the background',
    answer: shapes.snapshotDeletion,
    handle: (api, params) => api.deleteSnapshot(parameter(params, 'name'), parameter(params, 'snapshot')),
  }),
  get(
    '/volumes/{name}/snapshots/{snapshot}/files',
    {
      summary: 'What a folder in a snapshot holds: ?path=/etc&partition=1',
      query: { path: 'string', partition: 'integer' },
      answer: shapes.folder,
      handle: (api, params, _, query) => api.listSnapshotFiles(filesInput(params, query)),
    },
    'operator',
  ),
  {
    method: 'GET',
    path: '/volumes/{name}/snapshots/{snapshot}/content',
    summary: 'A file in a snapshot, or with recursive=true a folder, as frames: ?path=/etc/hosts&partition=1',
    query: { path: 'string', partition: 'integer', recursive: 'boolean' },
    role: 'operator',
    body: null,
    answer: z.unknown(),
    handle: () => Promise.reject(new HoldfastError('UNIMPLEMENTED', 'this is a stream')),
    stream: (api, { params, query }, signal) =>
      api.readSnapshotFiles({ ...filesInput(params, query), recursive: query.get('recursive') === 'true' }, signal),
  },
  change('POST', '/volumes/{name}/revert', z.strictObject({ snapshot: z.string() }), {
    summary: 'Make a detached volume hold what a snapshot holds',
    answer: shapes.volume,
    handle: (api, params, { snapshot }) => api.revertVolume(parameter(params, 'name'), snapshot),
  }),
  change(
    'POST',
    '/volumes/{name}/clone',
    z.strictObject({ name: z.string(), snapshot: z.string().nullish(), linked: z.boolean().optional() }),
    {
      summary: 'Make a new volume with what this one, or a snapshot of it, holds',
      answer: shapes.volume,
      handle: (api, params, { name, snapshot, linked }) =>
        api.cloneVolume({ source: parameter(params, 'name'), snapshot: snapshot ?? null, name, linked }),
    },
  ),
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
  get('/nodes/{node}', {
    summary: 'A node',
    answer: shapes.node,
    handle: (api, params) => api.getNode(parameter(params, 'node')),
  }),
  change('PATCH', '/nodes/{node}', shapes.changeNode, {
    summary: 'Set the zone of a node, cordon it, drain it, or end that',
    answer: shapes.emptying,
    handle: async (api, params, { zone, cordoned, draining }) => {
      const node = parameter(params, 'node');
      await api.changeNode(node, given({ zone, cordoned, draining }));
      return await api.getEmptying(node, null);
    },
  }),
  get('/nodes/{node}/emptying', {
    summary: 'What a drain of the node has to move, and what blocks it',
    answer: shapes.emptying,
    handle: (api, params) => api.getEmptying(parameter(params, 'node'), null),
  }),
  change('POST', '/nodes/{node}/disks', shapes.addDisk, {
    summary: 'Add a disk to a node',
    answer: shapes.empty,
    handle: async (api, params, disk) => {
      await api.addDisk({ node: parameter(params, 'node'), ...disk });
      return {};
    },
  }),
  change('PATCH', '/nodes/{node}/disks/{disk}', shapes.changeDisk, {
    summary: 'Set tags and class of a disk, cordon it, evict it, or end that',
    answer: shapes.emptying,
    handle: async (api, params, { tags, class: diskClass, cordoned, evicting }) => {
      const [node, disk] = [parameter(params, 'node'), parameter(params, 'disk')];
      await api.changeDisk(node, disk, given({ tags, class: diskClass, cordoned, evicting }));
      return await api.getEmptying(node, disk);
    },
  }),
  change('DELETE', '/nodes/{node}/disks/{disk}', nothing, {
    summary: 'Take an empty disk out of the cluster',
    query: { force: 'boolean' },
    answer: shapes.empty,
    handle: async (api, params, _, query) => {
      await api.removeDisk(parameter(params, 'node'), parameter(params, 'disk'), query.get('force') === 'true');
      return {};
    },
  }),
  get('/nodes/{node}/disks/{disk}/emptying', {
    summary: 'What an eviction of the disk has to move, and what blocks it',
    answer: shapes.emptying,
    handle: (api, params) => api.getEmptying(parameter(params, 'node'), parameter(params, 'disk')),
  }),
  get('/trash', { summary: 'Deleted volumes', answer: z.array(shapes.trashed), handle: (api) => api.listTrash() }),
  change('POST', '/trash/{id}/restore', z.strictObject({ name: z.string().nullish() }), {
    summary: 'Bring a deleted volume back; the id, or its name',
    answer: shapes.volume,
    handle: async (api, params, { name }) =>
      await api.getVolume(await api.restoreVolume(parameter(params, 'id'), name ?? null)),
  }),
  change('DELETE', '/trash/{id}', nothing, {
    summary: 'Delete a volume of the trash for good',
    answer: shapes.purged,
    handle: async (api, params) => ({ pendingReplicas: await api.purgeVolume(parameter(params, 'id')) }),
  }),
  get('/settings', {
    summary: 'What holds for the whole cluster',
    answer: shapes.settings,
    handle: (api) => api.getSettings(),
  }),
  change(
    'PATCH',
    '/settings',
    shapes.changeSettings,
    { summary: 'Change settings', answer: shapes.settings, handle: (api, _, body) => api.changeSettings(body) },
    'admin',
  ),
  get('/policies', { summary: 'Policies', answer: z.array(shapes.policy), handle: (api) => api.listPolicies() }),
  change('PUT', '/policies', shapes.putPolicy, {
    summary: 'Make or replace a policy; volumes that have been made with it stay as they are',
    answer: shapes.policy,
    handle: (api, _, { constraints, ...rest }) => api.putPolicy({ ...rest, constraints: given(constraints ?? {}) }),
  }),
  change('DELETE', '/policies/{name}', nothing, {
    summary: 'Delete a policy that no volume has',
    answer: shapes.empty,
    handle: async (api, params) => {
      await api.removePolicy(parameter(params, 'name'));
      return {};
    },
  }),
  get(
    '/tokens',
    { summary: 'API tokens, without their secrets', answer: z.array(shapes.token), handle: (api) => api.listTokens() },
    'admin',
  ),
  change(
    'POST',
    '/tokens',
    shapes.createToken,
    {
      summary: 'Make an API token; its text is told only once',
      answer: shapes.madeToken,
      handle: (api, _, body) => api.createToken(body),
    },
    'admin',
  ),
  change(
    'DELETE',
    '/tokens/{id}',
    nothing,
    {
      summary: 'End a token at once',
      answer: shapes.empty,
      handle: async (api, params) => {
        await api.removeToken(parameter(params, 'id'));
        return {};
      },
    },
    'admin',
  ),
  {
    method: 'POST',
    path: '/certificates',
    summary: 'Certify a node of the cluster',
    role: 'agent',
    body: shapes.certificateRequest,
    answer: shapes.issuedCertificate,
    handle: (api, { body, certificate }) =>
      api.certifyNode(body as z.infer<typeof shapes.certificateRequest>, certificate),
  },
  get('/disks', { summary: 'All disks', answer: z.array(shapes.disk), handle: (api) => api.listDisks() }),
  get('/processes', {
    summary: 'All processes',
    answer: z.array(shapes.process),
    handle: (api) => api.listProcesses(),
  }),
];
