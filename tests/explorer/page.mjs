// The explorer's page in a browser, on a real network: what is said here about it must be seen there.
// Told by EXPLORER: where the page is, what to look for, and where pictures go.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(import.meta.url);
const { chromium } = require('playwright-core');
const axe = require('axe-core');

const told = JSON.parse(readFileSync(process.env.EXPLORER));
const PATIENCE = 60_000;
const PHONE = { width: 360, height: 740 };
const DESKTOP = { width: 1280, height: 860 };

const browser = await chromium.launch({ executablePath: told.chromium, args: ['--no-sandbox'] });
mkdirSync(told.pictures, { recursive: true });

/** A page of its own; nothing that it says on its console or asks of others is let pass. */
async function open(path, options = {}) {
  const { base = told.composer, theme = 'light', viewport = DESKTOP, ...rest } = options;
  const context = await browser.newContext({ colorScheme: theme, reducedMotion: 'reduce', viewport, ...rest });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  page.complaints = [];
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && page.complaints.push(message.text()));
  page.on('request', (request) => {
    if (!request.url().startsWith(new URL(base).origin)) page.complaints.push(`asks ${request.url()}`);
  });
  if (options.prepare) await options.prepare(page);
  await page.goto(`${base}#/${path}`);
  await page.waitForSelector('.view:not([aria-busy])');
  return page;
}

async function close(page, expected = () => false) {
  const complaints = page.complaints.filter((one) => !expected(one));
  assert.deepEqual(complaints, []);
  await page.context().close();
}

const failures = [];

/** Does a part; what follows is done even if it fails. */
async function step(name, work) {
  process.stderr.write(`explorer: ${name}\n`);
  try {
    await work();
  } catch (error) {
    process.stderr.write(`explorer: FAILED: ${name}: ${error.stack}\n`);
    failures.push(name);
  }
}

async function waitFor(page, what, look, ...args) {
  await page.waitForFunction(look, args.length === 1 ? args[0] : args, { timeout: PATIENCE }).catch((error) => {
    throw new Error(`waited for ${what}: ${error.message}`);
  });
}

const verdict = (page, text) => page.locator('.verdict', { hasText: text });

async function is(page, text, expected) {
  await page.locator(`.verdict[data-verdict="${expected}"]`, { hasText: text }).first().waitFor();
}

/** No barrier that axe knows, and nothing that is wider than the screen. */
async function accessible(page, name) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  const said = violations.map((one) => `${one.id}: ${one.help}\n  ${one.nodes.map((node) => `${node.target} ${node.failureSummary}`).join('\n  ')}`);
  assert.deepEqual(said, [], name);
  const [width, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(width <= room, `${name}: ${width} px wide, there is room for ${room}`);
}

const height = (page) => page.locator('tbody tr td.first').first().textContent().then((text) => Number(text.replace(/\D/g, '')));

