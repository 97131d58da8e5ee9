// One function for each view: it asks, and gives a title and what is to be seen.

import { ask } from './api.js';
import { ago, announce, badge, count, facts, h, hash, icon, link, plural, replace, secondsOf, size, table, tr, when } from './dom.js';
import { rollupId, validatorsHash } from './verify.js';

/** Blocks in the list, and in the picture above it. */
const ROWS = 16;
const BARS = 32;

// Blocks

/** The newest blocks that any view has got, the highest first. */
let newest = [];

export const newestShown = () => newest[0]?.height ?? null;

function learn(block) {
  if (newest.length > 0 && block.height <= newest[0].height) return;
  newest = [block, ...newest].slice(0, 64);
}

/** Items of all rollups together; what is in no list is a transaction that carries none. */
const itemsOf = (block) => block.lists.reduce((sum, leaf) => sum + leaf.list_len, 0);

/** About how long a block takes, in milliseconds. */
function interval() {
  if (newest.length < 2) return null;
  const [last, first] = [newest[0], newest.at(-1)];
  return (secondsOf(last.time) - secondsOf(first.time)) / (last.height - first.height);
}

export async function overview({ feed, signal }) {
  const [about, { blocks }] = await Promise.all([ask('overview'), ask(`blocks?limit=${BARS}`), names()]);
  newest = blocks;
  const tiles = h('dl', { class: 'tiles' });
  const bars = h('div', { class: 'bars', 'aria-hidden': 'true' });
  const columns = [
    { name: 'Height', class: 'first half' },
    { name: 'Time', class: 'plain' },
    { name: 'Items', class: 'number' },
    { name: 'Lists', class: 'wide-only' },
    { name: 'Signed', class: 'number' },
    { name: 'Hash', class: 'wide-only' },
  ];
  const row = (block) => [
    link(`block/${block.height}`, h('strong', { class: 'mono' }, count(block.height))),
    when(secondsOf(block.time)),
    count(itemsOf(block)),
    lists(block),
    votes(block),
    hash(block.hash, { to: `block/${block.height}`, prefix: '', lead: 10, tail: 0 }),
  ];
  const blocksTable = table('Newest blocks, the highest first', columns, blocks.slice(0, ROWS).map(row), { empty: 'No block yet.', fixed: true });
  const body = blocksTable.querySelector('tbody');
  const parts = h('div', { class: 'parts' });
  let isPaused = false;
  const pause = h('button', { type: 'button', class: 'button small', 'aria-pressed': 'false' }, 'Pause');
  pause.addEventListener('click', () => {
    isPaused = !isPaused;
    pause.setAttribute('aria-pressed', String(isPaused));
    pause.textContent = isPaused ? 'Go on' : 'Pause';
    if (!isPaused) redraw();
  });

  const tile = (name, value, note) => h('div', { class: 'tile' }, h('dt', {}, name), h('dd', {}, h('span', { class: 'value' }, value), h('span', { class: 'note' }, note)));
  function drawTiles() {
    const [head] = newest;
    const pace = interval();
    replace(
      tiles,
      tile('Height', head ? count(head.height) : '–', head ? when(secondsOf(head.time)) : 'waiting for the first block'),
      tile('Block time', pace === null ? '–' : `${Math.round(pace)} ms`, `over ${plural(Math.max(newest.length - 1, 0), 'block')}`),
      tile('Rollups', head ? count(head.rollups) : '–', 'in each block'),
      tile('Base fee', count(about.base_fee), 'units per byte'),
    );
  }
  function drawBars() {
    const shown = newest.slice(0, BARS).reverse();
    const most = Math.max(8, ...shown.map(itemsOf));
    const bar = (block) => {
      const element = h('span', { class: itemsOf(block) > 0 ? 'bar-of full' : 'bar-of' });
      element.style.height = `${8 + (92 * itemsOf(block)) / most}%`;
      return element;
    };
    replace(bars, shown.map(bar));
  }
  function redraw() {
    replace(body, newest.slice(0, ROWS).map((block) => tr(columns, row(block))));
    drawTiles();
    drawBars();
  }
  drawTiles();
  drawBars();
  drawParts(parts, about.parts);

  let isCatchingUp = false;
  async function catchUp() {
    if (isCatchingUp) return;
    isCatchingUp = true;
    const missed = await ask(`blocks?limit=${BARS}`).catch(() => null);
    isCatchingUp = false;
    if (signal.aborted || missed === null) return;
    newest = missed.blocks;
    if (!isPaused) redraw();
  }
  feed.addEventListener('block', ({ detail: block }) => {
    const isGap = newest.length > 0 && block.height > newest[0].height + 1;
    if (isGap) return catchUp();
    learn(block);
    if (isPaused || newest[0] !== block) return;
    const fresh = tr(columns, row(block));
    fresh.classList.add('fresh');
    if (!body) return redraw();
    body.prepend(fresh);
    while (body.rows.length > ROWS) body.lastChild.remove();
    drawTiles();
    drawBars();
  }, { signal });
  feed.addEventListener('parts', ({ detail }) => drawParts(parts, detail), { signal });

  const title = 'Blocks';
  const content = [
    h('h1', { class: 'offscreen' }, title),
    h('p', { class: 'chain' }, 'Chain ', h('strong', { class: 'mono' }, about.chain_id), ' · seen by ', about.served_by ?? 'a sequencer node'),
    tiles,
    h('section', { class: 'card' }, heading('Newest blocks', pause), bars, blocksTable),
    about.parts.length > 0 && h('section', { class: 'card' }, heading('How far each rollup is'), parts),
  ];
  return { title, content };
}

