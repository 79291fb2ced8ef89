#!/usr/bin/env node
// `holdfast`: see cli.ts.
import { writeSync } from 'node:fs';
import { holdfastVersion } from '../config/version.js';
import { runCli } from './cli.js';

// Synchronous, so that a pipe gets all of it before the process exits. A reader that has gone is no error.
const write = (file: number) => (text: string) => {
  let rest = Buffer.from(text);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(file, rest));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return;
    }
  }
};

process.exit(await runCli(process.argv.slice(2), { out: write(1), err: write(2) }, holdfastVersion()));
