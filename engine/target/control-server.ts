// Where the control API of a target process is served: on loopback to the same user and to root, whom the kernel names; to other hosts
// with TLS, to managers and to processes of the same node only.
import type { AddressInfo, Server as NetServer, Socket } from 'node:net';
import { createServer } from 'node:net';
import { ServerCredentials } from '@grpc/grpc-js';
import type { Server } from '@grpc/grpc-js';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { formatHostPort, parseHostPort } from '../os/addresses.js';
import { isOwnConnection } from '../os/socket-owner.js';
import type { Logger } from '../log/logger.js';
import type { IdentitySource } from '../security/identity.js';
import { isLoopbackAddress, needsTls, roleOf, secureServer, shownCertificate } from '../security/tls.js';

export type ControlServer = { readonly address: string; readonly close: () => void };

/** `identity` null: everything is plain. */
export async function serveControl(
  server: Server,
  address: string,
  node: string,
  identity: IdentitySource | null,
  log: Logger,
): Promise<ControlServer> {
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const refuse = (socket: Socket, why: string) => {
    log.warn('refused a connection to the control API', { peer: socket.remoteAddress ?? '', why });
    socket.destroy();
  };
  const take = (socket: Socket) => {
    const foreign = isLoopbackAddress(socket.remoteAddress) && !isOwnConnection(socket);
    if (foreign) refuse(socket, 'it is of another user');
    else injector.injectConnection(socket);
  };
  const tls =
    identity === null || !needsTls(address)
      ? null
      : secureServer(identity, { ALPNProtocols: ['h2'], rejectUnauthorized: true });
  tls?.on('tlsClientError', (error, socket) => {
    refuse(socket, error.message);
  });
  tls?.on('secureConnection', (socket) => {
    const shown = shownCertificate(socket);
    const { role, name } = roleOf(shown.kind === 'good' ? shown.name : '');
    if (role === 'manager' || (role === 'node' && name === node)) injector.injectConnection(socket);
    else refuse(socket, `the certificate of "${role} ${name}" is neither of a manager nor of this node`);
  });
  const listener = createServer((socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => {
      socket.destroy();
    });
    if (tls === null) take(socket);
    else tls.emit('connection', socket);
  });
  const bound = await bindListener(listener, address);
  return {
    address: bound,
    close: () => {
      listener.close();
      injector.destroy();
      server.forceShutdown();
    },
  };
}

async function bindListener(listener: NetServer, address: string): Promise<string> {
  const { host, port } = parseHostPort(address, 'control');
  return await new Promise((resolve, reject) => {
    listener.once('error', (error) => {
      reject(unusable(address, error));
    });
    listener.listen({ host, port, exclusive: true }, () => {
      resolve(formatHostPort({ host, port: (listener.address() as AddressInfo).port }));
    });
  });
}

function unusable(address: string, error: unknown): HoldfastError {
  return new HoldfastError(
    'IN_USE',
    `the control address ${address} cannot be used: ${toHoldfastError(error).message}`,
  );
}
