/**
 * Makes an element. Children that are no elements become text, so data can never become HTML.
 * @param attributes a function is a listener of that event; `undefined` and `false` leave the attribute out
 */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== false));
  return element;
}

const shown = new Map();

/**
 * Shows data in the element of this id. While the data is the same, the element stays as it is: what a reader has opened,
 * selected or focused is not disturbed.
 */
export function show(id, data, render) {
  const text = JSON.stringify(data);
  if (shown.get(id) === text) return;
  shown.set(id, text);
  const focused = document.activeElement?.id;
  document.getElementById(id).replaceChildren(...[render(data)].flat());
  if (focused) document.getElementById(focused)?.focus();
}

/** Pairs of a name and a value, as a list. Pairs without a value are left out. */
export function pairs(className, entries) {
  const rows = entries.filter(([, value]) => value !== undefined && value !== '');
  const isGrid = className === 'figures';
  return el(
    'dl',
    { class: className },
    rows.flatMap(([name, value]) => {
      const both = [el('dt', {}, name), el('dd', {}, value)];
      return isGrid ? el('div', {}, both) : both;
    }),
  );
}

/** @param columns a heading that begins with `#` is one of numbers */
export function table(columns, rows) {
  const isNumber = columns.map((column) => column.startsWith('#'));
  const cell = (name, value, index) => el(name, isNumber[index] ? { class: 'number' } : {}, value ?? '');
  const head = columns.map((column, index) => cell('th', column.replace(/^#/, ''), index));
  const body = rows.map((row) =>
    el(
      'tr',
      {},
      row.map((value, index) => cell('td', value, index)),
    ),
  );
  return el(
    'div',
    { class: 'wide', tabindex: 0, role: 'group' },
    el('table', {}, el('thead', {}, el('tr', {}, head)), el('tbody', {}, body)),
  );
}

export const count = (value) => (value === undefined ? '–' : Math.round(value).toLocaleString('en'));

export const rate = (value) => `${value.toLocaleString('en', { maximumFractionDigits: value < 10 ? 1 : 0 })} / s`;

export const money = (cents) =>
  (cents / 100).toLocaleString('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 });

export const milliseconds = (ms) =>
  ms === undefined ? '–' : ms < 1_000 ? `${Number(ms.toPrecision(2))} ms` : duration(ms / 1_000);

/** As `42 s`, `3 min 4 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return seconds < 10 && whole !== seconds ? `${seconds.toFixed(1)} s` : `${whole} s`;
  const [big, small, size] =
    whole < 3_600 ? ['min', 's', 60] : whole < 86_400 ? ['h', 'min', 3_600] : ['d', 'h', 86_400];
  const rest = Math.floor((whole % size) / (size === 86_400 ? 3_600 : size / 60));
  return `${Math.floor(whole / size)} ${big}${rest > 0 ? ` ${rest} ${small}` : ''}`;
}

export const megabytes = (bytes) => `${(bytes / 1e6).toLocaleString('en', { maximumFractionDigits: 0 })} MB`;

/** The time of day; before today with the date. */
export function time(iso) {
  const date = new Date(iso);
  const isToday = date.toDateString() === new Date().toDateString();
  const clock = date.toLocaleTimeString('en-GB');
  return isToday ? clock : `${date.toLocaleDateString('sv')} ${clock}`;
}
