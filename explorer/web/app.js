// The frame of the page: which view is shown, the search, the line that says whether the page is live.

import { Feed, ask } from './api.js';
import { age, announce, h, replace } from './dom.js';
import { Trust } from './trust.js';
import * as views from './views.js';

const ROUTES = [
  [/^$/, views.overview, 'blocks'],
  [/^block\/(\d+)$/, views.block, 'blocks'],
  [/^rollups$/, views.rollups, 'rollups'],
  [/^rollup\/([a-z][a-z0-9-]*)$/, views.rollup, 'rollups'],
  [/^list\/([a-z][a-z0-9-]*)\/(\d+)$/, views.list, 'rollups'],
  [/^item\/([a-z][a-z0-9-]*)\/(\d+)\/(\d+)$/, views.item, 'rollups'],
  [/^tx\/(?:0x)?([0-9a-f]{64})$/, views.transaction, 'blocks'],
  [/^bundles$/, views.bundles, 'bundles'],
  [/^bundle\/(?:0x)?([0-9a-f]{64})$/, views.bundle, 'bundles'],
  [/^validators$/, views.validators, 'validators'],
  [/^trust$/, views.trust, 'trust'],
];

const main = document.getElementById('main');
const feed = new Feed();
const trust = new Trust();
let leave = new AbortController();

/** What a view may use. `signal` ends with the view. */
function context() {
  leave.abort();
  leave = new AbortController();
  return { feed, trust, signal: leave.signal };
}

async function show({ first = false } = {}) {
  const path = decodeURIComponent(location.hash.replace(/^#\/?/, ''));
  const [pattern, view, section] = ROUTES.find(([route]) => route.test(path)) ?? [/^/, views.missing, ''];
  for (const item of document.querySelectorAll('nav a')) {
    if (item.dataset.section === section) item.setAttribute('aria-current', 'page');
    else item.removeAttribute('aria-current');
  }
  const ctx = context();
  const body = h('div', { class: 'view', 'aria-busy': 'true' }, h('p', { class: 'loading' }, 'Loading…'));
  replace(main, body);
  if (!first) {
    main.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
  try {
    const { title, content } = await view(ctx, ...path.match(pattern).slice(1));
    if (ctx.signal.aborted) return;
    document.title = title === 'Blocks' ? 'Counterpoint' : `${title} · Counterpoint`;
    replace(body, content);
    if (!first) announce(title);
  } catch (error) {
    if (ctx.signal.aborted) return;
    document.title = 'Counterpoint';
    replace(body, failure(error));
  }
  body.removeAttribute('aria-busy');
}

function failure(error) {
  if (error.status === undefined) console.error(error);
  const isMissing = error.status === 404;
  const retry = h('button', { type: 'button', class: 'button', on: { click: () => show() } }, 'Try again');
  return h(
    'section',
    { class: 'card failure' },
    h('h1', {}, isMissing ? 'Not found' : 'That did not work'),
    h('p', { role: 'alert' }, error.status === undefined ? 'The page stumbled over an answer.' : error.message),
    retry,
  );
}

// Search

const search = document.getElementById('search');
const query = document.getElementById('query');
const complaint = document.getElementById('search-error');

function destination(text) {
  const plain = text.trim().toLowerCase();
  if (/^(0x)?[0-9a-f]{64}$/.test(plain)) return `tx/${plain.replace(/^0x/, '')}`;
  if (/^[\d,_ ]+$/.test(plain)) return `block/${plain.replace(/\D/g, '')}`;
  if (/^[a-z][a-z0-9-]{0,31}$/.test(plain)) return `rollup/${plain}`;
  return null;
}

search.addEventListener('submit', (event) => {
  event.preventDefault();
  if (query.value.trim() === '') return;
  const to = destination(query.value);
  complaint.textContent = to ? '' : 'Neither a hash of 64 digits, a height nor the name of a rollup.';
  if (!to) return;
  query.value = '';
  if (location.hash === `#/${to}`) show();
  else location.hash = `#/${to}`;
});
query.addEventListener('input', () => (complaint.textContent = ''));
document.addEventListener('keydown', (event) => {
  const isTyping = event.target.matches?.('input, textarea, select');
  if (event.key !== '/' || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  query.focus();
});
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault(); // The fragment is the route.
  main.focus();
});

// The line that says whether the page is live

const status = document.getElementById('status');
let trouble = null;

function tell() {
  const isLost = feed.state === 'reconnecting';
  const said = isLost ? 'Connection lost. Reconnecting…' : trouble;
  status.classList.toggle('shown', Boolean(said));
  const text = said ?? '';
  if (status.textContent !== text) status.textContent = text;
}

feed.addEventListener('state', tell);
feed.addEventListener('trouble', ({ detail }) => {
  trouble = detail && `${detail.charAt(0).toUpperCase()}${detail.slice(1)}.`;
  tell();
});

window.addEventListener('hashchange', () => show());
setInterval(age, 1_000);
await show({ first: true });
feed.start(await newest());

/** The height from which on news are of interest. */
async function newest() {
  const shown = views.newestShown();
  if (shown !== null) return shown;
  return ask('overview').then(({ height }) => height, () => null);
}
