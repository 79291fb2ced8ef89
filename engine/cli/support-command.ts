// holdfast support bundle: everything that somebody who helps wants to see, in one file; no secrets.
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { hostname, loadavg, release, totalmem, uptime } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Command } from 'commander';
import { formatSize } from '../config/volume-input.js';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import { openSession, printResult, withCommonOptions } from './run.js';
import type { CommonOptions, Session, Streams } from './run.js';
import { tarArchive } from './tar.js';
import type { TarFile } from './tar.js';
import { examples } from './volume-commands.js';

type Options = CommonOptions & { readonly data?: string; readonly output?: string };

const paths = ['status', 'cluster', 'volumes', 'nodes', 'disks', 'processes', 'events?limit=1000'];
const logTailBytes = 2 * 2 ** 20;
const fileNames = /^(log|log\.1|state\.json|config\.json|process\.json|memory\.json|cluster\.json)$/;

export function addSupportCommand(program: Command, streams: Streams, version: string): void {
  const support = program.command('support').description('collect what helps to find a fault').helpCommand(false);
  withCommonOptions(support.command('bundle'))
    .option('--data <dir>', 'also the logs of this folder of "holdfast up", "server" or "agent"')
    .option('--output <file>', 'where it goes (default: holdfast-support-TIME.tar.gz)')
    .description('collect status, events, metrics and logs into one file, without secrets')
    .addHelpText('after', examples('holdfast support bundle --data /srv/holdfast'))
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<Options>();
      const now = new Date();
      const file = resolve(
        options.output ?? `holdfast-support-${now.toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}.tar.gz`,
      );
      const files = [
        ...(await answersOf(openSession(options, process.env))),
        { name: 'host.json', content: hostFacts(version) },
        ...(options.data === undefined ? [] : filesOf(resolve(options.data))),
      ];
      const archive = gzipSync(tarArchive(files, now));
      try {
        writeFileSync(file, archive, { mode: 0o600 });
      } catch (error) {
        throw new HoldfastError('INVALID_ARGUMENT', `${file} cannot be written: ${(error as Error).message}`);
      }
      const result = { file, bytes: archive.length, files: files.map(({ name }) => name) };
      printResult(
        streams,
        options.json === true,
        result,
        ({ bytes }) => `${file} has ${files.length} files, ${formatSize(bytes)}.`,
      );
    });
}

// A manager that does not answer is worth knowing, too.
async function answersOf(session: Session): Promise<readonly TarFile[]> {
  const files: TarFile[] = [];
  for (const path of paths) {
    const name = `api/${path.replace(/\?.*/, '')}.json`;
    const content = await session
      .call<unknown>('GET', `/v1/${path}`)
      .catch((error: unknown) => toHoldfastError(error).message);
    files.push({ name, content: JSON.stringify(content, null, 1) });
  }
  const metrics = await session.text('/metrics').catch((error: unknown) => toHoldfastError(error).message);
  return [...files, { name: 'api/metrics.txt', content: metrics }];
}

function hostFacts(version: string): string {
  const read = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8') : null);
  return JSON.stringify(
    {
      holdfast: version,
      node: process.version,
      host: hostname(),
      kernel: release(),
      uptimeSeconds: Math.round(uptime()),
      load: loadavg(),
      memoryBytes: totalmem(),
      os: read('/etc/os-release'),
      memory: read('/proc/meminfo'),
      mounts: read('/proc/mounts'),
      pressure: {
        io: read('/proc/pressure/io'),
        cpu: read('/proc/pressure/cpu'),
        memory: read('/proc/pressure/memory'),
      },
    },
    null,
    1,
  );
}

function filesOf(folder: string): readonly TarFile[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && fileNames.test(entry.name))
    .map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return { name: `files/${relative(folder, path)}`, content: tailOf(path) };
    });
}

function tailOf(path: string): string {
  const content = readFileSync(path);
  const tail = statSync(path).size > logTailBytes ? content.subarray(-logTailBytes) : content;
  return redact(tail.toString('utf8'));
}

/** Values of fields that may be secret. */
export function redact(text: string): string {
  return text.replaceAll(/"(secret|password|token|key|hash)":\s*"[^"]*"/gi, '"$1":"…"');
}
