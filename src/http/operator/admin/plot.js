import { el, svg } from './dom.js';

const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [480, 150, 44, 8, 18];

/**
 * Sixty minutes: what each gateway was paid as stacked bars, the fallback hatched, and one line.
 * @param from the beginning of the first minute
 * @param line a number for each minute, or undefined
 * @param text says what happened in a minute, for a pointer that rests on it
 */
export function plot({ from, bars: { primary, fallback }, line, format, text, label }) {
  const minutes = primary.length;
  const highest = Math.max(1, ...primary.map((value, minute) => value + fallback[minute]), ...(line ?? []));
  const step = (WIDTH - LEFT) / minutes;
  const y = (value) => TOP + (1 - value / highest) * (HEIGHT - TOP - BOTTOM);
  const x = (minute) => LEFT + minute * step;
  const bar = (value, below, minute, className) =>
    value > 0 &&
    svg('rect', {
      ...{ x: x(minute), y: y(below + value), width: step * 0.8, height: Math.max(0.5, y(below) - y(below + value)) },
      ...(className === 'primary' ? { class: className } : { fill: 'url(#hatch)' }),
    });
  const columns = primary.flatMap((value, minute) => [
    bar(value, 0, minute, 'primary'),
    bar(fallback[minute], value, minute, 'fallback'),
  ]);
  const points = line?.map((value, minute) => `${x(minute) + step * 0.4},${y(value)}`).join(' ');
  return svg(
    'svg',
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': label },
    svg('defs', {}, hatch()),
    [1, 0.5, 0].flatMap((share) => [
      svg('line', { class: 'grid', x1: LEFT, x2: WIDTH, y1: y(share * highest), y2: y(share * highest) }),
      share > 0 &&
        svg('text', { x: LEFT - 4, y: y(share * highest) + 4, 'text-anchor': 'end' }, format(share * highest)),
    ]),
    columns,
    points && svg('polyline', { class: 'accepted', points }),
    [0, 15, 30, 45].map((minute) => svg('text', { x: x(minute), y: HEIGHT - 4 }, clock(from, minute))),
    primary.map((_, minute) =>
      svg(
        'rect',
        { class: 'hit', x: x(minute), y: TOP, width: step, height: HEIGHT - TOP - BOTTOM },
        svg('title', {}, `${clock(from, minute)}: ${text(minute)}`),
      ),
    ),
  );
}

/** What each mark means, with the sum of the hour. */
export function legend(entries) {
  const marks = {
    primary: () => svg('rect', { class: 'primary', width: 16, height: 10 }),
    fallback: () => svg('rect', { fill: 'url(#hatch)', width: 16, height: 10 }),
    accepted: () => svg('polyline', { class: 'accepted', points: '0,8 6,2 10,6 16,1' }),
  };
  return el(
    'ul',
    { class: 'legend' },
    entries.map(([mark, text]) =>
      el(
        'li',
        {},
        svg('svg', { viewBox: '0 0 16 10', 'aria-hidden': 'true' }, svg('defs', {}, hatch()), marks[mark]()),
        text,
      ),
    ),
  );
}

function hatch() {
  const pattern = { id: 'hatch', width: 4, height: 4, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' };
  return svg('pattern', pattern, svg('line', { class: 'fallback-hatch', x1: 1, x2: 1, y1: 0, y2: 4 }));
}

function clock(from, minute) {
  return new Date(Date.parse(from) + minute * 60_000).toLocaleTimeString('en-GB', {
    hour: '2-digit',
    minute: '2-digit',
  });
}
