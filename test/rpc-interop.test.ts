// native/rpc against grpc-js, in both directions, over real sockets: rpc_echo (native/rpc/rpc_echo_main.cc) as server and
// as client of holdfast.test.Echo.
import { spawn } from 'node:child_process';
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectSocket, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import {
  credentials,
  loadPackageDefinition,
  Metadata,
  Server,
  ServerCredentials,
  status as grpcStatus,
} from '@grpc/grpc-js';
import type {
  ChannelCredentials,
  ClientDuplexStream,
  ClientReadableStream,
  ClientUnaryCall,
  ClientWritableStream,
  GrpcObject,
  sendUnaryData,
  ServerDuplexStream,
  ServerReadableStream,
  ServerUnaryCall,
  ServerWritableStream,
  ServiceClientConstructor,
  ServiceError,
} from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { clusterHostName, createAuthority, issueCertificate } from '../engine/security/certificates.js';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const program = join(process.env['HOLDFAST_NATIVE_BUILD'] ?? join(root, 'build/native'), 'rpc_echo');

type Note = { body: Buffer };
type Done = (error: ServiceError | null, note: Note) => void;
type Options = { deadline?: number };
type UnaryMethod = (note: Note, metadata: Metadata, options: Options, done: Done) => ClientUnaryCall;
/** What the generated client of echo.proto has. */
type EchoClient = {
  say: UnaryMethod;
  metadata: UnaryMethod;
  fail: UnaryMethod;
  hang: UnaryMethod;
  nothing: UnaryMethod;
  collect: (done: Done) => ClientWritableStream<Note>;
  slow: (done: Done) => ClientWritableStream<Note>;
  repeat: (note: Note) => ClientReadableStream<Note>;
  chat: () => ClientDuplexStream<Note, Note>;
  close: () => void;
};

const definition = loadSync(join(root, 'native/rpc/interop/echo.proto'));
const Echo = ((loadPackageDefinition(definition)['holdfast'] as GrpcObject)['test'] as GrpcObject)[
  'Echo'
] as ServiceClientConstructor;

function note(body: string | Buffer): Note {
  return { body: Buffer.from(body) };
}

// ---- rpc_echo as a process ----

const running = new Set<ChildProcessWithoutNullStreams>();

type Program = {
  readonly child: ChildProcessWithoutNullStreams;
  /** The first line not yet taken, as JSON. */
  readonly line: () => Promise<Record<string, unknown>>;
  readonly exited: Promise<number | null>;
};

/** How both sides of a test talk. The folder is for rpc_echo. */
type Transport = {
  readonly name: 'plain' | 'TLS';
  readonly folder: string | null;
  readonly client: () => ChannelCredentials;
  readonly server: () => ServerCredentials;
};

const plain: Transport = {
  name: 'plain',
  folder: null,
  client: () => credentials.createInsecure(),
  server: () => ServerCredentials.createInsecure(),
};
const secure = await makeSecure();

// Certificates as a cluster has them, in the files that rpc_echo reads.
async function makeSecure(): Promise<Transport> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-rpc-tls-'));
  const authority = await createAuthority('test', new Date());
  const { certificate, key } = await issueCertificate(authority, { name: 'node a', hosts: [] }, new Date());
  const files = { 'ca.pem': authority.certificate, 'certificate.pem': certificate, 'key.pem': key };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const [ca, chain, secret] = [authority.certificate, certificate, key].map((text) => Buffer.from(text)) as [
    Buffer,
    Buffer,
    Buffer,
  ];
  return {
    name: 'TLS',
    folder,
    client: () => credentials.createSsl(ca, secret, chain),
    server: () => ServerCredentials.createSsl(ca, [{ private_key: secret, cert_chain: chain }], true),
  };
}

function start(args: readonly string[], { folder } = plain): Program {
  const child = spawn(program, args, {
    env: { ...process.env, ...(folder === null ? {} : { HOLDFAST_ECHO_TLS: folder }) },
  });
  running.add(child);
  child.stderr.pipe(process.stderr);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const exited = once(child, 'exit').then(([code]: unknown[]) => {
    running.delete(child);
    return code as number | null;
  });
  return {
    child,
    exited,
    line: async () => {
      const next = await lines.next();
      if (next.done === true) throw new Error(`rpc_echo ${args.join(' ')} ended`);
      return JSON.parse(next.value) as Record<string, unknown>;
    },
  };
}

