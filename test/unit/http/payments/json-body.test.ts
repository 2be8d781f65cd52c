import { once } from 'node:events';
import { createServer, type IncomingMessage, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { expect } from 'chai';
import { InvalidJsonError, PayloadTooLargeError } from '../../../../src/errors.ts';
import { type JsonBody, MAX_BODY_BYTES, readJsonBody } from '../../../../src/http/payments/json-body.ts';
import { atTestEnd } from '../../../support/cleanup.ts';

/** A request whose body comes in these chunks. */
function incoming(chunks: readonly Buffer[], headers: Record<string, string> = {}): IncomingMessage {
  return Object.assign(Readable.from(chunks, { objectMode: false }), { headers }) as unknown as IncomingMessage;
}

const read = (...chunks: (string | Buffer)[]) => readJsonBody(incoming(chunks.map((chunk) => Buffer.from(chunk))));

const failureOf = (body: Promise<unknown>) =>
  body.then(
    () => undefined,
    (error: unknown) => error,
  );

/** A JSON text of exactly so many bytes. */
const textOf = (bytes: number) => `"${'x'.repeat(bytes - 2)}"`;

describe('readJsonBody', () => {
  const texts: [text: string, value: unknown][] = [
    ['{"correlationId":"a","amount":19.90}', { correlationId: 'a', amount: 19.9 }],
    [' [1, 2]\n', [1, 2]],
    ['"text"', 'text'],
    ['0', 0],
    ['null', null],
    ['{"name":"Jo\u00e3o \u20ac \u{1f4b8}"}', { name: 'Jo\u00e3o \u20ac \u{1f4b8}' }],
    ['{"a":1,"a":2}', { a: 2 }],
  ];
  for (const [text, value] of texts) {
    it(`reads ${JSON.stringify(text)} and keeps the text as it came`, async () => {
      expect(await read(text)).to.deep.equal({ text, value });
    });
  }

  it('puts a body together that comes byte by byte', async () => {
    const text = '{"name":"\u20ac"}';
    const bytes = [...Buffer.from(text)].map((byte) => Buffer.from([byte]));
    expect(await read(...bytes)).to.deep.equal({ text, value: { name: '\u20ac' } });
  });

  const noJson: [title: string, body: string | Buffer][] = [
    ['an empty body', ''],
    ['white space', ' \n'],
    ['a form', 'correlationId=a&amount=1'],
    ['a cut-off text', '{"amount":1'],
    ['a text with something behind it', '{} {}'],
    ['single quotes', "{'amount':1}"],
    ['NaN', '{"amount":NaN}'],
    ['a byte order mark', '\ufeff{}'],
    ['bytes that are no UTF-8', Buffer.from([0x22, 0xff, 0x22])],
    ['a cut-off character', Buffer.from('"\u20ac').subarray(0, 3)],
    ['UTF-16', Buffer.from('{}', 'utf16le')],
    ['a compressed body', Buffer.from([0x1f, 0x8b, 0x08, 0x00])],
  ];
  for (const [title, body] of noJson) {
    it(`rejects ${title} as invalid_json`, async () => {
      expect(await failureOf(read(body))).to.be.instanceOf(InvalidJsonError);
    });
  }

  it('keeps what the parser said as the cause', async () => {
    expect(await failureOf(read('{')))
      .to.have.property('cause')
      .that.is.instanceOf(SyntaxError);
  });

  describe('at the limit', () => {
    it('reads a body of exactly the limit', async () => {
      expect((await read(textOf(MAX_BODY_BYTES))).text).to.have.lengthOf(MAX_BODY_BYTES);
    });

    it('rejects one byte more', async () => {
      expect(await failureOf(read(textOf(MAX_BODY_BYTES + 1)))).to.be.instanceOf(PayloadTooLargeError);
    });

    it('rejects one byte more in many chunks', async () => {
      const half = Buffer.alloc(MAX_BODY_BYTES / 2, '1');
      expect(await failureOf(read(half, half, '1'))).to.be.instanceOf(PayloadTooLargeError);
      expect((await read(half, half)).text).to.have.lengthOf(MAX_BODY_BYTES);
    });

    it('counts bytes, not characters', async () => {
      const text = `"${'\u20ac'.repeat(MAX_BODY_BYTES / 3)}"`;
      expect(text.length).to.be.below(MAX_BODY_BYTES);
      expect(await failureOf(read(text))).to.be.instanceOf(PayloadTooLargeError);
    });

    it('rejects a body by its announced length without reading it', async () => {
      const message = incoming([Buffer.from('{}')], { 'content-length': String(MAX_BODY_BYTES + 1) });
      expect(await failureOf(readJsonBody(message))).to.be.instanceOf(PayloadTooLargeError);
      expect(message.readableDidRead).to.equal(false);
    });

    it('takes an announced length of exactly the limit', async () => {
      const message = incoming([Buffer.from('{}')], { 'content-length': String(MAX_BODY_BYTES) });
      expect((await readJsonBody(message)).value).to.deep.equal({});
    });
  });

  describe('from a real connection', () => {
    /** Serves one request by reading its body; `read` settles as that does. */
    async function serve() {
      const { promise: bodyRead, resolve, reject } = Promise.withResolvers<JsonBody>();
      const arrived = Promise.withResolvers<void>();
      const server = createServer((message, response) => {
        message.once('data', () => arrived.resolve());
        readJsonBody(message)
          .then(resolve, reject)
          .finally(() => response.writeHead(204, { connection: 'close' }).end());
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      atTestEnd(() => {
        server.closeAllConnections();
        return new Promise((done) => server.close(done));
      });
      const client = request({
        host: '127.0.0.1',
        port: (server.address() as AddressInfo).port,
        method: 'POST',
        agent: false,
      });
      client.on('error', () => {}); // ending a request in the middle makes one
      return { client, bodyRead, arrived: arrived.promise };
    }

    it('reads a body sent in chunks', async () => {
      const { client, bodyRead } = await serve();
      client.write('{"amount":');
      client.end('19.9}');
      expect((await bodyRead).value).to.deep.equal({ amount: 19.9 });
    });

    it('ends with an error when the client disconnects in the middle', async () => {
      const { client, bodyRead, arrived } = await serve();
      const failure = failureOf(bodyRead);
      client.write('{"amount":');
      await arrived;
      client.destroy();
      expect(await failure)
        .to.be.instanceOf(Error)
        .and.not.instanceOf(InvalidJsonError);
    });
  });
});