function heading(title, ...rest) {
  return h('div', { class: 'heading' }, h('h2', {}, title), rest);
}

/** Whether a list is the first or the last of its rollup's block. */
function ends(leaf) {
  const shown = [leaf.opens && badge('opens'), leaf.closes && badge('closes')].filter(Boolean);
  return shown.length > 0 && h('span', { class: 'chips' }, shown);
}

function votes(block) {
  const all = block.signed === block.validators;
  return h('span', { class: all ? '' : 'warn-text' }, `${block.signed}/${block.validators}`);
}

/** The rollups with items in a block, and how many. */
function lists(block) {
  const full = block.lists.filter((leaf) => leaf.list_len > 0);
  if (full.length === 0) return h('span', { class: 'faint' }, 'empty');
  const shown = full.slice(0, 4).map((leaf) => {
    const name = nameOf(leaf.rollup_id);
    const what = [name ?? leaf.rollup_id.slice(0, 6), h('span', { class: 'chip-count' }, count(leaf.list_len))];
    return name ? h('a', { class: 'chip', href: `#/list/${name}/${block.height}` }, what) : h('span', { class: 'chip' }, what);
  });
  return h('span', { class: 'chips' }, shown, full.length > 4 && ` and ${full.length - 4} more`);
}

function drawParts(element, parts) {
  const tip = newestShown();
  const part = (one) => {
    const behind = one.height === null || tip === null ? null : Math.max(0, tip - one.height);
    const isLate = one.trouble || (one.time !== null && Date.now() - one.time * 1_000 > 15_000);
    return h(
      'div',
      { class: 'part' },
      h('div', { class: 'part-name' }, link(`rollup/${one.name}`, one.name), badge(one.trouble ? 'away' : isLate ? 'late' : 'in time', one.trouble || isLate ? 'bad' : 'good')),
      one.trouble
        ? h('p', { class: 'part-note' }, one.trouble)
        : h('p', { class: 'part-note' }, 'block ', h('strong', { class: 'mono' }, count(one.head)), ', ', one.time === null ? '–' : when(one.time * 1_000), behind === null ? '' : `, ${plural(behind, 'height')} behind the sequencer`),
    );
  };
  replace(element, parts.map(part));
}

export async function block({ trust, signal }, height) {
  const [{ block: brief, item_hashes: items, proof }] = await Promise.all([ask(`blocks/${height}`), names()]);
  const { header, commit, validators } = proof;
  const leafColumns = [{ name: 'Rollup', class: 'first' }, { name: 'Block', class: 'number' }, { name: 'Slot' }, { name: 'Items', class: 'number' }, { name: 'Part' }];
  const leafRow = (leaf) => {
    const name = nameOf(leaf.rollup_id);
    return [
      name ? link(`list/${name}/${height}`, name) : hash(leaf.rollup_id, { prefix: '' }),
      count(leaf.number),
      when(Number(leaf.slot) * 1_000),
      count(leaf.list_len),
      ends(leaf),
    ];
  };
  const voteColumns = [{ name: 'Validator', class: 'first' }, { name: 'Power', class: 'number' }, { name: 'Vote' }, { name: 'Time', class: 'wide-only' }];
  const voteRow = (one, at) => {
    const vote = commit.signatures[at];
    const voted = { commit: ['for it', 'good'], nil: ['for nothing', 'wait'], absent: ['absent', 'bad'] }[vote.flag];
    return [hash(one.public_key, { prefix: '' }), count(one.power), badge(...voted), vote.time ? when(secondsOf(vote.time)) : '–'];
  };
  const title = `Block ${count(brief.height)}`;
  const content = [
    crumbs([['', 'Blocks']], title),
    pager(`block/${brief.height - 1}`, `block/${brief.height + 1}`, brief.height > 1),
    h('section', { class: 'card' }, facts(
      ['Time', when(secondsOf(header.time))],
      ['Hash', hash(brief.hash, { prefix: '' })],
      ['Proposer', hash(header.proposer_address, { prefix: '' })],
      ['Items', `${count(brief.items)} beside the preamble`],
      ['Signed by', votes(brief)],
      ['Data hash', hash(header.data_hash, { prefix: '' })],
      ['App hash', hash(header.app_hash, { prefix: '' })],
      ['Rules', `version ${header.version_app}`],
    )),
    verdictCard('The header', HEADER_STEPS, () => trust.header(proof, { height, hash: brief.hash }), signal),
    h('section', { class: 'card' }, heading(`Lists of ${plural(brief.rollups, 'rollup')}`), table('Lists of this block', leafColumns, brief.lists.map(leafRow), { empty: 'No rollup has a list here.' }), brief.lists.length < brief.rollups && h('p', { class: 'faint' }, 'Only the longest are shown.')),
    h('section', { class: 'card' }, heading('Items of the block'), itemHashes(items, brief.items)),
    h('section', { class: 'card' }, heading('Votes'), table('Votes of this block', voteColumns, validators.map(voteRow))),
  ];
  return { title, content };
}

