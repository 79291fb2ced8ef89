/**
 * libiscsi's conformance suite against a replicated volume. Every test must pass; a test that prints [SKIPPED] counts
 * only when docs/iscsi-compliance.md lists it (CUnit itself would count it as passed).
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { Cluster, root } from './lib/cluster.js';
import { attempt, run } from './lib/process.js';

let folder: string;
let cluster: Cluster;
let url: string;
let url4k: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-compliance-'));
  cluster = await Cluster.start({ folder });
  await cluster.createVolume('suite', '1Gi');
  url = (await cluster.attach('suite')).iscsi.url;
  await cluster.createVolume('suite4k', '1Gi', '--block-size', '4096');
  url4k = (await cluster.attach('suite4k')).iscsi.url;
});
afterAll(async () => {
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
});

interface SuiteResult {
  readonly passed: string[];
  readonly failed: string[];
  readonly skipped: string[];
}

/** Reads the verbose output of iscsi-test-cu: "Test: NAME ..." blocks, each with its log and "passed" or "FAILED". */
function parseSuite(suite: string, text: string): SuiteResult {
  const result: SuiteResult = { passed: [], failed: [], skipped: [] };
  for (const block of text.split(/^(?=\s*Test: )/m)) {
    const name = /^\s*Test: (\S+)/.exec(block)?.[1];
    if (name === undefined) continue;
    // What the suite prints while it cleans up may follow on the same line.
    if (!/(\.\.\.|^)passed\b/m.test(block)) result.failed.push(`${suite}.${name}`);
    else if (block.includes('[SKIPPED]')) result.skipped.push(`${suite}.${name}`);
    else result.passed.push(`${suite}.${name}`);
  }
  return result;
}

/** The URLs of a suite; the exceptions have their reasons in docs/iscsi-compliance.md. */
function urlsOf(suite: string): string[] {
  if (suite === 'GetLBAStatus') return [url4k];
  if (suite === 'MultipathIO') return [url, url];
  return [url];
}

async function suites(): Promise<string[]> {
  const text = await run('iscsi-test-cu', ['-l']);
  return [...text.matchAll(/^ALL\.([^.\s]+)$/gm)].map((match) => match[1] ?? '');
}

test('libiscsi: 0 failures, and only documented skips', async () => {
  const documented = readFileSync(join(root, 'docs/iscsi-compliance.md'), 'utf8');
  const total: SuiteResult = { passed: [], failed: [], skipped: [] };
  const names = await suites();
  expect(names.length).toBeGreaterThan(30);
  for (const suite of names) {
    const outcome = await attempt(
      'iscsi-test-cu',
      ['--dataloss', '--allow-sanitize', '-v', '-t', `ALL.${suite}`, ...urlsOf(suite)],
      { timeoutMilliseconds: 120_000 },
    );
    const result = parseSuite(suite, outcome.stdout);
    const count = result.passed.length + result.failed.length + result.skipped.length;
    // A suite that ends early (hangs, crashes) has failed, too.
    if (outcome.code !== 0 || count === 0) total.failed.push(`${suite} (exit ${String(outcome.code)})`);
    total.passed.push(...result.passed);
    total.failed.push(...result.failed);
    total.skipped.push(...result.skipped);
  }
  console.log(
    `iscsi-test-cu: ${total.passed.length} passed, ${total.failed.length} failed, ${total.skipped.length} skipped`,
  );
  expect(total.failed).toEqual([]);
  expect(total.skipped.filter((name) => !documented.includes(`\`${name}\``))).toEqual([]);
  expect(total.passed.length).toBeGreaterThanOrEqual(201);
}, 600_000);
