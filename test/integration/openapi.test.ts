import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect } from 'chai';
import { OpenAPISchemaValidator } from 'express-openapi-validator/dist/framework/openapi.schema.validator.js';
import type { OpenAPIV3 } from 'express-openapi-validator/dist/framework/types.js';
import { createDocument } from '../../src/http/openapi/document.ts';
import { ERRORS } from '../../src/http/openapi/errors.ts';
import { createOperations } from '../../src/http/openapi/operations.ts';
import { within } from '../../src/process/deadline.ts';
import {
  type Documented,
  documentCheck,
  documentedResponses,
  documentOf,
  type Exchange,
} from '../support/api-document.ts';
import { atTestEnd, withOwnEnd } from '../support/cleanup.ts';
import { exchange } from '../support/http-client.ts';
import { createProvocations, EVERYTHING } from '../support/provoke.ts';
import { NO_DATABASE } from '../support/queue.ts';
import { expectDocumented, type TestEnv, testApi, testConfig } from '../support/relay.ts';

const documentWith = async (env: TestEnv = {}) => documentOf(await testConfig({ ...NO_DATABASE, ...env }));

describe('GET /openapi.json', () => {
  it('is valid OpenAPI 3.1, whatever the settings', async () => {
    for (const env of [{}, EVERYTHING, { SUMMARY_RANGE: 'optional' }]) {
      const validator = new OpenAPISchemaValidator({ version: '3.1.0', validateApiSpec: true });
      const document = (await documentWith(env)) as unknown as OpenAPIV3.DocumentV3_1;
      expect(validator.validate(document).errors).to.deep.equal([]);
    }
  });

  it('describes the routes that exist with the settings of the node', async () => {
    const { url, config } = await testApi({ ...EVERYTHING, ...NO_DATABASE });
    const { text } = await exchange(`${url}/openapi.json`, { method: 'GET' });
    expect(JSON.parse(text)).to.deep.equal(JSON.parse(JSON.stringify(documentOf(config))));
    const [some, all] = [await documentWith(), await documentWith(EVERYTHING)].map(({ paths }) => Object.keys(paths));
    const added = all!.filter((path) => !some!.includes(path));
    expect(added).to.include.members(['/purge-payments', '/admin/queues', '/admin', '/admin/api/state']);
    expect(added.filter((path) => !/^\/(purge-payments|admin)\b/.test(path))).to.deep.equal([]);
  });

  it('has a security scheme only when a setting asks for a login', async () => {
    const schemes = async (env: TestEnv) =>
      Object.keys(((await documentWith(env))['components'] as Record<string, object>)['securitySchemes'] ?? {});
    expect(await schemes({})).to.deep.equal([]);
    const { DASHBOARD_USER, DASHBOARD_PASSWORD } = EVERYTHING as Record<string, string>;
    expect(await schemes({ DASHBOARD_USER, DASHBOARD_PASSWORD } as TestEnv)).to.deep.equal(['operator']);
    const { STATUS_TOKEN, METRICS_TOKEN } = EVERYTHING as Record<string, string>;
    for (const env of [{ STATUS_TOKEN }, { METRICS_TOKEN }])
      expect(await schemes(env as TestEnv)).to.deep.equal(['token']);
  });

  it('describes no operation that no setting enables', async () => {
    const { http } = await testConfig({ ...NO_DATABASE, ...EVERYTHING });
    const existing = Object.values((await documentWith(EVERYTHING)).paths).flatMap((item) =>
      Object.values(item).map(({ operationId }) => operationId),
    );
    const described = Object.values(createOperations(http)).map(({ id }) => id);
    expect(described).to.have.members(existing);
  });

  it('cannot be made of a route without a description', async () => {
    const { http } = await testConfig(NO_DATABASE);
    const route = { method: 'GET', path: '/new', handler: () => {} } as const;
    expect(() => createDocument([route], http)).to.throw('GET /new');
  });

  it('lists no error code that no operation has', async () => {
    const kinds = new Set(documentedResponses(await documentWith(EVERYTHING)).map(({ kind }) => kind));
    expect(Object.keys(ERRORS).filter((code) => !kinds.has(code))).to.deep.equal([]);
  });
});

