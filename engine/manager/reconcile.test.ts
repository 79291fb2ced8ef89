import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { configurationKey } from './data-plane.js';
import { runningTarget } from './observed.js';
import type { ObservedNode } from './observed.js';
import { actionKey, endpointsOf, lastAddressesOf, reconcile, settingsOf } from './reconcile.js';
import type { Action, Desired } from './reconcile.js';
import { defaultSettings, recordVersion } from './records.js';
import type { DoomedReplicaRecord, VolumeRecord } from './records.js';
import { nodeMap, nodeNames, sampleDisks, sampleNode, sampleVolume, withoutTarget } from './testing/samples.js';

const disks = sampleDisks();
const moment = { now: 0, startedAt: 0, run: 'r' };

function desire(...volumes: VolumeRecord[]): Desired {
  return { volumes, disks, doomed: [], nodes: [], settings: defaultSettings };
}

function served(volume: VolumeRecord, node: string, nodes: readonly ObservedNode[], epoch = volume.epoch) {
  const endpoints = endpointsOf(volume, node, nodeMap(nodes), lastAddressesOf(disks));
  return {
    volumeId: volume.id,
    epoch,
    state: 'serving',
    configurationKey: configurationKey(endpoints, settingsOf(volume, defaultSettings)),
  };
}

const kinds = (actions: readonly Action[]) => actions.map(({ kind }) => kind);
const attachedOn = (node: string, epoch = 1) => sampleVolume(1, { attachment: { node }, epoch });

