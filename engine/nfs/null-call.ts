// Whether an NFS server answers: the NULL procedure over TCP. Source: RFC 5531 (ONC RPC), RFC 7530 section 16.1.
import { createConnection } from 'node:net';

const nfsProgram = 100_003;

/** True when it answered in time. */
export async function nullCall(address: string, port: number, version: 3 | 4, timeoutMs: number): Promise<boolean> {
  return await rpcNullCall({ address, port, program: nfsProgram, version }, timeoutMs);
}

export type RpcServer = {
  readonly address: string;
  readonly port: number;
  readonly program: number;
  readonly version: number;
};

/** The same of any program of ONC RPC. */
export async function rpcNullCall({ address, port, program, version }: RpcServer, timeoutMs: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = createConnection({ host: address, port });
    const finish = (answered: boolean) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answered);
    };
    const timer = setTimeout(() => {
      finish(false);
    }, timeoutMs);
    const received: Buffer[] = [];
    socket.once('connect', () => socket.write(callMessage(program, version)));
    socket.on('error', () => {
      finish(false);
    });
    socket.on('close', () => {
      finish(false);
    });
    socket.on('data', (part: Buffer) => {
      received.push(part);
      const reply = Buffer.concat(received);
      if (reply.length >= 28) finish(isSuccess(reply));
    });
  });
}

// Record mark, transaction id, CALL, RPC version 2, program, version, procedure 0, no credentials, no verifier.
function callMessage(program: number, version: number): Buffer {
  const words = [0x8000_0000 + 40, 1, 0, 2, program, version, 0, 0, 0, 0, 0];
  const message = Buffer.alloc(words.length * 4);
  words.forEach((word, index) => message.writeUInt32BE(word, index * 4));
  return message;
}

// Record mark, transaction id, REPLY, MSG_ACCEPTED, verifier (two words), SUCCESS.
function isSuccess(reply: Buffer): boolean {
  const word = (index: number) => reply.readUInt32BE(index * 4);
  return word(1) === 1 && word(2) === 1 && word(3) === 0 && word(6) === 0;
}