function itemHashes(items, total) {
  if (total === 0) return h('p', { class: 'empty' }, 'Nothing but the preamble: this block is empty.');
  return [
    h('ol', { class: 'hashes' }, items.map((one) => h('li', {}, hash(one, { to: `tx/${one}`, prefix: '' })))),
    items.length < total && h('p', { class: 'faint' }, `The first ${count(items.length)} of ${count(total)}.`),
  ];
}

function crumbs(path, title) {
  return h('div', { class: 'title' }, h('nav', { 'aria-label': 'Path', class: 'crumbs' }, path.map(([to, name]) => [link(to, name), icon('arrow')])), h('h1', {}, title));
}

function pager(before, after, hasBefore = true) {
  return h('nav', { class: 'pager', 'aria-label': 'Neighbours' }, hasBefore && h('a', { class: 'button small', href: `#/${before}` }, 'Before'), h('a', { class: 'button small', href: `#/${after}` }, 'After'));
}

// Rollups

const known = new Map();

const nameOf = (id) => known.get(id) ?? null;

async function names() {
  if (known.size > 0) return;
  const { rollups } = await ask('rollups');
  for (const one of rollups) known.set(one.rollup_id, one.name);
}

export async function rollups() {
  const { rollups: found, next } = await ask('rollups');
  const columns = [{ name: 'Name', class: 'first' }, { name: 'Chain id', class: 'number' }, { name: 'Slot', class: 'number' }, { name: 'Gas limit', class: 'number' }, { name: 'Attesters' }, { name: 'State' }];
  const row = (one) => [
    link(`rollup/${one.name}`, h('strong', {}, one.name)),
    one.terms.evm_chain_id,
    `${one.terms.slot_secs} s`,
    count(one.terms.gas_limit),
    one.attesters ? `${one.attesters.threshold} of ${one.attesters.keys.length}` : h('span', { class: 'faint' }, 'none'),
    stateOf(one),
  ];
  const content = [
    h('h1', {}, 'Rollups'),
    h('section', { class: 'card' }, table('Rollups', columns, found.map(row), { empty: 'No rollup is registered yet.' }), next && h('p', { class: 'faint' }, `The first ${found.length}, in the order of their identifiers.`)),
  ];
  return { title: 'Rollups', content };
}

function stateOf(one) {
  if (one.terms.exit) return badge(`leaves at ${count(one.terms.exit)}`, 'bad');
  if (one.pending?.terms.exit) return badge(`leaves at ${count(one.pending.terms.exit)}`, 'wait');
  return one.pending ? badge('terms change', 'wait') : badge('active', 'good');
}

const TERMS = {
  evm_chain_id: ['Chain id', (value) => value],
  slot_secs: ['Slot', (value) => plural(value, 'second')],
  gas_limit: ['Gas limit of a block', count],
  max_tx_gas: ['Gas limit of a transaction', count],
  min_tip_wei: ['Least tip', (value) => `${count(value)} wei per gas`],
  max_bytes_per_block: ['Most bytes in a sequencer block', (value) => size(value)],
  max_items_per_block: ['Most items in a sequencer block', count],
  tip_share_bps: ['Owner’s share of tips', (value) => `${value / 100} %`],
  allow_unprotected: ['Transactions without chain id', (value) => (value ? 'executed' : 'skipped')],
  first_height: ['First height', count],
  owner: ['Owner', (value) => hash(value, { prefix: '' })],
  fee_recipient: ['Fee recipient', (value) => hash(value)],
  config_hash: ['Digest of the terms', (value) => hash(value, { prefix: '' })],
};

export async function rollup({ feed, signal }, name) {
  const [one, { lists: shown }] = await Promise.all([ask(`rollups/${name}`), ask(`rollups/${name}/lists?limit=20`)]);
  known.set(one.rollup_id, one.name);
  const columns = [{ name: 'Height', class: 'first half' }, { name: 'Time', class: 'plain' }, { name: 'Block', class: 'number' }, { name: 'Part' }, { name: 'Items', class: 'number' }];
  const row = ({ height, time, leaf }) => [
    link(`list/${name}/${height}`, h('strong', { class: 'mono' }, count(height))),
    when(secondsOf(time)),
    leaf ? count(leaf.number) : '–',
    leaf ? ends(leaf) : h('span', { class: 'faint' }, 'no list'),
    leaf ? count(leaf.list_len) : '–',
  ];
  const lists = table(`Newest lists of ${name}`, columns, shown.map(row), { fixed: true });
  const body = lists.querySelector('tbody');
  feed.addEventListener('block', ({ detail: block }) => {
    const leaf = block.lists.find((leaf) => leaf.rollup_id === one.rollup_id) ?? null;
    if (!body || (leaf === null && block.lists.length < block.rollups)) return;
    body.prepend(tr(columns, row({ height: block.height, time: block.time, leaf })));
    while (body.rows.length > 20) body.lastChild.remove();
  }, { signal });
  const pending = one.pending && Object.entries(TERMS).filter(([key]) => JSON.stringify(one.pending.terms[key]) !== JSON.stringify(one.terms[key]));
  const content = [
    crumbs([['rollups', 'Rollups']], [name, stateOf(one)]),
    pending && h('section', { class: 'card notice wait' }, heading('Terms to come'), h('p', {}, `From the first slot at or above height ${count(one.pending.from)} on.`), facts(...pending.map(([key, [label, view]]) => [label, view(one.pending.terms[key])]))),
    h('section', { class: 'card' }, heading('Terms'), facts(['Identifier', hash(one.rollup_id, { prefix: '' })], ...Object.entries(TERMS).map(([key, [label, view]]) => [label, view(one.terms[key])]), ['Rent is paid until', one.paid_until && `height ${count(one.paid_until)}`], ['Deposits that wait', count(one.queued_deposits)])),
    h('section', { class: 'card' }, heading('Attesters'), attesters(one.attesters)),
    h('section', { class: 'card' }, heading('Newest lists'), lists),
  ];
  return { title: name, content };
}

