// Unit tests lie beside the code (engine/, bench/); what crosses modules is in test/ and needs a built checkout.
import { defineConfig } from 'vitest/config';

const namespaces = ['test/hosts.test.ts', 'test/network-*.test.ts', 'test/share-address.test.ts'];

export default defineConfig({
  test: {
    pool: 'forks',
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // What is waited for comes when it comes: machines are busy.
    expect: { poll: { timeout: 60_000, interval: 20 } },
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['engine/**/*.test.ts', 'bench/**/*.test.ts', 'test/tidy*.test.ts'],
          sequence: { groupOrder: 0 },
        },
      },
      {
        // These start whole clusters: after the unit tests, and two files at a time, since they wait more than they work.
        extends: true,
        test: {
          name: 'e2e',
          include: ['test/**/*.test.ts'],
          exclude: ['test/tidy*.test.ts', ...namespaces],
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        // These make network namespaces, whose names and addresses are the machine's: one file at a time, in a process
        // of their own beside the others (scripts/test.mjs).
        extends: true,
        test: {
          name: 'e2e-hosts',
          include: namespaces,
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
