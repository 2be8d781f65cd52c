import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { gzipSync } from 'node:zlib';
import { expect } from 'chai';
import { MAX_BODY_BYTES } from '../../src/http/payments/json-body.ts';
import { exchange, http } from '../support/http-client.ts';
import { connectedApi, lookInto } from '../support/queue.ts';
import { aPayment } from '../support/relay.ts';

/** An API without a ledger, which this path never asks, and a look into its queue. */
async function api(env = {}) {
  const { url, prefix, entries } = await connectedApi(env);
  return { url, entries, paymentsUrl: `${url}/payments`, queue: await lookInto(prefix) };
}

/** A JSON text of exactly so many bytes. */
function jsonOfBytes(bytes: number, correlationId: string = randomUUID()): string {
  const empty = JSON.stringify({ correlationId, amount: 1, note: '' });
  return JSON.stringify({ correlationId, amount: 1, note: 'x'.repeat(bytes - empty.length) });
}

describe('POST /payments', () => {
  it('responds with 204 with an empty body, and the job is in Redis by then', async () => {
    const { url, queue } = await api();
    const payment = aPayment();
    const { headers, text } = await http(url).post('/payments').send(payment).expect(204);
    expect(text).to.equal('');
    expect(headers).to.not.have.any.keys('content-type', 'content-length', 'x-powered-by', 'etag');
    expect(await queue.waiting()).to.deep.equal([payment.correlationId]);
    expect(JSON.parse((await queue.job(payment.correlationId))['data']!)).to.deep.equal(payment);
  });

  it('queues payments in the order they came in', async () => {
    const { url, queue } = await api();
    const payments = Array.from({ length: 5 }, () => aPayment());
    for (const payment of payments) await http(url).post('/payments').send(payment).expect(204);
    expect(await queue.waiting()).to.deep.equal(payments.map(({ correlationId }) => correlationId));
  });

  for (const [name, text] of Object.entries({
    'an object without a correlationId': '{"amount":19.9}',
    'an empty object': '{}',
    'an array': '[1,"two",{"three":3}]',
    'an empty array': '[]',
    'a string': '"pay me"',
    'a number': '-1.5e3',
    'a number no double holds': '123456789012345678901234567890.10',
    true: 'true',
    null: 'null',
    'a nested object': '{"a":{"b":[{"c":{"d":[[[]]]}}]}}',
    'an array 30,000 deep': '['.repeat(30_000) + ']'.repeat(30_000),
    'unicode of all lengths': '{"note":"a\u{e9}\u{20ac}\u{1f4b8}","\u{540d}":1}',
    'escapes, a lone surrogate among them': '{"note":"\\ud83d\\u0000\\n\\/"}',
    'white space around and between': ' \r\n\t{ "amount" :\t1 }\n ',
    'a key twice': '{"amount":1,"amount":2}',
    'a key named __proto__': '{"__proto__":{"correlationId":"00000000-0000-0000-0000-000000000000"}}',
    'a correlationId that is no UUID': '{"correlationId":"42","amount":1}',
    'a correlationId that is no string': '{"correlationId":["e79ba4b7-fceb-4e38-a5ef-824d4546536f"],"amount":1}',
  })) {
    it(`responds with 204 to ${name} and stores its text under a numbered id`, async () => {
      const { paymentsUrl, queue } = await api();
      expect(await exchange(paymentsUrl, { body: text })).to.include({ status: 204, text: '' });
      expect(await queue.waiting()).to.deep.equal(['1']);
      expect((await queue.job('1'))['data']).to.equal(text);
    });
  }

  it('leaves judging a payment to the worker', async () => {
    const { url, queue } = await api();
    const payments = [-1, 0, 1.001, '19.90', null].map((amount) => ({ ...aPayment(), amount }));
    for (const payment of payments) await http(url).post('/payments').send(payment).expect(204);
    expect(await queue.waiting()).to.deep.equal(payments.map(({ correlationId }) => correlationId));
  });

  for (const type of [
    'application/json',
    'application/json; charset=utf-16',
    'text/plain',
    'application/x-www-form-urlencoded',
    'multipart/form-data',
    'not a type',
    '',
  ]) {
    it(`reads JSON sent as ${type === '' ? 'nothing in particular' : `"${type}"`}`, async () => {
      const { paymentsUrl, queue } = await api();
      const payment = aPayment();
      const headers = type === '' ? {} : { 'content-type': type };
      const response = await exchange(paymentsUrl, { headers, body: JSON.stringify(payment) });
      expect(response.status).to.equal(204);
      expect(await queue.isStored(payment.correlationId)).to.equal(true);
    });
  }

  const utf8 = Buffer.from(JSON.stringify({ ...aPayment(), note: 'caf\u00e9' }));
  for (const [name, body] of Object.entries({
    'an empty body': Buffer.alloc(0),
    'an empty chunked body': [],
    'nothing but white space': ' \n ',
    'an unfinished object': '{"amount":1',
    'a trailing comma': '{"amount":1,}',
    'single quotes': "{'amount':1}",
    'a bare word': 'undefined',
    NaN: '{"amount":NaN}',
    'two JSON texts': '{} {}',
    'a form': 'correlationId=1&amount=2',
    'bytes that are no UTF-8': Buffer.from('{"note":"\xe9"}', 'latin1'),
    'a character cut in two': utf8.subarray(0, utf8.length - 3),
    'UTF-16': Buffer.from('{"amount":1}', 'utf16le'),
    'a byte order mark': Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), utf8]),
    'a compressed body': gzipSync(utf8),
  })) {
    it(`responds with 400 invalid_json to ${name} and stores nothing`, async () => {
      const { paymentsUrl, queue, entries } = await api();
      const headers = {
        'content-type': 'application/json',
        ...(name.includes('compressed') && { 'content-encoding': 'gzip' }),
      };
      const { status, text, headers: answered } = await exchange(paymentsUrl, { headers, body });
      expect(status).to.equal(400);
      expect(answered['content-type']).to.equal('application/json; charset=utf-8');
      expect(JSON.parse(text)).to.deep.equal({ error: 'invalid_json' });
      expect(await queue.keys()).to.deep.equal([]);
      // Faults of a client are not logged here.
      expect(entries.filter(({ level }) => level !== 'info')).to.deep.equal([]);
    });
  }

  it('reads a character that two chunks share', async () => {
    const { paymentsUrl, queue } = await api();
    const text = '{"note":"\u{1f4b8}"}';
    const bytes = Buffer.from(text);
    const middle = bytes.indexOf(0xf0) + 2;
    const response = await exchange(paymentsUrl, { body: [bytes.subarray(0, middle), bytes.subarray(middle)] });
    expect(response.status).to.equal(204);
    expect((await queue.job('1'))['data']).to.equal(text);
  });

  for (const [name, parts] of Object.entries({
    'with a content-length': (text: string) => text,
    chunked: (text: string) => [text.slice(0, 10), text.slice(10, 40_000), text.slice(40_000)],
  })) {
    it(`accepts exactly 64 KiB, ${name}`, async () => {
      const { paymentsUrl, queue } = await api();
      const { correlationId } = aPayment();
      const text = jsonOfBytes(65_536, correlationId);
      expect(await exchange(paymentsUrl, { body: parts(text) })).to.include({ status: 204 });
      expect((await queue.job(correlationId))['data']).to.equal(text);
    });

    it(`responds with 413 payload_too_large to one byte more, ${name}`, async () => {
      const { paymentsUrl, queue } = await api();
      const { status, text } = await exchange(paymentsUrl, { body: parts(jsonOfBytes(65_537)) });
      expect(status).to.equal(413);
      expect(JSON.parse(text)).to.deep.equal({ error: 'payload_too_large' });
      expect(await queue.keys()).to.deep.equal([]);
    });
  }

  it('responds with 413 to an announcement, without waiting for the body, and closes the connection', async () => {
    const { url } = await api();
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    socket.write(`POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: ${MAX_BODY_BYTES + 1}\r\n\r\n{`);
    let received = '';
    socket.on('data', (data) => {
      received += data;
    });
    await once(socket, 'end');
    expect(received).to.match(/^HTTP\/1\.1 413 /);
    expect(received).to.match(/\r\nConnection: close\r\n/i);
  });

  it('responds with 413 while a large body is still coming', async () => {
    const { paymentsUrl, queue } = await api();
    const megabyte = Buffer.alloc(1024 * 1024, ' ');
    const responses = await Promise.all([
      exchange(paymentsUrl, { body: megabyte }),
      exchange(paymentsUrl, { body: [megabyte.subarray(0, 100_000), megabyte.subarray(100_000)] }),
    ]);
    expect(responses.map(({ status }) => status)).to.deep.equal([413, 413]);
    expect(await queue.keys()).to.deep.equal([]);
  });

  it('keeps a connection after a body that was not accepted', async () => {
    const { url, queue } = await api();
    const payment = JSON.stringify(aPayment());
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    const post = (body: string, last: string) =>
      `POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n${last}\r\n${body}`;
    socket.write(post('{"amount":', '') + post(payment, 'Connection: close\r\n'));
    let received = '';
    socket.on('data', (data) => {
      received += data;
    });
    await once(socket, 'end');
    expect(received.match(/HTTP\/1\.1 \d+/g)).to.deep.equal(['HTTP/1.1 400', 'HTTP/1.1 204']);
    expect(await queue.waiting()).to.have.length(1);
  });

  for (const [name, head] of Object.entries({
    'with a content-length': 'Content-Length: 100\r\n\r\n{"amount":1}',
    chunked: 'Transfer-Encoding: chunked\r\n\r\nc\r\n{"amount":1}\r\n',
  })) {
    it(`takes an upload that is broken off for none, ${name}`, async () => {
      const { url, queue, entries } = await api();
      const socket = connect(Number(new URL(url).port), '127.0.0.1');
      socket.write(`POST /payments HTTP/1.1\r\nHost: x\r\n${head}`);
      await once(socket, 'connect');
      // The server has begun to read it once it responds to a later client.
      await http(url).get('/health/live').expect(200);
      socket.destroy();
      await once(socket, 'close');
      await http(url).post('/payments').send(aPayment()).expect(204);
      expect(await queue.waiting()).to.have.length(1);
      expect(entries.filter(({ level }) => level !== 'info')).to.deep.equal([]);
    });
  }

  it('responds with 204 to a payment posted 100 times at once and stores it once', async () => {
    const { paymentsUrl, queue } = await api();
    const payment = aPayment();
    const responses = await Promise.all(
      Array.from({ length: 100 }, () => exchange(paymentsUrl, { body: JSON.stringify(payment) })),
    );
    expect(new Set(responses.map(({ status }) => status))).to.deep.equal(new Set([204]));
    expect(await queue.waiting()).to.deep.equal([payment.correlationId]);
  });

  it('takes a correlationId in capitals for the same', async () => {
    const { url, queue } = await api();
    const payment = aPayment();
    const shouted = { ...payment, correlationId: payment.correlationId.toUpperCase() };
    await http(url).post('/payments').send(shouted).expect(204);
    await http(url).post('/payments').send(payment).expect(204);
    expect(await queue.waiting()).to.deep.equal([payment.correlationId]);
    expect((await queue.job(payment.correlationId))['data']).to.equal(JSON.stringify(shouted));
  });

  it('responds with 503 queue_full with Retry-After at the cap, and 204 to what is queued already', async () => {
    const { url, queue, entries } = await api({ PAYMENT_QUEUE_MAX_SIZE: '2' });
    const [first, second, third] = [aPayment(), aPayment(), aPayment()];
    await http(url).post('/payments').send(first).expect(204);
    await http(url).post('/payments').send(second).expect(204);
    const { headers, body } = await http(url).post('/payments').send(third).expect(503);
    expect(body).to.deep.equal({ error: 'queue_full' });
    expect(headers['retry-after']).to.equal('1');
    await http(url).post('/payments').send(first).expect(204);
    expect(await queue.waiting()).to.deep.equal([first.correlationId, second.correlationId]);
    expect(entries.filter(({ level }) => level === 'error')).to.deep.equal([]);
  });

  it('logs one line for ten requests that are not accepted', async () => {
    const { url, paymentsUrl, entries } = await api({ PAYMENT_QUEUE_MAX_SIZE: '1' });
    await http(url).post('/payments').send(aPayment()).expect(204);
    const post = () => exchange(paymentsUrl, { body: JSON.stringify(aPayment()) });
    await Promise.all(Array.from({ length: 10 }, post));
    const lines = entries.filter(({ code }) => code === 'queue_full');
    expect(lines).to.have.length(1);
    expect(lines[0]).to.include({ level: 'warn', count: 1 });
  });
});

