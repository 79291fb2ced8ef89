// holdfast up
import type { Command } from 'commander';
import { parseCount, parseSizeText } from '../config/volume-input.js';
import { isHoldfastError } from '../errors/holdfast-error.js';
import { createLogger } from '../log/logger.js';
import { checkUsage, UsageError, withCommonOptions } from './run.js';
import type { CommonOptions, Streams } from './run.js';
import { parseStoreInput, withStoreOptions } from './store-options.js';
import type { StoreCliOptions } from './store-options.js';
import { examples } from './volume-commands.js';

type Options = CommonOptions &
  StoreCliOptions & {
    readonly data?: string;
    readonly nodes?: string;
    readonly api?: string;
    readonly iscsi?: string;
    readonly journalSize?: string;
    readonly cacheSize?: string;
  };

export function addUpCommand(program: Command, streams: Streams): void {
  withStoreOptions(withCommonOptions(program.command('up')))
    .description('run a cluster on this machine, in the foreground; Ctrl-C stops all of it')
    .option('--data <dir>', 'where it keeps everything (default: ~/.local/share/holdfast)')
    .option('--nodes <count>', 'nodes, each with one disk (default: 3, or what the folder holds)')
    .option('--api <host:port>', 'manager, for gRPC and REST (default: 127.0.0.1:7600)')
    .option('--iscsi <host:port>', 'portal of node 1; the others take the ports after it (default: 127.0.0.1:3260)')
    .option('--journal-size <size>', 'journal of a new disk (default: 256Mi)')
    .option('--cache-size <size>', 'memory per disk for data on its way (default: 128Mi)')
    .addHelpText(
      'after',
      '\nA folder that was used before brings its volumes back; its former options are kept unless given again.\n' +
        examples('holdfast up', 'holdfast up --data /srv/holdfast --nodes 3 --iscsi 192.168.1.5:3260'),
    )
    .action(async (_: unknown, command: Command) => {
      await up(command.optsWithGlobals<Options>(), streams);
    });
}

async function up(options: Options, streams: Streams): Promise<void> {
  // Loaded here, so that the other commands start without it.
  const { planUp } = await import('../up/plan.js');
  const { describePortals, runUp } = await import('../up/up.js');
  const input = checkUsage(() => ({
    data: options.data ?? null,
    nodes: options.nodes === undefined ? null : parseCount(options.nodes, '--nodes'),
    api: options.api ?? null,
    iscsi: options.iscsi ?? null,
    journalBytes: options.journalSize === undefined ? null : parseSizeText(options.journalSize),
    cacheBytes: options.cacheSize === undefined ? null : parseSizeText(options.cacheSize),
    store: parseStoreInput(options),
  }));
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      stop.abort();
    });
  }
  // A closed terminal ends the cluster like Ctrl-C.
  process.on('SIGHUP', () => {
    stop.abort();
  });
  const json = options.json === true;
  const plan = await checkUsageOf(planUp(input, process.env, new Date()));
  const note = (text: string) => {
    streams.err(`holdfast: ${text}\n`);
  };
  const logger = createLogger((line) => {
    if (process.env['HOLDFAST_LOG'] === 'debug') streams.err(line);
  });
  if (!json) note(`starting ${plan.nodes.length} nodes in ${plan.folder}`);
  const onReady = (server: string, warnings: readonly string[]) => {
    for (const warning of warnings) note(`warning: ${warning}`);
    if (json) {
      streams.out(JSON.stringify({ ready: true, server }) + '\n');
      return;
    }
    streams.out(readyText(server, describePortals(plan)));
  };
  await runUp(plan, { onProgress: note, onReady }, logger, stop.signal);
}

// What is wrong with an option is wrong usage; what is wrong with the folder or a port is a failure.
async function checkUsageOf<T>(planning: Promise<T>): Promise<T> {
  try {
    return await planning;
  } catch (error) {
    throw isHoldfastError(error, 'INVALID_ARGUMENT') ? new UsageError(error) : error;
  }
}

function readyText(server: string, portals: string): string {
  const flag = server === '127.0.0.1:7600' ? '' : ` --server ${server}`;
  return [
    `Holdfast is ready: manager at ${server}, iSCSI portals at ${portals}.`,
    'Next, in another terminal:',
    `  holdfast volume create demo --size 1Gi${flag}`,
    `  holdfast volume attach demo${flag}`,
    'Ctrl-C stops everything; the data stays.',
    '',
  ].join('\n');
}
