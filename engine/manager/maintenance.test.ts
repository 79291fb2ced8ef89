import { describe, expect, test } from 'vitest';
import {
  activeReplicas,
  briefAbsenceMs,
  engineNode,
  goodCopies,
  planMaintenance,
  rebuildsOnHold,
} from './maintenance.js';
import { Observed } from './observed.js';
import type { ObservedNode } from './observed.js';
import type { VolumeRecord } from './records.js';
import { nodeMap, nodeNames, sampleNode, sampleVolume, withoutTarget } from './testing/samples.js';

const all = nodeMap(nodeNames.map((name) => sampleNode(name)));
const on = (...nodes: readonly ObservedNode[]) => nodeMap(nodes);
const idOn = ({ replicas }: VolumeRecord, node: string) => replicas.find((replica) => replica.node === node)?.id ?? '';

/** Detached, with what is in-sync on these nodes only. */
function behind(inSyncOn: readonly string[], more: Partial<VolumeRecord> = {}): VolumeRecord {
  const volume = sampleVolume(1);
  return { ...volume, inSync: inSyncOn.map((node) => idOn(volume, node)), ...more };
}

function withoutReplica(node: ObservedNode): ObservedNode {
  return { ...node, processes: node.processes.filter(({ role }) => role !== 'replica') };
}

describe('an engine for maintenance', () => {
  test('begins near a good copy when one that is behind can be reached', () => {
    const volume = behind(['node2', 'node3']);
    expect(planMaintenance([volume], all)).toEqual([
      { kind: 'begin-maintenance', volumeId: volume.id, node: 'node2', reason: 'rebuild' },
    ]);
  });

  test('is elsewhere when no target runs near a good copy', () => {
    const volume = behind(['node2']);
    const nodes = on(sampleNode('node1'), withoutTarget(sampleNode('node2')), sampleNode('node3'));
    expect(planMaintenance([volume], nodes)).toMatchObject([{ kind: 'begin-maintenance', node: 'node1' }]);
  });

  test.each([
    ['nothing is behind', behind(['node1', 'node2', 'node3']), all],
    ['it is attached', behind(['node1'], { attachment: { node: 'node1' } }), all],
    ['its data is lost', behind(['node1'], { lostData: 'DATA LOSS' }), all],
    ['it is being created', behind(['node1'], { phase: 'creating' }), all],
    ['what is behind is set aside', behind(['node1', 'node2'], { setAside: [idOn(sampleVolume(1), 'node3')] }), all],
    [
      'what is behind does not run',
      behind(['node1', 'node2']),
      on(sampleNode('node1'), sampleNode('node2'), withoutReplica(sampleNode('node3'))),
    ],
    [
      'no good copy runs',
      behind(['node1']),
      on(withoutReplica(sampleNode('node1')), sampleNode('node2'), sampleNode('node3')),
    ],
    ['no target runs', behind(['node1']), nodeMap(nodeNames.map((name) => withoutTarget(sampleNode(name))))],
  ])('does not begin while %s', (_, volume, nodes) => {
    expect(planMaintenance([volume], nodes)).toEqual([]);
  });

  test('stays while it is needed, and ends when it is not', () => {
    const maintenance = { node: 'node2', reason: 'rebuild' };
    expect(planMaintenance([behind(['node2', 'node3'], { maintenance })], all)).toEqual([]);
    const end = [{ kind: 'end-maintenance', volumeId: sampleVolume(1).id }];
    expect(planMaintenance([behind(['node1', 'node2', 'node3'], { maintenance })], all)).toEqual(end);
    expect(planMaintenance([behind(['node2'], { maintenance, attachment: { node: 'node1' } })], all)).toEqual(end);
    const lost = on(sampleNode('node1'), { ...sampleNode('node2'), agentPid: null }, sampleNode('node3'));
    expect(planMaintenance([behind(['node2', 'node3'], { maintenance })], lost)).toEqual(end);
  });

  test('for a scrub is ended by the scrub', () => {
    const maintenance = { node: 'node2', reason: 'scrub' };
    expect(planMaintenance([behind(['node1', 'node2', 'node3'], { maintenance })], all)).toEqual([]);
  });

  test('is given to some volumes at a time', () => {
    const volumes = Array.from({ length: 40 }, (_, index) => {
      const volume = sampleVolume(index + 1);
      return { ...volume, inSync: [idOn(volume, 'node1')] };
    });
    const begun = planMaintenance(volumes, all);
    expect(begun.length).toBeGreaterThan(0);
    expect(begun.length).toBeLessThan(40);
    const underWay = volumes.map((volume) => ({ ...volume, maintenance: { node: 'node1', reason: 'rebuild' } }));
    expect(planMaintenance([...underWay, behind(['node1'])], all)).toEqual([]);
  });
});