function attesters(set) {
  if (!set) return h('p', { class: 'empty' }, 'None: this rollup takes no part in atomic bundles.');
  return [
    h('p', {}, `${set.threshold} of ${plural(set.keys.length, 'key')} must agree. Set number ${count(set.epoch)}.`),
    h('ul', { class: 'hashes' }, set.keys.map((key) => h('li', {}, hash(key, { prefix: '' })))),
  ];
}

const ITEM_COLUMNS = [{ name: 'Place' }, { name: 'Kind', class: 'plain' }, { name: 'What', class: 'full plain' }, { name: 'Length', class: 'number' }, { name: 'Proof' }];

function itemRow(name, height) {
  return (one) => [
    count(one.index),
    badge({ transaction: 'transaction', deposit: 'deposit', leg: 'leg of a bundle' }[one.kind]),
    one.kind === 'deposit'
      ? ['deposit ', count(one.deposit), ': ', `${count(one.amount_gwei)} gwei`]
      : [hash(one.hash, { to: `tx/${one.hash}` }), one.kind === 'leg' && [' of ', hash(one.bundle_id, { to: `bundle/${one.bundle_id}`, lead: 4, tail: 4 })]],
    one.bytes === undefined ? '–' : size(one.bytes),
    link(`item/${name}/${height}/${one.index}`, 'verify', h('span', { class: 'offscreen' }, ` item ${one.index}`)),
  ];
}

export async function list({ signal }, name, height) {
  const first = await ask(`rollups/${name}/lists/${height}`);
  const items = [...first.items];
  const { leaf } = first;
  const element = h('div', {});
  const draw = () => {
    const more = items.length < leaf.list_len && h('button', { type: 'button', class: 'button' }, `Show more of ${count(leaf.list_len)}`);
    more && more.addEventListener('click', async () => {
      more.disabled = true;
      try {
        const next = await ask(`rollups/${name}/lists/${height}?from=${items.length}`);
        items.push(...next.items);
        if (!signal.aborted) draw();
      } catch (error) {
        more.disabled = false;
        more.textContent = `${error.message} Try again`;
      }
    });
    replace(element, table(`Items of ${name} at height ${height}`, ITEM_COLUMNS, items.map(itemRow(name, height)), { empty: 'Nothing of this rollup is in this block, and its leaf says so.' }), more);
  };
  draw();
  const title = `${name} at height ${count(Number(height))}`;
  const content = [
    crumbs([['rollups', 'Rollups'], [`rollup/${name}`, name]], `List of height ${count(Number(height))}`),
    pager(`list/${name}/${Number(height) - 1}`, `list/${name}/${Number(height) + 1}`, Number(height) > 1),
    h('section', { class: 'card' }, facts(
      ['Sequencer block', link(`block/${height}`, count(Number(height)))],
      ['Time', when(secondsOf(first.time))],
      ['Rollup block', [count(leaf.number), ' ', ends(leaf)]],
      ['Slot', when(Number(leaf.slot) * 1_000)],
      ['Items', count(leaf.list_len)],
      ['List root', hash(leaf.list_root, { prefix: '' })],
    )),
    h('section', { class: 'card' }, heading('Items'), element),
  ];
  return { title, content };
}

// Proofs

const ITEM_STEPS = [
  ['item', 'The bytes are those of this transaction'],
  ['list', 'They are in the rollup’s list'],
  ['leaf', 'The list is among those of the block'],
  ['preamble', 'The block begins with what commits to all lists'],
  ['header', 'The header carries the block’s data hash'],
  ['signatures', 'Validators signed the header'],
  ['root', 'They follow from what is trusted'],
];
const TRANSACTION_STEPS = [
  ['item', 'The hash is that of this transaction'],
  ['block', 'The block holds it'],
  ...ITEM_STEPS.slice(4),
];
const HEADER_STEPS = [['header', 'The header has the hash that is shown'], ...ITEM_STEPS.slice(5)];

/** A card with the verdict on a proof, which comes when it comes. */
function verdictCard(what, steps, judge, signal) {
  const card = h('section', { class: 'card verdict wait', 'data-verdict': 'pending' }, h('h2', {}, `${what} is being verified in this browser…`), h('ol', { class: 'steps' }, steps.map(([, name]) => h('li', {}, icon('dot'), h('span', {}, name)))));
  judge().then((verdict) => !signal.aborted && draw(card, what, steps, verdict));
  return card;
}