describe('reconcile', () => {
  const nodes = nodeNames.map((name) => sampleNode(name));

  test('has nothing to do in a world that is as wanted', () => {
    expect(reconcile(desire(sampleVolume(1)), nodeMap(nodes), moment)).toEqual([]);
  });

  test('asks a target that just started what it serves, before anything else about it', () => {
    const fresh = sampleNode('node1', { served: null, servedBy: null, redirectsKey: null });
    const actions = reconcile(desire(attachedOn('node1')), nodeMap([fresh]), moment);
    expect(actions).toEqual([
      { kind: 'observe-target', node: 'node1', instanceId: 'node1-1', control: '127.0.0.1:22001' },
    ]);
  });

  test('attaches where an engine is wanted and there is none, of an older epoch, or a fenced one', () => {
    const volume = attachedOn('node1', 5);
    const older = { ...served(volume, 'node1', nodes), epoch: 4 };
    const fenced = { ...served(volume, 'node1', nodes), state: 'fenced' };
    for (const engines of [[], [older], [fenced]]) {
      const actions = reconcile(desire(volume), nodeMap([sampleNode('node1', { served: engines })]), moment);
      expect(kinds(actions)).toEqual(['attach', 'set-redirects']);
    }
  });

  test('leaves a failed engine alone: starting over it could serve old data', () => {
    const volume = attachedOn('node1');
    const failed = { ...served(volume, 'node1', nodes), state: 'failed' };
    const actions = reconcile(
      desire(volume),
      nodeMap([sampleNode('node1', { served: [failed] }), ...nodes.slice(1)]),
      moment,
    );
    expect(kinds(actions)).not.toContain('attach');
  });

  test('detaches an engine that nobody wants there', () => {
    const volume = attachedOn('node2');
    const elsewhere = sampleNode('node1', { served: [served(volume, 'node1', nodes)] });
    const actions = reconcile(desire(volume), nodeMap([elsewhere]), moment);
    expect(actions).toContainEqual({
      kind: 'detach',
      volumeId: volume.id,
      node: 'node1',
      control: '127.0.0.1:22001',
      instanceId: 'node1-1',
    });
  });

  test('does nothing about a target that does not run', () => {
    expect(reconcile(desire(attachedOn('node1')), nodeMap([withoutTarget(sampleNode('node1'))]), moment)).toEqual([]);
  });

  test('tells an engine when a replica process has another address', () => {
    const volume = attachedOn('node1');
    const node1 = sampleNode('node1', { served: [served(volume, 'node1', nodes)] });
    const moved = sampleNode('node2');
    const processes = moved.processes.map((each) =>
      each.role === 'replica' ? { ...each, address: '127.0.0.1:29999' } : each,
    );
    const actions = reconcile(desire(volume), nodeMap([node1, { ...moved, processes }, nodes[2]!]), moment);
    const configure = actions.find((action) => action.kind === 'configure');
    expect(configure?.endpoints.map(({ address }) => address)).toContain('127.0.0.1:29999');
  });

  test('uses the last known address of a replica process that does not run', () => {
    const endpoints = endpointsOf(attachedOn('node1'), 'node1', new Map(), lastAddressesOf(disks));
    expect(endpoints.map(({ address }) => address)).toEqual(disks.map(({ address }) => address));
    expect(endpoints.map(({ local }) => local)).toEqual([true, false, false]);
  });

  test('sends initiators of other portals to the right one', () => {
    const volume = attachedOn('node1');
    const node1 = sampleNode('node1', { served: [served(volume, 'node1', nodes)] });
    const actions = reconcile(desire(volume), nodeMap([node1, nodes[1]!, nodes[2]!]), moment);
    const redirects = [{ iqn: 'iqn.2026-11.io.holdfast:v1', portal: '127.0.0.1:3260' }];
    const sent = actions.flatMap((action) =>
      action.kind === 'set-redirects' ? [[action.node, action.redirects]] : [],
    );
    expect(sent).toEqual(nodeNames.map((node) => [node, redirects]));
  });

  test('deletes doomed replicas as soon as their disk runs', () => {
    const doomed: DoomedReplicaRecord = {
      version: recordVersion,
      id: '00000000000000aa',
      node: 'node1',
      disk: 'disk1',
      volume: 'gone',
    };
    const desired = { ...desire(), doomed: [doomed] };
    expect(reconcile(desired, nodeMap([]), moment)).toEqual([]);
    expect(reconcile(desired, nodeMap(nodes), moment)).toEqual([
      { kind: 'delete-replica', replica: doomed, address: '127.0.0.1:21000' },
    ]);
  });

  test('begins a copy again that a manager before this one has begun', () => {
    const copying = { run: 'before', source: sampleVolume(2).id, snapshot: '00000000000000aa', temporary: false };
    const half = sampleVolume(1, { phase: 'copying', copying });
    expect(reconcile(desire(half), nodeMap(nodes), moment)).toEqual([{ kind: 'restart-copy', volumeId: half.id }]);
    const own = sampleVolume(1, { phase: 'copying', copying: { ...copying, run: moment.run } });
    expect(reconcile(desire(own), nodeMap(nodes), moment)).toEqual([]);
  });

  test('abandons what a crash left half made', () => {
    const half = sampleVolume(1, { phase: 'creating' });
    expect(reconcile(desire(half), nodeMap(nodes), moment)).toEqual([{ kind: 'abandon-creation', volumeId: half.id }]);
  });

  test('every action has a key of its own', () => {
    const volumes = [1, 2].map((number) => sampleVolume(number, { attachment: { node: 'node1' } }));
    const actions = reconcile(desire(...volumes), nodeMap(nodes), moment);
    expect(new Set(actions.map(actionKey)).size).toBe(actions.length);
  });
});

