import { X509Certificate } from 'node:crypto';
import { connect, createServer } from 'node:tls';
import type { AddressInfo } from 'node:net';
import { expect, test } from 'vitest';
import { clusterHostName, createAuthority, issueCertificate, leafDays, needsRenewal } from './certificates.js';

const now = new Date();
const dayMs = 86_400_000;

test('two processes with certificates of the cluster talk, one of another cluster is refused', async () => {
  const [authority, stranger] = [await createAuthority('ours', now), await createAuthority('theirs', now)];
  const server = await issueCertificate(authority, { name: 'manager', hosts: ['127.0.0.1'] }, now);
  const agent = await issueCertificate(authority, { name: 'agent node1', hosts: [] }, now);
  const other = await issueCertificate(stranger, { name: 'agent node1', hosts: [] }, now);

  const listener = createServer(
    {
      cert: server.certificate,
      key: server.key,
      ca: authority.certificate,
      requestCert: true,
      rejectUnauthorized: true,
    },
    (socket) => socket.end(String(socket.getPeerCertificate().subject.CN)),
  );
  listener.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const { port } = listener.address() as AddressInfo;
  const call = async (pair: typeof agent, servername: string) =>
    await new Promise<string>((resolve, reject) => {
      const socket = connect({
        port,
        host: '127.0.0.1',
        cert: pair.certificate,
        key: pair.key,
        ca: authority.certificate,
        servername,
      });
      socket.on('data', (data: Buffer) => {
        resolve(data.toString('utf8'));
      });
      socket.on('error', reject);
      socket.on('close', () => {
        reject(new Error('closed'));
      });
    });
  expect(await call(agent, clusterHostName)).toBe('agent node1');
  await expect(call(other, clusterHostName)).rejects.toThrow();
  await expect(call(agent, 'elsewhere.example')).rejects.toThrow(/does not match/);
  listener.close();
});

test('a certificate is renewed after two thirds of its life', async () => {
  const authority = await createAuthority('ours', now);
  const { certificate } = await issueCertificate(authority, { name: 'x', hosts: ['10.1.2.3', 'db.example'] }, now);
  expect(new X509Certificate(certificate).subjectAltName).toContain('IP Address:10.1.2.3');
  const after = (days: number) => needsRenewal(certificate, new Date(now.getTime() + days * dayMs));
  expect([after(0), after(leafDays * 0.6), after(leafDays * 0.7), after(leafDays * 2)]).toEqual([
    false,
    false,
    true,
    true,
  ]);
  expect(needsRenewal('no certificate', now)).toBe(true);
});
