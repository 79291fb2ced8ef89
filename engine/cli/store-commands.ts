// holdfast store dump|restore: work on the store itself, not through a manager.
import { readFileSync, writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { HoldfastError } from '../errors/holdfast-error.js';
import { checkUsage, printResult, UsageError, withCommonOptions } from './run.js';
import type { CommonOptions, Streams } from './run.js';
import { parseStoreInput, withStoreOptions } from './store-options.js';
import type { StoreCliOptions } from './store-options.js';
import { examples } from './volume-commands.js';

type Options = CommonOptions & StoreCliOptions & { readonly data?: string; readonly output?: string };

export function addStoreCommands(program: Command, streams: Streams): void {
  const store = program.command('store').description('copy the records of a cluster').helpCommand(false);

  withStoreOptions(withCommonOptions(store.command('dump')))
    .option('--data <dir>', 'folder of "holdfast up" (default: ~/.local/share/holdfast, unless --store is given)')
    .option('--output <file>', 'where the dump goes (default: stdout)')
    .description('write all records of a metadata store as text; the cluster may run')
    .addHelpText(
      'after',
      examples('holdfast store dump > records', 'holdfast store dump --store etcd=http://10.0.0.1:2379'),
    )
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<Options>();
      const { dumpFrom } = await import('../up/store-transfer.js');
      const text = await dumpFrom(placeOf(options), new Date());
      if (options.output === undefined) {
        streams.out(text);
        return;
      }
      writeFileSync(options.output, text, { mode: 0o600 });
      const entries = text.split('\n').length - 3;
      printResult(
        streams,
        options.json === true,
        { file: options.output, entries },
        () => `${entries} records written.`,
      );
    });

  withStoreOptions(withCommonOptions(store.command('restore')))
    .argument('<file>', 'a dump')
    .option('--data <dir>', 'folder of "holdfast up" that is to use the restored store from now on; it must not run')
    .description('put a dump into an empty metadata store')
    .addHelpText(
      'after',
      '\nMoves a cluster from the embedded store to etcd: stop it, dump, then restore with --store and --data.\n' +
        examples('holdfast store restore records --store etcd=http://10.0.0.1:2379 --data /srv/holdfast'),
    )
    .action(async (file: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<Options>();
      const { restoreInto } = await import('../up/store-transfer.js');
      const entries = await restoreInto(placeOf(options), readText(file));
      printResult(streams, options.json === true, { file, entries }, () => `${entries} records restored.`);
    });
}

function placeOf(options: Options) {
  return { folder: options.data ?? null, store: checkUsage(() => parseStoreInput(options)), environment: process.env };
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(new HoldfastError('INVALID_ARGUMENT', `${file} cannot be read: ${(error as Error).message}`));
  }
}
