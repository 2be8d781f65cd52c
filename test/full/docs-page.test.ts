import { expect } from 'chai';
import { openTab } from '../support/chromium.ts';
import { connectedApi } from '../support/queue.ts';
import { eventually } from '../support/relay.ts';

describe('GET /docs in Chromium', function () {
  this.timeout(60_000);

  it('shows every operation, asks no other host and keeps to its own policy', async () => {
    const { url } = await connectedApi({
      ALLOW_PURGE: 'true',
      DASHBOARD_USER: 'operator',
      DASHBOARD_PASSWORD: 'secret',
    });
    const { paths } = (await (await fetch(`${url}/openapi.json`)).json()) as {
      paths: Record<string, Record<string, { summary: string }>>;
    };
    const summaries = Object.values(paths).flatMap((item) => Object.values(item).map(({ summary }) => summary));
    expect(summaries).to.have.length.above(9);
    const tab = await openTab();
    await tab.goTo(`${url}/docs`);
    const text = () => tab.evaluate<string>('document.body?.innerText ?? ""');
    await eventually(async () => {
      const shown = await text();
      return summaries.every((summary) => shown.includes(summary));
    });
    // A response with its codes, once a reader opens the operation.
    await tab.evaluate('document.querySelector("#operations-Payments-postPayment button").click()');
    await eventually(async () => (await text()).includes('queue_full'));
    // It only shows: nothing on it sends a request or takes a password.
    const buttons = await tab.evaluate<string[]>(`[...document.querySelectorAll('button')]
      .filter((button) => button.checkVisibility()).map(({ className }) => className)`);
    expect(buttons).to.not.be.empty;
    expect(buttons.filter((name) => /try-out|execute|authori/.test(name))).to.deep.equal([]);
    const requests = tab.requests.filter((request) => !request.startsWith('data:'));
    expect(requests).to.have.length.above(4);
    expect(new Set(requests.map((request) => new URL(request).host))).to.deep.equal(new Set([new URL(url).host]));
    expect([...tab.complaints, ...tab.consoleErrors]).to.deep.equal([]);
  });
});
