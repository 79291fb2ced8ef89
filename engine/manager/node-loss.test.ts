import { expect, test } from 'vitest';
import type { ManagerContext } from './context.js';
import { isLost } from './node-loss.js';
import { Observed } from './observed.js';
import type { AgentReport } from './observed.js';

function nodeWithTarget(answers: () => boolean) {
  let now = 1_000_000;
  const observed = new Observed(() => now);
  const dataPlane = { targetStatus: () => (answers() ? Promise.resolve() : Promise.reject(new Error('gone'))) };
  const context = { observed, dataPlane } as unknown as ManagerContext;
  const report: AgentReport = {
    node: 'node1',
    pid: 1,
    processes: [
      {
        role: 'target',
        disk: null,
        state: 'running',
        pid: 2,
        failure: null,
        instanceId: 'i',
        address: 'a',
        portal: 'p',
        directory: null,
        diskId: null,
        diskClass: null,
      },
    ],
  };
  return {
    observed,
    report,
    lost: (afterMs?: number) => isLost(context, 'node1', afterMs),
    pass: (ms: number) => {
      now += ms;
    },
  };
}

test('a node is lost when neither its agent nor its target process is there', async () => {
  let answers = false;
  const { observed, report, lost, pass } = nodeWithTarget(() => answers);
  const connection = Symbol('first');
  observed.report(connection, report);
  pass(60_000);
  expect(await lost(5_000)).toBe(false);
  observed.disconnected(connection, 'node1');
  pass(4_999);
  expect(await lost(5_000)).toBe(false);
  pass(1);
  expect(await lost(5_000)).toBe(true);
  expect(await lost()).toBe(false);
  answers = true;
  expect(await lost(5_000)).toBe(false);
});

test('an agent that comes and goes does not count as back', async () => {
  const { observed, report, lost, pass } = nodeWithTarget(() => false);
  let connection = Symbol('first');
  observed.report(connection, report);
  observed.disconnected(connection, 'node1');
  for (let i = 0; i < 3; i++) {
    pass(1_500);
    connection = Symbol('again');
    observed.report(connection, report);
    pass(500);
    observed.disconnected(connection, 'node1');
  }
  expect(await lost(5_000)).toBe(true);
  // Back for longer than that, it is.
  observed.report(connection, report);
  pass(3_000);
  observed.disconnected(connection, 'node1');
  pass(4_000);
  expect(await lost(5_000)).toBe(false);
});

test('a node that has not reported since the manager started has time to', async () => {
  const { lost, pass } = nodeWithTarget(() => false);
  pass(9_999);
  expect(await lost(5_000)).toBe(false);
  pass(1);
  expect(await lost(5_000)).toBe(true);
});
