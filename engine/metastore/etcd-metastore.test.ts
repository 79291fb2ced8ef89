// What the conformance suite cannot see: members that die, compaction, TLS and users. On real etcd processes.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { createAuthority, issueCertificate } from '../security/certificates.js';
import { openEtcdMetastore } from './etcd-metastore.js';
import type { EtcdOptions } from './etcd-endpoints.js';
import type { Change, Metastore, WatchEvent } from './metastore.js';
import { EtcdCluster, hasEtcd } from './testing/etcd-cluster.js';

const put = (key: string, value: string): Change => ({ kind: 'put', key, value });
const plain = { ca: null, certificate: null, key: null, user: null, prefix: '/holdfast' };

describe.skipIf(!hasEtcd)('on etcd', () => {
  let cluster: EtcdCluster;
  const stores: Metastore[] = [];

  async function open(options: Partial<EtcdOptions> = {}): Promise<Metastore> {
    const store = await openEtcdMetastore({ ...plain, urls: cluster.urls, ...options });
    stores.push(store);
    return store;
  }

  afterEach(async () => {
    await Promise.all(stores.splice(0).map((store) => store.close()));
    await cluster.stop();
  });

  test('one member of three dies: reads, transactions and watches go on, and a watch misses nothing', async () => {
    cluster = new EtcdCluster();
    await cluster.start(3);
    const store = await open();
    const stop = new AbortController();
    const values: string[] = [];
    const watching = (async () => {
      for await (const events of store.watch('/n', stop.signal)) {
        for (const event of events) if (event.kind === 'put') values.push(event.entry.value);
        if (values.includes('29')) stop.abort();
      }
    })();
    for (let n = 0; n < 30; n++) {
      if (n === 10) await cluster.killMember(0);
      if (n === 15) cluster.startMember(0);
      // A transaction that was under way when a member died may fail; whoever asked repeats it.
      for (;;) {
        try {
          await store.transact([], [put('/n', String(n))]);
          break;
        } catch (error) {
          expect(error).toMatchObject({ code: 'STORE_UNAVAILABLE' });
        }
      }
      expect((await store.get('/n'))?.value).toBe(String(n));
    }
    await watching;
    expect([...new Set(values)]).toEqual(Array.from({ length: 30 }, (_, n) => String(n)));
  });

  test('without a majority it says so within seconds, and changes nothing', async () => {
    cluster = new EtcdCluster();
    await cluster.start(3);
    const store = await open();
    await store.transact([], [put('/a', '1')]);
    await Promise.all([cluster.killMember(1), cluster.killMember(2)]);
    await expect(store.transact([], [put('/a', '2')])).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    cluster.startMember(1);
    await expect
      .poll(() =>
        store.get('/a').then(
          (entry) => entry?.value,
          () => null,
        ),
      )
      .not.toBeNull();
  });

  test('a watch that fell behind a compaction ends with CONFLICT', async () => {
    cluster = new EtcdCluster();
    await cluster.start(1);
    const [behind, busy] = [await open(), await open()];
    await behind.get('/n');
    for (let n = 0; n < 5; n++) await busy.transact([], [put('/n', String(n))]);
    const { revision } = await busy.range('/');
    await gateway(cluster.urls[0] ?? '', 'kv/compaction', { revision: String(revision) });
    const seen = async () => {
      const events: WatchEvent[] = [];
      for await (const each of behind.watch('/', new AbortController().signal)) events.push(...each);
      return events;
    };
    await expect(seen()).rejects.toMatchObject({ code: 'CONFLICT' });
  });

  test('with TLS and a user', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-etcd-tls-'));
    try {
      const authority = await createAuthority('test', new Date());
      const pair = await issueCertificate(authority, { name: 'etcd', hosts: ['127.0.0.1'] }, new Date());
      const files = { ca: join(folder, 'ca.pem'), certificate: join(folder, 'cert.pem'), key: join(folder, 'key.pem') };
      writeFileSync(files.ca, authority.certificate);
      writeFileSync(files.certificate, pair.certificate);
      writeFileSync(files.key, pair.key);
      cluster = new EtcdCluster();
      await cluster.start(1, files);
      await expect(open({ ca: files.ca })).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      // The certificate's common name would be taken as a user as well: roles belong to "etcd" then.
      const url = cluster.urls[0] ?? '';
      const tls = { ca: authority.certificate, cert: pair.certificate, key: pair.key };
      for (const name of ['root', 'etcd']) {
        await gateway(url, 'auth/user/add', { name, password: 'secret' }, tls);
        await gateway(url, 'auth/user/grant', { user: name, role: 'root' }, tls).catch(() => undefined);
      }
      await gateway(url, 'auth/role/add', { name: 'root' }, tls).catch(() => undefined);
      await gateway(url, 'auth/user/grant', { user: 'root', role: 'root' }, tls);
      await gateway(url, 'auth/enable', {}, tls);
      await expect(open({ ...files, user: { name: 'root', password: 'wrong' } })).rejects.toMatchObject({
        code: 'STORE_UNAVAILABLE',
      });
      const store = await open({ ...files, user: { name: 'root', password: 'secret' } });
      await store.transact([], [put('/a', '1')]);
      expect((await store.get('/a'))?.value).toBe('1');
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

type Tls = { readonly ca: string; readonly cert: string; readonly key: string };

// etcd's JSON gateway, for what Holdfast itself never does.
async function gateway(url: string, path: string, body: unknown, tls?: Tls): Promise<void> {
  const payload = JSON.stringify(body);
  const options = { method: 'POST', headers: { 'content-type': 'application/json' } };
  if (tls === undefined) {
    const response = await fetch(`${url}/v3/${path}`, { ...options, body: payload });
    if (!response.ok) throw new Error(await response.text());
    return;
  }
  await new Promise<void>((resolve, reject) => {
    const call = request(`${url}/v3/${path}`, { ...options, ...tls }, (response) => {
      response.resume();
      response.on('end', () => {
        if (response.statusCode === 200) resolve();
        else reject(new Error(`${path}: ${String(response.statusCode)}`));
      });
    });
    call.on('error', reject);
    call.end(payload);
  });
}
