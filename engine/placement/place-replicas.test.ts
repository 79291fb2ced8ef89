import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { anyDisk, hasRoom, objection, overProvisioning, placeReplicas } from './place-replicas.js';
import type { DiskCandidate } from './place-replicas.js';

const gib = 2 ** 30;

function disk(node: string, name: string, more: Partial<DiskCandidate> = {}): DiskCandidate {
  return {
    node,
    disk: name,
    online: true,
    capacityBytes: 100 * gib,
    freeBytes: 90 * gib,
    scheduledBytes: 0,
    closed: null,
    zone: null,
    tags: [],
    class: null,
    ...more,
  };
}

const nodesOf = (places: readonly { node: string }[]) => places.map(({ node }) => node);

describe('placeReplicas', () => {
  test('uses one disk per node, and breaks ties by name', () => {
    const candidates = [disk('node3', 'd1'), disk('node1', 'd2'), disk('node1', 'd1'), disk('node2', 'd1')];
    expect(placeReplicas(candidates, 3, anyDisk(gib))).toEqual([
      { node: 'node1', disk: 'd1' },
      { node: 'node2', disk: 'd1' },
      { node: 'node3', disk: 'd1' },
    ]);
  });

  test('prefers the disk with the smaller promised share', () => {
    const candidates = [disk('a', 'd', { scheduledBytes: 50 * gib }), disk('b', 'd'), disk('c', 'd')];
    expect(nodesOf(placeReplicas(candidates, 2, anyDisk(gib)))).toEqual(['b', 'c']);
  });

  test('a few megabytes more or less decide nothing', () => {
    const candidates = [disk('a', 'd', { freeBytes: 89.9 * gib }), disk('b', 'd'), disk('c', 'd')];
    expect(nodesOf(placeReplicas(candidates, 2, anyDisk(gib)))).toEqual(['a', 'b']);
  });

  test('numbers in names count: node2 before node10', () => {
    expect(nodesOf(placeReplicas([disk('node10', 'd'), disk('node2', 'd')], 2, anyDisk(gib)))).toEqual([
      'node2',
      'node10',
    ]);
  });

  test('too few nodes with a disk online: NOT_ENOUGH_DISKS', () => {
    const candidates = [disk('a', 'd1'), disk('a', 'd2'), disk('b', 'd'), disk('c', 'd', { online: false })];
    expect(() => placeReplicas(candidates, 3, anyDisk(gib))).toThrow(
      expect.objectContaining({ code: 'NOT_ENOUGH_DISKS' }),
    );
  });

  test('disks without room: NO_SPACE, also when only one of them lacks it', () => {
    const full = disk('c', 'd', { scheduledBytes: 100 * gib * overProvisioning });
    expect(() => placeReplicas([disk('a', 'd'), disk('b', 'd'), full], 3, anyDisk(gib))).toThrow(
      expect.objectContaining({ code: 'NO_SPACE' }),
    );
    expect(() => placeReplicas([disk('a', 'd')], 1, anyDisk(300 * gib))).toThrow(
      expect.objectContaining({ code: 'NO_SPACE' }),
    );
  });

  test('a disk that is full takes nothing, however little is promised', () => {
    expect(hasRoom(disk('a', 'd', { freeBytes: 0 }), gib)).toBe(false);
  });

  test('tags, class, cordons and zones', () => {
    const candidates = [
      disk('a', 'd', { tags: ['fast'], class: 'nvme', zone: 'r1' }),
      disk('b', 'd', { tags: ['fast'], class: 'ssd', zone: 'r1' }),
      disk('c', 'd', { tags: [], class: 'nvme', zone: 'r2' }),
      disk('e', 'd', { closed: 'it is cordoned', tags: ['fast'], class: 'nvme', zone: 'r3' }),
    ];
    const asked = (more: Partial<ReturnType<typeof anyDisk>>) => ({ ...anyDisk(gib), ...more });
    expect(nodesOf(placeReplicas(candidates, 2, asked({ tags: ['fast'] })))).toEqual(['a', 'b']);
    expect(nodesOf(placeReplicas(candidates, 2, asked({ class: 'nvme' })))).toEqual(['a', 'c']);
    // Zones are preferred, and a must when asked for.
    expect(nodesOf(placeReplicas(candidates, 2, anyDisk(gib)))).toEqual(['a', 'c']);
    expect(nodesOf(placeReplicas(candidates, 3, anyDisk(gib)))).toEqual(['a', 'c', 'b']);
    expect(() => placeReplicas(candidates, 3, asked({ zonesRequired: true }))).toThrow(
      /2 of 3 replicas have a place.*zone r1/,
    );
    expect(nodesOf(placeReplicas(candidates, 1, asked({ localNode: 'c' })))).toEqual(['c']);
    const lacking = candidates.map((each) => objection(each, asked({ tags: ['fast'], class: 'nvme' }), []));
    expect(lacking).toEqual([null, 'it is of class ssd, not nvme', 'it lacks the tag fast', 'it is cordoned']);
  });

  test('never breaks a hard rule, and does not depend on the order of the candidates', () => {
    const candidate = fc.record({
      node: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
      disk: fc.constantFrom('1', '2', '3'),
      closed: fc.constantFrom(null, null, 'it is cordoned'),
      zone: fc.constant(null),
      tags: fc.constant([]),
      class: fc.constant(null),
      online: fc.boolean(),
      capacityBytes: fc.integer({ min: 0, max: 200 }).map((size) => size * gib),
      freeBytes: fc.integer({ min: 0, max: 200 }).map((size) => size * gib),
      scheduledBytes: fc.integer({ min: 0, max: 300 }).map((size) => size * gib),
    });
    const candidates = fc.uniqueArray(candidate, { selector: (each) => `${each.node}/${each.disk}`, maxLength: 15 });
    const size = fc.integer({ min: 1, max: 200 }).map((gigabytes) => gigabytes * gib);
    fc.assert(
      fc.property(candidates, fc.integer({ min: 1, max: 4 }), size, (disks, count, sizeBytes) => {
        const place = (list: readonly DiskCandidate[]) => {
          try {
            return placeReplicas(list, count, anyDisk(sizeBytes));
          } catch {
            return null;
          }
        };
        const places = place(disks);
        expect(place([...disks].reverse())).toEqual(places);
        const usable = disks.filter(
          (each) => each.online && each.closed === null && each.capacityBytes > 0 && hasRoom(each, sizeBytes),
        );
        // It refuses only when it must.
        expect(places !== null).toBe(new Set(nodesOf(usable)).size >= count);
        if (places === null) return;
        expect(new Set(nodesOf(places)).size).toBe(count);
        for (const { node, disk: name } of places) {
          expect(usable.some((each) => each.node === node && each.disk === name)).toBe(true);
        }
      }),
    );
  });
});