describe('the API', function () {
  this.timeout(60_000);

  /** A request that never ends gets its response after 6 s. */
  const RESPONDS_WITHIN_MS = 20_000;

  it('gives every response that its document lists', async () => {
    const { config, provoke } = await createProvocations();
    const document = documentOf(config);
    const check = documentCheck(document);
    const listed = documentedResponses(document);
    expect(listed).to.have.length.above(100);

    const faultOf = async (documented: Documented): Promise<string | undefined> => {
      const name = `${documented.operationId} ${documented.status} ${documented.kind}`;
      try {
        const given = await within(performance.now() + RESPONDS_WITHIN_MS, provoke(documented));
        if (given === undefined) return `${name}: got nothing`;
        if (given.status !== documented.status) return `${name}: got ${given.status} ${given.text.slice(0, 200)}`;
        const fault =
          check(given) ?? (isOfKind(given, documented.kind) ? undefined : `got ${given.text.slice(0, 200)}`);
        return fault && `${name}: ${fault}`;
      } catch (error) {
        return `${name}: ${error}`;
      }
    };
    const late = listed.filter(({ kind }) => kind === 'request_timeout').map(faultOf);
    const faults: (string | undefined)[] = [];
    for (const documented of listed.filter(({ kind }) => kind !== 'request_timeout')) {
      faults.push(await faultOf(documented));
    }
    faults.push(...(await Promise.all(late)));
    expect(faults.filter((fault) => fault !== undefined)).to.deep.equal([]);
  });
});

function isOfKind({ headers, text }: Exchange, kind: string): boolean {
  if (kind === '') return text === '';
  if (kind === '*/*') return true;
  return kind.includes('/')
    ? String(headers['content-type']).startsWith(kind)
    : (JSON.parse(text) as { error: unknown }).error === kind;
}

describe('the check of responses against the document', () => {
  const full: Exchange = {
    method: 'POST',
    path: '/payments',
    status: 503,
    headers: { 'content-type': 'application/json; charset=utf-8', 'retry-after': '1' },
    text: '{"error":"queue_full"}',
  };

  it('takes a response that is described', async () => {
    expect(documentCheck(await documentWith())(full)).to.equal(undefined);
  });

  it('fails the test in which an API has given a response that is not described', async () => {
    const config = await testConfig(NO_DATABASE);
    const server = createServer((_request, response) => response.writeHead(418).end());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    atTestEnd(() => new Promise((resolve) => server.close(resolve)));
    const { port } = server.address() as AddressInfo;
    const end = withOwnEnd(async () => {
      expectDocumented(port, config);
      await exchange(`http://127.0.0.1:${port}/health`, { method: 'GET' });
    });
    const failure = await end.catch((error: Error) => error.message);
    expect(failure).to.match(/GET \/health: getHealth has no 418$/);
  });

  for (const [name, change] of Object.entries({
    'of a status that is not listed': { status: 502 },
    'with a code that is not listed for it': { text: '{"error":"busy"}' },
    'with a field that is not described': { text: '{"error":"queue_full","more":1}' },
    'without a field that is required': { text: '{}' },
    'without a header that is required': { headers: { 'content-type': 'application/json' } },
    'with a header in another form': { headers: { ...full.headers, 'retry-after': 'soon' } },
    'of another media type': { headers: { ...full.headers, 'content-type': 'text/html' } },
    'with a body where there is none': { status: 204 },
    'to a path that is not described': { path: '/payment' },
  } satisfies Record<string, Partial<Exchange>>)) {
    it(`reports a response ${name}`, async () => {
      expect(documentCheck(await documentWith())({ ...full, ...change })).to.be.a('string');
    });
  }
});
