// What every request passes, by REST or gRPC: who calls, whether that caller may, and a note of what it changes.
import type { handleUnaryCall, Metadata } from '@grpc/grpc-js';
import { toGrpcStatus } from '../errors/grpc-errors.js';
import { toHoldfastError } from '../errors/holdfast-error.js';
import { refusedCaller } from './access-control.js';
import type { AccessControl, Caller } from './access-control.js';
import type { AuditLog } from './audit-log.js';
import type { Connection } from './front-door.js';
import type { Role } from './records.js';

export type Entrance = {
  readonly access: AccessControl;
  readonly audit: AuditLog;
  readonly connection: (peer: string) => Connection | null;
};

export type Unary = <Request, Response>(
  role: Role,
  handle: (request: Request, from: Connection | null) => Promise<Response>,
) => handleUnaryCall<Request, Response>;

// Admits the caller, and notes what it changes.
export function unaryOf({ access, audit, connection }: Entrance): Unary {
  return (role, handle) => (call, callback) => {
    const run = async () => {
      let caller: Caller | null = null;
      const note = { peer: call.getPeer(), what: call.getPath(), body: call.request };
      try {
        const from = connection(note.peer);
        caller = await access.admit(authorizationOf(call.metadata), role, from);
        const response = await handle(call.request, from);
        if (role !== 'read-only') audit.write({ caller, ...note, outcome: 'done' });
        return response;
      } catch (error) {
        if (role !== 'read-only')
          audit.write({ caller: caller ?? refusedCaller(error), ...note, outcome: toHoldfastError(error).code });
        throw error;
      }
    };
    run().then(
      (response) => {
        callback(null, response);
      },
      (error: unknown) => {
        callback(toGrpcStatus(error));
      },
    );
  };
}

export function authorizationOf(metadata: Metadata): string | null {
  const [value] = metadata.get('authorization');
  return typeof value === 'string' ? value : null;
}
