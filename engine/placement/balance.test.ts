import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { balanceTolerance, imbalance, planMoves } from './balance.js';
import type { Move, PlacedVolume } from './balance.js';
import { anyDisk } from './place-replicas.js';
import type { DiskCandidate } from './place-replicas.js';

const gib = 2 ** 30;

function disk(node: string, capacity: number, more: Partial<DiskCandidate> = {}): DiskCandidate {
  const capacityBytes = capacity * gib;
  return {
    node,
    disk: 'd',
    online: true,
    capacityBytes,
    freeBytes: capacityBytes,
    scheduledBytes: 0,
    closed: null,
    zone: null,
    tags: [],
    class: null,
    ...more,
  };
}

function volume(id: string, size: number, nodes: readonly string[], more: Partial<PlacedVolume> = {}): PlacedVolume {
  const replicas = nodes.map((node) => ({ id: `${id}-${node}`, node, disk: 'd' }));
  return { id, request: anyDisk(size * gib), replicas, movable: true, ...more };
}

/** The disks with what the volumes have promised on them. */
function loaded(disks: readonly DiskCandidate[], volumes: readonly PlacedVolume[]): DiskCandidate[] {
  return disks.map((each) => ({
    ...each,
    scheduledBytes: volumes
      .filter(({ replicas }) => replicas.some(({ node }) => node === each.node))
      .reduce((sum, { request }) => sum + request.sizeBytes, 0),
  }));
}

function apply(volumes: readonly PlacedVolume[], moves: readonly Move[]): PlacedVolume[] {
  return volumes.map((each) => {
    const move = moves.find(({ volumeId }) => volumeId === each.id);
    if (move === undefined) return each;
    return {
      ...each,
      replicas: each.replicas.map((replica) => (replica.id === move.replicaId ? { ...replica, ...move.to } : replica)),
    };
  });
}

const options = { tolerance: balanceTolerance, movesMax: 4 };

describe('planMoves', () => {
  test('fills a new disk, a few at a time', () => {
    const volumes = Array.from({ length: 20 }, (_, index) => volume(`v${index}`, 1, ['a', 'b']));
    const disks = ['a', 'b', 'c'].map((name) => disk(name, 100));
    const moves = planMoves(loaded(disks, volumes), volumes, options);
    expect(moves).toHaveLength(4);
    expect(new Set(moves.map(({ to }) => to.node))).toEqual(new Set(['c']));
  });

  test('leaves what is even enough, and what could not be better, alone', () => {
    const even = ['a', 'b', 'c'].map((name) => volume(`v${name}`, 10, [name]));
    const disks = ['a', 'b', 'c'].map((name) => disk(name, 100));
    expect(planMoves(loaded(disks, even), even, options)).toEqual([]);
    // One large volume on one of two disks: the other disk would be as uneven.
    const large = [volume('v', 50, ['a'])];
    const two = ['a', 'b'].map((name) => disk(name, 100));
    expect(planMoves(loaded(two, large), large, options)).toEqual([]);
    expect(planMoves([], [], options)).toEqual([]);
  });

  test('moves nothing of volumes that are being changed, and to no disk that is closed', () => {
    const volumes = Array.from({ length: 10 }, (_, index) => volume(`v${index}`, 1, ['a']));
    const disks = [disk('a', 100), disk('b', 100)];
    const still = volumes.map((each) => ({ ...each, movable: false }));
    expect(planMoves(loaded(disks, still), still, options)).toEqual([]);
    const cordoned = [disk('a', 100), disk('b', 100, { closed: 'it is cordoned' })];
    expect(planMoves(loaded(cordoned, volumes), volumes, options)).toEqual([]);
  });

  test('keeps zones apart and local replicas local', () => {
    const disks = [
      disk('a', 100, { zone: '1' }),
      disk('b', 100, { zone: '2' }),
      disk('c', 100, { zone: '1' }),
      disk('d', 100, { zone: '2' }),
    ];
    const volumes = Array.from({ length: 10 }, (_, index) => volume(`v${index}`, 1, ['a', 'b']));
    for (const { from, to } of planMoves(loaded(disks, volumes), volumes, options)) {
      expect([from.node, to.node].sort().join('')).toMatch(/^(ac|bd)$/);
    }
    const local = volumes.map((each) => ({ ...each, request: { ...each.request, localNode: 'a' } }));
    const moves = planMoves(loaded(disks, local), local, options);
    expect(moves.length).toBeGreaterThan(0);
    expect(moves.map(({ from }) => from.node)).not.toContain('a');
  });
});

test('any cluster comes to rest, no rule is broken, and small volumes end within the tolerance', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 50, max: 200 }), { minLength: 3, maxLength: 8 }),
      fc.array(
        fc.record({ size: fc.integer({ min: 1, max: 3 }), at: fc.nat(), copies: fc.integer({ min: 1, max: 2 }) }),
        {
          minLength: 60,
          maxLength: 120,
        },
      ),
      (capacities, made) => {
        const names = capacities.map((_, index) => `n${index}`);
        const disks = capacities.map((capacity, index) => disk(names[index] ?? '', capacity * 10));
        let volumes = made.map(({ size, at, copies }, index) =>
          volume(
            `v${index}`,
            size,
            Array.from({ length: copies }, (_, copy) => names[(at + copy) % names.length] ?? ''),
          ),
        );
        let moved = 0;
        for (;;) {
          const moves = planMoves(loaded(disks, volumes), volumes, options);
          if (moves.length === 0) break;
          moved += moves.length;
          expect(moved).toBeLessThan(2_000);
          volumes = apply(volumes, moves);
          for (const { replicas } of volumes)
            expect(new Set(replicas.map(({ node }) => node)).size).toBe(replicas.length);
        }
        // What is left is less than the largest volume makes out of the smallest share. A disk with more than half of the capacity is another
        // matter: of a volume with two copies it takes one, so there may be nothing that could fill it.
        const capacity = disks.reduce((sum, { capacityBytes }) => sum + capacityBytes, 0);
        if (disks.some(({ capacityBytes }) => capacityBytes > capacity / 2)) return;
        const total = volumes.reduce((sum, { request, replicas }) => sum + request.sizeBytes * replicas.length, 0);
        const ideal = total / capacity;
        const grain = Math.max(...disks.map(({ capacityBytes }) => (3 * gib) / capacityBytes)) / ideal;
        expect(imbalance(loaded(disks, volumes))).toBeLessThanOrEqual(Math.max(balanceTolerance, grain) + 1e-9);
      },
    ),
    { numRuns: 60 },
  );
});
