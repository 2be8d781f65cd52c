import { writeFileSync } from 'node:fs';
import { expect } from 'chai';
import type { Redis } from 'ioredis';
import { startRedis } from '../../dev/local/redis.ts';
import { queueKey } from '../../src/queue/bullmq-layout.ts';
import { openTab, type Tab } from '../support/chromium.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { bullQueue, lookInto } from '../support/queue.ts';
import {
  aPayment,
  eventually,
  postPayment,
  type TestApi,
  testApi,
  testGateway,
  testRedis,
  testWorker,
} from '../support/relay.ts';
import { respond, scriptedGateway } from '../support/scripted-gateway.ts';
import { sql } from '../support/services.ts';

const NO_GATEWAY = { GATEWAY_PRIMARY_URL: 'http://127.0.0.1:1', GATEWAY_FALLBACK_URL: 'http://127.0.0.1:1' };

const LOGINS = {
  DASHBOARD_USER: 'operator',
  DASHBOARD_PASSWORD: 'secret',
  DASHBOARD_VIEWER_USER: 'viewer',
  DASHBOARD_VIEWER_PASSWORD: 'looks',
};

const PHONE = [390, 844] as const;

/** A relay, and a browser whose user has logged in and opened the page. */
async function stage({ env = {}, works = true, login = 'operator:secret' } = {}) {
  const relay = await testApi({ ...LOGINS, ...env });
  const worker = { ...NO_GATEWAY, ...env, DATABASE_URL: relay.config.database.url };
  if (works) await testWorker(worker, relay.prefix);
  const tab = await openTab();
  await tab.resize(...PHONE);
  await tab.goTo(`${relay.url.replace('//', `//${login}@`)}/admin/api/state`);
  await tab.goTo(`${relay.url}/admin`);
  const text = (selector = 'body') =>
    tab.evaluate<string>(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ''`);
  /** Resolves when the page shows all of this in the element. */
  const shows = (selector: string, ...expected: string[]) =>
    eventually(async () => {
      const shown = await text(selector);
      return expected.every((each) => shown.includes(each)) && shown;
    }, 20_000);
  await shows('#status', 'As of');
  return { ...relay, tab, text, shows };
}

/** The buttons that the user sees. */
const buttons = (tab: Tab) =>
  tab.evaluate<string[]>(
    `[...document.querySelectorAll('main button')].filter((one) => one.checkVisibility()).map((one) => one.innerText)`,
  );

async function expectNoComplaint({ url, tab }: { url: string; tab: Tab }): Promise<void> {
  const requests = tab.requests.filter((request) => !request.startsWith('data:'));
  expect(requests).to.have.length.above(8);
  expect(new Set(requests.map((request) => new URL(request).host))).to.deep.equal(new Set([new URL(url).host]));
  expect([...tab.complaints, ...tab.consoleErrors]).to.deep.equal([]);
}

const widths = (tab: Tab) =>
  tab.evaluate<number[]>('[document.documentElement.scrollWidth, document.documentElement.clientWidth]');

/** So many jobs as BullMQ has them, made inside Redis. */
async function fillQueue(redis: Redis, prefix: string, count: number): Promise<void> {
  const key = (type: string) => queueKey({ name: 'payments', prefix }, type);
  const script = `for n = ARGV[1], ARGV[2] do
    local id = string.format('00000000-0000-4000-8000-%012d', n)
    redis.call('HSET', KEYS[2] .. id, 'name', 'payment', 'data', '{"correlationId":"' .. id .. '","amount":19.9}',
      'opts', '{}', 'timestamp', ARGV[3], 'delay', '0', 'priority', '0')
    redis.call('LPUSH', KEYS[1], id)
  end`;
  const piece = 10_000;
  for (let from = 1; from <= count; from += piece) {
    await redis.eval(script, 2, key('wait'), key(''), from, Math.min(count, from + piece - 1), Date.now() - 3_600_000);
  }
}

describe('GET /admin in Chromium', function () {
  this.timeout(120_000);

  it('shows a million queued payments and the paused, full queue on a phone, without another host', async () => {
    const server = await startRedis({ args: ['--appendonly', 'no', '--save', ''] });
    atTestEnd(() => server.dispose());
    const env = { REDIS_URL: server.url, DURABILITY: 'memory', PAYMENT_QUEUE_MAX_SIZE: '1000000' };
    const admin = await testRedis(server.url);
    const relay = await stage({ env });
    await (await bullQueue(relay.prefix, server.url)).pause();
    await fillQueue(admin, relay.prefix, 1_000_000);
    await relay.shows('#problems', '2 problems', 'queue_full', 'queue_paused', '1000000 payments are queued');
    await relay.shows('#queue', '1,000,000 of 1,000,000 (100 %)', '1 h');
    const [wide, visible] = await widths(relay.tab);
    expect(wide).to.equal(visible).and.equal(PHONE[0]);
    await expectNoComplaint(relay);
  });

  it('says what to do about a problem, from the runbook', async () => {
    const relay = await stage({ works: false });
    await relay.shows('#problems', 'no_worker', 'no worker has written a heartbeat', 'since');
    await relay.tab.evaluate(`document.querySelector('#problems summary').click()`);
    const shown = await relay.shows('#problems details', 'Do.');
    expect(shown).to.not.match(/\*\*|`|\]\(/);
    expect((await widths(relay.tab))[0]).to.equal(PHONE[0]);
    await expectNoComplaint(relay);
  });

  it('shows HTML in the response of a gateway as text', async () => {
    const gateway = await scriptedGateway();
    gateway.onPayment = () => respond(502, '<img src=x onerror="console.error(1)"><b id=injected>bad</b>');
    const relay = await stage({ env: { GATEWAY_PRIMARY_URL: gateway.url } });
    // Three in a row open the circuit.
    for (let n = 0; n < 3; n += 1) await postPayment(relay.url);
    await relay.shows('#problems', 'primary_down', 'HTTP 502', '<b id=injected>');
    await relay.shows('#gateways', 'open since', '<img src=x');
    expect(await relay.tab.evaluate(`document.querySelector('#injected, main img') === null`)).to.equal(true);
    await expectNoComplaint(relay);
  });

  it('finds a payment by its id, also when STATUS_TOKEN is set', async () => {
    const relay = await stage({ works: false, env: { STATUS_TOKEN: 'a-token-of-at-least-16-characters' } });
    const payment = aPayment(12.34);
    await postPayment(relay.url, payment);
    await relay.tab.evaluate(`(() => {
      document.querySelector('#id').value = ' ${payment.correlationId.toUpperCase()} ';
      document.querySelector('#search').requestSubmit();
    })()`);
    await relay.shows('#payment', payment.correlationId, 'queued', '12.34');
    await expectNoComplaint(relay);
  });

  it('is used by the keyboard: a button opens a dialog that asks why, and Escape leaves it', async () => {
    const relay = await stage({ works: false });
    await eventually(async () => (await buttons(relay.tab)).includes('Pause the queue …'));
    const focused = () => relay.tab.evaluate<string>('document.activeElement.innerText ?? ""');
    await eventually(async () => {
      await relay.tab.press('Tab');
      return (await focused()).startsWith('Pause the queue');
    });
    await relay.tab.press('Enter');
    await relay.shows('#dialog', 'Pause the queue', 'Why?');
    await relay.tab.press('Enter');
    // It wants a reason, so nothing is sent.
    expect(await relay.tab.evaluate(`document.querySelector('#dialog').open`)).to.equal(true);
    await relay.tab.press('Escape');
    expect(await relay.tab.evaluate(`document.querySelector('#dialog').open`)).to.equal(false);
    expect(await focused()).to.match(/^Pause the queue/);
    await expectNoComplaint(relay);
  });

  it('pauses the queue once the operator has given a reason', async () => {
    const relay = await stage();
    const queue = await lookInto(relay.prefix);
    await eventually(async () => (await buttons(relay.tab)).includes('Pause the queue …'));
    await relay.tab.evaluate(`document.getElementById('/admin/api/pause').click()`);
    await relay.tab.evaluate(`(() => {
      document.querySelector('#dialog textarea').value = 'a test <b>of ours</b>';
      document.querySelector('#dialog form').requestSubmit();
    })()`);
    await eventually(async () => (await queue.redis.hget(queue.key('meta'), 'paused')) === '1');
    await relay.shows('#problems', 'queue_paused', 'a test <b>of ours</b>');
    await relay.shows('#actions', 'operator', 'a test <b>of ours</b>');
    await eventually(async () => (await buttons(relay.tab)).includes('Resume the queue …'));
    await expectNoComplaint(relay);
  });

  it('says why an act on a payment was refused, and leaves the payment as it is', async () => {
    const gateway = await scriptedGateway();
    gateway.onPayment = () => respond(502);
    const relay = await stage({ env: { GATEWAY_PRIMARY_URL: gateway.url } });
    const payment = aPayment();
    await postPayment(relay.url, payment);
    const find = () =>
      relay.tab.evaluate(`(() => {
        document.querySelector('#id').value = '${payment.correlationId}';
        document.querySelector('#search').requestSubmit();
      })()`);
    await eventually(async () => {
      await find();
      return (await relay.shows('#payment', payment.correlationId)).includes('unresolved');
    });
    await relay.shows('#payment', 'Release …');
    await relay.tab.evaluate(`[...document.querySelectorAll('#payment button')]
      .find((button) => button.innerText.startsWith('Release')).click()`);
    await relay.tab.evaluate(`(() => {
      document.querySelector('#dialog textarea').value = 'the provider says so';
      document.querySelector('#dialog form').requestSubmit();
    })()`);
    await relay.shows('#dialog', 'Not done: 409 conflict', 'stop');
    expect(await relay.tab.evaluate(`document.querySelector('#dialog').open`)).to.equal(true);
    await relay.shows('#actions', 'payment.release', 'refused');
  });

  it('retries dead letters after a dry run, shows the progress, and stops it', async () => {
    const relay = await stage();
    const { url } = relay.config.database;
    // One is paid already, so it would not be retried.
    await sql(
      url,
      `INSERT INTO dead_letters (job_id, correlation_id, payload, payload_bytes, reason_code, reason, attempts, accepted_at, died_at, state, state_at, state_by)
       SELECT id::text, id, payload, octet_length(payload), 'rejected', 'HTTP 400 <b>no</b>', 1, now(), now(), 'open', now(), 'test'
       FROM (SELECT id, json_build_object('correlationId', id, 'amount', 19.9)::text AS payload
             FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, 500)) AS ids) AS letters`,
    );
    await sql(
      url,
      `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
       SELECT correlation_id, 'default', 1990, now() FROM dead_letters LIMIT 1`,
    );
    await sql(url, `UPDATE dead_letters SET state = 'open' WHERE state = 'paid'`);
    const press = (selector: string, label: string) =>
      eventually(() =>
        relay.tab.evaluate<boolean>(`(() => {
          const button = [...document.querySelectorAll('${selector}')].find((one) => one.innerText.startsWith('${label}'));
          button?.click();
          return button !== undefined;
        })()`),
      );
    const confirm = (values: Readonly<Record<string, string>>) =>
      relay.tab.evaluate(`(() => {
        for (const [name, value] of Object.entries(${JSON.stringify(values)})) {
          document.querySelector('#dialog [name=' + name + ']').value = value;
        }
        document.querySelector('#dialog form').requestSubmit();
      })()`);
    await relay.tab.evaluate(`document.querySelector('#dead-letters details').open = true`);
    await press('#dead-letters button', 'Show');
    await relay.shows('#dead-letters', '500 fit.', 'HTTP 400 <b>no</b>');
    expect((await widths(relay.tab))[0]).to.equal(PHONE[0]);
    await press('#dead-letters button', 'Retry all');
    await relay.shows('#dialog', '499 would be retried, 1 not');
    await confirm({ perSecond: '20', reason: 'the gateway is repaired' });
    await relay.shows('#dialog', 'It runs.');
    await press('#dialog button', 'Close');
    await relay.shows('#actions', 'dead_letters.retry runs since', 'the gateway is repaired', 'of 500');
    await press('#actions button', 'Stop it');
    await confirm({ reason: 'enough' });
    await relay.shows('#actions', 'dead_letters.retry', 'stopped after');
    await expectNoComplaint(relay);
  });

  it('has no button that acts for a viewer', async () => {
    const relay = await stage({ works: false, login: 'viewer:looks' });
    await relay.shows('#status', 'You are viewer, who may look and not act');
    await relay.shows('#gateways', 'primary', 'fallback');
    expect(await buttons(relay.tab)).to.deep.equal(['Find']);
    await expectNoComplaint(relay);
  });

  it('keeps the last values and says since when the node does not respond', async () => {
    const relay = await stage({ works: false });
    await postPayment(relay.url);
    await relay.shows('#queue', '1 of 50,000');
    await relay.api.close(performance.now());
    await relay.shows('#status', 'has not responded since', 'Everything below is of');
    await relay.shows('#queue', '1 of 50,000');
    expect(await relay.tab.evaluate(`document.body.classList.contains('stale')`)).to.equal(true);
  });

  // SCREENSHOT=docs/admin.png makes the picture of the README.
  it('shows an hour of traffic at both gateways, light and dark', async () => {
    const primary = await testGateway({ delayMs: 4 });
    const fallback = await testGateway();
    const env = { GATEWAY_PRIMARY_URL: primary.url, GATEWAY_FALLBACK_URL: fallback.url, FALLBACK_ON: 'not_sent' };
    const relay = await stage({ env });
    const minutes = await pastHour(relay);
    const load = setInterval(() => void postPayment(relay.url), 20);
    atTestEnd(() => clearInterval(load));
    await relay.tab.resize(1000, 860);
    await relay.shows('#problems', 'None is known');
    await relay.shows('#money-plot', `fallback: ${(minutes.fallback * 25).toLocaleString('en')}.00`);
    await eventually(async () => /accepted\s+[1-9]/.test(await relay.text('#now')));
    await eventually(async () => !/–/.test(await relay.text('#hops')), 20_000);
    const file = process.env['SCREENSHOT'];
    const picture = await relay.tab.screenshot();
    if (file) writeFileSync(file, picture);
    expect(await relay.tab.evaluate(`getComputedStyle(document.body).backgroundColor`)).to.equal('rgb(244, 245, 247)');
    await relay.tab.resize(1000, 860, 'dark');
    expect(await relay.tab.evaluate(`getComputedStyle(document.body).backgroundColor`)).to.equal('rgb(20, 23, 26)');
    await expectNoComplaint(relay);
  });
});

/** Accepts and pays in each minute before the present one, 25.00 each. @returns what was paid at the fallback */
async function pastHour({ prefix, config }: TestApi): Promise<{ fallback: number }> {
  const redis = await testRedis();
  const present = Math.floor(Date.now() / 60_000);
  let fallback = 0;
  for (let minute = present - 59; minute < present; minute += 1) {
    const wave = Math.round(300 + 120 * Math.sin(minute / 7));
    const isDown = minute > present - 25 && minute < present - 12;
    const paid = { default: isDown ? 0 : wave, fallback: isDown ? Math.round(wave * 0.8) : 0 };
    fallback += paid.fallback;
    await redis.set(`${prefix}:accepted:${minute}`, wave, 'EX', 7_200);
    for (const [gateway, payments] of Object.entries(paid)) {
      await sql(
        config.database.url,
        `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
         SELECT gen_random_uuid(), '${gateway}', 2500, to_timestamp(${minute * 60 + 30}) FROM generate_series(1, ${payments})`,
      );
    }
  }
  return { fallback };
}