function draw(card, what, steps, verdict) {
  const [tone, title] = {
    verified: ['good', `${what} is verified`],
    refused: ['bad', `${what} is NOT verified`],
    unable: ['wait', `${what} cannot be verified here`],
  }[verdict.verdict];
  const failed = verdict.step === 'validators' ? 'signatures' : verdict.step;
  const step = ([key, name]) => {
    const holds = verdict.verdict === 'verified';
    const isWrong = key === failed;
    return h('li', { class: holds ? 'holds' : isWrong ? 'wrong' : '' }, icon(holds ? 'check' : isWrong ? 'cross' : 'dot'), h('span', {}, name, holds && detail(key, verdict), isWrong && [': ', h('strong', {}, verdict.reason)]));
  };
  card.className = `card verdict ${tone}`;
  card.dataset.verdict = verdict.verdict;
  const unnamed = verdict.verdict === 'refused' && !steps.some(([key]) => key === failed);
  replace(
    card,
    h('h2', {}, icon({ good: 'check', bad: 'cross', wait: 'warn' }[tone]), title),
    (verdict.verdict === 'unable' || unnamed) && h('p', {}, verdict.reason),
    h('ol', { class: 'steps' }, steps.map(step)),
    h('p', { class: 'faint' }, 'Checked by this browser, not by the server. ', link('trust', 'What is trusted?')),
  );
  announce(title);
}

function detail(key, verdict) {
  switch (key) {
    case 'list':
      return [' ', hash(verdict.listRoot, { prefix: '' })];
    case 'leaf':
      return [' ', hash(verdict.rollupsRoot, { prefix: '' })];
    case 'preamble':
    case 'block':
      return [' ', hash(verdict.dataHash, { prefix: '' })];
    case 'header':
      return [' ', hash(verdict.hash, { prefix: '' })];
    case 'signatures':
      return `: ${verdict.votes} of ${verdict.of}, with ${count(verdict.power)} of ${count(verdict.total)} voting power`;
    case 'root':
      return verdict.hops > 0 ? `, over ${plural(verdict.hops, 'header')} in between` : '';
    default:
      return '';
  }
}

/** The verdict on an item. */
function itemVerdict({ trust, signal }, what, name, height, index, expectedHash) {
  return verdictCard(what, ITEM_STEPS, async () => {
    let proof;
    try {
      proof = await ask(`rollups/${name}/lists/${height}/${index}/proof`);
    } catch (error) {
      return { verdict: 'unable', reason: error.message };
    }
    const expected = { rollupId: await digestOf(name), height, index };
    if (expectedHash) expected.hash = expectedHash;
    return trust.item(proof, expected);
  }, signal);
}

/** The identifier that a name has, computed here where that is possible. */
async function digestOf(name) {
  return globalThis.crypto?.subtle ? rollupId(name) : null;
}

export async function item(ctx, name, height, index) {
  const found = await ask(`rollups/${name}/lists/${height}?from=${index}&limit=1`);
  const [one] = found.items;
  if (!one) throw Object.assign(new Error(`The list of height ${height} has no item ${index}.`), { status: 404 });
  const what = { transaction: 'Transaction', deposit: 'Deposit', leg: 'Leg of a bundle' }[one.kind];
  const title = `${what} ${count(one.index)} of ${name}`;
  const content = [
    crumbs([['rollups', 'Rollups'], [`rollup/${name}`, name], [`list/${name}/${height}`, `List ${count(Number(height))}`]], title),
    h('section', { class: 'card' }, facts(
      ['Hash', one.hash && hash(one.hash, { to: `tx/${one.hash}` })],
      ['Bundle', one.bundle_id && hash(one.bundle_id, { to: `bundle/${one.bundle_id}` })],
      ['To', one.address && hash(one.address)],
      ['Amount', one.amount_gwei && `${count(one.amount_gwei)} gwei`],
      ['Length', one.bytes === undefined ? null : size(one.bytes)],
      ['Place', `${count(one.index)} of ${count(found.leaf.list_len)}, counted from 0`],
      ['Height', link(`block/${height}`, count(Number(height)))],
    )),
    itemVerdict(ctx, what, name, Number(height), Number(index), one.hash),
  ];
  return { title, content };
}

// A transaction's way

const UNSETTLED_PAUSE = 1_000;
const SLOWEST_PAUSE = 5_000;

export async function transaction(ctx, wanted) {
  const { signal } = ctx;
  let found = await ask(`transactions/${wanted}`);
  if (found.is_bundle) return bundle(ctx, wanted);
  const way = h('div', {});
  const proofs = h('div', {});
  let drawnProofs = '';
  const draw = () => {
    replace(way, ways(found));
    const places = proven(found);
    const key = JSON.stringify(places);
    if (key === drawnProofs) return;
    drawnProofs = key;
    replace(proofs, places.map((place) => place.rollup
      ? itemVerdict(ctx, `Inclusion in ${place.rollup}`, place.rollup, place.height, place.index, wanted)
      : sequencerVerdict(ctx, place.height, wanted)));
  };
  draw();
  follow(signal, async () => {
    const next = await ask(`transactions/${wanted}`);
    if (JSON.stringify(next) === JSON.stringify(found)) return;
    found = next;
    draw();
  }, () => !isSettled(found));
  const content = [
    h('div', { class: 'title' }, h('h1', {}, 'Transaction')),
    h('section', { class: 'card' }, facts(['Hash', h('span', { class: 'whole-hash' }, hash(wanted, { lead: 64, tail: 0 }))])),
    way,
    proofs,
  ];
  return { title: 'Transaction', content };
}

