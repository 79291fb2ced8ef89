// The port of a manager. One port for gRPC and REST: the first bytes of a connection tell which. A gRPC client begins with HTTP/2's
// preface (RFC 9113, section 3.4), a TLS one with a handshake record, and inside TLS it is looked again; everything else is HTTP/1.1.
// Connections from other hosts must use TLS; their certificate is optional here (people have tokens), but never a wrong one. A manager that does not lead passes whole connections on to
// the one that does, so that clients may know any of them.
import { createServer as createHttpServer } from 'node:http';
import type { RequestListener, Server as HttpServer } from 'node:http';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { ServerCredentials } from '@grpc/grpc-js';
import type { Server as GrpcServer } from '@grpc/grpc-js';
import { HoldfastError, systemErrorCode, toHoldfastError } from '../errors/holdfast-error.js';
import { formatHostPort, parseHostPort } from '../os/addresses.js';
import type { Logger } from '../log/logger.js';
import { socketOwner } from '../os/socket-owner.js';
import type { IdentitySource } from '../security/identity.js';
import { isLoopbackAddress, secureServer, shownCertificate } from '../security/tls.js';

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');
const firstBytesTimeoutMs = 10_000;
const handshakeRecord = 22;

/** What happens to connections. */
export type Reception =
  | { readonly kind: 'serve'; readonly grpc: GrpcServer; readonly http: RequestListener }
  | { readonly kind: 'forward'; readonly address: string }
  /** Nobody to serve them at this moment: they are closed. */
  | { readonly kind: 'refuse' };

/** What is known of who is at the other end. */
export type Connection = {
  /** Plain ones are of this host. */
  readonly kind: 'plain' | 'tls';
  /** Common name of the certificate that it shows; null: none. */
  readonly certificate: string | null;
  /** The user who runs the other end, when that is on this host and the kernel knows. */
  readonly user: () => number | null;
};

export type FrontDoor = {
  /** By address and port as sockets and gRPC give them: "127.0.0.1:40000". */
  readonly connection: (peer: string) => Connection | null;
  /** HOST:PORT that was bound. */
  readonly address: string;
  /** Replaces the reception and closes all connections of the former one. */
  readonly receive: (reception: Reception) => void;
  readonly close: () => Promise<void>;
};

type Desk = { readonly take: (socket: Socket) => void; readonly close: () => void };

/** Refuses everybody until it is told otherwise. `identity` null: everything is plain. IN_USE when the port is taken. */
export async function openFrontDoor(
  address: string,
  identity: IdentitySource | null = null,
  logger: Logger | null = null,
): Promise<FrontDoor> {
  const { host, port } = parseHostPort(address, 'listen address');
  const sockets = new Set<Socket>();
  const connections = new Map<string, Connection>();
  const entry: Entry = {
    identity,
    note: (peer, why) => {
      logger?.warn('refused a connection', { peer, why });
    },
    secured: (socket, certificate) => {
      const peer = peerName(socket);
      connections.set(peer, { kind: 'tls', certificate, user: () => null });
      sockets.add(socket);
      socket.on('close', () => {
        sockets.delete(socket);
        connections.delete(peer);
      });
    },
  };
  let desk = deskOf({ kind: 'refuse' }, entry);
  const server = createServer((socket) => {
    sockets.add(socket);
    const peer = peerName(socket);
    connections.set(peer, plainConnection(socket));
    socket.on('close', () => {
      sockets.delete(socket);
      connections.delete(peer);
    });
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
    desk = deskOf(reception, entry);
    former.close();
    for (const socket of sockets) socket.destroy();
  };
  return {
    address: formatHostPort({ host, port: boundPort }),
    connection: (peer) => connections.get(peer) ?? null,
    receive,
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      receive({ kind: 'refuse' });
      await closed;
    },
  };
}

type Entry = {
  readonly identity: IdentitySource | null;
  /** That somebody was refused. */
  readonly note: (peer: string, why: string) => void;
  readonly secured: (socket: Socket, certificate: string | null) => void;
};

export function peerName({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress ?? ''}:${remotePort ?? 0}`;
}

// Nothing from outside has an address of this host: the kernel drops it (RFC 1812, section 5.3.8).
function isLocal({ remoteAddress, localAddress }: Socket): boolean {
  return isLoopbackAddress(remoteAddress) || (remoteAddress !== undefined && remoteAddress === localAddress);
}

function plainConnection(socket: Socket): Connection {
  let user: number | null | undefined;
  return {
    kind: 'plain',
    certificate: null,
    user: () => {
      user ??= isLocal(socket) ? socketOwner(socket) : null;
      return user;
    },
  };
}

function deskOf(reception: Reception, entry: Entry): Desk {
  switch (reception.kind) {
    case 'serve':
      return servingDesk(reception.grpc, createHttpServer(reception.http), entry);
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

function servingDesk(grpc: GrpcServer, http: HttpServer, { identity, note, secured }: Entry): Desk {
  const injector = grpc.createConnectionInjector(ServerCredentials.createInsecure());
  const serve = (kind: 'grpc' | 'http', socket: Socket) => {
    if (kind === 'grpc') injector.injectConnection(socket);
    else http.emit('connection', socket);
  };
  const tls =
    identity === null ? null : secureServer(identity, { ALPNProtocols: ['h2', 'http/1.1'], rejectUnauthorized: false });
  tls?.on('tlsClientError', (error, socket) => {
    note(socket.remoteAddress ?? '', error.message);
    socket.destroy();
  });
  tls?.on('secureConnection', (socket) => {
    socket.on('error', () => {
      socket.destroy();
    });
    const shown = shownCertificate(socket);
    secured(socket, shown.kind === 'good' ? shown.name : null);
    sortOut(socket, (kind) => {
      if (kind === 'tls') socket.destroy();
      else if (shown.kind === 'bad') refuse(socket, kind, shown.why, note);
      else serve(kind, socket);
    });
  });
  return {
    take: (socket) => {
      sortOut(socket, (kind) => {
        if (kind === 'tls') {
          if (tls === null) socket.destroy();
          else tls.emit('connection', socket);
        } else if (tls !== null && !isLocal(socket)) {
          refuse(socket, kind, 'TLS is needed here: use https:// and a token of this cluster', note);
        } else {
          serve(kind, socket);
        }
      });
    },
    close: () => {
      injector.destroy();
      grpc.forceShutdown();
      http.closeAllConnections();
    },
  };
}

// Says why, in the peer's own protocol, and hangs up.
function refuse(socket: Socket, kind: 'grpc' | 'http', why: string, note: Entry['note']): void {
  note(socket.remoteAddress ?? '', why);
  if (kind === 'http') {
    const body = JSON.stringify({ error: { code: 'UNAUTHENTICATED', message: why } }) + '\n';
    socket.end(
      `HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
    );
    return;
  }
  // SETTINGS, then GOAWAY with INADEQUATE_SECURITY (RFC 9113, sections 6.5 and 6.8).
  const text = Buffer.from(why, 'utf8');
  const head = Buffer.alloc(9 + 9 + 8);
  head[3] = 0x04;
  head.writeUIntBE(8 + text.length, 9, 3);
  head[12] = 0x07;
  head[25] = 0x0c;
  socket.end(Buffer.concat([head, text]));
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

function sortOut(socket: Socket, done: (kind: 'tls' | 'grpc' | 'http') => void): void {
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
    done(likePreface ? 'grpc' : begun[0] === handshakeRecord ? 'tls' : 'http');
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
