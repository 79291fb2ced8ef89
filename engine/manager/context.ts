// What the parts of the manager share. Everything that is not pure comes in here.
import type { KeyedMutex } from '../async/keyed-mutex.js';
import type { Logger } from '../log/logger.js';
import type { DataPlane } from './data-plane.js';
import type { EventLog } from './events.js';
import type { RandomBytes } from './ids.js';
import type { Observed } from './observed.js';
import type { ClusterRecord, SnapshotRecord } from './records.js';
import type { Repository } from './repository.js';

export type ManagerContext = {
  readonly cluster: ClusterRecord;
  readonly repository: Repository;
  readonly observed: Observed;
  readonly dataPlane: DataPlane;
  readonly logger: Logger;
  readonly events: EventLog;
  readonly random: RandomBytes;
  /** Names this run of the manager. */
  readonly run: string;
  /** Wall clock, for records. */
  readonly now: () => Date;
  /** Keys: volume ids, and "create". Serializes what changes an attachment; never held by service Membership. */
  readonly locks: KeyedMutex;
  /** True for a while after a start of the manager: perhaps everything is being started. */
  readonly restarting: () => boolean;
  /** Resolves once the agents had their chance to report after a start of the manager. */
  readonly ready: Promise<void>;
  /** Snapshots that failed halfway, and volumes that are gone and may have left records of theirs: they are finished later. */
  readonly unfinishedSnapshots: {
    readonly add: (snapshot: SnapshotRecord) => void;
    readonly volumeIsGone: (volumeId: string) => void;
  };
  /** Records of disks have changed: agents have to hear of it. */
  readonly disksChanged: () => void;
  /** Desired state has changed: let the reconciler look. */
  readonly kick: () => void;
  /** How long an operation waits for a process that is being started, ms. */
  readonly patienceMs: number;
};
