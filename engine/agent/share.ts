// One share of a node: mounts the file system of its volume, and keeps an NFS server on it running until it is told to stop. What
// already runs is adopted, so that a restart of the agent interrupts nobody.
//
// DIR/fs is where the file system is mounted, DIR/server the run directory of the NFS server (process-host.ts).
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { backoffMs, sleep } from '../async/wait.js';
import { HoldfastError, toHoldfastError } from '../errors/holdfast-error.js';
import {
  ensureFilesystem,
  filesystemTypes,
  growFilesystem,
  mountFilesystem,
  mountOf,
} from '../filesystem/filesystem.js';
import type { FilesystemType } from '../filesystem/filesystem.js';
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import { ganeshaConfig } from '../nfs/ganesha-config.js';
import { formatFloatingAddress, parseFloatingAddress } from '../nfs/floating-address.js';
import type { FloatingAddress } from '../nfs/floating-address.js';
import { nullCall, rpcNullCall } from '../nfs/null-call.js';
import type { ShareOrder, ShareStatus } from '../nfs/share-types.js';
import { findFreePorts, tryBind } from '../os/addresses.js';
import { runChecked, runCommand } from '../os/command.js';
import { makeFolders } from '../os/folders.js';
import { listMounts } from '../os/mounts.js';
import { signalProcess, stopProcess } from '../os/proc.js';
import type { HostedProcess, ProcessHost } from './process-host.js';
import { addAddress, removeAddress } from './share-address.js';
import { endStaleDevices } from './stale-devices.js';
import { supervise } from './supervisor.js';
import type { SupervisedState } from './supervisor.js';
import type { Serving } from './target-client.js';

export type ShareContext = {
  /** DIR; made where it is missing. */
  readonly directory: string;
  /** Numeric address to serve on. */
  readonly address: string;
  readonly host: ProcessHost;
  readonly logger: Logger;
  readonly onStatus: (status: ShareStatus) => void;
  /** Whether the target process of this node serves the volume. */
  readonly serving: (volumeId: string) => Promise<Serving>;
};

const retryFirstMs = 200;
const retryMaxMs = 5_000;
const readyPollMs = 30;
const healthEveryMs = 5_000;
const healthTimeoutMs = 5_000;
// A server that is busy, or whose volume waits, is left alone for that long.
const unhealthyMaxMs = 60_000;
// One that does not answer that long after its start is started again.
const startTimeoutMs = 20_000;
const stopGraceMs = 4_000;
const nfsPort = 2_049;
const portAttempts = 30;
const portPauseMs = 100;
// What is hidden from nobody, but in nobody's way: a folder of root in the file system itself, so that it goes where that goes.
const recoveryFolder = '.holdfast/nfs';

/** Serves until the signal aborts; what runs then keeps running. Nothing is thrown: what fails is reported and tried again. */
export async function runShare(order: ShareOrder, given: ShareContext, signal: AbortSignal): Promise<void> {
  const { logger } = given;
  const floating = order.options.address === null ? null : parseFloatingAddress(order.options.address);
  const context = floating === null ? given : { ...given, address: floating.ip };
  const prepared = await prepareUntilDone(order, context, signal);
  if (prepared === null) return;
  const { fs } = prepared;
  let port = prepared.port;
  const serverDir = join(context.directory, 'server');
  const host = ganeshaHost(context.host, context.address, () => port, order.options.v3 ? 3 : 4);
  const health = watchHealth(host, serverDir, context, () => port, order, signal);
  await supervise(
    host,
    {
      name: `share ${order.volume}`,
      runDir: serverDir,
      // The system's message bus is of no use to it: what it is told stands in its configuration.
      command: [
        'env',
        'DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent',
        'ganesha.nfsd',
        '-F',
        ...['-L', join(serverDir, 'ganesha.log')],
        ...['-f', join(serverDir, 'ganesha.conf')],
        ...['-p', join(serverDir, 'ganesha.pid')],
        ...['-N', 'NIV_EVENT'],
      ],
      config: () => Promise.resolve({ configuration: writeConfiguration(order, context, port) }),
      stillRight: (present, wanted) => JSON.stringify(present) === JSON.stringify(wanted),
      onState: (state) => {
        context.onStatus({ ...statusOf(order, context, fs, port), ...supervisedStatus(state) });
      },
      onStartFailure: async () => {
        port = await choosePort(order, context);
      },
    },
    logger,
    signal,
  );
  await health;
}

