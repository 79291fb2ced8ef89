// holdfast node ls, disk ls, process ls
import type { Command } from 'commander';
import { diskTable, nodeTable, processTable } from './output.js';
import { openSession, printResult, withCommonOptions } from './run.js';
import type { CommonOptions, Streams } from './run.js';
import { examples } from './volume-commands.js';

export function addClusterCommands(program: Command, streams: Streams): void {
  addList(program, streams, 'node', 'nodes', '/v1/nodes', nodeTable);
  addList(program, streams, 'disk', 'disks', '/v1/disks', diskTable);
  addList(program, streams, 'process', 'processes of the cluster', '/v1/processes', processTable);
}

function addList(
  program: Command,
  streams: Streams,
  noun: string,
  what: string,
  path: string,
  show: (rows: never) => string,
): void {
  const group = program.command(noun).description(`show the ${what}`).helpCommand(false);
  withCommonOptions(group.command('ls'))
    .description(`list the ${what}`)
    .addHelpText('after', examples(`holdfast ${noun} ls`, `holdfast ${noun} ls --json`))
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const rows = await openSession(options, process.env).call<never>('GET', path);
      printResult(streams, options.json === true, rows, show);
    });
}
