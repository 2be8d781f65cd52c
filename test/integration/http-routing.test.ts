import { expect } from 'chai';
import { exchange, http } from '../support/http-client.ts';
import { connectedApi, NO_DATABASE } from '../support/queue.ts';
import { testApi } from '../support/relay.ts';
import { freshDatabase } from '../support/services.ts';

describe('any other request', () => {
  for (const [method, path] of [
    ['GET', '/'],
    ['GET', '/favicon.ico'],
    ['POST', '/'],
    ['GET', '/payments/e79ba4b7-fceb-4e38-a5ef-824d4546536f'],
    ['POST', '/payments/new'],
    ['GET', '/health/started'],
    ['GET', '/admin'],
    ['DELETE', '/nothing'],
    ['OPTIONS', '/nothing'],
    ['GET', '/../../etc/passwd'],
    ['GET', '/__proto__'],
    ['GET', '/payments%20'],
  ] as const) {
    it(`is answered 404 not_found: ${method} ${path}`, async () => {
      const { url } = await testApi(NO_DATABASE);
      const { status, text, headers } = await exchange(`${url}${path}`, { method });
      expect(status).to.equal(404);
      expect(JSON.parse(text)).to.deep.equal({ error: 'not_found' });
      expect(headers).to.not.have.any.keys('x-powered-by', 'etag');
    });
  }

  for (const path of ['/%E0%A4%A', '/%', '/payments/%zz', '/payments%zz', '/health/%c0%ae']) {
    it(`is answered 404 or 400 to a malformed escape: ${path}`, async () => {
      const { url, entries } = await testApi(NO_DATABASE);
      const { status, text } = await exchange(`${url}${path}`, { method: 'GET' });
      expect(status).to.be.oneOf([400, 404]);
      expect(JSON.parse(text)['error']).to.equal(status === 404 ? 'not_found' : 'invalid_request');
      expect(entries.filter(({ level }) => level === 'error')).to.deep.equal([]);
    });
  }

  for (const [path, allow, methods] of [
    ['/payments', 'POST', ['GET', 'HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']],
    ['/payments-summary', 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']],
    ['/health', 'GET, HEAD', ['POST', 'DELETE', 'OPTIONS']],
    ['/health/live', 'GET, HEAD', ['POST', 'DELETE', 'OPTIONS']],
    ['/health/ready', 'GET, HEAD', ['POST', 'DELETE', 'OPTIONS']],
  ] as const) {
    for (const method of methods) {
      it(`is answered 405 with Allow: ${method} ${path}`, async () => {
        const { url } = await testApi(NO_DATABASE);
        const { status, text, headers } = await exchange(`${url}${path}`, { method });
        expect(status).to.equal(405);
        expect(headers['allow']).to.equal(allow);
        if (method === 'HEAD') expect(text).to.equal('');
        else expect(JSON.parse(text)).to.deep.equal({ error: 'method_not_allowed' });
      });
    }
  }

  for (const path of ['/payments-summary?from=2025-01-01&to=2025-01-02', '/health', '/health/live', '/health/ready']) {
    it(`is answered to HEAD as to GET, without the body: ${path}`, async () => {
      const { url } = await connectedApi({ DATABASE_URL: await freshDatabase() });
      const whole = await http(url).get(path).expect(200);
      const head = await http(url).head(path).expect(200);
      expect(head.text ?? '').to.equal('');
      const same = ({ headers }: { headers: Record<string, string> }) => ({ ...headers, date: '' });
      expect(same(head)).to.deep.equal(same(whole));
    });
  }

  it('is not read any further when its body is not wanted', async () => {
    const { url } = await testApi(NO_DATABASE);
    const answers = await Promise.all(
      ['/nothing', '/health'].map((path) => exchange(`${url}${path}`, { body: Buffer.alloc(1024 * 1024, ' ') })),
    );
    expect(answers.map(({ status, headers }) => [status, headers['connection']])).to.deep.equal([
      [404, 'close'],
      [405, 'close'],
    ]);
  });
});
