// holdfast replica …, holdfast volume scrub
import type { Command } from 'commander';
import { sleep } from '../async/wait.js';
import { parseSizeText } from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import type { ReplicaView, ScrubView, VolumeView } from '../manager/views.js';
import { replicaTable, scrubSummary, volumeDetails } from './output.js';
import { checkUsage, openSession, printResult, UsageError, withCommonOptions, withProgress } from './run.js';
import type { CommonOptions, Session, Streams } from './run.js';
import { examples, named, path, progressOf } from './volume-commands.js';

const scrubPollMs = 500;
const rateHelp = 'bytes per second, such as 100Mi; 0: unlimited';

export function addReplicaCommands(program: Command, streams: Streams): void {
  const volume = program.commands.find((command) => command.name() === 'volume');
  if (volume !== undefined) {
    addScrub(volume, streams);
  }
  const replica = program.command('replica').description('show, add and remove replicas').helpCommand(false);
  addList(replica, streams);
  addAdd(replica, streams);
  addRemove(replica, streams);
}

function addScrub(volume: Command, streams: Streams): void {
  named(volume, 'scrub', 're-read and check every replica of a volume, and repair what is bad')
    .option('--wait', 'until it has ended; exit code 1 when something cannot be repaired')
    .option('--rate <rate>', `per replica, ${rateHelp} (default: the cluster's setting)`)
    .addHelpText('after', examples('holdfast volume scrub db', 'holdfast volume scrub db --wait --rate 0'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { readonly wait?: boolean; readonly rate?: string }>();
      const { rate } = options;
      const bytesPerSecond = rate === undefined ? null : checkUsage(() => parseSizeText(rate));
      const session = openSession(options, process.env);
      const begun = await session.call<VolumeView>('POST', path(name, '/scrub'), { bytesPerSecond });
      if (options.wait !== true) {
        printResult(streams, options.json === true, begun, () => `The scrub of ${name} has begun.`);
        return;
      }
      let scrub: ScrubView | null = begun.scrub;
      const report = () => Promise.resolve(`scrubbing ${name}${scrubPercent(scrub)}`);
      const work = untilScrubbed(session, name, (seen) => {
        scrub = seen;
      });
      const done = await withProgress(streams, report, work);
      printResult(streams, options.json === true, done, (view) => scrubSummary(view.scrub) ?? '');
      if (done.scrub?.failure !== null && done.scrub !== null) {
        throw new HoldfastError('FAILED_PRECONDITION', `the scrub of "${name}" ended early: ${done.scrub.failure}`);
      }
      if ((done.scrub?.unrepairableBlocks ?? 0) > 0) {
        throw new HoldfastError('CORRUPT', `${done.scrub?.unrepairableBlocks} blocks of "${name}" cannot be repaired`);
      }
    });
}

async function untilScrubbed(
  session: Session,
  name: string,
  onProgress: (scrub: ScrubView | null) => void,
): Promise<VolumeView> {
  for (;;) {
    const view = await session.call<VolumeView>('GET', path(name));
    onProgress(view.scrub);
    if (view.scrub?.state !== 'running') return view;
    await sleep(scrubPollMs);
  }
}

function scrubPercent(scrub: ScrubView | null): string {
  if (scrub?.chunksChecked == null || scrub.chunksTotal === null || scrub.chunksTotal === 0) return '';
  return `: ${Math.floor((100 * scrub.chunksChecked) / scrub.chunksTotal)} %`;
}

function addList(replica: Command, streams: Streams): void {
  withCommonOptions(replica.command('ls'))
    .argument('<volume>', 'name of the volume')
    .description('list the replicas of a volume')
    .addHelpText('after', examples('holdfast replica ls db'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const session = openSession(options, process.env);
      const replicas = await session.call<readonly ReplicaView[]>('GET', path(name, '/replicas'));
      printResult(streams, options.json === true, replicas, replicaTable);
    });
}

function addAdd(replica: Command, streams: Streams): void {
  withCommonOptions(replica.command('add'))
    .argument('<volume>', 'name of the volume')
    .option('--node <node>', 'where (default: where there is most room)')
    .description('make one more replica of a volume; it is rebuilt while I/O goes on')
    .addHelpText('after', examples('holdfast replica add db', 'holdfast replica add db --node node4'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { readonly node?: string }>();
      const session = openSession(options, process.env);
      const work = session.call<VolumeView>('POST', path(name, '/replicas'), { node: options.node ?? null });
      const changed = await withProgress(streams, progressOf(session, name, 'adding a replica to'), work);
      printResult(streams, options.json === true, changed, volumeDetails);
    });
}

function addRemove(replica: Command, streams: Streams): void {
  withCommonOptions(replica.command('rm'))
    .argument('<volume>', 'name of the volume')
    .argument('<replica>', 'id of the replica, as "holdfast replica ls" shows it')
    .option('--replace', 'only once another one, on another disk, has taken its place')
    .description('let a replica go; the last good copy is refused')
    .addHelpText(
      'after',
      examples('holdfast replica rm db 9e01e17fff094c2c', 'holdfast replica rm db 9e01e17fff094c2c --replace'),
    )
    .action(async (name: string, id: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { readonly replace?: boolean }>();
      if (!/^[0-9a-f]{16}$/.test(id)) {
        throw new UsageError(
          new HoldfastError('INVALID_ARGUMENT', `"${id}" is not the id of a replica: 16 hex digits`),
        );
      }
      const session = openSession(options, process.env);
      const work = session.call<VolumeView>('DELETE', path(name, `/replicas/${id}`), {
        replace: options.replace === true,
      });
      const changed = await withProgress(streams, progressOf(session, name, 'removing a replica of'), work);
      printResult(streams, options.json === true, changed, volumeDetails);
    });
}
