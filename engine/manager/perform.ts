// Performs the reconciler's actions. Each looks at the records again under the volume's lock: what was planned may have been
// overtaken by somebody's request.
import type { ManagerContext } from './context.js';
import { configurationKey } from './data-plane.js';
import { beginMaintenance, endMaintenance, ensureAttached, stopEngine } from './attachment.js';
import { restartCopy } from './clone-operations.js';
import { moveDisk } from './disk-moves.js';
import { engineNode } from './maintenance.js';
import { runningTarget } from './observed.js';
import type { Action, Desired } from './reconcile.js';
import { addReplica, moveAttachment, removeReplica } from './replica-operations.js';

export async function readDesired({ repository }: ManagerContext): Promise<Desired> {
  const [volumes, disks, doomed, nodes, settings] = await Promise.all([
    repository.listVolumes(),
    repository.listDisks(),
    repository.listDoomedReplicas(),
    repository.listNodes(),
    repository.settings(),
  ]);
  return { volumes, disks, doomed, nodes, settings };
}

export async function perform(context: ManagerContext, action: Action): Promise<void> {
  const { observed, dataPlane, repository, locks } = context;
  switch (action.kind) {
    case 'observe-target': {
      const { instanceId, volumes } = await dataPlane.targetStatus(action.control);
      observed.setServed(action.node, instanceId, volumes);
      return;
    }
    case 'attach':
      await context.ready;
      await locks.run(action.volumeId, async () => {
        const found = await repository.findVolumeById(action.volumeId);
        if (found !== null && engineNode(found.record) === action.node) await ensureAttached(context, action.volumeId);
      });
      return;
    case 'detach':
      await locks.run(action.volumeId, async () => {
        const found = await repository.findVolumeById(action.volumeId);
        if (found !== null && engineNode(found.record) === action.node) return;
        await stopEngine(context, action.control, action.volumeId);
        observed.removeServedVolume(action.node, action.volumeId);
      });
      return;
    case 'configure':
      await configure(context, action);
      return;
    case 'set-redirects': {
      // No redirect to itself: what it serves, or soon will, it is told by name.
      const own = runningTarget(observed.node(action.node))?.portal;
      const elsewhere = action.redirects.filter(({ portal }) => portal !== own);
      const here = action.redirects.filter(({ portal }) => portal === own).map(({ iqn }) => iqn);
      await dataPlane.setRedirects(action.control, elsewhere, here);
      observed.setRedirectsKey(action.node, action.instanceId, action.key);
      return;
    }
    case 'order-shares':
      observed.orderShares(action.node, action.orders);
      return;
    case 'delete-replica':
      await locks.run(`replica ${action.replica.id}`, async () => {
        // One that is just being added is doomed until the volume has it.
        if ((await repository.doomedReplica(action.replica.id)) === null) return;
        await dataPlane.deleteReplica(action.address, action.replica.id);
        await repository.removeDoomedReplica(action.replica.id);
      });
      return;
    case 'add-replica':
      await locks.run(action.volumeId, () => addReplica(context, action.volumeId));
      return;
    case 'remove-replica':
      await locks.run(action.volumeId, () => removeReplica(context, action.volumeId, action.replicaId));
      return;
    case 'move-attachment':
      await context.ready;
      await locks.run(action.volumeId, () => moveAttachment(context, action.volumeId, action.from, action.reason));
      return;
    case 'abandon-creation':
      // The lock "create" is held while a volume is being created: whoever gets here meets only what a crash left.
      await locks.run('create', async () => {
        const found = await repository.findVolumeById(action.volumeId);
        if (found?.record.phase === 'creating') await repository.removeVolume(found);
      });
      return;
    case 'restart-copy':
      await context.ready;
      await restartCopy(context, action.volumeId);
      return;
    case 'move-disk':
      await moveDisk(context, action);
      return;
    case 'begin-maintenance':
      await context.ready;
      await locks.run(action.volumeId, () =>
        beginMaintenance(context, action.volumeId, { node: action.node, reason: action.reason }),
      );
      return;
    case 'end-maintenance':
      await locks.run(action.volumeId, () => endMaintenance(context, action.volumeId));
      return;
  }
}

async function configure(
  { observed, dataPlane, locks }: ManagerContext,
  action: Extract<Action, { kind: 'configure' }>,
): Promise<void> {
  await locks.run(action.volumeId, async () => {
    const node = observed.node(action.node);
    if (runningTarget(node)?.instanceId !== action.instanceId) return;
    const engine = node?.served?.find(({ volumeId }) => volumeId === action.volumeId);
    if (engine === undefined) return;
    await dataPlane.configure(action.control, engine, action.endpoints, action.settings);
    observed.setServedVolume(action.node, action.instanceId, {
      ...engine,
      configurationKey: configurationKey(action.endpoints, action.settings),
    });
  });
}
