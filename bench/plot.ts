/** A line plot as SVG: x on a logarithmic scale of base 2, y from zero. */

export interface Series {
  readonly name: string;
  readonly color: string;
  readonly dashed: boolean;
  readonly points: readonly { readonly x: number; readonly y: number }[];
}

const [width, height] = [720, 420];
const [left, right, top, bottom] = [60, 20, 40, 50];

export function plot(title: string, xLabel: string, yLabel: string, series: readonly Series[]): string {
  const all = series.flatMap((one) => one.points);
  const xMax = Math.log2(Math.max(2, ...all.map((p) => p.x)));
  const step = niceStep(Math.max(1, ...all.map((p) => p.y)));
  const yMax = Math.ceil(Math.max(1, ...all.map((p) => p.y)) / step) * step;
  const x = (value: number): string => (left + (Math.log2(value) / xMax) * (width - left - right)).toFixed(1);
  const y = (value: number): string => (height - bottom - (value / yMax) * (height - top - bottom)).toFixed(1);
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${String(width)} ${String(height)}" font-family="sans-serif" font-size="12">`,
    `<rect width="${String(width)}" height="${String(height)}" fill="white"/>`,
    text(width / 2, 20, title, 'middle', 15),
    text((left + width - right) / 2, height - 12, xLabel, 'middle'),
    `<text transform="translate(16 ${String((top + height - bottom) / 2)}) rotate(-90)" text-anchor="middle">${yLabel}</text>`,
  ];
  for (let index = 0; index <= Math.round(yMax / step); index++) {
    const value = Number((index * step).toFixed(6));
    parts.push(
      `<line x1="${String(left)}" x2="${String(width - right)}" y1="${y(value)}" y2="${y(value)}" stroke="#ddd"/>`,
    );
    parts.push(text(left - 6, Number(y(value)) + 4, String(value), 'end'));
  }
  for (let power = 0; power <= Math.floor(xMax); power++) {
    parts.push(text(Number(x(2 ** power)), height - bottom + 18, String(2 ** power), 'middle'));
  }
  for (const [index, one] of series.entries()) {
    const dash = one.dashed ? ' stroke-dasharray="6 4"' : '';
    const path = [...one.points].sort((a, b) => a.x - b.x).map((p) => `${x(p.x)},${y(p.y)}`);
    parts.push(`<polyline points="${path.join(' ')}" fill="none" stroke="${one.color}" stroke-width="2"${dash}/>`);
    const legend = top + 12 + index * 17;
    parts.push(
      `<line x1="${String(left + 10)}" x2="${String(left + 40)}" y1="${String(legend)}" y2="${String(legend)}" stroke="${one.color}" stroke-width="2"${dash}/>`,
      text(left + 46, legend + 4, one.name, 'start'),
    );
  }
  return `${[...parts, '</svg>'].join('\n')}\n`;
}

/** 1, 2 or 5 times a power of ten, so that the axis has five to ten lines. */
export function niceStep(max: number): number {
  const power = 10 ** Math.floor(Math.log10(max / 5));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => max / step <= 10) ?? power * 10;
}

function text(x: number, y: number, content: string, anchor: 'start' | 'middle' | 'end', size = 12): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}" font-size="${String(size)}">${content}</text>`;
}
