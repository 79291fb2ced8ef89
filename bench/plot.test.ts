import { describe, expect, it } from 'vitest';

import { niceStep, plot } from './plot.js';

describe('plot', () => {
  it('puts the greatest point into the top right corner and lines at round numbers', () => {
    const points = [
      { x: 16, y: 40 },
      { x: 1, y: 10 },
    ];
    const svg = plot('title', 'x', 'y', [{ name: 'one', color: '#000', dashed: true, points }]);
    // Sorted by x; y grows upwards, from 370 at zero to 40 at the top.
    expect(svg).toContain('<polyline points="60.0,287.5 700.0,40.0"');
    expect(svg).toContain('stroke-dasharray');
    for (const label of ['>0<', '>5<', '>40<', '>16<', '>title<', '>one<']) expect(svg).toContain(label);
    expect(svg.startsWith('<svg')).toBe(true);
    expect(svg.trimEnd().endsWith('</svg>')).toBe(true);
  });

  it('draws a single point, or none', () => {
    expect(plot('t', 'x', 'y', [{ name: 'n', color: '#000', dashed: false, points: [{ x: 1, y: 0 }] }])).not.toContain(
      'NaN',
    );
    expect(plot('t', 'x', 'y', [])).not.toContain('NaN');
  });
});

describe('niceStep', () => {
  it.each([
    [1, 0.1],
    [9, 1],
    [40, 5],
    [45, 5],
    [120, 20],
  ])('of %d is %d', (max, step) => {
    expect(niceStep(max)).toBeCloseTo(step);
  });
});
