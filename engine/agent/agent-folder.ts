// What an agent tells the managers of the folder that it runs on, so that two agents of one name are told apart. A copy of the folder, on
// this host or another one, is another folder; so is every folder after this host was started again.
import { createHash } from 'node:crypto';
import { readFileSync, realpathSync, statSync } from 'node:fs';

export type AgentFolder = {
  readonly id: string;
  readonly path: string;
  /** As `id`, but the same after a restart of the host; of a copy of the whole host, too. */
  readonly lastingId: string;
};

export function identifyFolder(directory: string): AgentFolder {
  const path = realpathSync(directory);
  const { dev, ino } = statSync(path, { bigint: true });
  const hash = (text: string) => createHash('sha256').update(text).digest('hex').slice(0, 32);
  return { id: hash(`${bootId()} ${dev} ${ino}`), path, lastingId: hash(`${path} ${ino}`) };
}

function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return '';
  }
}
