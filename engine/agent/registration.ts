// DIR/registration.json of an agent: whether the managers take it for the node that it says it is, for whoever has started it. There is none
// before they have answered.
import { join } from 'node:path';
import { z } from 'zod';
import { errorCodes } from '../errors/error-codes.js';
import type { ErrorCode } from '../errors/error-codes.js';
import type { HoldfastError } from '../errors/holdfast-error.js';
import { readJson, removeFile, writeJsonAtomic } from '../os/atomic-file.js';

const registrationSchema = z.discriminatedUnion('state', [
  z.object({ state: z.literal('accepted') }),
  z.object({
    state: z.literal('refused'),
    code: z.enum(Object.keys(errorCodes) as [ErrorCode, ...ErrorCode[]]),
    message: z.string(),
  }),
]);
export type Registration = z.infer<typeof registrationSchema>;

const pathIn = (runDir: string) => join(runDir, 'registration.json');

/** Null: nothing is known yet. */
export function readRegistration(runDir: string): Registration | null {
  try {
    const parsed = registrationSchema.safeParse(readJson(pathIn(runDir)));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

export class RegistrationFile {
  readonly #path: string;
  #last = '';

  /** Of an agent that has just been started. */
  constructor(runDir: string) {
    this.#path = pathIn(runDir);
    removeFile(this.#path);
  }

  accepted(): void {
    this.#write({ state: 'accepted' });
  }

  refused({ code, message }: HoldfastError): void {
    this.#write({ state: 'refused', code, message });
  }

  #write(registration: Registration): void {
    const text = JSON.stringify(registration);
    if (text === this.#last) return;
    this.#last = text;
    writeJsonAtomic(this.#path, registration);
  }
}
