// What an agent remembers across restarts: the ports of the processes it runs, so that their addresses stay the same, and the ids of
// its disks, so that another disk (or an empty mount point) at the place of one is noticed instead of formatted.
import { join } from 'node:path';
import { z } from 'zod';
import { HoldfastError } from '../errors/holdfast-error.js';
import { readJson, writeJsonAtomic } from '../os/atomic-file.js';
import type { AgentFolder } from './agent-folder.js';
import { diskConfigSchema } from './config.js';
import type { DiskConfig } from './config.js';
import { findFreePorts, tryBind } from '../os/addresses.js';

const memorySchema = z.object({
  version: z.literal(1),
  /** By "target" or name of the disk. */
  ports: z.record(z.string(), z.number()),
  /** By name of the disk. */
  diskIds: z.record(z.string(), z.string()),
  /** Disks that the manager had this node take in, besides those of its configuration. */
  orderedDisks: z.array(diskConfigSchema).default([]),
  /** The folder (lastingId) as which a manager has accepted this agent; null: not yet. */
  acceptedAs: z.string().nullable().default(null),
});
type Memory = z.infer<typeof memorySchema>;

export class AgentMemory {
  readonly #path: string;
  readonly #host: string;
  #memory: Memory;

  constructor(runDir: string, host: string) {
    this.#path = join(runDir, 'memory.json');
    this.#host = host;
    const stored = readJson(this.#path) ?? { version: 1, ports: {}, diskIds: {} };
    const parsed = memorySchema.safeParse(stored);
    if (!parsed.success)
      throw new HoldfastError('CORRUPT', `${this.#path} is damaged: ${z.prettifyError(parsed.error)}`);
    this.#memory = parsed.data;
  }

  diskId(disk: string): string | null {
    return this.#memory.diskIds[disk] ?? null;
  }

  rememberDiskId(disk: string, id: string): void {
    if (this.#memory.diskIds[disk] === id) return;
    this.#store({ ...this.#memory, diskIds: { ...this.#memory.diskIds, [disk]: id } });
  }

  /** What comes to its place later is another disk. */
  forgetDisk(disk: string): void {
    const { [disk]: _, ...diskIds } = this.#memory.diskIds;
    this.#store({ ...this.#memory, diskIds });
  }

  /** Whether a manager has accepted the agent that has this folder; of a copy it has not. */
  wasAccepted({ lastingId }: AgentFolder): boolean {
    return this.#memory.acceptedAs === lastingId;
  }

  rememberAccepted({ lastingId }: AgentFolder): void {
    if (this.#memory.acceptedAs !== lastingId) this.#store({ ...this.#memory, acceptedAs: lastingId });
  }

  get orderedDisks(): readonly DiskConfig[] {
    return this.#memory.orderedDisks;
  }

  rememberDisks(disks: readonly DiskConfig[]): void {
    this.#store({ ...this.#memory, orderedDisks: [...disks] });
  }

  /** The port of a process; chosen when it has none. */
  async port(process: string): Promise<number> {
    const known = this.#memory.ports[process];
    if (known !== undefined) return known;
    const taken = new Set(Object.values(this.#memory.ports));
    for (let attempt = 0; ; attempt++) {
      const port = await findFreePorts(this.#host, 1, `${this.#path} ${process} ${attempt}`);
      if (taken.has(port)) continue;
      this.#store({ ...this.#memory, ports: { ...this.#memory.ports, [process]: port } });
      return port;
    }
  }

  /** After a start that failed: when somebody else has the port by now, the next start takes another. */
  async recheckPort(process: string): Promise<void> {
    const known = this.#memory.ports[process];
    if (known === undefined || !('reason' in (await tryBind({ host: this.#host, port: known })))) return;
    const { [process]: _, ...ports } = this.#memory.ports;
    this.#store({ ...this.#memory, ports });
  }

  #store(memory: Memory): void {
    this.#memory = memory;
    writeJsonAtomic(this.#path, memory);
  }
}
