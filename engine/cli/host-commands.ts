// holdfast server, agent, stop; token create|ls|rm
import { Option } from 'commander';
import type { Command } from 'commander';
import { parseCount, parseSizeText } from '../config/volume-input.js';
import { createLogger } from '../log/logger.js';
import type { MadeTokenView, TokenView } from '../manager/admin-api.js';
import { fields, table } from './output.js';
import { checkUsage, openSession, printResult, withCommonOptions } from './run.js';
import type { CommonOptions, Streams } from './run.js';
import { parseStoreInput, withStoreOptions } from './store-options.js';
import type { StoreCliOptions } from './store-options.js';
import { examples } from './volume-commands.js';

type HostCliOptions = CommonOptions &
  StoreCliOptions & {
    readonly data: string;
    readonly node?: string;
    readonly address?: string;
    readonly apiPort?: string;
    readonly portalPort?: string;
    readonly join?: string;
    readonly journalSize?: string;
    readonly cacheSize?: string;
  };

const defaultData = '/var/lib/holdfast';

export function addHostCommands(program: Command, streams: Streams): void {
  withStoreOptions(hostCommand(program, 'server'))
    .option('--api-port <port>', 'of the manager (default: 7600)')
    .description('run a host with a manager, an agent and a disk; the first one makes the cluster')
    .addHelpText(
      'after',
      '\nStops when it is told to; target and replica processes go on, and are adopted by the next start.\n' +
        examples(
          'holdfast server --address 192.0.2.7',
          'holdfast server --address 192.0.2.8 --store etcd=http://192.0.2.9:2379 --join TOKEN',
        ),
    )
    .action(async (_: unknown, command: Command) => {
      await run(command.optsWithGlobals<HostCliOptions>(), true, streams);
    });
  hostCommand(program, 'agent')
    .description('run a host with an agent and a disk, as part of a cluster')
    .addHelpText('after', examples('holdfast agent --address 192.0.2.8 --join TOKEN'))
    .action(async (_: unknown, command: Command) => {
      await run(command.optsWithGlobals<HostCliOptions>(), false, streams);
    });
  program
    .command('stop')
    .option('--json', 'print JSON')
    .option('--data <dir>', 'folder of the host', defaultData)
    .description('end the target and replica processes of a host whose server or agent does not run')
    .addHelpText('after', examples('holdfast stop --data /var/lib/holdfast'))
    .action(async (options: { readonly data: string; readonly json?: boolean }) => {
      const { stopDataPlane } = await import('../up/host.js');
      await stopDataPlane(options.data);
      printResult(streams, options.json === true, { stopped: true }, () => 'Everything on this host has stopped.');
    });
  const authority = program
    .command('authority')
    .description("the cluster's authority of certificates")
    .helpCommand(false);
  authority
    .command('replace')
    .option('--json', 'print JSON')
    .option('--data <dir>', 'folder of a server; no server of the cluster may run', defaultData)
    .description('make another authority, when the key of the present one was seen by somebody')
    .addHelpText(
      'after',
      '\nEvery host joins anew with the new join token: see "Certificates" in docs/operations.md.\n' +
        examples('holdfast authority replace --data /var/lib/holdfast'),
    )
    .action(async (options: { readonly data: string; readonly json?: boolean }) => {
      const { replaceAuthorityOf } = await import('../up/authority-replacement.js');
      const fingerprint = await replaceAuthorityOf(options.data, new Date());
      printResult(
        streams,
        options.json === true,
        { fingerprint },
        () => `The new tokens are in ${options.data}/admin-token and join-token. Start every host with --join.`,
      );
    });
  addTokenCommands(program, streams);
}

function hostCommand(program: Command, name: string): Command {
  return withCommonOptions(program.command(name))
    .option('--data <dir>', 'where it keeps everything', defaultData)
    .option('--node <name>', 'name of this node (default: the host name)')
    .option('--address <ip>', 'at which other hosts and initiators reach this one')
    .option('--portal-port <port>', 'of the iSCSI portal (default: 3260)')
    .option('--join <token>', 'join token of the cluster; needed once')
    .option('--journal-size <size>', 'journal of a new disk (default: 256Mi)')
    .option('--cache-size <size>', 'memory per disk for data on its way (default: 128Mi)');
}

