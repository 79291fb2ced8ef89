// Talks to a replica process with nothing but its public API, proto/holdfast/v1/replica.proto, and grpc-js:
// makes a replica, opens it, appends one block, flushes, reads the block back, checks it, deletes the replica.
//
//   node examples/replica-api/replica-api.mjs HOST:PORT
import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { join } from 'node:path';
import { credentials, loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const BLOCK_BYTES = 4096;

/** CRC32C (Castagnoli, RFC 3720 appendix B.4) of `bytes`. */
function crc32c(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

function littleEndian(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function connect(address) {
  const proto = join(import.meta.dirname, '../../proto/holdfast/v1/replica.proto');
  // Numbers of 64 bits do not fit into a JavaScript number: strings.
  const definition = loadSync(proto, { longs: String, enums: String, defaults: true });
  const { Replica } = loadPackageDefinition(definition).holdfast.v1;
  return new Replica(address, credentials.createInsecure());
}

/** One request, one response; an error tells its Holdfast code, which travels in the trailer "holdfast-code". */
function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, (error, response) => {
      if (!error) return resolve(response);
      const [code] = error.metadata?.get('holdfast-code') ?? [];
      reject(new Error(`${method}: ${code ?? error.code}: ${error.details}`, { cause: error }));
    });
  });
}

/** The next response of `stream` for which `wanted` holds. */
async function response(stream, wanted) {
  for (;;) {
    const [message] = await once(stream, 'data');
    if (wanted(message)) return message;
  }
}

async function main(address) {
  const client = connect(address);
  const replicaId = randomBytes(8).readBigUInt64LE().toString();
  const volumeId = randomBytes(8).readBigUInt64LE().toString();
  const epoch = 1;

  const disk = await call(client, 'getDisk', {});
  console.log(`disk ${disk.diskId}: ${disk.freeBytes} of ${disk.totalBytes} bytes free`);

  // A replica of a new volume of 1 MiB: complete, because there is nothing yet.
  await call(client, 'createReplica', { replicaId, volumeId, sizeBlocks: 256, complete: true });
  // From now on only the owner of this epoch can write.
  const opened = await call(client, 'open', { replicaId, epoch });
  console.log(`opened with epoch ${opened.promisedEpoch}, log ends at seq ${opened.lastSeq}`);

  // The log: entries with rising seq. The first message says who we are.
  const data = randomBytes(BLOCK_BYTES);
  const append = client.append();
  append.write({ hello: { replicaId, epoch } });
  append.write({
    entry: { epoch, seq: 1, op: 'OP_WRITE', firstBlock: 7, blockCount: 1, crc: littleEndian(crc32c(data)), data },
  });
  await response(append, ({ journalledSeq }) => journalledSeq === '1');
  console.log('seq 1 is in the journal: it survives a kill of the process');
  // Every in-sync replica has seq 1 (there is only this one): it may be applied. And make it durable.
  append.write({ committedSeq: 1, flushId: 1 });
  await response(append, ({ flushedId }) => flushedId === '1');
  console.log('flush 1 is done: seq 1 survives a power loss');

  const read = client.read();
  read.write({ hello: { replicaId, epoch }, id: 1, firstBlock: 6, blockCount: 2 });
  const answer = await response(read, ({ id }) => id === '1');
  assert.equal(answer.error, 0, answer.message);
  assert.deepEqual([...answer.present], [0b10], 'block 6 reads as zeros, block 7 holds data');
  assert.equal(answer.crc.readUInt32LE(0), crc32c(answer.data), 'the checksum travels with the data');
  assert.ok(answer.data.equals(data), 'what was written is read');
  console.log('block 7 reads back, checksum and content are right');

  // A higher epoch fences us: our streams end.
  append.on('data', () => {});
  const ended = once(append, 'error');
  read.on('error', () => {});
  await call(client, 'open', { replicaId, epoch: 2 });
  const [error] = await ended;
  assert.deepEqual(error.metadata.get('holdfast-code'), ['EPOCH_SUPERSEDED']);
  console.log('opened with epoch 2: the streams of epoch 1 have ended with EPOCH_SUPERSEDED');

  await call(client, 'deleteReplica', { replicaId });
  client.close();
  console.log('ok');
}

const [address] = process.argv.slice(2);
if (address === undefined) {
  console.error('usage: node examples/replica-api/replica-api.mjs HOST:PORT');
  process.exitCode = 2;
} else {
  await main(address);
}