afterAll(() => {
  for (const child of running) child.kill('SIGKILL');
  rmSync(secure.folder ?? '', { recursive: true });
});

/** Runs one case of the native client; its answer. */
async function runClient(address: string, name: string, transport = plain): Promise<Record<string, unknown>> {
  const client = start(['client', address, name], transport);
  const answer = await client.line();
  expect(await client.exited).toBe(answer['good'] === true ? 0 : 1);
  return answer;
}

// ---- grpc-js calls the native server ----

describe.each([plain, secure])('grpc-js client, native server, $name', (transport) => {
  let server: Program;
  let address: string;
  let client: EchoClient;

  beforeAll(async () => {
    server = start(['server', '127.0.0.1:0'], transport);
    address = String((await server.line())['address']);
    client = new Echo(address, transport.client(), {
      'grpc.ssl_target_name_override': clusterHostName,
      'grpc.max_receive_message_length': 5 << 20,
    }) as unknown as EchoClient;
  });
  afterAll(() => {
    client.close();
    server.child.stdin.end();
  });

  function ask(method: 'say' | 'metadata' | 'fail' | 'hang', body: string | Buffer, metadata = new Metadata()) {
    return new Promise<Note>((resolve, reject) => {
      client[method](note(body), metadata, {}, (error, answer) => {
        if (error === null) resolve(answer);
        else reject(error);
      });
    });
  }

  test('unary, empty and almost 4 MiB', async () => {
    expect((await ask('say', 'hello')).body.toString()).toBe('hello');
    expect((await ask('say', '')).body.length).toBe(0);
    const big = Buffer.alloc((4 << 20) - 16, 'B');
    expect((await ask('say', big)).body.equals(big)).toBe(true);
  });

  test('a message beyond 4 MiB is refused with RESOURCE_EXHAUSTED', async () => {
    await expect(ask('say', Buffer.alloc(4 << 20))).rejects.toMatchObject({ code: grpcStatus.RESOURCE_EXHAUSTED });
    expect((await ask('say', 'still there')).body.toString()).toBe('still there');
  });

  test('client streaming', async () => {
    const total = await new Promise<string>((resolve, reject) => {
      const call = client.collect((error, answer) => {
        if (error === null) resolve(answer.body.toString());
        else reject(error);
      });
      for (let i = 0; i < 100; i++) call.write(note(Buffer.alloc(1000, 'c')));
      call.end();
    });
    expect(total).toBe('100000');
  });

  test('server streaming', async () => {
    const bodies: string[] = [];
    for await (const answer of client.repeat(note('again'))) bodies.push((answer as Note).body.toString());
    expect(bodies).toEqual(Array.from({ length: 10 }, () => 'again'));
  });

  test('bidirectional streaming, one answer at a time', async () => {
    const call = client.chat();
    let rounds = 0;
    call.write(note('0'));
    for await (const answer of call) {
      expect((answer as Note).body.toString()).toBe(String(rounds));
      rounds += 1;
      if (rounds === 50) call.end();
      else call.write(note(String(rounds)));
    }
    expect(rounds).toBe(50);
  });

  test('metadata arrives, binary values too', async () => {
    const metadata = new Metadata();
    const binary = Buffer.from([0, 1, 0xff, 0x2c, 0x3d]);
    metadata.set('plain', 'value');
    metadata.add('raw-bin', binary);
    metadata.add('raw-bin', Buffer.from('second'));
    const lines = (await ask('metadata', '', metadata)).body.toString().split('\n');
    expect(lines).toContain(`plain=${Buffer.from('value').toString('hex')}`);
    expect(lines).toContain(`raw-bin=${binary.toString('hex')}`);
    expect(lines).toContain(`raw-bin=${Buffer.from('second').toString('hex')}`);
  });

  test('errors carry status, text and code', async () => {
    const error = (await ask('fail', 'NO_SPACE').catch((reason: unknown) => reason)) as ServiceError;
    expect(error.code).toBe(grpcStatus.RESOURCE_EXHAUSTED);
    expect(error.details).toBe('because you asked: ä%');
    expect(error.metadata.get('holdfast-code')).toEqual(['NO_SPACE']);
  });

  test('an error in the middle of a stream', async () => {
    const call = client.chat();
    const bodies: string[] = [];
    call.on('data', (answer: Note) => bodies.push(answer.body.toString()));
    call.write(note('first'));
    call.write(note('fail'));
    const [error] = (await once(call, 'error')) as [ServiceError];
    expect(error.code).toBe(grpcStatus.FAILED_PRECONDITION);
    expect(error.metadata.get('holdfast-code')).toEqual(['LOG_GAP']);
    expect(bodies).toEqual(['first']);
  });

  test('an unknown method is UNIMPLEMENTED', async () => {
    const code = await new Promise((resolve) => {
      const path = '/holdfast.test.Echo/Nothing';
      const other = new Echo(address, transport.client(), { 'grpc.ssl_target_name_override': clusterHostName });
      other.makeUnaryRequest(
        path,
        () => Buffer.alloc(0),
        (bytes) => bytes,
        {},
        (error) => {
          other.close();
          resolve(error?.code);
        },
      );
    });
    expect(code).toBe(grpcStatus.UNIMPLEMENTED);
  });

  test('a deadline ends the call', async () => {
    const error = await new Promise<ServiceError | null>((resolve) => {
      client.hang(note('x'), new Metadata(), { deadline: Date.now() + 200 }, resolve);
    });
    expect(error?.code).toBe(grpcStatus.DEADLINE_EXCEEDED);
  });

  test('cancelling reaches the server', async () => {
    const own = start(['server', '127.0.0.1:0']);
    const other = new Echo(
      String((await own.line())['address']),
      credentials.createInsecure(),
    ) as unknown as EchoClient;
    const code = new Promise((resolve) => {
      const call = other.hang(note('x'), new Metadata(), {}, (error) => {
        resolve(error?.code);
      });
      // Once this one is answered the server has the other.
      other.say(note('y'), new Metadata(), {}, () => {
        call.cancel();
      });
    });
    expect(await code).toBe(grpcStatus.CANCELLED);
    expect(await own.line()).toEqual({ ended: 'CANCELLED' });
    other.close();
    own.child.stdin.end();
    await own.exited;
  });

  test('100 concurrent streams', async () => {
    const sizes = await Promise.all(
      Array.from({ length: 100 }, async (_, i) => {
        const call = client.chat();
        for (let part = 0; part < 10; part++) call.write(note(Buffer.alloc(5000 + i, part)));
        call.end();
        let size = 0;
        for await (const answer of call) size += (answer as Note).body.length;
        return size;
      }),
    );
    expect(sizes).toEqual(sizes.map((_, i) => 10 * (5000 + i)));
  });

  test('a slow server holds the client back, and another call passes meanwhile', async () => {
    let held = false;
    let passed = false;
    const total = await new Promise<string>((resolve, reject) => {
      const call = client.slow((error, answer) => {
        if (error === null) resolve(answer.body.toString());
        else reject(error);
      });
      const write = async () => {
        for (let i = 0; i < 24; i++) {
          if (!call.write(note(Buffer.alloc(1 << 20, 's')))) {
            held = true;
            if (!passed) passed = (await ask('say', 'meanwhile')).body.toString() === 'meanwhile';
            await once(call, 'drain');
          }
        }
        call.end();
      };
      write().catch(reject);
    });
    expect(total).toBe(String(24 << 20));
    expect({ held, passed }).toEqual({ held: true, passed: true });
  });

  test('a slow client gets everything', async () => {
    const call = client.chat();
    for (let i = 0; i < 20; i++) call.write(note(Buffer.alloc(1 << 20, i)));
    call.end();
    call.pause();
    await delay(100);
    let size = 0;
    for await (const answer of call) {
      size += (answer as Note).body.length;
      await delay(2);
    }
    expect(size).toBe(20 << 20);
  });

  test('drain: open calls end in peace, then the program exits', async () => {
    const own = start(['server', '127.0.0.1:0']);
    const other = new Echo(
      String((await own.line())['address']),
      credentials.createInsecure(),
    ) as unknown as EchoClient;
    const call = other.chat();
    call.write(note('before'));
    await once(call, 'data');
    own.child.stdin.write('drain\n');
    await delay(100);
    call.write(note('after'));
    const [answer] = (await once(call, 'data')) as [Note];
    expect(answer.body.toString()).toBe('after');
    call.end();
    call.resume();
    await once(call, 'end');
    expect(await own.line()).toEqual({ drained: true });
    expect(await own.exited).toBe(0);
    other.close();
  });

  test('a killed server is UNAVAILABLE', async () => {
    const own = start(['server', '127.0.0.1:0']);
    const other = new Echo(
      String((await own.line())['address']),
      credentials.createInsecure(),
    ) as unknown as EchoClient;
    const call = other.chat();
    call.write(note('x'));
    await once(call, 'data');
    own.child.kill('SIGKILL');
    const [error] = (await once(call, 'error')) as [ServiceError];
    expect(error.code).toBe(grpcStatus.UNAVAILABLE);
    other.close();
  });
});

