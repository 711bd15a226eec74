// Edges reached over time, as a picture: one line per series, time on a logarithmic axis.

export interface Series {
  name: string;
  points: { ms: number; edges: number }[];
}

const WIDTH = 760;
const HEIGHT = 420;
const LEFT = 56;
const RIGHT = 130;
const TOP = 36;
const BOTTOM = 44;
const COLOURS = ['#2a6fdb', '#c2410c', '#15803d', '#9333ea', '#b45309', '#0e7490', '#be185d'];

const STYLE = `text { font: 12px system-ui, sans-serif; fill: #333 } .grid { stroke: #ddd }
.back { fill: #fff } @media (prefers-color-scheme: dark) { text { fill: #ccc }
.grid { stroke: #444 } .back { fill: #1b1b1b } }`;

const escaped = (text: string): string =>
  text.replace(/[<&]/g, (c) => (c === '<' ? '&lt;' : '&amp;'));

/** A step of 1, 2 or 5 times a power of ten, so that `most` takes some five of them. */
function stepFor(most: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1) / 5));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => most / step <= 6) ?? most;
}

function timeName(ms: number): string {
  if (ms < 60_000) return `${ms / 1000} s`;
  return ms < 3_600_000 ? `${ms / 60_000} min` : `${ms / 3_600_000} h`;
}

/** The picture as a whole SVG document. */
export function plotEdges(title: string, series: readonly Series[]): string {
  const all = series.flatMap(({ points }) => points);
  const lastMs = Math.max(10_000, ...all.map(({ ms }) => ms));
  const firstMs = 100;
  const most = Math.max(10, ...all.map(({ edges }) => edges));
  const x = (ms: number): number => {
    const part = Math.log(Math.max(ms, firstMs) / firstMs) / Math.log(lastMs / firstMs);
    return LEFT + part * (WIDTH - LEFT - RIGHT);
  };
  const y = (edges: number): number => HEIGHT - BOTTOM - (edges / most) * (HEIGHT - TOP - BOTTOM);
  const parts: string[] = [];
  for (let edges = 0; edges <= most; edges += stepFor(most)) {
    const at = y(edges).toFixed(1);
    parts.push(`<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${at}" y2="${at}"/>`);
    parts.push(`<text x="${LEFT - 8}" y="${at}" text-anchor="end" dy="4">${edges}</text>`);
  }
  for (const ms of [100, 1000, 10_000, 60_000, 600_000, 3_600_000, 36_000_000]) {
    if (ms > lastMs) break;
    const at = x(ms).toFixed(1);
    parts.push(`<line class="grid" x1="${at}" x2="${at}" y1="${TOP}" y2="${HEIGHT - BOTTOM}"/>`);
    const below = HEIGHT - BOTTOM + 18;
    parts.push(`<text x="${at}" y="${below}" text-anchor="middle">${timeName(ms)}</text>`);
  }
  let labelAbove = Number.NEGATIVE_INFINITY;
  const byHeight = [...series].sort(
    (a, b) => (b.points.at(-1)?.edges ?? 0) - (a.points.at(-1)?.edges ?? 0),
  );
  byHeight.forEach(({ name, points }, index) => {
    const last = points.at(-1);
    if (!last) return;
    const colour = COLOURS[index % COLOURS.length];
    const line = points.map(({ ms, edges }) => `${x(ms).toFixed(1)},${y(edges).toFixed(1)}`);
    parts.push(
      `<polyline fill="none" stroke="${colour}" stroke-width="2" points="${line.join(' ')}"/>`,
    );
    const label = Math.max(y(last.edges) + 4, labelAbove + 14);
    labelAbove = label;
    const text = escaped(`${name} ${last.edges}`);
    parts.push(`<text x="${WIDTH - RIGHT + 8}" y="${label.toFixed(1)}">${text}</text>`);
    parts.push(
      `<circle cx="${x(last.ms).toFixed(1)}" cy="${y(last.edges).toFixed(1)}" r="3"
        fill="${colour}"/>`,
    );
  });
  const box = `viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img"`;
  const head = `<svg xmlns="http://www.w3.org/2000/svg" ${box}>`;
  const titleText = `<text x="${LEFT}" y="22">${escaped(title)}</text>`;
  const back = `<rect class="back" width="${WIDTH}" height="${HEIGHT}"/>`;
  return `${head}<style>${STYLE}</style>${back}${titleText}${parts.join('\n')}</svg>\n`;
}