test('an engine is wanted where hosts or maintenance want it, and not over lost data', () => {
  const maintenance = { node: 'node2', reason: 'rebuild' };
  expect(engineNode(behind(['node1']))).toBeNull();
  expect(engineNode(behind(['node1'], { maintenance }))).toBe('node2');
  expect(engineNode(behind(['node1'], { maintenance, attachment: { node: 'node3' } }))).toBe('node3');
  expect(engineNode(behind(['node1'], { maintenance, lostData: 'DATA LOSS' }))).toBeNull();
});

test('what is set aside is neither used nor counted as a good copy', () => {
  const aside = idOn(sampleVolume(1), 'node1');
  const volume = behind(['node1', 'node2'], { setAside: [aside] });
  expect(activeReplicas(volume).map(({ node }) => node)).toEqual(['node2', 'node3']);
  expect(goodCopies(volume).map(({ node }) => node)).toEqual(['node2']);
});

describe('rebuilds of one disk', () => {
  const waiting = Array.from({ length: 3 }, (_, index) => {
    const volume = sampleVolume(index + 1);
    const inSync = [idOn(volume, 'node1'), idOn(volume, 'node2')];
    return { ...volume, inSync, attachment: { node: 'node1' } };
  });

  test('take turns, always in the same order', () => {
    const held = rebuildsOnHold(waiting, 1);
    expect([...held]).toEqual(waiting.slice(1).map((volume) => idOn(volume, 'node3')));
    expect(rebuildsOnHold([...waiting].reverse(), 1)).toEqual(held);
    expect(rebuildsOnHold(waiting, 3).size).toBe(0);
  });

  test('after a brief absence are many at a time, and the others share what those leave', () => {
    const many = Array.from({ length: 100 }, (_, index) => {
      const volume = sampleVolume(index + 1);
      return { ...volume, inSync: [idOn(volume, 'node1'), idOn(volume, 'node2')], attachment: { node: 'node1' } };
    });
    const ids = many.map((volume) => idOn(volume, 'node3'));
    const held = (brief: readonly string[]) => rebuildsOnHold(many, 4, new Set(brief)).size;
    expect(held([])).toBe(96);
    expect(held(ids)).toBe(68);
    expect(held(ids.slice(0, 1))).toBe(96);
    expect(held(ids.slice(0, 9))).toBe(100 - 9 - 2);
    // Whatever the mixture, no more others at a time than without any.
    for (let short = 0; short <= 100; short++) {
      const brief = new Set(ids.slice(100 - short));
      const going = ids.filter((id) => !rebuildsOnHold(many, 4, brief).has(id));
      expect(going.filter((id) => !brief.has(id)).length).toBeLessThanOrEqual(4);
      expect(going.length).toBeGreaterThanOrEqual(4);
    }
  });

  test('count only where an engine can do them', () => {
    const [first, ...others] = waiting;
    const detached = { ...first!, attachment: null };
    expect(rebuildsOnHold([detached, ...others], 2).size).toBe(0);
  });
});

test('an absence is brief from leaving an in-sync set on, for a while; a replica that has never been in one is not brief', () => {
  let now = 0;
  const observed = new Observed(() => now);
  observed.inSyncChanged([], ['a', 'b']);
  observed.inSyncChanged(['a'], ['b']);
  now = 40_000;
  observed.inSyncChanged(['b'], ['c']);
  expect(observed.leftWithin(briefAbsenceMs)).toEqual(new Set(['a', 'b']));
  now = 60_000;
  expect(observed.leftWithin(briefAbsenceMs)).toEqual(new Set(['b']));
  observed.inSyncChanged([], ['b', 'c']);
  expect(observed.leftWithin(briefAbsenceMs)).toEqual(new Set());
});