// A model of the world that does what actions say. Whatever state it starts from, a few rounds bring it to what is
// wanted, and then there is nothing left to do.
describe('convergence', () => {
  const volumeArbitrary = (number: number) =>
    fc
      .record({ node: fc.option(fc.constantFrom(...nodeNames)), epoch: fc.integer({ min: 1, max: 4 }) })
      .map(({ node, epoch }) => sampleVolume(number, { attachment: node === null ? null : { node }, epoch }));
  const engineArbitrary = fc.record({
    number: fc.integer({ min: 1, max: 4 }),
    epoch: fc.integer({ min: 1, max: 4 }),
    state: fc.constantFrom('serving', 'fenced'),
  });
  const nodeArbitrary = (name: string) =>
    fc
      .record({
        down: fc.boolean(),
        known: fc.boolean(),
        engines: fc.uniqueArray(engineArbitrary, { selector: ({ number }) => number, maxLength: 4 }),
      })
      .map(({ down, known, engines }) => {
        const node = sampleNode(name, {
          served: engines.map(({ number, epoch, state }) => ({
            volumeId: sampleVolume(number).id,
            epoch,
            state,
            configurationKey: null,
          })),
          redirectsKey: null,
        });
        if (down) return withoutTarget(node);
        return known ? node : { ...node, served: null, servedBy: null };
      });

  test('any world becomes as wanted and stays so', () => {
    fc.assert(
      fc.property(
        fc.tuple(...[1, 2, 3].map(volumeArbitrary)),
        fc.tuple(...nodeNames.map(nodeArbitrary)),
        (volumes, observed) => {
          const world = { volumes: [...volumes], nodes: new Map(observed.map((node) => [node.name, node])) };
          for (let round = 0; round < 5; round++) {
            for (const action of reconcile(desire(...world.volumes), world.nodes, moment)) act(world, action);
          }
          expect(reconcile(desire(...world.volumes), world.nodes, moment)).toEqual([]);
          for (const node of world.nodes.values()) {
            if (runningTarget(node) === null) continue;
            const wanted = world.volumes.filter(({ attachment }) => attachment?.node === node.name);
            expect(node.served?.map(({ volumeId }) => volumeId).sort()).toEqual(wanted.map(({ id }) => id).sort());
            for (const { id, epoch } of wanted) {
              expect(node.served?.find(({ volumeId }) => volumeId === id)?.epoch).toBe(epoch);
            }
          }
        },
      ),
    );
  });

  function act(world: { volumes: VolumeRecord[]; nodes: Map<string, ObservedNode> }, action: Action): void {
    const edit = (name: string, change: (node: ObservedNode) => Partial<ObservedNode>) => {
      const node = world.nodes.get(name)!;
      world.nodes.set(name, { ...node, ...change(node) });
    };
    const others = (node: ObservedNode, volumeId: string) =>
      (node.served ?? []).filter((engine) => engine.volumeId !== volumeId);
    switch (action.kind) {
      case 'observe-target':
        // A target that was just started serves nothing.
        edit(action.node, () => ({ served: [], servedBy: action.instanceId }));
        return;
      case 'attach': {
        world.volumes = world.volumes.map((each) =>
          each.id === action.volumeId ? { ...each, epoch: each.epoch + 1 } : each,
        );
        const volume = world.volumes.find(({ id }) => id === action.volumeId)!;
        edit(action.node, (node) => ({
          served: [...others(node, volume.id), served(volume, action.node, [...world.nodes.values()])],
        }));
        return;
      }
      case 'detach':
        edit(action.node, (node) => ({ served: others(node, action.volumeId) }));
        return;
      case 'configure':
        edit(action.node, (node) => ({
          served: (node.served ?? []).map((engine) =>
            engine.volumeId === action.volumeId
              ? { ...engine, configurationKey: configurationKey(action.endpoints, action.settings) }
              : engine,
          ),
        }));
        return;
      case 'set-redirects':
        edit(action.node, () => ({ redirectsKey: action.key }));
        return;
      case 'restart-copy':
      case 'move-disk':
      case 'order-shares':
      case 'delete-replica':
      case 'add-replica':
      case 'remove-replica':
      case 'move-attachment':
      case 'abandon-creation':
      case 'begin-maintenance':
      case 'end-maintenance':
        throw new Error(`unexpected ${action.kind}`);
    }
  }
});
