import { expect } from 'chai';
import { exchange, http } from '../support/http-client.ts';
import { connectedApi, NO_DATABASE } from '../support/queue.ts';
import { testApi } from '../support/relay.ts';
import { freshDatabase } from '../support/services.ts';

describe('any other request', () => {
  it('gets 404 not_found for an unknown path', async () => {
    const { url } = await testApi(NO_DATABASE);
    for (const [method, path] of [
      ['GET', '/'],
      ['GET', '/favicon.ico'],
      ['POST', '/'],
      ['GET', '/payments/e79ba4b7-fceb-4e38-a5ef-824d4546536f/amount'],
      ['POST', '/payments/new/one'],
      ['GET', '/health/started'],
      ['GET', '/admin'],
      ['DELETE', '/nothing'],
      ['OPTIONS', '/nothing'],
      ['GET', '/../../etc/passwd'],
      ['GET', '/__proto__'],
      ['GET', '/payments%20'],
    ] as const) {
      const { status, text, headers } = await exchange(`${url}${path}`, { method });
      expect(status, `${method} ${path}`).to.equal(404);
      expect(JSON.parse(text)).to.deep.equal({ error: 'not_found' });
      expect(headers).to.not.have.any.keys('x-powered-by', 'etag');
    }
  });

  it('gets 404 or 400 for a malformed escape', async () => {
    const { url, entries } = await testApi(NO_DATABASE);
    for (const path of ['/%E0%A4%A', '/%', '/payments/%zz', '/payments%zz', '/health/%c0%ae']) {
      const { status, text } = await exchange(`${url}${path}`, { method: 'GET' });
      expect(status, path).to.be.oneOf([400, 404]);
      expect(JSON.parse(text)['error']).to.equal(status === 404 ? 'not_found' : 'invalid_request');
    }
    expect(entries.filter(({ level }) => level === 'error')).to.deep.equal([]);
  });

  for (const [path, allow, methods] of [
    ['/payments', 'POST', ['GET', 'HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']],
    ['/payments/e79ba4b7-fceb-4e38-a5ef-824d4546536f', 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']],
    ['/payments-summary', 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']],
    ['/health', 'GET, HEAD', ['POST', 'DELETE', 'OPTIONS']],
    ['/health/live', 'GET, HEAD', ['POST', 'DELETE', 'OPTIONS']],
    ['/health/ready', 'GET, HEAD', ['POST', 'DELETE', 'OPTIONS']],
    ['/metrics', 'GET, HEAD', ['POST', 'DELETE', 'OPTIONS']],
  ] as const) {
    it(`gets 405 with Allow for any other method of ${path}`, async () => {
      const { url } = await testApi(NO_DATABASE);
      for (const method of methods) {
        const { status, text, headers } = await exchange(`${url}${path}`, { method });
        expect(status, method).to.equal(405);
        expect(headers['allow']).to.equal(allow);
        if (method === 'HEAD') expect(text).to.equal('');
        else expect(JSON.parse(text)).to.deep.equal({ error: 'method_not_allowed' });
      }
    });
  }

  for (const path of ['/payments-summary?from=2025-01-01&to=2025-01-02', '/health', '/health/live', '/health/ready']) {
    it(`gets the headers of GET for HEAD, without the body: ${path}`, async () => {
      const { url } = await connectedApi({ DATABASE_URL: await freshDatabase() });
      const whole = await http(url).get(path).expect(200);
      const head = await http(url).head(path).expect(200);
      expect(head.text ?? '').to.equal('');
      const same = ({ headers }: { headers: Record<string, string> }) => ({ ...headers, date: '' });
      expect(same(head)).to.deep.equal(same(whole));
    });
  }

  it('gets its response before its body is read, and a closed connection', async () => {
    const { url } = await testApi(NO_DATABASE);
    const responses = await Promise.all(
      ['/nothing', '/health'].map((path) => exchange(`${url}${path}`, { body: Buffer.alloc(1024 * 1024, ' ') })),
    );
    expect(responses.map(({ status, headers }) => [status, headers['connection']])).to.deep.equal([
      [404, 'close'],
      [405, 'close'],
    ]);
  });
});
