// API tokens: "hf_ID_SECRET" or "hf_ID_SECRET_FINGERPRINT". The store keeps the id and a hash; the secret is shown once. Secrets have
// 256 random bits, so a plain SHA-256 is enough, and checking one costs nothing. The fingerprint is that of the cluster's
// authority: who has it speaks TLS to managers on other hosts, and to nobody but them.
//
// A join token is what a new host needs to become part of a cluster: the addresses of the managers and an agent's token.
import { createHash, timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import { HoldfastError } from '../errors/holdfast-error.js';

const tokenPattern = /^hf_([0-9a-f]{12})_([A-Za-z0-9_-]{43})(?:_([A-Za-z0-9_-]{43}))?$/;

export type MadeToken = { readonly id: string; readonly hash: string; readonly text: string };

/** `fingerprint` of the authority; null: a cluster without one. */
export function makeToken(random: (bytes: number) => Buffer, fingerprint: string | null): MadeToken {
  const id = random(6).toString('hex');
  const secret = random(32).toString('base64url');
  return { id, hash: hashOf(secret), text: `hf_${id}_${secret}${fingerprint === null ? '' : `_${fingerprint}`}` };
}

export function parseToken(text: string): { readonly id: string; readonly secret: string } | null {
  const match = tokenPattern.exec(text);
  return match === null ? null : { id: match[1] ?? '', secret: match[2] ?? '' };
}

/** Of the authority that managers must have a certificate of; null when the token names none. */
export function fingerprintIn(token: string | null): string | null {
  return (token === null ? null : tokenPattern.exec(token)?.[3]) ?? null;
}

export function secretMatches(secret: string, hash: string): boolean {
  const [given, wanted] = [Buffer.from(hashOf(secret), 'hex'), Buffer.from(hash, 'hex')];
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

/** The same token, naming another authority. */
export function withFingerprint(token: string, fingerprint: string): string {
  const given = parseToken(token);
  if (given === null) throw new HoldfastError('INVALID_ARGUMENT', 'this is no token');
  return `hf_${given.id}_${given.secret}_${fingerprint}`;
}

function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}

const joinSchema = z.strictObject({ managers: z.array(z.string()).min(1), token: z.string() });
export type JoinToken = z.infer<typeof joinSchema>;

export function formatJoinToken(join: JoinToken): string {
  return `join_${Buffer.from(JSON.stringify(join)).toString('base64url')}`;
}

export function parseJoinToken(text: string): JoinToken {
  try {
    const json = Buffer.from(text.replace(/^join_/, ''), 'base64url').toString('utf8');
    return joinSchema.parse(JSON.parse(json));
  } catch {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      'this is no join token: "holdfast token create --role agent" prints one on a host of the cluster',
    );
  }
}
