/** Turns measurements into a table for people and a record for programs, and compares two records. */
import type { BenchCase } from './cases.js';
import type { Measurement } from './fio.js';

export interface SubjectResult extends Measurement {
  /** CPU seconds of the subject's processes per 1,000 I/Os; null where it has none (raw disk). */
  readonly cpuSecondsPer1000: number | null;
  readonly residentMebibytes: number;
}

export interface CaseResult {
  readonly id: string;
  readonly title: string;
  /** One entry per round and subject, in the order measured. */
  readonly rounds: readonly Readonly<Record<string, SubjectResult>>[];
}

export interface BenchRecord {
  readonly version: 1;
  readonly date: string;
  readonly machine: { readonly cpus: number; readonly model: string; readonly kernel: string };
  readonly options: { readonly sizeBytes: number; readonly seconds: number; readonly rounds: number };
  readonly cases: readonly CaseResult[];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

type Figure = (result: SubjectResult) => number;

export function medianOf(result: CaseResult, subject: string, figure: Figure): number {
  return median(result.rounds.flatMap((round) => (round[subject] ? [figure(round[subject])] : [])));
}

/** Median over rounds of the ratio of two subjects within one round: what survives a noisy machine. */
export function pairedRatio(result: CaseResult, subject: string, other: string, figure: Figure): number {
  return median(
    result.rounds.flatMap((round) => {
      const [a, b] = [round[subject], round[other]];
      return a && b ? [figure(a) / figure(b)] : [];
    }),
  );
}

const iops: Figure = (result) => result.iops;
const number = (value: number, digits = 0): string => (Number.isFinite(value) ? value.toFixed(digits) : '-');

export function table(
  cases: readonly BenchCase[],
  results: readonly CaseResult[],
  subjects: readonly string[],
): string {
  const rows = [
    ['case', 'subject', 'IOPS', 'MB/s', 'mean µs', 'p50 µs', 'p99 µs', 'CPU s/1k', 'RSS MiB', '× raw', '× tgt'],
  ];
  for (const result of results) {
    for (const subject of subjects) {
      const cpu = medianOf(result, subject, (r) => r.cpuSecondsPer1000 ?? Number.NaN);
      const ratio = (other: string): string =>
        other === subject ? '' : number(pairedRatio(result, subject, other, iops), 2);
      rows.push([
        result.title,
        subject,
        number(medianOf(result, subject, iops)),
        number(
          medianOf(result, subject, (r) => r.megabytesPerSecond),
          1,
        ),
        number(medianOf(result, subject, (r) => r.meanMicroseconds)),
        number(medianOf(result, subject, (r) => r.p50Microseconds)),
        number(medianOf(result, subject, (r) => r.p99Microseconds)),
        number(cpu, 3),
        number(medianOf(result, subject, (r) => r.residentMebibytes)),
        ratio('raw'),
        ratio('tgt'),
      ]);
    }
  }
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length))) ?? [];
  return rows
    .map((row) =>
      row.map((cell, i) => (i < 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
    )
    .join('\n');
}

/** Cases whose ratio to a reference subject fell by more than `tolerance` (0.1 = 10 %) against a baseline. */
export function regressions(now: BenchRecord, baseline: BenchRecord, tolerance: number): string[] {
  const found: string[] = [];
  for (const result of now.cases) {
    const before = baseline.cases.find((one) => one.id === result.id);
    if (!before) continue;
    for (const other of ['raw', 'tgt']) {
      const [a, b] = [pairedRatio(result, 'holdfast', other, iops), pairedRatio(before, 'holdfast', other, iops)];
      if (a < b * (1 - tolerance)) {
        found.push(`${result.title}: ${a.toFixed(2)} × ${other}, was ${b.toFixed(2)}`);
      }
    }
  }
  return found;
}
