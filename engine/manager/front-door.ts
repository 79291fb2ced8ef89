// The port of a manager. One port for gRPC and REST: the first bytes of a connection tell which. A gRPC client begins with HTTP/2's
// preface (RFC 9113, section 3.4), everything else is HTTP/1.1. A manager that does not lead passes whole connections on to
// the one that does, so that clients may know any of them.
import { createServer as createHttpServer } from 'node:http';
import type { RequestListener, Server as HttpServer } from 'node:http';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { ServerCredentials } from '@grpc/grpc-js';
import type { Server as GrpcServer } from '@grpc/grpc-js';
import { HoldfastError, systemErrorCode, toHoldfastError } from '../errors/holdfast-error.js';
import { formatHostPort, parseHostPort } from '../os/addresses.js';

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');
const firstBytesTimeoutMs = 10_000;

/** What happens to connections. */
export type Reception =
  | { readonly kind: 'serve'; readonly grpc: GrpcServer; readonly http: RequestListener }
  | { readonly kind: 'forward'; readonly address: string }
  /** Nobody to serve them at this moment: they are closed. */
  | { readonly kind: 'refuse' };

export type FrontDoor = {
  /** HOST:PORT that was bound. */
  readonly address: string;
  /** Replaces the reception and closes all connections of the former one. */
  readonly receive: (reception: Reception) => void;
  readonly close: () => Promise<void>;
};

type Desk = { readonly take: (socket: Socket) => void; readonly close: () => void };

/** Refuses everybody until it is told otherwise. IN_USE when the port is taken. */
export async function openFrontDoor(address: string): Promise<FrontDoor> {
  const { host, port } = parseHostPort(address, 'listen address');
  const sockets = new Set<Socket>();
  let desk = deskOf({ kind: 'refuse' });
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {
      socket.destroy();
    });
    socket.setNoDelay(true);
    desk.take(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(listenError(address, error));
    });
    server.listen({ host, port, exclusive: true }, resolve);
  });
  const bound = server.address();
  const boundPort = typeof bound === 'object' && bound !== null ? bound.port : port;
  const receive = (reception: Reception) => {
    const former = desk;
    desk = deskOf(reception);
    former.close();
    for (const socket of sockets) socket.destroy();
  };
  return {
    address: formatHostPort({ host, port: boundPort }),
    receive,
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      receive({ kind: 'refuse' });
      await closed;
    },
  };
}

function deskOf(reception: Reception): Desk {
  switch (reception.kind) {
    case 'serve':
      return servingDesk(reception.grpc, createHttpServer(reception.http));
    case 'forward':
      return { take: forwardTo(reception.address), close: () => undefined };
    case 'refuse':
      return {
        take: (socket) => {
          socket.destroy();
        },
        close: () => undefined,
      };
  }
}

function servingDesk(grpc: GrpcServer, http: HttpServer): Desk {
  const injector = grpc.createConnectionInjector(ServerCredentials.createInsecure());
  return {
    take: (socket) => {
      sortOut(
        socket,
        () => {
          injector.injectConnection(socket);
        },
        () => {
          http.emit('connection', socket);
        },
      );
    },
    close: () => {
      injector.destroy();
      grpc.forceShutdown();
      http.closeAllConnections();
    },
  };
}

function forwardTo(address: string): (socket: Socket) => void {
  const to = parseHostPort(address, 'address of the leader');
  return (socket) => {
    const onward = connect(to);
    onward.setNoDelay(true);
    const end = () => {
      socket.destroy();
      onward.destroy();
    };
    onward.on('error', end);
    onward.on('close', end);
    socket.on('close', end);
    socket.pipe(onward);
    onward.pipe(socket);
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