/** Asks again and again, as long as something may change and the view is there, ever less often. */
async function follow(signal, look, goesOn, first = UNSETTLED_PAUSE) {
  for (let pause = first; !signal.aborted && goesOn(); pause = Math.min(pause * 1.05, SLOWEST_PAUSE)) {
    await new Promise((done) => setTimeout(done, pause));
    if (signal.aborted) return;
    if (!document.hidden) await look().catch(() => {}); // The next look may tell more.
  }
}

function isSettled(found) {
  const isOver = ({ status, head }) => status.status === 'rejected' || (status.status === 'executed' && head >= status.blockNumber);
  if (found.sequencer?.status === 'pending') return false;
  return (found.rollups.length > 0 || found.sequencer) && found.rollups.every(isOver);
}

function proven(found) {
  const places = found.rollups.filter((one) => one.height !== null && one.index !== null);
  const shown = places.map(({ rollup, height, index }) => ({ rollup, height, index }));
  if (found.sequencer?.status === 'included') shown.push({ height: found.sequencer.height });
  return shown;
}

function ways(found) {
  const shown = found.rollups.map(way);
  if (found.sequencer) shown.push(sequencerWay(found.sequencer));
  if (shown.length > 0) return shown;
  return h(
    'section',
    { class: 'card' },
    h('h2', {}, 'Not seen yet'),
    h('p', {}, 'Nobody here knows a transaction, bundle or block item of this hash. This page looks again by itself.'),
    !found.knows_rollups && h('p', { class: 'faint' }, 'This node has no index of rollups’ transactions: ask the explorer of a composer, or look into a list by its height.'),
  );
}

/** Queued, sequenced, executed, at the head: where one stands on a rollup. */
function way({ rollup, status, acknowledged, height, index, sequenced_time: sequenced, block_time: blockTime, head }) {
  const stage = status.status;
  const isSequenced = height !== null;
  const isExecuted = stage === 'executed';
  const isRejected = stage === 'rejected';
  const isHead = isExecuted && head !== null && head >= status.blockNumber;
  const stations = [
    ['Queued', acknowledged !== null || stage !== 'unknown', [acknowledged === null ? 'not sent by way of here, or long ago' : when(acknowledged * 1_000), stage === 'submitted' && ' · in a batch on its way']],
    ['Sequenced', isSequenced, isSequenced && [link(`block/${height}`, `height ${count(height)}`), `, place ${count(index)} · `, sequenced ? when(secondsOf(sequenced)) : '']],
    ['Executed', isExecuted, isExecuted && [`block ${count(status.blockNumber)} · `, blockTime === null ? '' : when(blockTime * 1_000), status.success === false && ' · it reverted']],
    ['Head', isHead, isExecuted && head !== null && `the rollup is at block ${count(head)}`],
  ];
  const next = stations.findIndex(([, reached]) => !reached);
  const station = ([name, reached, note], at) => {
    const state = reached ? 'reached' : isRejected && at === next ? 'ended' : at === next ? 'next' : '';
    const word = { reached: 'done', ended: 'never', next: 'now' }[state] ?? 'later';
    return h('li', { class: state }, h('span', { class: 'station' }, name, h('span', { class: 'offscreen' }, ` (${word})`)), h('span', { class: 'station-note' }, note || (state === 'next' ? 'waiting…' : '')));
  };
  const verdict = isRejected ? badge('rejected', 'bad') : isExecuted ? (status.success === false ? badge('reverted', 'bad') : badge('executed', 'good')) : badge(stage, 'wait');
  return h(
    'section',
    { class: 'card' },
    heading(['On ', link(`rollup/${rollup}`, rollup)], verdict),
    h('ol', { class: 'way' }, stations.map(station)),
    isRejected && h('p', { class: 'notice bad' }, `It will not run: ${status.reason ?? 'the reason is not remembered'}.`),
  );
}

function sequencerWay(sequencer) {
  const isIn = sequencer.status === 'included';
  return h(
    'section',
    { class: 'card' },
    heading('On the sequencer', isIn ? badge(sequencer.code === 0 ? 'executed' : 'failed', sequencer.code === 0 ? 'good' : 'bad') : badge('in the mempool', 'wait')),
    isIn && facts(
      ['Height', link(`block/${sequencer.height}`, count(sequencer.height))],
      ['Time', when(secondsOf(sequencer.time))],
      ['Place', `item ${count(sequencer.index)} (as the node says; no header commits to it)`],
      ['Why it failed', sequencer.code === 0 ? null : `${sequencer.log} (code ${sequencer.code})`],
    ),
  );
}

function sequencerVerdict({ trust, signal }, height, wanted) {
  return verdictCard('Inclusion in the sequencer’s block', TRANSACTION_STEPS, async () => {
    try {
      return await trust.transaction(await ask(`transactions/${wanted}/proof`), { hash: wanted, height });
    } catch (error) {
      return { verdict: 'unable', reason: error.message };
    }
  }, signal);
}

// Bundles

const STAGES = { executed: 'good', violated: 'bad', unconfirmed: 'bad', aborted: 'bad' };
const isOver = (one) => Object.hasOwn(STAGES, one.stage);
const stageBadge = (stage) => badge(stage, STAGES[stage] ?? 'wait');

