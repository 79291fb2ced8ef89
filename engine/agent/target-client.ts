// What the agent asks of the target process of its own node.
import { Metadata } from '@grpc/grpc-js';
import type { IdentitySource } from '../security/identity.js';
import { credentialsFor, tlsChannelOptions } from '../security/tls.js';
import { fromServiceError } from '../errors/grpc-errors.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { TargetClient } from '../generated/holdfast/v1/target.js';

const deadlineMs = 30_000;
const statusDeadlineMs = 2_000;

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

/** absent: it has no engine there (any more, or not yet). unknown: the target process does not answer. */
export type Serving = 'serving' | 'fenced' | 'absent' | 'unknown';

/** Whether the target process of this node serves a volume. Fenced: another engine owns it. */
export async function servingOf(control: string, volumeId: string, identity: IdentitySource | null): Promise<Serving> {
  if (control === '') return 'unknown';
  const client = new TargetClient(control, credentialsFor(control, identity, 'node'), tlsChannelOptions);
  try {
    return await new Promise<Serving>((resolve) => {
      client.getStatus({}, new Metadata(), { deadline: Date.now() + statusDeadlineMs }, (error, status) => {
        const id = BigInt(`0x${volumeId}`);
        if (error !== null) resolve('unknown');
        else resolve(servingAs(status.volumes.find((volume) => volume.volumeId === id)?.state));
      });
    });
  } finally {
    client.close();
  }
}

function servingAs(state: string | undefined): Serving {
  if (state === undefined) return 'absent';
  return state === 'fenced' ? 'fenced' : 'serving';
}
