import { describe, expect, test } from 'vitest';
import { silentLogger } from '../log/logger.js';
import type { HostedProcess, ProcessHost, StartFailure } from './process-host.js';
import { restartDelayMs, supervise } from './supervisor.js';
import type { SupervisedState, Supervision } from './supervisor.js';

type Fake = HostedProcess & { readonly end: (how: string) => void };

/** Processes that exist in memory: the test says when one serves and when it ends. */
class FakeHost implements ProcessHost {
  present: Fake | null = null;
  config: unknown = undefined;
  readonly started: Fake[] = [];
  readonly stopped: number[] = [];
  words: StartFailure = { code: 'IN_USE', message: 'the port is taken' };
  serves = true;

  make(pid: number): Fake {
    let end: (how: string) => void = () => undefined;
    const exited = new Promise<string>((resolve) => {
      end = (how) => {
        if (this.present?.identity.pid === pid) this.present = null;
        resolve(how);
      };
    });
    return { identity: { pid, startTime: '1' }, exited, end };
  }

  find = () => this.present;
  start = (_runDir: string, _command: readonly string[], config: unknown) => {
    const made = this.make(1000 + this.started.length);
    this.started.push(made);
    this.present = made;
    this.config = config;
    if (!this.serves) made.end('exit code 1');
    return made;
  };
  configOf = () => this.config;
  ready = async (_runDir: string, process: HostedProcess) => {
    if (this.serves) return await Promise.resolve({ pid: process.identity.pid });
    await process.exited;
    return null;
  };
  lastWords = () => this.words;
  stop = (process: HostedProcess) => {
    this.stopped.push(process.identity.pid);
    (process as Fake).end('stopped');
    return Promise.resolve();
  };
}

function scene(host: FakeHost, config: Readonly<Record<string, unknown>> = { a: 1 }) {
  const states: SupervisedState[] = [];
  const failures: StartFailure[] = [];
  let wake: () => void = () => undefined;
  const supervision: Supervision = {
    name: 'test',
    runDir: '/nowhere',
    command: ['x'],
    config: () => Promise.resolve(config),
    stillRight: (present, wanted) => JSON.stringify(present) === JSON.stringify(wanted),
    onState: (state) => {
      states.push(state);
      wake();
    },
    onStartFailure: (failure) => {
      failures.push(failure);
      return Promise.resolve();
    },
  };
  const stop = new AbortController();
  const done = supervise(host, supervision, silentLogger, stop.signal);
  const until = async (count: number, kind: SupervisedState['kind']) => {
    while (states.filter((state) => state.kind === kind).length < count) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  const end = async () => {
    stop.abort();
    await done;
  };
  return { states, failures, until, end };
}

describe('supervise', () => {
  test('starts what does not run, and starts it again when it ended', async () => {
    const host = new FakeHost();
    const { until, end } = scene(host);
    await until(1, 'running');
    host.started[0]!.end('signal SIGKILL');
    await until(2, 'running');
    expect(host.started).toHaveLength(2);
    await end();
  });

  test('adopts what runs with the right configuration, and leaves it when it goes itself', async () => {
    const host = new FakeHost();
    host.present = host.make(77);
    host.config = { a: 1 };
    const { states, until, end } = scene(host);
    await until(1, 'running');
    await end();
    expect(states.at(-1)).toMatchObject({ kind: 'running', pid: 77 });
    expect(host.started).toEqual([]);
    expect(host.stopped).toEqual([]);
    expect(host.present.identity.pid).toBe(77);
  });

  test('replaces what runs with another configuration', async () => {
    const host = new FakeHost();
    host.present = host.make(77);
    host.config = { a: 2 };
    const { until, end } = scene(host);
    await until(1, 'running');
    expect(host.stopped).toEqual([77]);
    expect(host.started).toHaveLength(1);
    await end();
  });

  test('says why a start failed, keeps saying it while it tries again, and recovers', async () => {
    const host = new FakeHost();
    host.serves = false;
    const { states, failures, until, end } = scene(host);
    await until(1, 'failed');
    expect(states.at(-1)).toEqual({ kind: 'failed', failure: host.words });
    await until(2, 'failed');
    const again = states.filter((state) => state.kind === 'starting').at(-1);
    expect(again).toMatchObject({ failure: host.words });
    expect(failures).toHaveLength(2);
    host.serves = true;
    await until(1, 'running');
    await end();
  });
});

test('the first restart is immediate, a crash loop is slow, a start that fails is tried less and less often', () => {
  expect(restartDelayMs({ kind: 'served', ms: 60_000 }, 0)).toBe(0);
  expect(restartDelayMs({ kind: 'served', ms: 10 }, 0)).toBe(500);
  const delays = [1, 2, 3, 10, 100].map((inRow) => restartDelayMs({ kind: 'never-served' }, inRow));
  expect(delays).toEqual([200, 400, 800, 5_000, 5_000]);
});
