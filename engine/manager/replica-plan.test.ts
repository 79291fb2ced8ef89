// The planner of replicas against a small world: whatever is lost or emptied, volumes get back their copies, the last good copy is never
// dropped, and nothing is copied that need not be.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { anyDisk, placeOne } from '../placement/place-replicas.js';
import type { DiskCandidate } from '../placement/place-replicas.js';
import type { ReplicaRecord, VolumeRecord } from './records.js';
import { planReplicas, standingOf } from './replica-plan.js';
import type { Outlook } from './replica-plan.js';
import { sampleVolume } from './testing/samples.js';

const good = (): Outlook => 'good';
const replica = (id: string, node: string): ReplicaRecord => ({ id, node, disk: 'disk1' });

describe('planReplicas', () => {
  const volume = sampleVolume(1);
  const [first, second] = volume.replicas as [ReplicaRecord, ReplicaRecord, ReplicaRecord];
  const leaving = ({ id }: ReplicaRecord): Outlook => (id === first.id ? 'leaving' : 'good');

  test('leaves a healthy volume alone, and one that is only degraded', () => {
    expect(planReplicas(volume, good)).toBeNull();
    expect(planReplicas({ ...volume, inSync: [second.id] }, good)).toBeNull();
  });

  test('replaces first, and removes when the new one is in-sync', () => {
    expect(planReplicas(volume, leaving)).toMatchObject({
      kind: 'add-replica',
      reason: 'in place of the one on disk1 of node1',
    });
    const added = { ...volume, replicas: [...volume.replicas, replica('00000000000000ff', 'node4')] };
    expect(planReplicas(added, leaving)).toBeNull();
    const rebuilt = { ...added, inSync: [...volume.inSync, '00000000000000ff'] };
    expect(planReplicas(rebuilt, leaving)).toMatchObject({ kind: 'remove-replica', replicaId: first.id });
  });

  test('a replica that comes back while its successor is being made: the better one stays', () => {
    const added = {
      ...volume,
      replicas: [...volume.replicas, replica('00000000000000ff', 'node4')],
      inSync: volume.replicas.map(({ id }) => id),
    };
    expect(planReplicas(added, good)).toMatchObject({ kind: 'remove-replica', replicaId: '00000000000000ff' });
  });

  test('fewer copies wanted: one goes, but none that is needed', () => {
    expect(planReplicas({ ...volume, copies: 2 }, good)).toMatchObject({ kind: 'remove-replica' });
    expect(planReplicas({ ...volume, copies: 2, inSync: [first.id] }, good)).toBeNull();
    const step = planReplicas({ ...volume, copies: 2, inSync: [first.id, second.id] }, good);
    expect(step).toMatchObject({ replicaId: volume.replicas[2]?.id });
  });

  test('a volume that is being made is not touched', () => {
    expect(planReplicas({ ...volume, phase: 'creating', copies: 5 }, good)).toBeNull();
  });
});

// ---- a world ----

const nodes = ['a', 'b', 'c', 'd', 'e', 'f'];
const diskNames = ['1', '2'];
const allDisks = nodes.flatMap((node) => diskNames.map((disk) => ({ node, disk })));
const keyOf = ({ node, disk }: { readonly node: string; readonly disk: string }) => `${node}/${disk}`;

type World = { volume: VolumeRecord; readonly outlook: ReadonlyMap<string, Outlook>; ids: number; copied: number };

const worldArbitrary = fc
  .record({
    copies: fc.integer({ min: 1, max: 3 }),
    places: fc.uniqueArray(fc.constantFrom(...allDisks), { minLength: 1, maxLength: 5, selector: ({ node }) => node }),
    inSync: fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }),
    retiring: fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }),
    outlooks: fc.array(fc.constantFrom<Outlook>('good', 'good', 'good', 'leaving', 'lost'), {
      minLength: allDisks.length,
      maxLength: allDisks.length,
    }),
    survivor: fc.nat(),
  })
  .map(({ copies, places, inSync, retiring, outlooks, survivor }): World => {
    const replicas = places.map((place, index) => ({ id: (index + 1).toString(16).padStart(16, '0'), ...place }));
    const alive = survivor % replicas.length;
    const outlook = new Map(allDisks.map((disk, index) => [keyOf(disk), outlooks[index] ?? 'good']));
    // One in-sync copy is left that can be reached.
    const last = replicas[alive] as ReplicaRecord;
    if (outlook.get(keyOf(last)) === 'lost') outlook.set(keyOf(last), 'leaving');
    const volume = sampleVolume(1, {
      copies,
      replicas,
      inSync: replicas.filter((_, index) => index === alive || inSync[index]).map(({ id }) => id),
      retiring: replicas.filter((_, index) => retiring[index]).map(({ id }) => id),
    });
    return { volume, outlook, ids: 100, copied: 0 };
  });

