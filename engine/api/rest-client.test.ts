import { createServer } from 'node:http';
import type { RequestListener } from 'node:http';
import { afterEach, expect, test } from 'vitest';
import { request, requestWithPatience } from './rest-client.js';

const closing: (() => void)[] = [];

afterEach(() => {
  for (const close of closing.splice(0)) close();
});

/** A manager that answers by `answer`, which is given the number of the request. */
async function manager(answer: (count: number) => RequestListener): Promise<string> {
  let count = 0;
  const server = createServer((request, response) => {
    answer(++count)(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => server.close());
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return `127.0.0.1:${address.port}`;
}

const hangUp: RequestListener = (request) => request.socket.destroy();
const done: RequestListener = (_, response) => response.end('{"done":true}');
const doesNotLead: RequestListener = (_, response) => {
  response.writeHead(503).end('{"error":{"code":"STORE_UNAVAILABLE","message":"no manager leads at this moment"}}');
};

test('a request that says what shall be is repeated when the lead changes under it', async () => {
  const server = await manager((count) => [hangUp, doesNotLead][count - 1] ?? done);
  for (const method of ['GET', 'PATCH', 'PUT']) {
    expect(await requestWithPatience([server, server], method, '/v1/volumes/a', {})).toEqual({ done: true });
  }
});

test('a request that makes or ends something is not, once it may have arrived', async () => {
  let asked = 0;
  const server = await manager((count) => {
    asked = count;
    return hangUp;
  });
  for (const [index, method] of ['POST', 'DELETE'].entries()) {
    await expect(requestWithPatience([server, server], method, '/v1/volumes', {})).rejects.toMatchObject({
      code: 'CONNECTION_LOST',
    });
    expect(asked).toBe(index + 1);
  }
  await expect(requestWithPatience([server], 'POST', '/v1/volumes', {})).rejects.toThrow(
    /may have done what was asked/,
  );
});

test('a request that says where a volume shall be is, although it is a POST', async () => {
  for (const verb of ['attach', 'detach', 'move', 'resize', 'map', 'unmap']) {
    const server = await manager((count) => (count === 1 ? hangUp : done));
    expect(await requestWithPatience([server], 'POST', `/v1/volumes/a/${verb}`, {})).toEqual({ done: true });
  }
});

test('a manager that is not there is told as that, whatever was to be asked', async () => {
  for (const method of ['GET', 'POST', 'DELETE']) {
    await expect(request('127.0.0.1:1', method, '/v1/volumes/a', {})).rejects.toThrow(/cannot reach the manager/);
  }
});

test('what never arrived is asked of the next one', async () => {
  const server = await manager(() => done);
  expect(await requestWithPatience(['127.0.0.1:1', server], 'POST', '/v1/volumes', {})).toEqual({ done: true });
});

test('an answer that refuses is final', async () => {
  let asked = 0;
  const server = await manager((count) => {
    asked = count;
    return (_, response) =>
      response.writeHead(404).end('{"error":{"code":"NOT_FOUND","message":"there is no volume a"}}');
  });
  await expect(requestWithPatience([server, server], 'GET', '/v1/volumes/a')).rejects.toMatchObject({
    code: 'NOT_FOUND',
  });
  expect(asked).toBe(1);
});
