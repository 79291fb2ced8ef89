import { createServer } from 'node:net';

import { expect, test, vi } from 'vitest';

import { freePort } from './process.js';

test('a port that somebody listens on is not given, nor one before it with followers', async () => {
  const random = vi.spyOn(Math, 'random');
  const first = await freePort(3);
  const drawn = random.mock.results.at(-1)?.value as number; // the draw that gave it: made again below
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(first + 2, '127.0.0.1', resolve));
  try {
    random.mockClear();
    random.mockReturnValueOnce(drawn); // the draws after it are real ones: who else listens here is not known
    const other = await freePort(3);
    expect(random.mock.calls.length).toBeGreaterThan(1);
    expect(first + 2 - other < 0 || first + 2 - other > 2, `${String(other)} to ${String(other + 2)}`).toBe(true);
  } finally {
    random.mockRestore();
    server.close();
  }
});
