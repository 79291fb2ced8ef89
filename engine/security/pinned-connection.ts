// A TLS connection to a manager by somebody who knows nothing of the cluster but a token: the token names the authority by its
// fingerprint (tokens.ts). Nothing is sent before the manager has shown a certificate of that authority.
import type { X509Certificate } from 'node:crypto';
import { connect } from 'node:tls';
import type { TLSSocket } from 'node:tls';
import { HoldfastError } from '../errors/holdfast-error.js';
import type { HostPort } from '../os/addresses.js';
import { fingerprintOf } from './certificates.js';
import type { Identity } from './identity.js';
import { certificateName, roleOf } from './tls.js';

/** `identity`: shown where there is one. UNAUTHENTICATED when the other end is not a manager of that authority's cluster. */
export async function connectPinned(
  { host, port }: HostPort,
  fingerprint: string,
  identity: Pick<Identity, 'certificate' | 'key'> | null,
  signal: AbortSignal,
): Promise<TLSSocket> {
  return await new Promise((resolve, reject) => {
    const socket = connect({
      host,
      port,
      minVersion: 'TLSv1.3',
      ALPNProtocols: ['http/1.1'],
      rejectUnauthorized: false, // checked below, by the fingerprint
      ...(identity === null ? {} : { cert: identity.certificate, key: identity.key }),
    });
    const abort = () => {
      socket.destroy(new Error('given up'));
    };
    signal.addEventListener('abort', abort, { once: true });
    socket.once('error', reject);
    socket.once('secureConnect', () => {
      signal.removeEventListener('abort', abort);
      const objection = objectionTo(socket.getPeerX509Certificate(), fingerprint, new Date());
      if (objection === null) {
        socket.removeListener('error', reject);
        resolve(socket);
        return;
      }
      socket.destroy();
      const message = `${host}:${port} is refused: ${objection}`;
      reject(new HoldfastError('UNAUTHENTICATED', message));
    });
  });
}

function objectionTo(shown: X509Certificate | undefined, fingerprint: string, now: Date): string | null {
  const authority = shown?.issuerCertificate;
  if (shown === undefined || authority === undefined) return 'it shows no certificate with that of its authority';
  // The issuer must be what really signed it, and no certificate that was only sent along.
  const signed = authority.ca && shown.checkIssued(authority) && shown.verify(authority.publicKey);
  if (!signed || fingerprintOf(authority.raw) !== fingerprint) {
    return 'its certificate is of another cluster than the token';
  }
  if (now < new Date(shown.validFrom) || now > new Date(shown.validTo)) {
    return `its certificate was valid from ${shown.validFrom} to ${shown.validTo}: are the clocks right?`;
  }
  const name = certificateName(shown);
  return roleOf(name).role === 'manager' ? null : `its certificate is that of "${name}", not of a manager`;
}
