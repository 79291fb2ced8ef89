// What becomes an event: processes and agents that come and go, and what the manager does of itself.
import { toHoldfastError } from '../errors/holdfast-error.js';
import type { EventLog } from './events.js';
import type { Observed, ObservedNode, ObservedProcess } from './observed.js';
import type { Action } from './reconcile.js';

/** Emits an event for every process and agent whose state has changed. */
export function watchObserved(observed: Observed, events: EventLog): void {
  let former: ReadonlyMap<string, ObservedNode> = new Map();
  observed.onChange(() => {
    for (const node of observed.nodes.values()) {
      const before = former.get(node.name);
      if (before === node) continue;
      agentChange(before, node, events);
      for (const process of node.processes) {
        const same = before?.processes.find(({ role, disk }) => role === process.role && disk === process.disk);
        if (same?.state !== process.state) processChange(node.name, process, events);
      }
    }
    former = new Map(observed.nodes);
  });
}

function agentChange(before: ObservedNode | undefined, node: ObservedNode, events: EventLog): void {
  const was = before !== undefined && before.agentPid !== null;
  const is = node.agentPid !== null;
  if (was === is) return;
  events.emit({
    severity: is ? 'info' : 'warning',
    object: `node ${node.name}`,
    message: is ? 'its agent is connected' : 'its agent is not connected any more',
  });
}

function processChange(node: string, { role, disk, state, failure }: ObservedProcess, events: EventLog): void {
  const object = role === 'target' ? `target process of ${node}` : `disk ${disk ?? '?'} of ${node}`;
  if (state === 'failed') {
    events.emit({ severity: 'error', object, message: failure?.message ?? 'it cannot be started' });
  } else {
    const message = state === 'running' ? 'it runs' : 'it is being started';
    events.emit({ severity: state === 'running' ? 'info' : 'warning', object, message });
  }
}

/** What people call the volume of that id. */
export type NameOf = (volumeId: string) => string;

/** Of what the reconciler did: only what people care for. Failures that come again and again are told in the status. */
export function reportOutcome(events: EventLog, action: Action, error: unknown, nameOf: NameOf): void {
  const what = describeAction(action, nameOf);
  if (what === null || error !== null) return;
  events.emit({ severity: 'info', ...what });
}

function describeAction(action: Action, nameOf: NameOf): { readonly object: string; readonly message: string } | null {
  switch (action.kind) {
    case 'attach':
      return { object: `volume ${nameOf(action.volumeId)}`, message: `a new engine serves it on ${action.node}` };
    case 'detach':
      return {
        object: `volume ${nameOf(action.volumeId)}`,
        message: `an engine that nobody wants was stopped on ${action.node}`,
      };
    case 'delete-replica':
      return {
        object: `volume ${action.replica.volume}`,
        message: `its replica on ${action.replica.disk} of ${action.replica.node} was deleted`,
      };
    case 'add-replica':
      return { object: `volume ${nameOf(action.volumeId)}`, message: `it gets a replica: ${action.reason}` };
    case 'remove-replica':
      return { object: `volume ${nameOf(action.volumeId)}`, message: `a replica was given up: ${action.reason}` };
    case 'move-attachment':
      return {
        object: `volume ${nameOf(action.volumeId)}`,
        message: `it is served elsewhere now: ${action.from} is ${action.reason === 'lost' ? 'lost' : 'being drained'}`,
      };
    case 'abandon-creation':
      return { object: `volume ${nameOf(action.volumeId)}`, message: 'its creation was cut short and has been undone' };
    case 'restart-copy':
      return {
        object: `volume ${nameOf(action.volumeId)}`,
        message: 'it was a clone half made; it has been made again',
      };
    case 'begin-maintenance':
    case 'end-maintenance':
    case 'observe-target':
    case 'configure':
    case 'set-redirects':
    case 'order-shares':
    case 'move-disk': // disk-moves.ts says what came of it
      return null;
  }
}

/** An action that has failed less often than this is no problem yet. */
const attemptsMin = 3;

export function failingActions(
  failing: readonly { readonly action: Action; readonly error: unknown; readonly attempts: number }[],
  nameOf: NameOf,
): readonly { readonly what: string; readonly why: string }[] {
  return failing
    .filter(({ attempts }) => attempts >= attemptsMin)
    .map(({ action, error }) => ({
      what: objectOf(action, nameOf),
      why: `${action.kind} fails: ${toHoldfastError(error).message}`,
    }));
}

function objectOf(action: Action, nameOf: NameOf): string {
  if ('volumeId' in action) return `volume ${nameOf(action.volumeId)}`;
  if (action.kind === 'delete-replica') return `replica ${action.replica.id} of volume ${action.replica.volume}`;
  if (action.kind === 'move-disk') return `disk ${action.to.disk} of ${action.to.node}`;
  return `node ${action.node}`;
}