async function run(options: HostCliOptions, server: boolean, streams: Streams): Promise<void> {
  const { planHost } = await import('../up/host-folder.js');
  const { runHost } = await import('../up/host.js');
  const count = (text: string | undefined, option: string) => (text === undefined ? null : parseCount(text, option));
  const size = (text: string | undefined) => (text === undefined ? null : parseSizeText(text));
  const plan = await planHost(
    checkUsage(() => ({
      folder: options.data,
      node: options.node ?? null,
      address: options.address ?? null,
      apiPort: count(options.apiPort, '--api-port'),
      portalPort: count(options.portalPort, '--portal-port'),
      join: options.join ?? null,
      store: parseStoreInput(options),
      journalBytes: size(options.journalSize),
      cacheBytes: size(options.cacheSize),
    })),
    server,
  );
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      stop.abort();
    });
  }
  const logger = createLogger((line) => {
    if (process.env['HOLDFAST_LOG'] === 'debug') streams.err(line);
  });
  const note = (text: string) => {
    streams.err(`holdfast: ${text}\n`);
  };
  const onReady: Parameters<typeof runHost>[1]['onReady'] = ({ node, api, managers }) => {
    if (options.json === true) {
      streams.out(JSON.stringify({ ready: true, node, server: api ?? managers[0] }) + '\n');
      return;
    }
    streams.out(`Holdfast is ready: ${node} is online.\n`);
    if (plan.made !== null) {
      streams.out(
        `The token of the admin is in ${plan.folder}/admin-token. On the other hosts:\n  holdfast agent --address ADDRESS --join ${plan.made.join}\n`,
      );
    }
  };
  await runHost(plan, { onProgress: note, onReady }, logger, stop.signal);
}

function addTokenCommands(program: Command, streams: Streams): void {
  const token = program.command('token').description('who may use the API').helpCommand(false);
  withCommonOptions(token.command('create'))
    .addOption(
      new Option('--role <role>', 'admin, operator, read-only, or agent (for new hosts)')
        .choices(['admin', 'operator', 'read-only', 'agent'])
        .makeOptionMandatory(),
    )
    .option('--note <text>', 'what it is for')
    .option('--expires <days>', 'when it ends (default: never)')
    .description('make a token; it is printed once')
    .addHelpText(
      'after',
      examples('holdfast token create --role read-only --note prometheus', 'holdfast token create --role agent'),
    )
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<
        CommonOptions & { readonly role: string; readonly note?: string; readonly expires?: string }
      >();
      const body = checkUsage(() => ({
        role: options.role,
        note: options.note,
        ...(options.expires === undefined
          ? {}
          : { expiresInSeconds: parseCount(options.expires, '--expires') * 86_400 }),
      }));
      const made = await openSession(options, process.env).call<MadeTokenView>('POST', '/v1/tokens', body);
      printResult(streams, options.json === true, made, ({ id, role, text, join, expiresAt }) =>
        fields([
          ['id', id],
          ['role', role],
          ['token', text],
          ['join', join],
          ['expires', expiresAt ?? 'never'],
        ]),
      );
    });
  withCommonOptions(token.command('ls'))
    .description('list the tokens')
    .addHelpText('after', examples('holdfast token ls'))
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const tokens = await openSession(options, process.env).call<readonly TokenView[]>('GET', '/v1/tokens');
      printResult(streams, options.json === true, tokens, (all) =>
        table(
          ['token', 'role', 'created', 'expires', 'note'],
          all.map(({ id, role, createdAt, expiresAt, note }) => [id, role, createdAt, expiresAt ?? 'never', note]),
        ),
      );
    });
  withCommonOptions(token.command('rm'))
    .argument('<id>', 'of the token')
    .description('end a token at once')
    .addHelpText('after', examples('holdfast token rm 0123456789ab'))
    .action(async (id: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>();
      const gone = await openSession(options, process.env).call<object>(
        'DELETE',
        `/v1/tokens/${encodeURIComponent(id)}`,
      );
      printResult(streams, options.json === true, gone, () => `Token ${id} has ended.`);
    });
}
