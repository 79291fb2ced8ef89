// Who calls, and what that caller may do. Without authentication (a cluster on loopback) everybody is an admin.
import { HoldfastError } from '../errors/holdfast-error.js';
import { parseToken, secretMatches } from '../security/tokens.js';
import type { Role } from './records.js';
import type { Repository } from './repository.js';

export type Caller = { readonly token: string | null; readonly role: Role };

export type AccessControl = {
  /** UNAUTHENTICATED when the header carries no valid token; PERMISSION_DENIED when its role does not do. */
  readonly admit: (authorization: string | null, needed: Role) => Promise<Caller>;
};

const everybody: Caller = { token: null, role: 'admin' };
export const openAccess: AccessControl = { admit: () => Promise.resolve(everybody) };

const rank: Readonly<Record<Exclude<Role, 'agent'>, number>> = { 'read-only': 0, operator: 1, admin: 2 };

export function tokenAccess(repository: Repository, now: () => Date): AccessControl {
  return {
    admit: async (authorization, needed) => {
      const caller = await authenticate(repository, now(), authorization);
      if (may(caller.role, needed)) return caller;
      throw new HoldfastError(
        'PERMISSION_DENIED',
        `this needs a token with the role ${needed}; the role of token ${caller.token ?? ''} is ${caller.role}`,
      );
    },
  };
}

export function may(role: Role, needed: Role): boolean {
  if (needed === 'agent') return role === 'agent' || role === 'admin';
  if (role === 'agent') return needed === 'read-only';
  return rank[role] >= rank[needed];
}

async function authenticate(repository: Repository, now: Date, authorization: string | null): Promise<Caller> {
  const text = /^Bearer (\S+)$/i.exec(authorization ?? '')?.[1];
  if (text === undefined) {
    throw new HoldfastError(
      'UNAUTHENTICATED',
      'this cluster asks for a token: give it with --token-file, HOLDFAST_TOKEN or HOLDFAST_TOKEN_FILE',
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
