// Which etcd member is asked, and how: one channel per member, the one that answered last is asked first. A member is asked only
// while its channel is connected, so that a request that fails for want of a connection was never sent and goes to the next
// member. What may have been carried out is repeated only when that changes nothing (`repeatable`).
import { readFileSync } from 'node:fs';
import { credentials, Metadata, status } from '@grpc/grpc-js';
import type { ChannelCredentials, Client, ServiceError } from '@grpc/grpc-js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { AuthClient, KVClient, LeaseClient, WatchClient } from '../generated/etcd/rpc.js';

export type EtcdOptions = {
  /** http://HOST:PORT or https://HOST:PORT of each member */
  readonly urls: readonly string[];
  /** PEM files; `certificate` and `key` for members that ask clients for one. Null: the system's authorities. */
  readonly ca: string | null;
  readonly certificate: string | null;
  readonly key: string | null;
  readonly user: { readonly name: string; readonly password: string } | null;
  /** All keys of this cluster begin with it. */
  readonly prefix: string;
};

export type Member = {
  readonly url: string;
  readonly kv: KVClient;
  readonly lease: LeaseClient;
  readonly watch: WatchClient;
  readonly auth: AuthClient;
};

type Done<T> = (error: ServiceError | null, response: T) => void;
export type Call<T> = (
  member: Member,
  metadata: Metadata,
  options: { readonly deadline: number },
  done: Done<T>,
) => unknown;

const connectTimeoutMs = 1_000;
const callTimeoutMs = 3_000;

// Members that vanish without a word are noticed within three seconds. Tokens may be large, and so may ranges.
const channelOptions = {
  'grpc.initial_reconnect_backoff_ms': 50,
  'grpc.max_reconnect_backoff_ms': 500,
  'grpc.keepalive_time_ms': 2_000,
  'grpc.keepalive_timeout_ms': 1_000,
  'grpc.max_receive_message_length': 512 * 2 ** 20,
};

export class EtcdEndpoints {
  readonly #members: readonly Member[];
  readonly #user: EtcdOptions['user'];
  #preferred = 0;
  #token: string | null = null;
  #authenticating: Promise<void> | null = null;

  constructor(options: EtcdOptions) {
    this.#members = options.urls.map((url) => connect(url, options));
    this.#user = options.user;
  }

  /** Throws STORE_UNAVAILABLE when no member can be asked, or when it is unknown whether the request was carried out. */
  async call<T>(what: string, call: Call<T>, { repeatable }: { readonly repeatable: boolean }): Promise<T> {
    let last: unknown = null;
    // Every member twice: one of them may have just begun an election.
    for (let attempt = 0; attempt < 2 * this.#members.length; attempt++) {
      const member = await this.connected();
      if (member === null) break;
      try {
        return await this.#once(member, call);
      } catch (thrown) {
        const error = thrown as ServiceError;
        last = error;
        if (isTokenTrouble(error) && this.#user !== null) {
          // Refused before it was looked at.
          this.#token = null;
          continue;
        }
        if (!isMemberTrouble(error)) throw refused(what, member.url, error);
        this.failed(member);
        if (!repeatable) break;
      }
    }
    const why = last === null ? 'no member answers' : (last as ServiceError).details;
    const urls = this.#members.map(({ url }) => url).join(', ');
    throw new HoldfastError('STORE_UNAVAILABLE', `etcd (${urls}) did not answer to "${what}": ${why}`, { cause: last });
  }

  /** A member whose channel is connected; null when there is none. */
  async connected(): Promise<Member | null> {
    const { length } = this.#members;
    for (const offset of this.#members.keys()) {
      const member = this.#members[(this.#preferred + offset) % length];
      if (member === undefined) return null;
      if (await isReady(member.kv)) {
        this.#preferred = this.#members.indexOf(member);
        return member;
      }
    }
    return null;
  }

  /** Asks another member next time. */
  failed(member: Member): void {
    if (this.#members[this.#preferred] === member) this.#preferred = (this.#preferred + 1) % this.#members.length;
  }

  /** With the token of the user, where there is one. */
  async metadata(member: Member): Promise<Metadata> {
    const metadata = new Metadata();
    if (this.#user === null) return metadata;
    if (this.#token === null) {
      this.#authenticating ??= this.#authenticate(member).finally(() => {
        this.#authenticating = null;
      });
      await this.#authenticating;
    }
    metadata.set('token', this.#token ?? '');
    return metadata;
  }

  close(): void {
    for (const { kv, lease, watch, auth } of this.#members)
      for (const client of [kv, lease, watch, auth]) client.close();
  }

  async #once<T>(member: Member, call: Call<T>): Promise<T> {
    const metadata = await this.metadata(member);
    return await new Promise<T>((resolve, reject) => {
      call(member, metadata, { deadline: Date.now() + callTimeoutMs }, (error, response) => {
        if (error === null) resolve(response);
        else reject(error);
      });
    });
  }

  async #authenticate(member: Member): Promise<void> {
    const request = this.#user ?? { name: '', password: '' };
    this.#token = await new Promise((resolve, reject) => {
      member.auth.authenticate(request, new Metadata(), { deadline: Date.now() + callTimeoutMs }, (error, response) => {
        if (error === null) resolve(response.token);
        else reject(error);
      });
    });
  }
}

function connect(url: string, options: EtcdOptions): Member {
  const { host, protocol } = new URL(url);
  const channel = protocol === 'https:' ? tls(options) : credentials.createInsecure();
  // One connection per member: clients with equal options share their channel's connection.
  return {
    url,
    kv: new KVClient(host, channel, channelOptions),
    lease: new LeaseClient(host, channel, channelOptions),
    watch: new WatchClient(host, channel, channelOptions),
    auth: new AuthClient(host, channel, channelOptions),
  };
}

function tls({ ca, certificate, key }: EtcdOptions): ChannelCredentials {
  const read = (path: string | null) => (path === null ? null : readPem(path));
  return credentials.createSsl(read(ca), read(key), read(certificate));
}

function readPem(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', `${path} cannot be read: ${(error as Error).message}`);
  }
}

async function isReady(client: Client): Promise<boolean> {
  return await new Promise((resolve) => {
    client.waitForReady(Date.now() + connectTimeoutMs, (error) => {
      resolve(error === undefined);
    });
  });
}

function isTokenTrouble(error: ServiceError): boolean {
  return error.code === status.UNAUTHENTICATED;
}

function isMemberTrouble(error: ServiceError): boolean {
  return [status.UNAVAILABLE, status.DEADLINE_EXCEEDED, status.CANCELLED, status.UNKNOWN, status.INTERNAL].includes(
    error.code,
  );
}

function refused(what: string, url: string, error: ServiceError): HoldfastError {
  if (error.code === status.NOT_FOUND)
    return new HoldfastError('NOT_FOUND', `etcd: ${error.details}`, { cause: error });
  return new HoldfastError(
    'STORE_UNAVAILABLE',
    `etcd at ${url} refuses "${what}" (${error.details}): check its user, its certificate and its space`,
    { cause: error },
  );
}
