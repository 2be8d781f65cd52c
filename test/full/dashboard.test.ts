import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { UnrecoverableError } from 'bullmq';
import { expect } from 'chai';
import { openTab, type Tab } from '../support/chromium.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { bullQueue, bullWorker, lookInto } from '../support/queue.ts';
import { aPayment, eventually, postPayment, testApi } from '../support/relay.ts';

const ACTIONS = '[class*="jobActions-"] > li, [class*="queueActions-"] > li';
const MENU = '[class*="trigger-"][aria-haspopup="menu"]';

/** A dashboard over a dead, a delayed and a waiting payment, and a browser whose user has logged in. */
async function stage(login = 'operator:secret') {
  const { url, prefix } = await testApi({
    DASHBOARD_USER: 'operator',
    DASHBOARD_PASSWORD: 'secret',
    DASHBOARD_VIEWER_USER: 'viewer',
    DASHBOARD_VIEWER_PASSWORD: 'looks',
    ALLOW_PURGE: 'true',
  });
  const dead = aPayment();
  await postPayment(url, dead);
  const job = await (await bullWorker(prefix)).getNextJob('token');
  await job!.moveToFailed(new UnrecoverableError('invalid_payment: amount'), 'token', false);
  await (await bullQueue(prefix)).add('payment', aPayment(), { delay: 600_000 });
  await postPayment(url);
  const tab = await openTab();
  await tab.goTo(`${url.replace('//', `//${login}@`)}/admin/queues/api/queues`);
  return { url, dead, queue: await lookInto(prefix), tab, page: `${url}/admin/queues` };
}

/** What the user sees of these elements: the text, or the icon of one without text. */
function visible(tab: Tab, selector: string): Promise<string[]> {
  return tab.evaluate(`[...document.querySelectorAll('${selector}')]
    .filter((element) => element.checkVisibility())
    .map((element) => element.innerText.trim() || element.querySelector('svg').classList[1])`);
}

/** Resolves once the user sees these elements; with none they are in the page, but hidden. */
async function sees(tab: Tab, selector: string, expected: readonly string[]): Promise<void> {
  await eventually(() => tab.evaluate<boolean>(`document.querySelector('${selector}') !== null`));
  expect(await visible(tab, selector)).to.deep.equal(expected);
}

async function click(tab: Tab, selector: string, text = ''): Promise<void> {
  await eventually(() =>
    tab.evaluate<boolean>(`(() => {
      const element = [...document.querySelectorAll('${selector}')]
        .find((one) => one.checkVisibility() && one.innerText.includes('${text}'));
      element?.dispatchEvent(new MouseEvent('mousedown', { bubbles: true }));
      element?.click();
      return element !== undefined;
    })()`),
  );
}

describe('the dashboard in Chromium', function () {
  this.timeout(60_000);

  it('shows buttons for the allowed changes only', async () => {
    const { tab, page, dead } = await stage();
    for (const [path, expected] of [
      ['/queue/payments?status=failed', ['Retry all', 'lucide-refresh-cw']],
      ['/queue/payments?status=delayed', ['Promote all', 'lucide-corner-up-left']],
      ['/queue/payments?status=waiting', []],
      [`/queue/payments/${dead.correlationId}`, ['lucide-refresh-cw']],
    ] as const) {
      await tab.goTo(page + path);
      await sees(tab, ACTIONS, expected);
    }
    for (const path of ['', '/queue/payments']) {
      await tab.goTo(page + path);
      await click(tab, `main ${MENU}`);
      await sees(tab, '[role="menuitem"]', ['Retry all 1 failed jobs', 'Pause']);
    }
  });

  it('shows the viewer everything, and no button for a change', async () => {
    const { tab, page, dead } = await stage('viewer:looks');
    for (const path of ['?status=failed', '?status=delayed', `/${dead.correlationId}`]) {
      await tab.goTo(`${page}/queue/payments${path}`);
      await eventually(() => tab.evaluate<boolean>(`document.querySelector('main')?.innerText.includes('payment')`));
      await eventually(() => tab.evaluate<boolean>(`document.querySelector('[class*="timeline"]') !== null`));
      expect(await visible(tab, ACTIONS), path).to.deep.equal([]);
      expect(await visible(tab, `main ${MENU}`), path).to.deep.equal([]);
    }
  });

  it('asks no other host for anything, and keeps to its own policy', async () => {
    const { tab, page, url } = await stage();
    for (const path of ['', '/queue/payments?status=failed', '/queue/payments?status=waiting']) {
      await tab.goTo(page + path);
      await eventually(() => tab.evaluate<boolean>("document.querySelectorAll('main button').length > 0"));
    }
    expect(tab.requests).to.have.length.above(20);
    expect(new Set(tab.requests.map((request) => new URL(request).host))).to.deep.equal(new Set([new URL(url).host]));
    expect(tab.complaints).to.deep.equal([]);
  });

  it('retries a dead letter, pauses and resumes by its buttons', async () => {
    const { tab, page, queue, dead } = await stage();
    await tab.goTo(`${page}/queue/payments?status=failed`);
    await click(tab, '[class*="jobActions-"] button');
    await click(tab, '[role="alertdialog"] button, [role="dialog"] button', 'Confirm');
    await eventually(async () => (await queue.waiting()).includes(dead.correlationId));
    for (const [action, paused] of [
      ['Pause', true],
      ['Resume', false],
    ] as const) {
      await tab.goTo(page);
      await click(tab, `main ${MENU}`);
      await click(tab, '[role="menuitem"]', action);
      await click(tab, '[role="alertdialog"] button, [role="dialog"] button', 'Confirm');
      await eventually(async () => ((await queue.redis.hget(queue.key('meta'), 'paused')) !== null) === paused);
    }
  });

  it('is not moved by the page of another site', async () => {
    const { tab, url, queue } = await stage();
    const waiting = await queue.waiting();
    const site = createServer((_request, response) => {
      response.setHeader('content-type', 'text/html');
      response.end(
        `<form method="post" action="${url}/purge-payments"></form><script>document.forms[0].submit()</script>`,
      );
    });
    await new Promise<void>((resolve) => site.listen(0, 'localhost', resolve));
    atTestEnd(async () => {
      site.closeAllConnections();
      await new Promise((resolve) => site.close(resolve));
    });
    await tab.goTo(`http://localhost:${(site.address() as AddressInfo).port}`);
    await eventually(() => hasText(tab, 'forbidden'));
    expect(await queue.waiting()).to.deep.equal(waiting);
  });
});

/** False also while the tab goes to another page, which ends an evaluation. */
async function hasText(tab: Tab, text: string): Promise<boolean> {
  try {
    return await tab.evaluate<boolean>(`document.body?.innerText.includes(${JSON.stringify(text)})`);
  } catch (error) {
    if (error instanceof Error && error.message.includes('navigated')) return false;
    throw error;
  }
}
