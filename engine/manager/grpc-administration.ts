// The methods of service Manager that are routes of REST and nothing else (grpc-twins.ts): nodes, disks, trash, settings, policies, tokens,
// events, files in snapshots.
import type { handleServerStreamingCall, ServerWritableStream } from '@grpc/grpc-js';
import { toGrpcStatus } from '../errors/grpc-errors.js';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import {
  ClusterStatus,
  Emptying,
  Empty,
  Event,
  Explanation,
  FilesChunk,
  IssuedCertificate,
  ListEventsResponse,
  ListPoliciesResponse,
  ListTokensResponse,
  ListTrashResponse,
  MadeToken,
  Metrics,
  Policy,
  PurgeVolumeResponse,
  Settings,
  SnapshotFolder,
} from '../generated/holdfast/v1/administration.js';
import { Node, Volume } from '../generated/holdfast/v1/manager.js';
import type { ManagerServer } from '../generated/holdfast/v1/manager.js';
import type { ManagerApi } from './api.js';
import type { Connection } from './front-door.js';
import { authorizationOf, unaryOf } from './entrance.js';
import type { Entrance } from './entrance.js';
import { routeOf, routeRequest } from './grpc-twins.js';
import type { Role } from './records.js';

export type TwinService = Pick<
  ManagerServer,
  | 'getStatus'
  | 'getMetrics'
  | 'listEvents'
  | 'watchEvents'
  | 'explainVolume'
  | 'getNode'
  | 'setNode'
  | 'getNodeEmptying'
  | 'addDisk'
  | 'setDisk'
  | 'removeDisk'
  | 'getDiskEmptying'
  | 'certifyNode'
  | 'listTrash'
  | 'restoreVolume'
  | 'purgeVolume'
  | 'getSettings'
  | 'setSettings'
  | 'listPolicies'
  | 'putPolicy'
  | 'deletePolicy'
  | 'listTokens'
  | 'createToken'
  | 'deleteToken'
  | 'listSnapshotFiles'
  | 'readSnapshotFiles'
>;

/** What the route of that method answers, as JSON. */
export async function answerLike(
  api: ManagerApi,
  method: string,
  message: object,
  from: Connection | null,
): Promise<unknown> {
  const route = routeOf(method);
  return await route.handle(api, routeRequest(route, message, from?.certificate ?? null));
}

type Decoder<T> = { readonly fromJSON: (value: unknown) => T };

export function twinService(api: ManagerApi, entrance: Entrance): TwinService {
  const unary = unaryOf(entrance);
  // `list`: the field of the message that holds what REST answers as a list.
  const twin = <Request extends object, Response>(method: string, answer: Decoder<Response>, list?: string) =>
    unary<Request, Response>(routeOf(method).role, async (request, from) => {
      const json = await answerLike(api, method, request, from);
      return answer.fromJSON(list === undefined ? json : { [list]: json });
    });
  return {
    getStatus: twin('GetStatus', ClusterStatus),
    getMetrics: unary('read-only', async () => Metrics.fromPartial({ text: await api.getMetrics() })),
    listEvents: twin('ListEvents', ListEventsResponse, 'events'),
    watchEvents: streaming(entrance, 'read-only', (_, signal) =>
      mapped(api.watchEvents(signal), (event) => Event.fromJSON(event)),
    ),
    explainVolume: twin('ExplainVolume', Explanation),
    getNode: twin('GetNode', Node),
    setNode: twin('SetNode', Emptying),
    getNodeEmptying: twin('GetNodeEmptying', Emptying),
    addDisk: twin('AddDisk', Empty),
    setDisk: twin('SetDisk', Emptying),
    removeDisk: twin('RemoveDisk', Empty),
    getDiskEmptying: twin('GetDiskEmptying', Emptying),
    certifyNode: twin('CertifyNode', IssuedCertificate),
    listTrash: twin('ListTrash', ListTrashResponse, 'volumes'),
    restoreVolume: twin('RestoreVolume', Volume),
    purgeVolume: twin('PurgeVolume', PurgeVolumeResponse),
    getSettings: twin('GetSettings', Settings),
    setSettings: twin('SetSettings', Settings),
    listPolicies: twin('ListPolicies', ListPoliciesResponse, 'policies'),
    putPolicy: twin('PutPolicy', Policy),
    deletePolicy: twin('DeletePolicy', Empty),
    listTokens: twin('ListTokens', ListTokensResponse, 'tokens'),
    createToken: twin('CreateToken', MadeToken),
    deleteToken: twin('DeleteToken', Empty),
    listSnapshotFiles: twin('ListSnapshotFiles', SnapshotFolder),
    readSnapshotFiles: streaming(entrance, routeOf('ReadSnapshotFiles').role, (request, signal) => {
      const route = routeOf('ReadSnapshotFiles');
      if (route.stream === undefined) throw new HoldfastError('INTERNAL', `${route.path} is no stream`);
      const parts = route.stream(api, routeRequest(route, request, null), signal);
      return mapped(parts, (frames) => FilesChunk.fromPartial({ frames }));
    }),
  };
}

async function* mapped<From, To>(source: AsyncIterable<From>, change: (value: From) => To): AsyncGenerator<To> {
  for await (const value of source) yield change(value);
}

// Until the source or the client ends it. What is read but changes something, or shows content, is noted like a change.
function streaming<Request, Response>(
  { access, audit, connection }: Entrance,
  role: Role,
  open: (request: Request, signal: AbortSignal) => AsyncIterable<Response>,
): handleServerStreamingCall<Request, Response> {
  return (call) => {
    const run = async () => {
      const gone = new AbortController();
      call.on('cancelled', () => {
        gone.abort();
      });
      const note = { peer: call.getPeer(), what: call.getPath(), body: call.request };
      const caller = await access.admit(authorizationOf(call.metadata), role, connection(note.peer));
      for await (const message of open(call.request, gone.signal)) await written(call, message, gone.signal);
      if (role !== 'read-only') audit.write({ caller, ...note, outcome: 'done' });
      call.end();
    };
    run().catch((error: unknown) => {
      if (role !== 'read-only') {
        const note = { peer: call.getPeer(), what: call.getPath(), body: call.request };
        audit.write({ caller: null, ...note, outcome: toHoldfastError(error).code });
      }
      call.emit('error', toGrpcStatus(error));
    });
  };
}

async function written<Request, Response>(
  call: ServerWritableStream<Request, Response>,
  message: Response,
  signal: AbortSignal,
): Promise<void> {
  if (signal.aborted || call.write(message)) return;
  await new Promise<void>((resolve) => {
    call.once('drain', resolve);
    signal.addEventListener(
      'abort',
      () => {
        resolve();
      },
      { once: true },
    );
  });
}
