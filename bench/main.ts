/**
 * npm run bench: fio against the raw disk, tgt with one copy, and Holdfast with three, in turn, case by case.
 * Ratios are taken within a round, because these figures drift with the machine.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { join, resolve } from 'node:path';

import { root } from '../test/lib/cluster.js';
import { benchCases } from './cases.js';
import { fill, measure } from './fio.js';
import { benchOptions } from './options.js';
import { cpuSeconds, residentMebibytes } from './proc.js';
import { regressions, table, type BenchRecord, type CaseResult, type SubjectResult } from './report.js';
import { startHoldfast, startRaw, startTgt, tgtIsInstalled, type Subject } from './subjects.js';

const usage = `Usage: npm run bench -- [options]

Measures with fio, side by side: the raw disk, tgt with one copy, Holdfast with three replicas on the same disk.

  --folder DIR       where the data goes: a folder on the disk to measure (default build/bench-data)
  --size-mib N       area that is read and written (default 2048)
  --seconds N        length of one measurement (default 5)
  --rounds N         rounds; the medians are shown (default 3)
  --cases A,B        only these: ${benchCases.map((one) => one.id).join(', ')}
  --subjects A,B     only these: raw, tgt, holdfast (default all; tgt where it is installed)
  --json FILE        write the record there
  --compare FILE     compare ratios with an earlier record; exit 1 when one fell by more than 10 %

Example: npm run bench -- --rounds 1 --cases rand-write-d32,rand-read-d32 --json build/bench.json`;

const starters = { raw: startRaw, tgt: startTgt, holdfast: startHoldfast };

function progress(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function measureOnce(
  subject: Subject,
  index: number,
  sizeBytes: number,
  seconds: number,
): Promise<SubjectResult> {
  const benchCase = benchCases[index];
  if (!benchCase) throw new Error(`there is no case ${String(index)}`);
  const pids = await subject.pids();
  const before = pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0);
  const started = process.hrtime.bigint();
  const measurement = await measure(benchCase, subject.destination, sizeBytes, seconds);
  const elapsed = Number(process.hrtime.bigint() - started) / 1e9;
  const used = pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0) - before;
  // The ramp is outside fio's count but inside the CPU time: scale to the whole run.
  const operations = measurement.iops * elapsed;
  return {
    ...measurement,
    cpuSecondsPer1000: pids.length === 0 ? null : (used / operations) * 1000,
    residentMebibytes: pids.reduce((sum, pid) => sum + residentMebibytes(pid), 0),
  };
}

async function main(): Promise<number> {
  const values = benchOptions(usage, {
    folder: { type: 'string', default: join(root, 'build/bench-data') },
    'size-mib': { type: 'string', default: '2048' },
    seconds: { type: 'string', default: '5' },
    rounds: { type: 'string', default: '3' },
    cases: { type: 'string', default: benchCases.map((one) => one.id).join(',') },
    subjects: { type: 'string' },
    json: { type: 'string' },
    compare: { type: 'string' },
  });
  const sizeBytes = Number(values['size-mib']) * 1024 * 1024;
  const [seconds, rounds] = [Number(values.seconds), Number(values.rounds)];
  const chosen = values.cases.split(',');
  const wanted = values.subjects?.split(',') ?? Object.keys(starters);
  const unknown = chosen.filter((id) => !benchCases.some((one) => one.id === id));
  const strange = wanted.filter((name) => !Object.hasOwn(starters, name));
  if (unknown.length > 0 || strange.length > 0 || !(sizeBytes > 0) || !(seconds > 0) || !(rounds > 0)) {
    if (unknown.length > 0) console.error(`there is no case ${unknown.join(', ')}`);
    else if (strange.length > 0) console.error(`there is no subject ${strange.join(', ')}`);
    else console.error('sizes, seconds and rounds are numbers > 0');
    console.error(usage);
    return 2;
  }
  if (wanted.includes('tgt') && !tgtIsInstalled()) {
    const how = 'tgt is not installed: "apt-get install tgt" does that (its package may start a service on port 3260)';
    if (values.subjects !== undefined) {
      console.error(how);
      return 1;
    }
    progress(`${how}; measuring without it`);
    wanted.splice(wanted.indexOf('tgt'), 1);
  }

  const folder = resolve(values.folder);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const subjects: Subject[] = [];
  const results: CaseResult[] = [];
  try {
    for (const [name, start] of Object.entries(starters)) {
      if (!wanted.includes(name)) continue;
      progress(`start ${name}`);
      const subject = await start({ folder: join(folder, name), sizeBytes });
      subjects.push(subject);
      progress(`fill ${name}`);
      await fill(subject.destination, sizeBytes);
    }
    for (const [index, benchCase] of benchCases.entries()) {
      if (!chosen.includes(benchCase.id)) continue;
      const measured: Record<string, SubjectResult>[] = [];
      for (let round = 1; round <= rounds; round++) {
        const row: Record<string, SubjectResult> = {};
        for (const subject of subjects) {
          const result = await measureOnce(subject, index, sizeBytes, seconds);
          row[subject.name] = result;
          progress(
            `${benchCase.title} · round ${String(round)}/${String(rounds)} · ${subject.name}: ${result.iops.toFixed(0)} IOPS, ` +
              `${result.megabytesPerSecond.toFixed(0)} MB/s, mean ${result.meanMicroseconds.toFixed(0)} µs`,
          );
        }
        measured.push(row);
      }
      results.push({ id: benchCase.id, title: benchCase.title, rounds: measured });
    }
  } finally {
    for (const subject of subjects) await subject.stop();
    rmSync(folder, { recursive: true, force: true });
  }

  const record: BenchRecord = {
    version: 1,
    date: new Date().toISOString(),
    machine: { cpus: cpus().length, model: cpus()[0]?.model ?? 'unknown', kernel: release() },
    options: { sizeBytes, seconds, rounds },
    cases: results,
  };
  console.log(
    table(
      benchCases,
      results,
      subjects.map((subject) => subject.name),
    ),
  );
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(record, null, 2)}\n`);
  if (values.compare === undefined) return 0;
  const found = regressions(record, JSON.parse(readFileSync(values.compare, 'utf8')) as BenchRecord, 0.1);
  for (const line of found) console.error(`slower: ${line}`);
  return found.length > 0 ? 1 : 0;
}

process.exitCode = await main();
