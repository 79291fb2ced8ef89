// The text format of Prometheus (version 0.0.4). Written here and not by a client library: what we expose are readings that others
// have counted (engines, disks), and libraries want to do the counting themselves.

export type Labels = Readonly<Record<string, string>>;
export type Sample = { readonly labels: Labels; readonly value: number };
export type HistogramSample = {
  readonly labels: Labels;
  /** How many fell into each bucket; one more than there are bounds: what lies above the last. */
  readonly counts: readonly number[];
  readonly sum: number;
};
export type Family =
  | {
      readonly kind: 'gauge' | 'counter';
      readonly name: string;
      readonly help: string;
      readonly samples: readonly Sample[];
    }
  | {
      readonly kind: 'histogram';
      readonly name: string;
      readonly help: string;
      /** Upper bounds, ascending. */
      readonly bounds: readonly number[];
      readonly samples: readonly HistogramSample[];
    };

export const expositionType = 'text/plain; version=0.0.4; charset=utf-8';

export function expose(families: readonly Family[]): string {
  const lines: string[] = [];
  for (const family of families) {
    lines.push(`# HELP ${family.name} ${family.help}`, `# TYPE ${family.name} ${family.kind}`);
    if (family.kind === 'histogram') {
      for (const sample of family.samples) lines.push(...histogramLines(family.name, family.bounds, sample));
    } else {
      for (const { labels, value } of family.samples)
        lines.push(`${family.name}${labelText(labels)} ${numberText(value)}`);
    }
  }
  return lines.join('\n') + '\n';
}

function histogramLines(name: string, bounds: readonly number[], { labels, counts, sum }: HistogramSample): string[] {
  let seen = 0;
  const lines = bounds.map((bound, index) => {
    seen += counts[index] ?? 0;
    return `${name}_bucket${labelText({ ...labels, le: numberText(bound) })} ${seen}`;
  });
  const all = counts.reduce((total, count) => total + count, 0);
  return [
    ...lines,
    `${name}_bucket${labelText({ ...labels, le: '+Inf' })} ${all}`,
    `${name}_sum${labelText(labels)} ${numberText(sum)}`,
    `${name}_count${labelText(labels)} ${all}`,
  ];
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeValue(value)}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function escapeValue(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}

function numberText(value: number): string {
  if (value === Infinity) return '+Inf';
  return String(value);
}