/** Ends the server and unmounts the file system. With `lazy` it does not wait for I/O that may never end. */
export async function endShare(directory: string, host: ProcessHost, lazy: boolean): Promise<void> {
  const server = host.find(join(directory, 'server'));
  if (server !== null) await stopProcess(server.identity, stopGraceMs);
  await dropAddress(directory);
  const folder = join(directory, 'fs');
  while (listMounts().some((mount) => mount.directory === folder)) {
    // Unmounting writes nothing back where another mount namespace has a copy of the mount.
    if (!lazy) await runChecked('sync', ['-f', folder], { timeoutMs: 30_000 });
    const { code, stderr } = await runCommand('umount', [...(lazy ? ['-l'] : []), folder], { timeoutMs: 30_000 });
    if (code !== 0) throw notUnmounted(folder, stderr);
  }
  rmSync(join(directory, 'server'), { recursive: true, force: true });
}

function notUnmounted(folder: string, stderr: string): HoldfastError {
  if (!stderr.includes('busy')) return new HoldfastError('INTERNAL', `cannot unmount ${folder}: ${stderr.trim()}`);
  return new HoldfastError('IN_USE', `a program on its node has a file or folder of ${folder} open: end it`);
}

type Prepared = { readonly fs: string; readonly port: number };

// Null: the signal aborted.
async function prepareUntilDone(
  order: ShareOrder,
  context: ShareContext,
  signal: AbortSignal,
): Promise<Prepared | null> {
  for (let attempt = 1; !signal.aborted; attempt++) {
    try {
      const fs = await prepareFilesystem(order, context);
      await prepareAddress(order, context);
      return { fs, port: await choosePort(order, context) };
    } catch (thrown) {
      const { code, message } = toHoldfastError(thrown);
      context.logger.error('cannot prepare the share', errorFields(thrown));
      const failed = statusOf(order, context, order.fs, order.port);
      context.onStatus({ ...failed, state: 'failed', pid: null, failure: { code, message } });
      await sleep(backoffMs(attempt, retryFirstMs, retryMaxMs), signal);
    }
  }
  return null;
}

async function prepareFilesystem(order: ShareOrder, context: ShareContext): Promise<string> {
  if (order.options.v3 && !(await portMapperAnswers())) {
    throw new HoldfastError(
      'UNSUPPORTED_SYSTEM',
      'NFSv3 takes a port mapper on this node, and none answers on 127.0.0.1 port 111: start rpcbind',
    );
  }
  const ended = endStaleDevices(order.volumeId, order.device);
  if (ended.length > 0) context.logger.warn('ended devices that were left of the volume', { devices: ended });
  const folder = join(context.directory, 'fs');
  const present = listMounts().findLast((mount) => mount.directory === folder);
  if (present !== undefined && present.source !== order.device) await endShare(context.directory, context.host, true);
  makeFolders(folder, 0o700);
  let fs = present?.source === order.device ? present.type : null;
  if (fs === null) {
    const elsewhere = mountOf(order.device);
    if (elsewhere !== null) {
      throw new HoldfastError('IN_USE', `volume "${order.volume}" is mounted on ${elsewhere.directory} already`);
    }
    fs = await ensureFilesystem(order.device, knownType(order.fs), `volume "${order.volume}"`);
    // Another node of the same machine may still have it, cut off from the volume: xfs would take this one for a copy.
    await mountFilesystem(order.device, folder, fs, fs === 'xfs' ? ['nouuid'] : []);
  }
  await growFilesystem(order.device).catch((error: unknown) => {
    context.logger.warn('the file system could not be grown', errorFields(error));
  });
  makeFolders(join(folder, recoveryFolder), 0o700);
  return fs;
}

const addressFile = 'address';

// One that it had and is not to have any more goes.
async function prepareAddress({ options }: ShareOrder, { directory, logger }: ShareContext): Promise<void> {
  const wanted = options.address === null ? null : parseFloatingAddress(options.address);
  const present = addressIn(directory);
  if (present !== null && present.ip !== wanted?.ip) await dropAddress(directory);
  if (wanted === null) return;
  const placed = await addAddress(wanted);
  writeFileSync(join(directory, addressFile), formatFloatingAddress(placed));
  logger.info('the share has its address on this node', { address: formatFloatingAddress(placed) });
}

function addressIn(directory: string): FloatingAddress | null {
  const path = join(directory, addressFile);
  return existsSync(path) ? parseFloatingAddress(readFileSync(path, 'utf8')) : null;
}

async function dropAddress(directory: string): Promise<void> {
  const present = addressIn(directory);
  if (present === null) return;
  await removeAddress(present);
  rmSync(join(directory, addressFile));
}

async function portMapperAnswers(): Promise<boolean> {
  const portMapper = 100_000;
  return await rpcNullCall({ address: '127.0.0.1', port: 111, program: portMapper, version: 2 }, healthTimeoutMs);
}

