// The command lines of the benchmarks: --help, and what is not an option of theirs.
import { parseArgs } from 'node:util';
import type { ParseArgsConfig } from 'node:util';

/** By name. --help prints the usage and ends the process; what is no option ends it with 2. */
export function benchOptions<const T extends NonNullable<ParseArgsConfig['options']>>(usage: string, options: T) {
  if (process.argv.includes('--help')) {
    console.log(usage);
    process.exit(0);
  }
  try {
    return parseArgs<{ options: T }>({ options }).values;
  } catch (error) {
    return refuse(usage, error instanceof Error ? error.message : String(error));
  }
}

export function refuse(usage: string, why: string): never {
  console.error(`bench: ${why}\n${usage}`);
  process.exit(2);
}
