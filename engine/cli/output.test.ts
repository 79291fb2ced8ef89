import { expect, test } from 'vitest';
import { table } from './output.js';

test('a table may have more lines than a function takes arguments', () => {
  const lines = table(
    ['name', 'size'],
    Array.from({ length: 200_000 }, (_, index) => [`f${index}`, '0']),
  ).split('\n');
  expect(lines).toHaveLength(200_001);
  expect(lines[0]).toBe('NAME     SIZE');
  expect(lines.at(-1)).toBe('f199999  0');
});
