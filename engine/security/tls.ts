// TLS between processes of different hosts: 1.3, with certificates of the cluster's authority on both sides. What stays on this host
// (loopback, unix sockets) is plain. The common name of a certificate is a role, a blank, and a name: "node host3", "manager host1".
import { X509Certificate } from 'node:crypto';
import { createServer } from 'node:tls';
import type { PeerCertificate, Server as TlsServer, TlsOptions, TLSSocket } from 'node:tls';
import { credentials } from '@grpc/grpc-js';
import type { ChannelCredentials } from '@grpc/grpc-js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { isLoopback, parseHostPort } from '../os/addresses.js';
import { clusterHostName } from './certificates.js';
import type { Identity, IdentitySource } from './identity.js';

export type PeerRole = 'node' | 'manager';

/** HOST:PORT or unix:PATH that is never left unencrypted. */
export function needsTls(address: string): boolean {
  return !address.startsWith('unix:') && !isLoopback(parseHostPort(address, 'address').host);
}

/** As sockets name it. */
export function isLoopbackAddress(address: string | undefined): boolean {
  return address !== undefined && isLoopback(address.replace(/^::ffff:/, ''));
}

export function roleOf(commonName: string): { readonly role: string; readonly name: string } {
  const [role = '', ...name] = commonName.split(' ');
  return { role, name: name.join(' ') };
}

/** Undefined for the right one, as `checkServerIdentity` has it. */
function roleError(certificate: PeerCertificate, wanted: PeerRole): Error | undefined {
  const name = commonNameOf(certificate);
  if (roleOf(name).role === wanted) return undefined;
  return new HoldfastError('PERMISSION_DENIED', `the certificate of "${name}" is not that of a ${wanted}`);
}

export function commonNameOf({ subject }: Pick<PeerCertificate, 'subject'>): string {
  const name: unknown = subject.CN;
  return typeof name === 'string' ? name : '';
}

/** Give the channel `tlsChannelOptions`, too. `source` null: a cluster without an authority, or a process on its own. */
export function credentialsFor(address: string, source: IdentitySource | null, peer: PeerRole): ChannelCredentials {
  if (source === null || !needsTls(address)) return credentials.createInsecure();
  const { authority, certificate, key } = source.current();
  return credentials.createSsl(Buffer.from(authority), Buffer.from(key), Buffer.from(certificate), {
    checkServerIdentity: (_, shown) => roleError(shown, peer),
  });
}

export const tlsChannelOptions = { 'grpc.ssl_target_name_override': clusterHostName };

function contextOf({ authority, certificate, key }: Identity) {
  return { ca: authority, cert: certificate, key, minVersion: 'TLSv1.3' as const };
}

/**
 * Never listens: connections are given to it with `emit('connection', socket)`. Shows new certificates once there are any. The end of
 * `source` is the end of the process.
 */
export function secureServer(
  source: IdentitySource,
  options: Pick<TlsOptions, 'ALPNProtocols' | 'rejectUnauthorized'>,
): TlsServer {
  const server = createServer({ ...contextOf(source.current()), ...options, requestCert: true });
  source.subscribe((identity) => {
    server.setSecureContext(contextOf(identity));
  });
  return server;
}

/** Who is at the other end: the common name of its certificate; null without one; why its certificate is not believed. */
export type ShownCertificate =
  | { readonly kind: 'none' }
  | { readonly kind: 'good'; readonly name: string }
  | { readonly kind: 'bad'; readonly why: string };

export function shownCertificate(socket: TLSSocket): ShownCertificate {
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) return { kind: 'none' };
  const name = certificateName(certificate);
  if (socket.authorized) return { kind: 'good', name };
  // Node says it with a string where its types say Error.
  const reason: unknown = socket.authorizationError;
  const why = reason instanceof Error ? reason.message : String(reason);
  return { kind: 'bad', why: `the certificate of "${name}" is refused: ${why}` };
}

export function certificateName(certificate: X509Certificate): string {
  return /^CN=(.*)$/m.exec(certificate.subject)?.[1] ?? '';
}

/** When it ends; null when it cannot be read. */
export function expiryOf(certificate: string): Date | null {
  try {
    return new Date(new X509Certificate(certificate).validTo);
  } catch {
    return null;
  }
}