describe('POST /payments with PAYMENTS_VALIDATE=true', () => {
  const validating = () => api({ PAYMENTS_VALIDATE: 'true' });
  const badId = (message: string) => ({ param: 'correlationId', message });
  const badAmount = (message: string) => ({ param: 'amount', message });
  const notAnObject = { param: 'body', message: 'must be a JSON object' };

  it('responds with 204 to a valid payment', async () => {
    const { url, queue } = await validating();
    for (const amount of [0.01, 19.9, 1.1400000000000001, 1e6, 45_035_996_273_704.96]) {
      const payment = aPayment(amount);
      await http(url).post('/payments').send(payment).expect(204);
      expect(await queue.isStored(payment.correlationId)).to.equal(true);
    }
  });

  for (const [name, payload, errors] of [
    ['an empty object', {}, [badId('is missing'), badAmount('is missing')]],
    [
      'neither field usable',
      { correlationId: 'x', amount: '1' },
      [badId('must be a UUID, not the string "x"'), badAmount('must be a number, not the string "1"')],
    ],
    ['an id that is no UUID', { correlationId: '123', amount: 1 }, [badId('must be a UUID, not the string "123"')]],
    ['a third decimal', { ...aPayment(), amount: 19.901 }, [badAmount('must have at most 2 decimals (got 19.901)')]],
    ['nothing to pay', { ...aPayment(), amount: 0 }, [badAmount('must be more than 0 (got 0)')]],
    ['a negative amount', { ...aPayment(), amount: -1 }, [badAmount('must be more than 0 (got -1)')]],
    [
      'more than cents can be told apart in',
      { ...aPayment(), amount: 45_035_996_273_704.98 },
      [badAmount('must not be above 45035996273704.96 (got 45035996273704.98)')],
    ],
    ['an array', [aPayment()], [notAnObject]],
    ['a string', 'pay', [notAnObject]],
    ['null', null, [notAnObject]],
  ] as const) {
    it(`responds with 400 invalid_request with all faults to ${name} and stores nothing`, async () => {
      const { paymentsUrl, queue } = await validating();
      const { status, text } = await exchange(paymentsUrl, { body: JSON.stringify(payload) });
      expect(status).to.equal(400);
      expect(JSON.parse(text)).to.deep.equal({ error: 'invalid_request', errors });
      expect(await queue.keys()).to.deep.equal([]);
    });
  }

  it('responds with 400 invalid_json to a text that is not JSON', async () => {
    const { url } = await validating();
    const { body } = await http(url).post('/payments').type('json').send('{').expect(400);
    expect(body).to.deep.equal({ error: 'invalid_json' });
  });
});
