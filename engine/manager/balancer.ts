// Moves replicas to even out the disks, a few at a time, and only while nothing else is wrong; see placement/balance.ts for what it wants.
import { balanceTolerance, planMoves } from '../placement/balance.js';
import type { PlacedVolume } from '../placement/balance.js';
import { diskCandidates, requestOf } from './candidates.js';
import type { ManagerContext } from './context.js';
import { addReplica } from './replica-operations.js';
import type { VolumeRecord } from './records.js';

/** How many moves were begun. */
export async function balanceOnce(context: ManagerContext): Promise<number> {
  const { repository, locks, logger, events } = context;
  const settings = await repository.settings();
  if (!settings.balance) return 0;
  const volumes = await repository.listVolumes();
  const underWay = volumes.filter((volume) => !isSettled(volume)).length;
  const movesMax = settings.movesMax - underWay;
  if (movesMax <= 0) return 0;
  const candidates = await diskCandidates(context);
  const placed = volumes.map((volume): PlacedVolume => ({
    id: volume.id,
    request: requestOf(volume, settings),
    replicas: volume.replicas,
    // A replica is filled by an engine, so a volume that is detached stays where it is.
    movable: isSettled(volume) && volume.attachment !== null,
  }));
  const moves = planMoves(candidates, placed, { tolerance: balanceTolerance, movesMax });
  for (const { volumeId, replicaId, from, to } of moves) {
    await locks.run(volumeId, async () => {
      await addReplica(context, volumeId, to);
      const { name } = await repository.updateVolume(volumeId, (latest) => ({
        ...latest,
        retiring: [...new Set([...latest.retiring, replicaId])],
      }));
      const message = `a replica moves from ${from.disk} of ${from.node} to ${to.disk} of ${to.node}, to even out the disks`;
      logger.info(message, { volume: name });
      events.emit({ severity: 'info', object: `volume ${name}`, message });
    });
  }
  return moves.length;
}

function isSettled({ phase, replicas, inSync, copies, retiring }: VolumeRecord): boolean {
  return phase === 'ready' && retiring.length === 0 && replicas.length === copies && inSync.length === copies;
}