export async function bundles({ signal }) {
  let found = await ask('bundles');
  const element = h('div', {});
  const columns = [{ name: 'Bundle', class: 'first' }, { name: 'Stage' }, { name: 'Legs' }, { name: 'Sealed at', class: 'number' }, { name: 'Changed at', class: 'number wide-only' }];
  const row = (one) => [
    hash(one.bundle_id, { to: `bundle/${one.bundle_id}` }),
    stageBadge(one.stage),
    h('span', { class: 'chips' }, one.legs.map((leg) => h('span', { class: 'chip' }, leg.rollup ?? leg.rollup_id.slice(0, 6)))),
    link(`block/${one.sealed_at}`, count(one.sealed_at)),
    one.stages.length > 0 ? count(one.stages.at(-1).height) : '–',
  ];
  const draw = () => replace(element, table('Bundles, those that changed last at the top', columns, found.bundles.map(row), { empty: 'No bundle has changed lately. A bundle runs transactions on several rollups, all of them or none.' }));
  draw();
  follow(signal, async () => {
    const next = await ask('bundles');
    if (JSON.stringify(next) === JSON.stringify(found)) return;
    found = next;
    draw();
  }, () => true, 2_000);
  const content = [h('h1', {}, 'Atomic bundles'), h('section', { class: 'card' }, element)];
  return { title: 'Bundles', content };
}

const MEANING = {
  sealed: 'Its transactions are sealed, and nobody needs to know them yet.',
  queued: 'Its transactions are known; it waits for a slot.',
  scheduled: 'The next slot is its own; attesters execute it now.',
  released: 'Its legs are in their blocks.',
  executed: 'All legs ran, and attesters of every rollup say so.',
  unconfirmed: 'Its legs are in their blocks, but not every rollup’s attesters said so in time.',
  violated: 'Attesters say that it came out otherwise than they had attested.',
  aborted: 'Nothing of it has run or ever will.',
};

export async function bundle({ signal }, id) {
  let found = await ask(`bundles/${id}`);
  const element = h('div', {});
  const leg = (one, at) => h(
    'li',
    { class: 'leg' },
    h('div', { class: 'heading' }, h('h3', {}, `Leg ${at + 1}: `, one.rollup ? link(`rollup/${one.rollup}`, one.rollup) : hash(one.rollup_id, { prefix: '' })), one.confirmed === null ? badge('not released', 'wait') : one.confirmed ? badge('confirmed', 'good') : badge('not confirmed yet', 'wait')),
    facts(
      ['Transactions', count(one.transactions)],
      ['Rollup block', one.block_number === null ? null : count(one.block_number)],
      ['Gas', one.gas === 0 ? null : `at most ${count(one.gas)}`],
      ['Receipts, as attested', one.receipts_hash && hash(one.receipts_hash, { prefix: '' })],
    ),
    one.items?.length > 0 && h('ul', { class: 'hashes' }, one.items.map((item) => h('li', {}, hash(item.hash, { to: `tx/${item.hash}` }), ' ', one.rollup && link(`item/${one.rollup}/${found.released_at}/${item.index}`, 'verify', h('span', { class: 'offscreen' }, ` its place in ${one.rollup}`))))),
  );
  const draw = () => replace(
    element,
    h('section', { class: 'card' }, heading('Outcome', stageBadge(found.stage)), h('p', {}, MEANING[found.stage] ?? ''), found.reason && h('p', { class: 'notice bad' }, `Why: ${found.reason}.`), h('ol', { class: 'way' }, found.stages.map(({ stage, height }) => h('li', { class: STAGES[stage] === 'bad' ? 'ended' : 'reached' }, h('span', { class: 'station' }, stage), h('span', { class: 'station-note' }, link(`block/${height}`, `height ${count(height)}`)))))),
    h('section', { class: 'card' }, heading(plural(found.legs.length, 'leg')), h('ol', { class: 'legs' }, found.legs.map(leg))),
    h('section', { class: 'card' }, heading('Terms'), facts(
      ['Submitter', hash(found.submitter, { prefix: '' })],
      ['Sealed at', link(`block/${found.sealed_at}`, `height ${count(found.sealed_at)}`)],
      ['Released at', found.released_at && link(`block/${found.released_at}`, `height ${count(found.released_at)}`)],
      ['Valid', [when(found.valid_from * 1_000), ' to ', when(found.valid_until * 1_000)]],
      ['Attempts left', count(found.attempts_left)],
      ['Tip for each attempt', `${count(found.tip_per_attempt)} units`],
    )),
  );
  draw();
  follow(signal, async () => {
    const next = await ask(`bundles/${id}`);
    if (JSON.stringify(next) === JSON.stringify(found)) return;
    found = next;
    draw();
  }, () => !isOver(found));
  const title = 'Bundle';
  const content = [crumbs([['bundles', 'Bundles']], title), h('section', { class: 'card' }, facts(['Identifier', h('span', { class: 'whole-hash' }, hash(id, { lead: 64, tail: 0 }))])), element];
  return { title, content };
}

// Validators