// ---- the native client calls grpc-js ----

function nativeError(code: grpcStatus, holdfastCode?: string) {
  const metadata = new Metadata();
  if (holdfastCode !== undefined) metadata.set('holdfast-code', holdfastCode);
  return { code, details: 'because you asked: ä%', metadata };
}

async function collect(call: ServerReadableStream<Note, Note>, done: sendUnaryData<Note>, pauseMs: number) {
  let size = 0;
  for await (const received of call) {
    size += (received as Note).body.length;
    if (pauseMs > 0) await delay(pauseMs);
  }
  done(null, note(String(size)));
}

const implementation = {
  say: (call: ServerUnaryCall<Note, Note>, done: sendUnaryData<Note>) => {
    done(null, call.request);
  },
  metadata: (call: ServerUnaryCall<Note, Note>, done: sendUnaryData<Note>) => {
    const lines: string[] = [];
    for (const key of Object.keys(call.metadata.getMap())) {
      for (const value of call.metadata.get(key)) lines.push(`${key}=${Buffer.from(value).toString('hex')}\n`);
    }
    done(null, note(lines.join('')));
  },
  fail: (call: ServerUnaryCall<Note, Note>, done: sendUnaryData<Note>) => {
    const wanted = call.request.body.toString();
    if (wanted === 'foreign') done(nativeError(grpcStatus.NOT_FOUND));
    else done(nativeError(grpcStatus.FAILED_PRECONDITION, wanted));
  },
  hang: () => undefined,
  collect: (call: ServerReadableStream<Note, Note>, done: sendUnaryData<Note>) => void collect(call, done, 0),
  slow: (call: ServerReadableStream<Note, Note>, done: sendUnaryData<Note>) => void collect(call, done, 10),
  repeat: (call: ServerWritableStream<Note, Note>) => {
    for (let i = 0; i < 10; i++) call.write(call.request);
    call.end();
  },
  chat: (call: ServerDuplexStream<Note, Note>) => {
    call.on('data', (received: Note) => call.write(received));
    call.on('end', () => {
      call.end();
    });
    call.on('error', () => undefined);
  },
};

