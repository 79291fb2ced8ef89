// One port for gRPC and REST: the first bytes of a connection tell which. A gRPC client begins with HTTP/2's preface (RFC 9113,
// section 3.4), everything else is HTTP/1.1.
import { createServer as createHttpServer } from 'node:http';
import type { RequestListener } from 'node:http';
import { createServer } from 'node:net';
import type { Socket } from 'node:net';
import { ServerCredentials } from '@grpc/grpc-js';
import type { Server as GrpcServer } from '@grpc/grpc-js';
import { HoldfastError, systemErrorCode, toHoldfastError } from '../errors/holdfast-error.js';
import { formatHostPort, parseHostPort } from '../os/addresses.js';

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');
const firstBytesTimeoutMs = 10_000;

export type ApiListener = {
  /** HOST:PORT that was bound. */
  readonly address: string;
  readonly close: () => Promise<void>;
};

/** IN_USE when the port is taken. */
export async function listenApi(address: string, grpc: GrpcServer, http: RequestListener): Promise<ApiListener> {
  const { host, port } = parseHostPort(address, 'listen address');
  const injector = grpc.createConnectionInjector(ServerCredentials.createInsecure());
  const httpServer = createHttpServer(http);
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {
      socket.destroy();
    });
    socket.setNoDelay(true);
    sortOut(
      socket,
      () => {
        injector.injectConnection(socket);
      },
      () => {
        httpServer.emit('connection', socket);
      },
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(listenError(address, error));
    });
    server.listen({ host, port, exclusive: true }, resolve);
  });
  const bound = server.address();
  const boundPort = typeof bound === 'object' && bound !== null ? bound.port : port;
  return {
    address: formatHostPort({ host, port: boundPort }),
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      injector.destroy();
      grpc.forceShutdown();
      httpServer.closeAllConnections();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

function sortOut(socket: Socket, toGrpc: () => void, toHttp: () => void): void {
  const timer = setTimeout(() => {
    socket.destroy();
  }, firstBytesTimeoutMs);
  socket.on('close', () => {
    clearTimeout(timer);
  });
  let begun = Buffer.alloc(0);
  const look = () => {
    const chunk = socket.read() as Buffer | null;
    if (chunk === null) return;
    begun = Buffer.concat([begun, chunk]);
    const length = Math.min(begun.length, preface.length);
    const likePreface = begun.subarray(0, length).equals(preface.subarray(0, length));
    // No method of HTTP/1.1 is called "PRI", but some begin with "P" or "PR".
    if (likePreface && length < 4) return;
    clearTimeout(timer);
    socket.removeListener('readable', look);
    socket.unshift(begun);
    if (likePreface) toGrpc();
    else toHttp();
  };
  socket.on('readable', look);
}

function listenError(address: string, error: Error): HoldfastError {
  if (systemErrorCode(error) === 'EADDRINUSE') {
    return new HoldfastError(
      'IN_USE',
      `${address} is used by another process: stop it, or choose another address with --api`,
    );
  }
  return new HoldfastError('INVALID_ARGUMENT', `cannot listen on ${address}: ${toHoldfastError(error).message}`);
}
