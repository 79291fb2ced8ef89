// What a data-plane process shows to other hosts: the file that its agent keeps, followed for new certificates.
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import { followIdentity } from '../security/identity.js';
import type { IdentitySource } from '../security/identity.js';

/** Null: this process speaks plain. */
export function identityOf(file: string | null, log: Logger): IdentitySource | null {
  if (file === null) return null;
  return followIdentity(file, (error) => {
    log.warn('cannot read the new certificate', errorFields(error));
  });
}
