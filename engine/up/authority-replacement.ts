// Another authority of certificates for the cluster of a host (`holdfast authority replace`): in the store, and in the tokens of the
// host's folder, whose secrets stay. No manager may run meanwhile.
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { HoldfastError } from '../errors/holdfast-error.js';
import { replaceAuthority } from '../manager/authority.js';
import { openStore } from '../metastore/store-options.js';
import { writeFileAtomic, writeJsonAtomic } from '../os/atomic-file.js';
import { createAuthority, fingerprintOf } from '../security/certificates.js';
import { formatJoinToken, parseJoinToken, withFingerprint } from '../security/tokens.js';
import { lockPath } from './cluster-folder.js';
import { takeLock } from './folder-lock.js';
import { authorityFilePath, keepHost, readHostFile } from './host-folder.js';

/** The fingerprint of the new one. */
export async function replaceAuthorityOf(data: string, now: Date): Promise<string> {
  const folder = resolve(data);
  const file = readHostFile(folder);
  if (file?.store == null)
    throw new HoldfastError('INVALID_ARGUMENT', `${folder} is no folder of "holdfast server": give its --data`);
  const release = takeLock(lockPath(folder), folder);
  try {
    const authority = await createAuthority('Holdfast cluster', now);
    const fingerprint = fingerprintOf(authority.certificate);
    const store = await openStore(file.store);
    try {
      await replaceAuthority(store, authority);
    } finally {
      await store.close();
    }
    writeJsonAtomic(authorityFilePath(folder), authority);
    rewrite(join(folder, 'admin-token'), (text) => withFingerprint(text, fingerprint));
    rewrite(join(folder, 'join-token'), (text) => {
      const { managers, token } = parseJoinToken(text);
      return formatJoinToken({ managers, token: withFingerprint(token, fingerprint) });
    });
    keepHost({ folder, made: null, file: { ...file, token: withFingerprint(file.token, fingerprint) } });
    return fingerprint;
  } finally {
    release();
  }
}

function rewrite(path: string, change: (text: string) => string): void {
  if (existsSync(path)) writeFileAtomic(path, change(readFileSync(path, 'utf8').trim()) + '\n');
}