function knownType(fs: string | null): FilesystemType | null {
  return filesystemTypes.find((type) => type === fs) ?? null;
}

// The one it had is best: clients know it.
async function choosePort(order: ShareOrder, { address, directory, host }: ShareContext): Promise<number> {
  const runs = host.find(join(directory, 'server')) !== null;
  if (order.port !== 0 && runs) return order.port;
  // A server that was just killed, or cut off from its volume, takes a moment to let go of it.
  for (let attempt = 0; order.port !== 0 && attempt < portAttempts; attempt++) {
    if (!('reason' in (await tryBind({ host: address, port: order.port })))) return order.port;
    await sleep(portPauseMs);
  }
  // Nobody else is at an address of its own: there it is where clients look first.
  if (order.options.address !== null && !('reason' in (await tryBind({ host: address, port: nfsPort }))))
    return nfsPort;
  return await findFreePorts(address, order.options.v3 ? 3 : 1, order.volumeId);
}

function writeConfiguration(order: ShareOrder, context: ShareContext, port: number): string {
  const folder = join(context.directory, 'fs');
  const text = ganeshaConfig({
    volumeId: order.volumeId,
    volume: order.volume,
    path: folder,
    recoveryDir: join(folder, recoveryFolder),
    address: context.address,
    port,
    options: order.options,
  });
  const serverDir = join(context.directory, 'server');
  makeFolders(serverDir, 0o700);
  writeFileSync(join(serverDir, 'ganesha.conf'), text);
  return text;
}

function statusOf(order: ShareOrder, context: ShareContext, fs: string | null, port: number) {
  const { volumeId, volume, device } = order;
  return { volumeId, volume, device, server: context.address, port, fs };
}

function supervisedStatus(state: SupervisedState): Pick<ShareStatus, 'state' | 'pid' | 'failure'> {
  switch (state.kind) {
    case 'starting':
      return { state: 'starting', pid: state.pid, failure: state.failure };
    case 'running':
      return { state: 'serving', pid: state.pid, failure: null };
    case 'failed':
      return { state: 'failed', pid: null, failure: state.failure };
  }
}

// Ganesha knows nothing of state.json: it is ready when it answers.
function ganeshaHost(base: ProcessHost, address: string, port: () => number, version: 3 | 4): ProcessHost {
  return {
    ...base,
    ready: async (_, process) => {
      const ended = { yes: false };
      void process.exited.then(() => {
        ended.yes = true;
      });
      const deadline = performance.now() + startTimeoutMs;
      while (!ended.yes) {
        if (performance.now() > deadline) signalProcess(process.identity, 'SIGKILL');
        if (await nullCall(address, port(), version, healthTimeoutMs)) return {};
        await sleep(readyPollMs);
      }
      return null;
    },
    lastWords: (runDir, exit) => ({
      code: 'INTERNAL',
      message: `the NFS server ended (${exit}): ${lastComplaint(join(runDir, 'ganesha.log')) ?? `see ${runDir}`}`,
    }),
    stop: async ({ identity }: HostedProcess) => {
      await stopProcess(identity, stopGraceMs);
    },
  };
}

function lastComplaint(path: string): string | null {
  try {
    const lines = readFileSync(path, 'utf8').split('\n');
    const line = lines.findLast((each) => /:(CRIT|FATAL|MAJ) :/.test(each));
    return line?.replace(/^.* :(?:CRIT|FATAL|MAJ) :/, '').trim() ?? null;
  } catch {
    return null;
  }
}

// A server that lives and answers nobody for a minute is ended; it is started again.
async function watchHealth(
  host: ProcessHost,
  serverDir: string,
  context: ShareContext,
  port: () => number,
  order: ShareOrder,
  signal: AbortSignal,
): Promise<void> {
  let healthyAt = performance.now();
  while (!signal.aborted) {
    await sleep(healthEveryMs, signal);
    const server = host.find(serverDir);
    const answered =
      server === null || (await nullCall(context.address, port(), order.options.v3 ? 3 : 4, healthTimeoutMs));
    // Cut off from its volume, and perhaps from its manager: whoever serves the share now must have the address alone.
    if (!answered && (await context.serving(order.volumeId)) === 'fenced') await dropAddress(context.directory);
    if (answered) healthyAt = performance.now();
    if (server === null || performance.now() - healthyAt < unhealthyMaxMs) continue;
    context.logger.error('the NFS server does not answer: ending it', { pid: server.identity.pid });
    signalProcess(server.identity, 'SIGKILL');
    healthyAt = performance.now();
  }
}
