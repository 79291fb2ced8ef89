// What the agent asks of the target process of its own node.
import { Metadata } from '@grpc/grpc-js';
import type { IdentitySource } from '../security/identity.js';
import { credentialsFor, tlsChannelOptions } from '../security/tls.js';
import { fromServiceError } from '../errors/grpc-errors.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { TargetClient } from '../generated/holdfast/v1/target.js';

const deadlineMs = 30_000;

/** Ends the block device of a volume that this node does not serve any more. CONNECTION_LOST while the target does not run. */
export async function dropDevice(control: string, volumeId: string, identity: IdentitySource | null): Promise<void> {
  if (control === '') throw new HoldfastError('CONNECTION_LOST', 'the target process of this node does not run');
  const client = new TargetClient(control, credentialsFor(control, identity, 'node'), tlsChannelOptions);
  try {
    await new Promise<void>((resolve, reject) => {
      const request = { volumeId: BigInt(`0x${volumeId}`), force: true };
      client.unmap(request, new Metadata(), { deadline: Date.now() + deadlineMs }, (error) => {
        if (error === null) resolve();
        else reject(fromServiceError(error, `target process at ${control}`));
      });
    });
  } finally {
    client.close();
  }
}
