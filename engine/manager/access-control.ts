// Who calls, and what that caller may do. A token says it; on the machine itself the kernel does, too: who runs as the manager's user, or as
// root, needs none in a cluster of one machine. The processes of other hosts also show the certificate of their node.
import { HoldfastError } from '../errors/holdfast-error.js';
import { roleOf } from '../security/tls.js';
import { parseToken, secretMatches } from '../security/tokens.js';
import type { Connection } from './front-door.js';
import type { Role } from './records.js';
import type { Repository } from './repository.js';

export type Caller = { readonly token: string | null; readonly role: Role };

export type AccessControl = {
  /** UNAUTHENTICATED when the header carries no valid token; PERMISSION_DENIED when its role does not do. */
  readonly admit: (authorization: string | null, needed: Role, connection: Connection | null) => Promise<Caller>;
};

/** Somebody who is known and may not. */
class Refusal extends HoldfastError {
  readonly caller: Caller;

  constructor(caller: Caller, message: string) {
    super('PERMISSION_DENIED', message);
    this.caller = caller;
  }
}

/** Who was refused with this error; null: nobody, or somebody unknown. */
export function refusedCaller(error: unknown): Caller | null {
  return error instanceof Refusal ? error.caller : null;
}

const rank: Readonly<Record<Exclude<Role, 'agent'>, number>> = { 'read-only': 0, operator: 1, admin: 2 };

/** `ownUser`: of the manager, whose processes need no token; null: everybody needs one. */
export function tokenAccess(repository: Repository, now: () => Date, ownUser: number | null): AccessControl {
  return {
    admit: async (authorization, needed, connection) => {
      if (authorization === null && ownUser !== null && isOwn(connection, ownUser))
        return { token: null, role: 'admin' };
      const caller = await authenticate(repository, now(), authorization, ownUser !== null);
      if (may(caller.role, needed)) return caller;
      throw new Refusal(
        caller,
        `this needs a token with the role ${needed}; the role of token ${caller.token ?? ''} is ${caller.role}`,
      );
    },
  };
}

function isOwn(connection: Connection | null, ownUser: number): boolean {
  const user = connection?.user() ?? null;
  return user !== null && (user === ownUser || user === 0);
}

export function may(role: Role, needed: Role): boolean {
  if (needed === 'agent') return role === 'agent' || role === 'admin';
  if (role === 'agent') return needed === 'read-only';
  return rank[role] >= rank[needed];
}

/** Throws unless what comes over this connection may be said by a node: by `node`, when that is given. */
export function requireNode(connection: Connection | null, node: string | null): void {
  if (connection === null || connection.kind === 'plain') return; // of this host
  if (connection.certificate === null)
    throw new HoldfastError('UNAUTHENTICATED', 'processes of nodes show a certificate of this cluster');
  const shown = roleOf(connection.certificate);
  if (shown.role !== 'node' || (node !== null && shown.name !== node)) {
    throw new HoldfastError(
      'PERMISSION_DENIED',
      `the certificate of "${connection.certificate}" does not speak for ${node === null ? 'a node' : `node "${node}"`}`,
    );
  }
}

async function authenticate(
  repository: Repository,
  now: Date,
  authorization: string | null,
  local: boolean,
): Promise<Caller> {
  const text = /^Bearer (\S+)$/i.exec(authorization ?? '')?.[1];
  if (text === undefined) {
    const exception = local ? ' (only the user who runs it, and root, need none on the same machine)' : '';
    throw new HoldfastError(
      'UNAUTHENTICATED',
      `this cluster asks for a token: give it with --token-file, HOLDFAST_TOKEN or HOLDFAST_TOKEN_FILE${exception}`,
    );
  }
  const given = parseToken(text);
  const record = given === null ? null : await repository.token(given.id);
  const expired = record?.expiresAt != null && Date.parse(record.expiresAt) <= now.getTime();
  if (given === null || record === null || expired || !secretMatches(given.secret, record.hash)) {
    throw new HoldfastError('UNAUTHENTICATED', 'the token is unknown or has expired: ask an admin for another one');
  }
  return { token: record.id, role: record.role };
}