export async function validators({ signal }) {
  let found = await ask('validators');
  const element = h('div', {});
  const columns = [{ name: 'Validator', class: 'first' }, { name: 'Power', class: 'number' }, { name: 'Share', class: 'number' }, { name: 'Last commit' }, { name: 'Missed', class: 'number' }, { name: 'Proposed', class: 'number' }, { name: 'Paid to', class: 'wide-only' }];
  const draw = () => {
    const total = found.validators.reduce((sum, one) => sum + BigInt(one.power), 0n);
    const sorted = found.validators.toSorted((a, b) => (BigInt(a.power) === BigInt(b.power) ? a.address.localeCompare(b.address) : BigInt(b.power) > BigInt(a.power) ? 1 : -1));
    const row = (one) => [
      hash(one.address, { prefix: '' }),
      count(one.power),
      `${(Number((BigInt(one.power) * 1_000n) / total) / 10).toFixed(1)} %`,
      one.voted === null ? '–' : one.voted ? badge('signed', 'good') : badge('missing', 'bad'),
      h('span', { class: one.missed > 0 ? 'warn-text' : '' }, count(one.missed)),
      count(one.proposed),
      hash(one.payout, { prefix: '' }),
    ];
    replace(element, h('section', { class: 'card' }, heading(plural(sorted.length, 'validator'), h('p', { class: 'faint' }, `${count(total)} voting power in all`)), table('Validators, the strongest first', columns, sorted.map(row)), h('p', { class: 'faint' }, `Commit of height ${count(found.height)}. Missed and proposed of the last ${plural(found.window, 'block')}.`)));
  };
  draw();
  follow(signal, async () => {
    found = await ask('validators');
    draw();
  }, () => true, 2_000);
  return { title: 'Validators', content: [h('h1', {}, 'Validators'), element] };
}

// Trust

export async function trust({ trust: trusted, signal }) {
  const element = h('div', {});
  const draw = async () => {
    const { root, by, since, changed } = await trusted.describe();
    const isGenesis = root.kind === 'genesis';
    const digest = isGenesis && globalThis.crypto?.subtle ? await validatorsHash(root.validators) : null;
    const forget = h('button', { type: 'button', class: 'button', on: { click: () => {
      trusted.forget();
      draw().catch(() => {});
      announce('This server is trusted again');
    } } }, by === 'reader' ? 'Trust what this server says instead' : 'Trust what this server says now');
    if (signal.aborted) return;
    replace(
      element,
      changed && h('div', { class: 'notice bad', role: 'alert' }, h('p', {}, h('strong', {}, 'This server names another genesis than on your first visit.'), ' It serves another chain, or it lies. Nothing is verified until you decide.'), forget),
      h('section', { class: 'card' }, heading('The root'), facts(
        ['Kind', isGenesis ? 'The validators of the genesis' : 'A header'],
        ['Chain', root.chain_id],
        ['Height', isGenesis ? null : count(root.height)],
        ['Hash', isGenesis ? null : hash(root.hash, { prefix: '' })],
        ['Validators', isGenesis ? plural(root.validators.length, 'key') : null],
        ['Digest of the validators', digest && hash(digest, { prefix: '' })],
        ['Known from', by === 'reader' ? 'you' : 'this server'],
        ['Since', when(since)],
      ), by === 'reader' && forget),
      by !== 'reader' && h('p', { class: 'notice wait' }, 'You have this root from the server that also serves the rest. It was remembered on your first visit: a server that lies later is found out, one that lied from the beginning is not. To depend on no server, name a header that you know from a source of your own.'),
    );
  };
  await draw();

  const height = h('input', { id: 'root-height', name: 'height', inputmode: 'numeric', required: true, pattern: '[0-9]+', autocomplete: 'off' });
  const digest = h('input', { id: 'root-hash', name: 'hash', required: true, pattern: '(0x)?[0-9a-fA-F]{64}', autocomplete: 'off', spellcheck: 'false', class: 'mono' });
  const said = h('p', { role: 'alert', class: 'form-error' });
  const form = h(
    'form',
    { class: 'card root-form' },
    heading('Name a root of your own'),
    h('div', { class: 'field' }, h('label', { for: 'root-height' }, 'Height'), height),
    h('div', { class: 'field' }, h('label', { for: 'root-hash' }, 'Hash of its header, 64 hexadecimal digits'), digest),
    said,
    h('button', { type: 'submit', class: 'button' }, 'Trust this header'),
  );
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    said.textContent = '';
    try {
      await trusted.nameHeader(BigInt(height.value), digest.value.toLowerCase().replace(/^0x/, ''));
      await draw();
      form.reset();
      announce('Your header is trusted now');
    } catch (error) {
      said.textContent = `Not trusted: ${error.message}`;
    }
  });
  const content = [
    h('h1', {}, 'What this browser trusts'),
    h('p', { class: 'lead' }, 'Nodes and this server can delay you, not mislead you: an item is verified here from its bytes to a header that more than two thirds of the validators signed, and the validators from a root. Everything depends on that root.'),
    element,
    form,
    h('section', { class: 'card' }, heading('What a verdict says'), h('ul', { class: 'prose' },
      h('li', {}, 'Verified: the item is in the list of this rollup at this height, at this place, and validators that follow from the root signed that.'),
      h('li', {}, 'Not verified: a step does not hold. Somebody between you and the chain has changed something.'),
      h('li', {}, 'Lists, times of acknowledgement, outcomes and the state of bundles are what a node says: they are shown, not proven.'),
      h('li', {}, 'More than a third of the validators together could sign a second chain. Nobody would see that here alone.'),
    )),
  ];
  return { title: 'Trust', content };
}

export async function missing() {
  throw Object.assign(new Error('There is no such page. A transaction is found by its hash of 64 digits, a block by its height.'), { status: 404 });
}
