import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { applyInSyncChange } from './membership.js';
import { sampleVolume } from './testing/samples.js';

const volume = sampleVolume(1, { epoch: 7, inSyncSequence: 3 });
const [first = '', second = '', third = ''] = volume.replicas.map(({ id }) => id);
const change = (inSync: readonly string[], sequence: number, epoch = 7) => ({
  volumeId: volume.id,
  epoch,
  inSync,
  reason: 'test',
  sequence,
});
const code = (name: string) => expect.objectContaining({ code: name }) as Error;

describe('applyInSyncChange', () => {
  test('stores the set while the epoch is the same', () => {
    expect(applyInSyncChange(volume, change([first, third], 4))).toEqual({
      ...volume,
      inSync: [first, third],
      inSyncSequence: 4,
    });
  });

  test('an engine of another epoch is told that it was superseded', () => {
    expect(() => applyInSyncChange(volume, change([first], 4, 6))).toThrow(code('EPOCH_SUPERSEDED'));
    expect(() => applyInSyncChange(volume, change([first], 4, 8))).toThrow(code('EPOCH_SUPERSEDED'));
  });

  test('the set never becomes empty and never holds a stranger', () => {
    expect(() => applyInSyncChange(volume, change([], 4))).toThrow(code('INVALID_ARGUMENT'));
    // One that was taken out of the volume a moment ago.
    expect(applyInSyncChange(volume, change([first, 'ffffffffffffffff'], 4)).inSync).toEqual([first]);
    expect(() => applyInSyncChange(volume, change(['ffffffffffffffff'], 4))).toThrow(code('INVALID_ARGUMENT'));
  });

  test('a retry of the last change is stored again, a delayed older one is refused', () => {
    expect(applyInSyncChange(volume, change([second], 3)).inSync).toEqual([second]);
    expect(() => applyInSyncChange(volume, change([first, second, third], 2))).toThrow(code('CONFLICT'));
  });

  test('whatever copies of old requests arrive late, the last change stays', () => {
    const sets = fc.array(fc.subarray([first, second, third], { minLength: 1 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(sets, fc.array(fc.nat(), { maxLength: 20 }), (changes, duplicates) => {
        let record = { ...volume, inSyncSequence: 0 };
        changes.forEach((inSync, index) => {
          record = applyInSyncChange(record, change(inSync, index + 1));
          for (const duplicate of duplicates) {
            const late = duplicate % (index + 1);
            try {
              record = applyInSyncChange(record, change(changes[late]!, late + 1));
            } catch (error) {
              expect(error).toMatchObject({ code: 'CONFLICT' });
            }
            expect([...record.inSync].sort()).toEqual([...inSync].sort());
          }
        });
      }),
    );
  });
});
