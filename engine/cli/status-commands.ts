// holdfast status, event ls|watch
import type { Command } from 'commander';
import { formatSize, parseCount } from '../config/volume-input.js';
import type { ClusterEvent } from '../manager/events.js';
import type { StatusView } from '../manager/status.js';
import { bar, fields, table } from './output.js';
import { checkUsage, exitCodes, openSession, printResult, withCommonOptions } from './run.js';
import type { CommonOptions, Streams } from './run.js';
import { examples } from './volume-commands.js';

export function addStatusCommands(program: Command, streams: Streams): void {
  withCommonOptions(program.command('status'))
    .description('show on one screen how the cluster is, what is wrong and why')
    .addHelpText('after', examples('holdfast status', 'holdfast status --json'))
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const status = await openSession(options, process.env).call<StatusView>('GET', '/v1/status');
      printResult(streams, options.json === true, status, statusText);
    });

  const event = program.command('event').description('show what happened').helpCommand(false);
  withCommonOptions(event.command('ls'))
    .option('--limit <count>', 'how many of the newest', '50')
    .description('list the newest events')
    .addHelpText('after', examples('holdfast event ls', 'holdfast event ls --limit 500 --json'))
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { readonly limit: string }>();
      const limit = checkUsage(() => parseCount(options.limit, '--limit'));
      const session = openSession(options, process.env);
      const events = await session.call<readonly ClusterEvent[]>('GET', `/v1/events?limit=${limit}`);
      printResult(streams, options.json === true, events, (all) =>
        all.length === 0 ? 'Nothing has happened yet.' : all.map(eventLine).join('\n'),
      );
    });
  withCommonOptions(event.command('watch'))
    .description('print events as they happen, until Ctrl-C; with --json one object per line')
    .addHelpText('after', examples('holdfast event watch', 'holdfast event watch --json'))
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const stop = new AbortController();
      process.once('SIGINT', () => {
        stop.abort();
        // A command that was asked to end has done its work.
        process.exitCode = exitCodes.done;
      });
      const session = openSession(options, process.env);
      for await (const each of session.lines<ClusterEvent>('/v1/events?watch=true', stop.signal)) {
        streams.out((options.json === true ? JSON.stringify(each) : eventLine(each)) + '\n');
      }
    });
}

export function eventLine({ at, severity, object, message }: ClusterEvent): string {
  return `${at.slice(0, 19).replace('T', ' ')}  ${severity.padEnd(7)}  ${object}: ${message}`;
}

export function statusText(status: StatusView): string {
  const { nodes, disks, volumes, rebuilds, problems } = status;
  const share = (part: number, whole: number) => (whole === 0 ? 0 : part / whole);
  const head = fields([
    ['cluster', `${status.cluster} (Holdfast ${status.version})`],
    ['health', status.health],
    ['nodes', `${nodes.online} of ${nodes.total} online`],
    ['disks', `${disks.online} of ${disks.total} online`],
    [
      'space',
      `${bar(share(disks.usedBytes, disks.totalBytes))} ${formatSize(disks.usedBytes)} of ${formatSize(disks.totalBytes)} used, ` +
        `${formatSize(disks.promisedBytes)} promised`,
    ],
    [
      'volumes',
      `${volumes.total}, ${volumes.attached} attached: ${volumes.healthy} healthy, ${volumes.degraded} degraded, ${volumes.faulted} faulted`,
    ],
    ['trash', status.trash === 0 ? null : `${status.trash} deleted volumes ("holdfast trash ls")`],
  ]);
  const parts = [head];
  if (rebuilds.length > 0) {
    const rows = rebuilds.map(({ volume, node, disk, share: done, bytesPerSecond, remainingSeconds }) => [
      volume,
      `${disk} of ${node}`,
      `${bar(done)} ${Math.floor(done * 100)} %`,
      `${formatSize(bytesPerSecond)}/s`,
      remainingSeconds === null ? '-' : duration(remainingSeconds),
    ]);
    parts.push(table(['rebuild', 'to', 'progress', 'rate', 'left'], rows));
  }
  parts.push(
    problems.length === 0
      ? 'Nothing is wrong.'
      : problems
          .map(
            ({ severity, object, problem, action }) =>
              `${severity.toUpperCase()}  ${object}: ${problem}${action === null ? '' : `\n    ${action}`}`,
          )
          .join('\n'),
  );
  return parts.join('\n\n');
}

export function duration(seconds: number): string {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3_600)} h`;
}
