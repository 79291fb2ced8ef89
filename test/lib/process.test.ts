import { createServer } from 'node:net';

import { afterEach, expect, test, vi } from 'vitest';

import { freePort } from './process.js';

afterEach(() => {
  vi.restoreAllMocks();
});

/** A port that is given, not from the end of the range, and the draw that gave it. */
async function drawPort(following: number): Promise<{ readonly first: number; readonly drawn: number }> {
  const random = vi.spyOn(Math, 'random');
  for (;;) {
    const first = await freePort(following);
    const drawn = random.mock.results.at(-1)?.value as number;
    random.mockClear();
    if (drawn < 0.9) return { first, drawn };
  }
}

test('a port that somebody listens on is not given, nor one before it with followers', async () => {
  const { first, drawn } = await drawPort(1);
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(first + 1, '127.0.0.1', resolve));
  try {
    // The place behind: of single ports there are 999 in a range, of two in a row 998. The draws after it are real ones.
    vi.mocked(Math.random).mockReturnValueOnce((drawn * 999 + 1) / 998);
    const other = await freePort(2);
    expect(vi.mocked(Math.random).mock.calls.length).toBeGreaterThan(1);
    expect([other, other + 1]).not.toContain(first + 1);
  } finally {
    server.close();
  }
});

test('none is given twice, though nobody listens there yet', async () => {
  const { first, drawn } = await drawPort(3);
  vi.mocked(Math.random).mockReturnValueOnce(drawn);
  const other = await freePort(3);
  expect(vi.mocked(Math.random).mock.calls.length).toBeGreaterThan(1);
  expect(Math.abs(other - first)).toBeGreaterThan(2);
});