async function startJsServer(at: string, transport = plain): Promise<{ server: Server; address: string }> {
  const server = new Server({ 'grpc.max_receive_message_length': 5 << 20 });
  server.addService(Echo.service, implementation);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(at, transport.server(), (error, bound) => {
      if (error === null) resolve(bound);
      else reject(error);
    });
  });
  return { server, address: at.startsWith('unix:') ? at : `127.0.0.1:${port}` };
}

const cases = [
  'unary',
  'empty',
  'big',
  'client-stream',
  'server-stream',
  'bidi',
  'metadata',
  'error',
  'unknown-method',
  'deadline',
  'cancel',
  'slow-reader',
  'many-streams',
];

describe.each([plain, secure])('native client, grpc-js server, $name', (transport) => {
  let server: Server;
  let address: string;
  beforeAll(async () => {
    ({ server, address } = await startJsServer('127.0.0.1:0', transport));
  });
  afterAll(() => {
    server.forceShutdown();
  });

  test.each([...cases, 'foreign-error'])('%s', async (name) => {
    expect(await runClient(address, name, transport)).toMatchObject({ case: name, good: true });
  });

  test('over a unix socket', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-rpc-'));
    const own = await startJsServer(`unix:${join(folder, 'socket')}`);
    expect(await runClient(own.address, 'unary')).toMatchObject({ good: true });
    own.server.forceShutdown();
    rmSync(folder, { recursive: true });
  });

  test('GOAWAY leaves the open call alone; the end of the server ends it', async () => {
    const own = await startJsServer('127.0.0.1:0');
    const client = start(['client', own.address, 'wait']);
    expect(await client.line()).toEqual({ open: true });
    own.server.tryShutdown(() => undefined);
    const early = await Promise.race([client.exited.then(() => 'ended'), delay(300, 'open')]);
    expect(early).toBe('open');
    own.server.forceShutdown();
    expect(['CONNECTION_LOST', 'CANCELLED']).toContain((await client.line())['outcome']);
    expect(await client.exited).toBe(0);
  });
});

