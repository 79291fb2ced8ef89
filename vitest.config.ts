// Unit tests lie beside the code (engine/**); what crosses modules is in test/** and needs a built checkout.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['engine/**/*.test.ts', 'bench/**/*.test.ts', 'test/**/*.test.ts'],
    pool: 'forks',
    testTimeout: 30_000,
    hookTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: { name: 'unit', include: ['engine/**/*.test.ts', 'bench/**/*.test.ts', 'test/tidy*.test.ts'] },
      },
      {
        // These start processes and measure nothing: one file at a time keeps them calm on small machines.
        extends: true,
        test: { name: 'e2e', include: ['test/**/*.test.ts'], exclude: ['test/tidy*.test.ts'], fileParallelism: false },
      },
    ],
  },
});
