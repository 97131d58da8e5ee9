// Small helpers for building the page. All text goes in as text: there is no way to HTML here.

/**
 * An element. `props` are attributes, but for `on` (listeners), `text` and `class`; children are
 * nodes, texts, or nothing.
 */
export function h(name, props = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === 'on') for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (key === 'text') element.textContent = value;
    else if (key === 'class') element.className = value;
    else element.setAttribute(key, value === true ? '' : value);
  }
  fill(element, ...children);
  return element;
}

/** Puts children into an element. */
export function fill(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Puts children in place of those that are there. */
export function replace(element, ...children) {
  element.replaceChildren();
  return fill(element, ...children);
}

const SVG = 'http://www.w3.org/2000/svg';
const ICONS = {
  copy: 'M8 8h11v11H8zM5 15V5h10',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  cross: 'M6.5 6.5l11 11m0-11l-11 11',
  warn: 'M12 4.5l8.5 15h-17zM12 10v4.5m0 2.2v.3',
  dot: 'M12 12h.01',
  arrow: 'M9.5 6l6 6-6 6',
};

/** A small picture that says nothing to who does not see it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  for (const [key, value] of [['viewBox', '0 0 24 24'], ['class', `icon icon-${name}`], ['aria-hidden', 'true']]) svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

/** A link within the page. */
export function link(to, ...children) {
  return h('a', { href: `#/${to}` }, ...children);
}

/** Says something to who listens to the page instead of seeing it. */
export function announce(message) {
  document.getElementById('announcer').textContent = message;
}

/** A long text shortened in the middle, whole for who copies it. */
export function hash(value, { to, lead = 8, tail = 6, prefix = '0x' } = {}) {
  if (!value) return h('span', { class: 'faint' }, 'none');
  const whole = value.startsWith(prefix) ? value : prefix + value;
  const kept = whole.length > prefix.length + lead + tail + 1;
  const short = kept ? `${whole.slice(0, prefix.length + lead)}…${tail > 0 ? whole.slice(-tail) : ''}` : whole;
  const shown = h('span', { class: 'mono', title: whole }, short);
  return h('span', { class: 'hash' }, to ? link(to, shown) : shown, copy(whole));
}

function copy(value) {
  const button = h('button', { type: 'button', class: 'copy', 'aria-label': `Copy ${value.slice(0, 10)}…`, title: 'Copy' }, icon('copy'));
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(value);
    } catch {
      // Without HTTPS there is no clipboard, but a selection can be copied.
      const box = h('textarea', { class: 'offscreen' }, value);
      document.body.append(box);
      box.select();
      document.execCommand('copy');
      box.remove();
      button.focus();
    }
    button.replaceChildren(icon('check'));
    button.classList.add('done');
    announce('Copied');
    setTimeout(() => {
      button.replaceChildren(icon('copy'));
      button.classList.remove('done');
    }, 1500);
  });
  return button;
}

// Numbers and times

const WHOLE = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** A number with its thousands apart, be it a number or a decimal text. */
export function count(value) {
  if (value === null || value === undefined) return '–';
  return WHOLE.format(typeof value === 'string' ? BigInt(value) : value);
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function size(length) {
  if (length < 1_000) return `${length} B`;
  return length < 1_000_000 ? `${(length / 1_000).toFixed(1)} kB` : `${(length / 1_000_000).toFixed(1)} MB`;
}

const UNITS = [
  [86_400_000, 'd'],
  [3_600_000, 'h'],
  [60_000, 'min'],
  [1_000, 's'],
];

/** How long ago, in few letters. */
export function ago(millis) {
  const past = Date.now() - millis;
  if (past < 0) return past > -1_500 ? 'now' : `in ${span(-past)}`;
  return past < 1_000 ? 'now' : `${span(past)} ago`;
}

function span(millis) {
  const [length, unit] = UNITS.find(([least]) => millis >= least) ?? UNITS.at(-1);
  return `${Math.floor(millis / length)} ${unit}`;
}

export const secondsOf = (time) => Number(time.seconds) * 1_000 + Math.floor(time.nanos / 1_000_000);

/** A moment that grows older while it is looked at; `millis` are counted since 1970. */
export function when(millis) {
  if (millis === null || millis === undefined) return h('span', { class: 'faint' }, '–');
  const date = new Date(millis);
  return h('time', { datetime: date.toISOString(), title: date.toISOString(), class: 'when' }, ago(millis));
}

/** Brings all moments of the page up to date. */
export function age() {
  for (const element of document.querySelectorAll('time.when')) {
    const shown = ago(Date.parse(element.dateTime));
    if (element.textContent !== shown) element.textContent = shown;
  }
}

/** Pairs of a name and what it is. */
export function facts(...pairs) {
  const shown = pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined);
  return h('dl', { class: 'facts' }, shown.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}

/** A word in a coloured frame: `good`, `bad`, `wait` or nothing. */
export function badge(word, tone = '') {
  return h('span', { class: `badge ${tone}` }, word);
}

/** A table that becomes a list of cards on a narrow screen. */
export function table(caption, columns, rows, { empty = 'Nothing here yet.', fixed = false } = {}) {
  if (rows.length === 0) return h('p', { class: 'empty' }, empty);
  const head = h('tr', {}, columns.map((column) => h('th', { scope: 'col', class: column.class }, column.name)));
  return h(
    'table',
    { class: fixed && 'fixed' },
    h('caption', { class: 'offscreen' }, caption),
    h('thead', {}, head),
    h('tbody', {}, rows.map((row) => tr(columns, row))),
  );
}

/** One row of a table. */
export function tr(columns, cells) {
  const shown = cells.map((cell, at) => h('td', { 'data-name': columns[at].name, class: columns[at].class }, cell));
  return h('tr', {}, shown);
}