try {
  await step('live blocks appear', async () => {
    const page = await open('');
    const before = await height(page);
    const rows = await page.locator('tbody tr').count();
    await waitFor(page, 'five more blocks', (before) => Number(document.querySelector('tbody tr td.first').textContent.replace(/\D/g, '')) >= before + 5, before);
    assert.equal(await page.locator('tbody tr').count(), rows, 'the list keeps its length');
    assert.match(await page.title(), /^Counterpoint$/);
    await page.getByText('Pause').click();
    const paused = await height(page);
    const tile = () => page.locator('.tile .value').first().textContent();
    const shown = await tile();
    await page.evaluate(() => new Promise((done) => {
      const blocks = new EventSource('api/events');
      let left = 5;
      blocks.addEventListener('block', () => {
        left -= 1;
        if (left === 0) {
          blocks.close();
          done();
        }
      });
    }));
    assert.deepEqual([await height(page), await tile()], [paused, shown], 'a page that is paused stands still');
    await page.getByText('Go on').click();
    await waitFor(page, 'the page to go on', (paused) => Number(document.querySelector('tbody tr td.first').textContent.replace(/\D/g, '')) > paused, paused);
    for (const rollup of told.rollups) await page.locator('.part', { hasText: rollup }).locator('text=in time').waitFor();
    await close(page);
  });

  await step('a transaction is found and proven', async () => {
    const page = await open('');
    await page.keyboard.press('/');
    await page.keyboard.type(`  ${told.transaction.toUpperCase().replace('0X', '0x')} `);
    await page.keyboard.press('Enter');
    await is(page, `Inclusion in ${told.rollups[0]}`, 'verified');
    for (const station of ['Queued', 'Sequenced', 'Executed', 'Head']) await page.locator('.way .reached', { hasText: station }).waitFor();
    const steps = await verdict(page, 'Inclusion').locator('.holds').count();
    assert.equal(steps, 7);
    await page.locator('.verdict', { hasText: 'with 10 of 10 voting power' }).or(page.locator('.verdict', { hasText: /\d of \d, with/ })).first().waitFor();
    await close(page);
  });

  await step('a transaction that is sent now goes its way on the page', async () => {
    const page = await open(`tx/${told.later.hash}`);
    await page.getByText('Not seen yet').waitFor();
    const send = { jsonrpc: '2.0', id: 1, method: 'eth_sendRawTransaction', params: [told.later.raw] };
    const sent = await fetch(told.rpc, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(send) });
    assert.equal((await sent.json()).result, told.later.hash);
    await page.locator('.way .reached', { hasText: 'Head' }).waitFor();
    await is(page, 'Inclusion in', 'verified');
    await close(page);
  });

  await step('what is forged is not verified', async () => {
    const forgeries = {
      'another transaction': (proof) => (proof.item.raw = proof.item.raw.replace(/.$/, (digit) => (digit === '0' ? '1' : '0'))),
      'another list': (proof) => (proof.leaf.list_root = '00'.repeat(32)),
      'another block': (proof) => (proof.leaf.number = '1'),
      'another header': (proof) => (proof.signed.header.app_hash = '00'.repeat(32)),
      'a signature': (proof) => (proof.signed.commit.signatures[0].signature = '00'.repeat(64)),
      'another validator': (proof) => (proof.signed.validators[0].power = '999'),
    };
    for (const [name, forge] of Object.entries(forgeries)) {
      const prepare = (page) => page.route('**/proof', async (route) => {
        const response = await route.fetch();
        const proof = await response.json();
        if (proof.item) forge(proof);
        await route.fulfill({ response, json: proof });
      });
      const page = await open(`tx/${told.transaction}`, { prepare });
      await is(page, `Inclusion in ${told.rollups[0]} is NOT verified`, 'refused');
      assert.equal(await page.locator('.verdict', { hasText: `Inclusion in ${told.rollups[0]} is verified` }).count(), 0, name);
      await close(page);
    }
  });

  await step('a genesis that is another one later is noticed', async () => {
    const page = await open('trust');
    await page.getByText('The validators of the genesis').waitFor();
    await page.route('**/api/trust', async (route) => {
      const response = await route.fetch();
      const root = await response.json();
      root.validators[0].power = '12345';
      await route.fulfill({ response, json: root });
    });
    await page.goto(`${told.composer}#/tx/${told.transaction}`);
    await page.reload();
    await is(page, 'NOT verified', 'refused');
    await page.goto(`${told.composer}#/trust`);
    await page.getByText('This server names another genesis').waitFor();
    await accessible(page, 'another genesis');
    await close(page);
  });

  await step('a root can be named', async () => {
    const page = await open('trust');
    const block = await (await fetch(`${told.composer}api/blocks/${told.root}`)).json();
    await page.getByRole('textbox', { name: 'Height' }).fill(String(told.root));
    await page.getByLabel('Hash of its header').fill('00'.repeat(32));
    await page.getByText('Trust this header').click();
    await page.locator('.form-error', { hasText: 'another header' }).waitFor();
    await page.getByLabel('Hash of its header').fill(block.block.hash);
    await page.getByText('Trust this header').click();
    await page.locator('.facts', { hasText: 'you' }).waitFor();
    await page.goto(`${told.composer}#/tx/${told.transaction}`);
    await is(page, 'Inclusion in', 'verified');
    await page.goto(`${told.composer}#/block/${told.root - 1}`);
    await is(page, 'NOT verified', 'refused');
    await close(page);
  });

  await step('a browser that cannot verify says so', async () => {
    const prepare = (page) => page.addInitScript(() => {
      SubtleCrypto.prototype.importKey = () => Promise.reject(new DOMException('no', 'NotSupportedError'));
    });
    const page = await open(`tx/${told.transaction}`, { prepare });
    await is(page, 'cannot be verified here', 'unable');
    await page.getByText('This browser has no Ed25519').first().waitFor();
    await close(page);
  });

  await step('bundles with their legs and outcomes', async () => {
    const page = await open('bundles');
    for (const [id, stage] of [[told.executed, 'executed'], [told.aborted, 'aborted']]) {
      await page.locator('tr', { has: page.locator(`a[href="#/bundle/${id.replace('0x', '')}"]`) }).locator('text=' + stage).waitFor();
    }
    // A bundle is found like a transaction.
    await page.locator('#query').fill(told.executed);
    await page.keyboard.press('Enter');
    await page.getByText('All legs ran').waitFor();
    assert.equal(await page.locator('.leg').count(), 2);
    assert.equal(await page.locator('.leg .badge.good', { hasText: 'confirmed' }).count(), 2);
    for (const stage of ['sealed', 'released', 'executed']) await page.locator('.way li', { hasText: stage }).first().waitFor();
    await page.locator('.leg').first().getByText('verify').first().click();
    await is(page, 'Leg of a bundle', 'verified');
    await page.goto(`${told.composer}#/bundle/${told.aborted}`);
    await page.getByText('would fail: revert').waitFor();
    await close(page);
  });

  await step('validators with their votes', async () => {
    const page = await open('validators');
    assert.equal(await page.locator('tbody tr').count(), told.validators);
    assert.equal(await page.locator('tbody .badge', { hasText: 'signed' }).count(), told.validators);
    await close(page);
  });

  await step('rollups, their terms and attesters', async () => {
    const page = await open('rollups');
    await page.getByRole('link', { name: told.rollups[0], exact: true }).click();
    await page.getByText('must agree').waitFor();
    await page.getByRole('heading', { name: 'Newest lists' }).waitFor();
    await page.locator('tbody a').first().click();
    await page.getByText('List root').waitFor();
    await close(page);
  });

  await step('an item of a block is proven on the sequencer', async () => {
    const { item_hashes: items } = await (await fetch(`${told.composer}api/blocks/${told.place.height}`)).json();
    const page = await open(`tx/${items[0]}`);
    await is(page, 'Inclusion in the sequencer', 'verified');
    await close(page);
  });

  await step('a node’s own page proves as well', async () => {
    const page = await open(`item/${told.rollups[0]}/${told.place.height}/${told.place.index}`, { base: told.node });
    await is(page, 'Transaction', 'verified');
    await close(page);
    const first = await open('', { base: told.node });
    assert.ok((await height(first)) > 0);
    await close(first);
  });

  await step('what is not there is said plainly', async () => {
    const notFound = (complaint) => /404|400/.test(complaint);
    const page = await open('block/99999999');
    await page.getByRole('heading', { name: 'Not found' }).waitFor();
    for (const path of ['rollup/nobody', `bundle/${'00'.repeat(32)}`, 'nonsense', `list/${told.rollups[0]}/99999999`]) {
      await page.goto(`${told.composer}#/${path}`);
      await page.getByRole('alert').filter({ hasText: /./ }).waitFor();
    }
    await page.locator('#query').fill('what is this?');
    await page.keyboard.press('Enter');
    await page.getByText('Neither a hash').waitFor();
    await accessible(page, 'an error');
    await close(page, notFound);
  });

  await step('a text of the chain is never HTML', async () => {
    const evil = '<img src=x onerror="document.title=1">';
    const prepare = (page) => page.route('**/api/overview', async (route) => {
      const response = await route.fetch();
      const body = { ...(await response.json()), chain_id: evil };
      await route.fulfill({ response, json: body });
    });
    const page = await open('', { prepare });
    assert.equal(await page.locator('.chain strong').textContent(), evil);
    assert.equal(await page.locator('main img').count(), 0);
    await close(page);
  });

  await step('a lost connection is shown, and healed from where it was', async () => {
    const lost = await open('', { prepare: (page) => page.route('**/api/events*', (route) => route.abort()) });
    await lost.locator('#status', { hasText: 'Reconnecting' }).waitFor();
    await accessible(lost, 'reconnecting');
    const shown = await height(lost);
    await lost.unroute('**/api/events*');
    await waitFor(lost, 'blocks after the gap', (shown) => Number(document.querySelector('tbody tr td.first').textContent.replace(/\D/g, '')) > shown + 3, shown);
    assert.equal(await lost.locator('#status').isVisible(), false);
    const heights = await lost.locator('tbody tr td.first').allTextContents();
    const numbers = heights.map((text) => Number(text.replace(/\D/g, '')));
    numbers.slice(1).forEach((one, at) => assert.equal(one, numbers[at] - 1, 'no block is left out'));
    await close(lost, (complaint) => /ERR_FAILED/.test(complaint));
  });

  await step('the theme can be chosen, and is remembered', async () => {
    const page = await open('', { theme: 'light' });
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    await page.getByLabel('Theme').selectOption('dark');
    const dark = await ground();
    assert.notEqual(light, dark);
    await page.reload();
    await page.waitForSelector('tbody tr');
    assert.equal(await ground(), dark);
    await close(page);
  });

  await step('a keyboard is enough', async () => {
    const page = await open('');
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Skip to the content');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
    await page.keyboard.press('Tab');
    const focused = await page.evaluate(() => document.activeElement.closest('main') !== null);
    assert.ok(focused, 'the next stop is in the content');
    await close(page);
  });

  const views = {
    blocks: '',
    block: `block/${told.place.height}`,
    rollups: 'rollups',
    rollup: `rollup/${told.rollups[0]}`,
    list: `list/${told.rollups[0]}/${told.place.height}`,
    item: `item/${told.rollups[0]}/${told.place.height}/${told.place.index}`,
    transaction: `tx/${told.transaction}`,
    bundles: 'bundles',
    bundle: `bundle/${told.executed}`,
    validators: 'validators',
    trust: 'trust',
  };
  for (const theme of ['light', 'dark']) {
    for (const [screen, viewport] of [['desktop', DESKTOP], ['phone', PHONE]]) {
      // Colours depend on the theme alone, and the layout on the screen: two of four show all.
      if (!told.every && (theme === 'dark') !== (screen === 'phone')) continue;
      for (const [name, path] of Object.entries(views)) {
        await step(`no barrier in ${name}, ${screen}, ${theme}`, async () => {
          const page = await open(path, { theme, viewport });
          await page.waitForFunction(() => !document.querySelector('.verdict[data-verdict="pending"]'));
          await page.screenshot({ path: join(told.pictures, `${name}-${screen}-${theme}.png`), fullPage: screen === 'phone' });
          await accessible(page, name);
          await close(page);
        });
      }
    }
  }
} finally {
  await browser.close();
}
assert.deepEqual(failures, []);
