// The command line of Holdfast. docs/cli.md is its reference; names, JSON shapes and exit codes are stable.
import { Command, CommanderError } from 'commander';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { addClusterCommands } from './cluster-commands.js';
import { addDeviceCommands } from './device-commands.js';
import { addReplicaCommands } from './replica-commands.js';
import { exitCodes, printError, UsageError, withCommonOptions } from './run.js';
import type { Streams } from './run.js';
import { addAdminCommands } from './admin-commands.js';
import { addHostCommands } from './host-commands.js';
import { addCompletionCommand } from './completion.js';
import { addStatusCommands } from './status-commands.js';
import { addSupportCommand } from './support-command.js';
import { addStoreCommands } from './store-commands.js';
import { addUpCommand } from './up-command.js';
import { addSnapshotCommands } from './snapshot-commands.js';
import { addVolumeCommands } from './volume-commands.js';

/** Runs one command line (without program names); the exit code. */
export async function runCli(args: readonly string[], streams: Streams, version: string): Promise<number> {
  const json = args.includes('--json');
  const program = buildProgram(streams, version);
  try {
    await program.parseAsync([...args], { from: 'user' });
    return exitCodes.done;
  } catch (error) {
    if (error instanceof CommanderError) return endOfParsing(error, streams, json);
    if (error instanceof UsageError) {
      printError(streams, json, error.reason);
      return exitCodes.usage;
    }
    printError(streams, json, toHoldfastError(error));
    return exitCodes.failed;
  }
}

/** All commands, with nothing run yet. */
export function buildProgram(streams: Streams, version: string): Command {
  const program = new Command('holdfast')
    .description('Replicated block volumes, reached over iSCSI.')
    .version(version, '--version', 'print the version')
    .helpCommand(false)
    .showSuggestionAfterError(true)
    .exitOverride()
    // Errors are printed in one place, runCli; help that was asked for goes out as it is.
    .configureOutput({ writeOut: streams.out, writeErr: () => undefined });
  withCommonOptions(program);
  addUpCommand(program, streams);
  addHostCommands(program, streams);
  addVolumeCommands(program, streams);
  addSnapshotCommands(program, streams);
  addDeviceCommands(program, streams);
  addReplicaCommands(program, streams);
  addClusterCommands(program, streams);
  addAdminCommands(program, streams);
  addStatusCommands(program, streams);
  addStoreCommands(program, streams);
  addSupportCommand(program, streams, version);
  addCompletionCommand(program, streams);
  program.addHelpText(
    'after',
    '\nExit codes: 0 done, 1 failed, 2 wrong usage.\nFirst steps: holdfast up, then in another terminal: holdfast volume create db --size 10Gi',
  );
  return program;
}

function endOfParsing(error: CommanderError, streams: Streams, json: boolean): number {
  if (error.exitCode === 0) return exitCodes.done;
  // No command was given: commander would print all of its help.
  const bare = error.code === 'commander.help';
  const text = bare ? 'give a command: "holdfast --help" lists them' : error.message.replace(/^error: /, '');
  printError(streams, json, new HoldfastError('INVALID_ARGUMENT', text.replaceAll('\n', ' ')));
  return exitCodes.usage;
}
