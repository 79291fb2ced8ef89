/** Compares the replicas of a volume through the public replica API, as any gRPC client could. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';

import { credentials, loadPackageDefinition, type ClientReadableStream, type ServiceError } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

import { root, type ReplicaRow } from './cluster.js';

interface ReplicaState {
  size_blocks: string;
  last_epoch: string;
  last_seq: string;
  complete: boolean;
}
interface ReadResponse {
  id: string;
  error: number;
  message: string;
  present: Buffer;
  crc: Buffer;
  data: Buffer;
}
interface Duplex extends ClientReadableStream<ReadResponse> {
  write(message: object): boolean;
  end(): void;
}
interface ReplicaClient {
  GetReplica(request: object, done: (error: ServiceError | null, state?: ReplicaState) => void): void;
  Read(): Duplex;
  close(): void;
}

const definition = loadPackageDefinition(
  loadSync(join(root, 'proto/holdfast/v1/replica.proto'), { keepCase: true, longs: String, defaults: true }),
) as unknown as {
  holdfast: { v1: { Replica: new (address: string, credentials: unknown, options: object) => ReplicaClient } };
};

export interface ReplicaContent {
  readonly replica: string;
  readonly lastEpoch: string;
  readonly lastSeq: string;
  readonly complete: boolean;
  /** SHA-256 over every block of the volume in order; an absent block counts as zeros. */
  readonly sha256: string;
}

const zeros = Buffer.alloc(4096);
const blocksPerRead = 256;

/**
 * Reads a whole replica, or a snapshot of it (its id, as shown: hex). The volume must be detached, so that nothing changes
 * meanwhile.
 */
export async function replicaContent(row: ReplicaRow, snapshot?: string): Promise<ReplicaContent> {
  const client = new definition.holdfast.v1.Replica(row.address, credentials.createInsecure(), {
    'grpc.max_receive_message_length': 8 << 20,
  });
  try {
    const replicaId = BigInt(`0x${row.id}`).toString();
    const state = await new Promise<ReplicaState & { promised_epoch: string }>((resolve, reject) => {
      client.GetReplica({ replica_id: replicaId }, (error, answer) => {
        if (error || !answer) reject(error ?? new Error('no answer'));
        else resolve(answer as ReplicaState & { promised_epoch: string });
      });
    });
    const hash = createHash('sha256');
    const total = Number(state.size_blocks);
    const snapshotId = snapshot === undefined ? '0' : BigInt(`0x${snapshot}`).toString();
    const stream = client.Read();
    stream.write({ hello: { replica_id: replicaId, epoch: state.promised_epoch } });
    const answers = stream[Symbol.asyncIterator]();
    for (let first = 0; first < total; first += blocksPerRead) {
      const count = Math.min(blocksPerRead, total - first);
      stream.write({ id: String(first + 1), first_block: String(first), block_count: count, snapshot_id: snapshotId });
      const { value, done } = (await answers.next()) as { value: ReadResponse; done: boolean };
      if (done || value.error !== 0)
        throw new Error(`replica ${row.id}, block ${first}: ${done ? 'ended' : value.message}`);
      let at = 0;
      for (let block = 0; block < count; block++) {
        const present = ((value.present[block >> 3] ?? 0) >> (block & 7)) & 1;
        hash.update(present ? value.data.subarray(at, at + 4096) : zeros);
        if (present) at += 4096;
      }
    }
    stream.end();
    return {
      replica: row.id,
      lastEpoch: state.last_epoch,
      lastSeq: state.last_seq,
      complete: state.complete,
      sha256: hash.digest('hex'),
    };
  } finally {
    client.close();
  }
}
