// Takes in what agents report: nodes and disks become records (so that they are known while their agent is away), the rest is
// observed state.
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import type { AgentSink } from './grpc-services.js';
import type { AgentReport, Observed, ObservedProcess } from './observed.js';
import { recordVersion } from './records.js';
import type { DiskRecord, NodeRecord } from './records.js';
import type { Repository } from './repository.js';

export function createAgentSink(repository: Repository, observed: Observed, logger: Logger): AgentSink {
  return {
    report: async (connection, report) => {
      const processes = await Promise.all(
        report.processes.map(async (process) =>
          process.role === 'replica' ? await recordDisk(repository, report.node, process) : process,
        ),
      );
      await recordNode(repository, report).catch((error: unknown) => {
        logger.error('cannot record a node', { node: report.node, ...errorFields(error) });
        throw error;
      });
      observed.report(connection, { ...report, processes });
    },
    disconnected: (connection, node) => {
      observed.disconnected(connection, node);
    },
  };
}

async function recordNode(repository: Repository, report: AgentReport): Promise<void> {
  const portal = report.processes.find(({ role }) => role === 'target')?.portal ?? null;
  const former = (await repository.listNodes()).find(({ name }) => name === report.node);
  const record: NodeRecord = {
    ...(former ?? { zone: null, cordoned: false, draining: false }),
    version: recordVersion,
    name: report.node,
    portal: portal ?? former?.portal ?? null,
  };
  if (former?.portal !== record.portal) await repository.putNode(record);
}

// Another disk at the place of a known one must not be used: its replicas are not those of the records.
async function recordDisk(repository: Repository, node: string, process: ObservedProcess): Promise<ObservedProcess> {
  const name = process.disk ?? '';
  const former = (await repository.listDisks()).find((disk) => disk.node === node && disk.name === name);
  const known = former?.diskId ?? null;
  if (known !== null && process.diskId !== null && known !== process.diskId) {
    const message = `${process.directory ?? 'its folder'} holds disk ${process.diskId}, but ${name} of ${node} is disk ${known}: put the right disk in its place`;
    return { ...process, state: 'failed', failure: { code: 'WRONG_DISK', message } };
  }
  const record: DiskRecord = {
    ...(former ?? { tags: [], class: null, cordoned: false, evicting: false }),
    version: recordVersion,
    node,
    name,
    diskId: process.diskId ?? known,
    directory: process.directory ?? former?.directory ?? '',
    address: process.address ?? former?.address ?? null,
  };
  const unchanged =
    former?.diskId === record.diskId && former.directory === record.directory && former.address === record.address;
  if (!unchanged) await repository.putDisk(record);
  return process;
}
