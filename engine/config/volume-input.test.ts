import { describe, expect, test } from 'vitest';
import {
  formatExactSize,
  formatSize,
  parseSize,
  validateBlockSize,
  validateReplicaCount,
  validateVolumeName,
} from './volume-input.js';

const invalid = expect.objectContaining({ code: 'INVALID_ARGUMENT' }) as Error;

describe('names of volumes', () => {
  test.each(['a', 'db', 'db-1', '0', 'a'.repeat(63)])('%s is one', (name) => {
    expect(validateVolumeName(name)).toBe(name);
  });
  test.each(['', '-a', 'a-', 'A', 'a.b', 'a_b', 'a b', 'ä', 'a/b', '../x', 'a'.repeat(64), 'a\n'])(
    '%j is none',
    (name) => {
      expect(() => validateVolumeName(name)).toThrow(invalid);
    },
  );
});

describe('sizes', () => {
  test.each([
    ['10Gi', 10 * 2 ** 30],
    ['500Mi', 500 * 2 ** 20],
    ['1Ti', 2 ** 40],
    ['256Ti', 2 ** 48],
    ['1048576', 2 ** 20],
    ['1024Ki', 2 ** 20],
    ['4096M', 4_096_000_000],
  ])('%s is %d bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });
  test.each([
    '',
    '10',
    'Gi',
    '-1Gi',
    '1.5Gi',
    '10 Gi',
    '10GiB',
    '10gi',
    '0',
    '1Mi1',
    '0x100000',
    '257Ti',
    '1048577',
    '999999999999999999Ti',
  ])('%j is none', (text) => {
    expect(() => parseSize(text)).toThrow(invalid);
  });
  test('one that is no multiple of 4096 is not rounded; the message names the next', () => {
    expect(() => parseSize('1048577')).toThrow(/1028Ki/);
  });
  test('are shown short', () => {
    expect(formatExactSize(1536 * 2 ** 20)).toBe('1536Mi');
    expect(formatSize(1536 * 2 ** 20)).toBe('1.5 GiB');
    expect(formatSize(512)).toBe('512 B');
  });
});

test('replica counts and block sizes out of range are refused', () => {
  for (const count of [0, 8, 1.5, Number.NaN]) expect(() => validateReplicaCount(count)).toThrow(invalid);
  for (const size of [0, 1024, Number.NaN]) expect(() => validateBlockSize(size)).toThrow(invalid);
  expect(validateReplicaCount(1)).toBe(1);
  expect(validateBlockSize(4096)).toBe(4096);
});