const outlookIn = (world: World) => (each: ReplicaRecord) => world.outlook.get(keyOf(each)) ?? 'good';
const goodCopies = (world: World, volume: VolumeRecord) =>
  volume.replicas.filter((each) => volume.inSync.includes(each.id) && outlookIn(world)(each) !== 'lost');

function candidates(world: World): DiskCandidate[] {
  return allDisks.map((disk) => ({
    ...disk,
    online: world.outlook.get(keyOf(disk)) !== 'lost',
    closed: world.outlook.get(keyOf(disk)) === 'leaving' ? 'it is being emptied' : null,
    capacityBytes: 2 ** 40,
    freeBytes: 2 ** 40,
    scheduledBytes: 0,
    zone: null,
    tags: [],
    class: null,
  }));
}

/** One action of the manager; false: there is nothing to do. */
function step(world: World): boolean {
  const { volume } = world;
  const plan = planReplicas(volume, outlookIn(world));
  if (plan === null) return false;
  if (plan.kind === 'remove-replica') {
    world.volume = {
      ...volume,
      replicas: volume.replicas.filter(({ id }) => id !== plan.replicaId),
      inSync: volume.inSync.filter((id) => id !== plan.replicaId),
      retiring: volume.retiring.filter((id) => id !== plan.replicaId),
    };
    return true;
  }
  const staying = standingOf(volume, outlookIn(world)).filter(
    ({ outlook, retiring }) => outlook === 'good' && !retiring,
  );
  const taken = new Set(volume.replicas.map(keyOf));
  const usable = candidates(world).filter((disk) => !taken.has(keyOf(disk)));
  const place = placeOne(
    usable,
    anyDisk(volume.size),
    staying.map(({ node, disk }) => ({ node, disk, zone: null })),
  );
  if (place === null) return false;
  const id = (world.ids++).toString(16).padStart(16, '0');
  world.volume = { ...volume, replicas: [...volume.replicas, { id, node: place.node, disk: place.disk }] };
  return true;
}

/** What the engine does: what can be reached comes in-sync, what cannot leaves. */
function rebuild(world: World): void {
  const { volume } = world;
  const reachable = volume.replicas.filter((each) => outlookIn(world)(each) !== 'lost');
  world.copied += reachable.filter(
    ({ id }) => !volume.inSync.includes(id) && id >= (100).toString(16).padStart(16, '0'),
  ).length;
  world.volume = { ...volume, inSync: reachable.map(({ id }) => id) };
}

test('from any state with one reachable in-sync copy: converges, keeps the last copy, copies no more than needed', () => {
  fc.assert(
    fc.property(worldArbitrary, fc.array(fc.boolean(), { maxLength: 40 }), (world, rebuildFirst) => {
      const begin = world.volume;
      const stayingAtFirst = standingOf(begin, outlookIn(world)).filter(
        (each) => each.outlook === 'good' && !each.retiring,
      );
      for (let round = 0; round < 60; round++) {
        if (rebuildFirst[round] ?? true) rebuild(world);
        const before = world.volume;
        const acted = step(world);
        expect(goodCopies(world, world.volume).length).toBeGreaterThan(0);
        // A removal never leaves fewer good copies than are wanted.
        if (world.volume.replicas.length < before.replicas.length) {
          expect(goodCopies(world, world.volume).length).toBeGreaterThanOrEqual(begin.copies);
        }
        if (!acted && round >= rebuildFirst.length) break;
      }
      expect(step(world)).toBe(false);
      const freeNodes = nodes.filter((node) =>
        diskNames.some((disk) => world.outlook.get(`${node}/${disk}`) === 'good'),
      );
      const staying = standingOf(world.volume, outlookIn(world)).filter(
        (each) => each.outlook === 'good' && !each.retiring,
      );
      // Enough disks: exactly the wanted copies, all where they should be and in-sync.
      if (freeNodes.length >= begin.copies + begin.replicas.length) {
        expect(staying).toHaveLength(begin.copies);
        expect(world.volume.replicas).toHaveLength(begin.copies);
        expect(world.volume.inSync).toHaveLength(begin.copies);
      }
      // No data is moved without need.
      expect(world.copied).toBeLessThanOrEqual(Math.max(0, begin.copies - stayingAtFirst.length));
      // One per node, where they stay.
      expect(new Set(staying.map(({ node }) => node)).size).toBe(staying.length);
    }),
    { numRuns: 500 },
  );
});
