import { createServer } from 'node:net';

import { expect, test, vi } from 'vitest';

import { freePort } from './process.js';

test('a port that somebody listens on is not given, nor one before it with followers', async () => {
  const random = vi.spyOn(Math, 'random').mockReturnValue(0);
  const first = await freePort(3);
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(first + 2, '127.0.0.1', resolve));
  try {
    random.mockReturnValueOnce(0).mockReturnValue(0.5);
    const other = await freePort(3);
    expect(other).toBeGreaterThan(first + 2);
  } finally {
    random.mockRestore();
    server.close();
  }
});