// ---- native on both sides, and what lies between ----

test('who has no certificate of the cluster is refused, and hears it', async () => {
  const server = start(['server', '127.0.0.1:0'], secure);
  const address = String((await server.line())['address']);
  const authority = await createAuthority('theirs', new Date());
  const { certificate, key } = await issueCertificate(authority, { name: 'node a', hosts: [] }, new Date());
  const stranger = [authority.certificate, key, certificate].map((text) => Buffer.from(text)) as [
    Buffer,
    Buffer,
    Buffer,
  ];
  for (const shown of [credentials.createInsecure(), credentials.createSsl(...stranger)]) {
    const client = new Echo(address, shown, {
      'grpc.ssl_target_name_override': clusterHostName,
    }) as unknown as EchoClient;
    const call = client.chat();
    const [error] = (await once(call, 'error')) as [ServiceError];
    // GOAWAY with INADEQUATE_SECURITY, and an alert of TLS.
    expect([grpcStatus.PERMISSION_DENIED, grpcStatus.UNAVAILABLE]).toContain(error.code);
    client.close();
  }
  expect(await runClient(address, 'unary')).toMatchObject({ good: false });
  server.child.stdin.end();
});

describe('native client, native server', () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-rpc-'));
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  for (const [name, at, transport] of [
    ['TCP', '127.0.0.1:0', plain],
    ['TLS', '127.0.0.1:0', secure],
    ['unix socket', `unix:${join(folder, 'socket')}`, plain],
  ] as const) {
    describe(name, () => {
      let server: Program;
      let address: string;
      beforeAll(async () => {
        server = start(['server', at], transport);
        address = String((await server.line())['address']);
      });
      afterAll(() => {
        server.child.stdin.end();
      });
      test.each(cases)('%s', async (each) => {
        expect(await runClient(address, each, transport)).toMatchObject({ case: each, good: true });
      });
    });
  }
});

describe('a connection that is cut or falls silent', () => {
  const opened: (() => void)[] = [];
  afterEach(() => {
    for (const close of opened.splice(0)) close();
  });

  /** A relay in front of a native server. */
  async function relayed(): Promise<{ address: string; sockets: Set<Socket>; server: Program }> {
    const server = start(['server', '127.0.0.1:0']);
    const port = Number(String((await server.line())['address']).split(':')[1]);
    const sockets = new Set<Socket>();
    const relay = createServer((near) => {
      const far = connectSocket(port, '127.0.0.1');
      for (const socket of [near, far]) {
        sockets.add(socket);
        socket.on('error', () => undefined);
      }
      near.pipe(far);
      far.pipe(near);
    });
    relay.listen(0, '127.0.0.1');
    await once(relay, 'listening');
    opened.push(() => {
      for (const socket of sockets) socket.destroy();
      relay.close();
      server.child.stdin.end();
    });
    return { address: `127.0.0.1:${(relay.address() as AddressInfo).port}`, sockets, server };
  }

  test('cut: both sides hear it', async () => {
    const { address, sockets, server } = await relayed();
    const client = start(['client', address, 'wait']);
    expect(await client.line()).toEqual({ open: true });
    for (const socket of sockets) socket.resetAndDestroy();
    expect(await client.line()).toMatchObject({ outcome: 'CONNECTION_LOST' });
    expect(await server.line()).toEqual({ ended: 'CONNECTION_LOST' });
  });

  test('silent: keep-alive finds out', async () => {
    const { address, sockets } = await relayed();
    const client = start(['client', address, 'wait']);
    expect(await client.line()).toEqual({ open: true });
    for (const socket of sockets) socket.pause();
    expect(await client.line()).toMatchObject({ outcome: 'CONNECTION_LOST' });
  });
});
