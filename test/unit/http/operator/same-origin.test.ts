import { expect } from 'chai';
import express from 'express';
import supertest from 'supertest';
import { errorHandler } from '../../../../src/http/error-handler.ts';
import { sameOriginOnly } from '../../../../src/http/operator/same-origin.ts';
import { recordingLogger } from '../../../support/logger.ts';

type Headers = Readonly<Record<string, string>>;

const app = express();
app.use(sameOriginOnly, (_request, response) => void response.json('done'));
app.use(errorHandler(recordingLogger().logger));

const post = async (headers: Headers) => (await supertest(app).post('/').set(headers)).status;

const HOST = 'relay.example:9999';
const OWN = 'http://relay.example:9999';

describe('sameOriginOnly', () => {
  const foreign: [title: string, headers: Headers][] = [
    ['of another site', { 'Sec-Fetch-Site': 'cross-site' }],
    ['of a sibling domain', { 'Sec-Fetch-Site': 'same-site' }],
    [
      'that the browser calls foreign, though the Origin is ours',
      { 'Sec-Fetch-Site': 'cross-site', Host: HOST, Origin: OWN },
    ],
    ['with a value of Sec-Fetch-Site that nobody defined', { 'Sec-Fetch-Site': 'x' }],
    ['with the Origin of another host', { Host: HOST, Origin: 'https://evil.example' }],
    ['with the Origin of another port', { Host: HOST, Origin: 'http://relay.example:99' }],
    [
      'with the Origin of a host that begins like ours',
      { Host: HOST, Origin: 'http://relay.example:9999.evil.example' },
    ],
    ['with a hidden Origin', { Host: HOST, Origin: 'null' }],
    ['with an Origin that is no URL', { Host: HOST, Origin: 'evil' }],
    ['with an empty Origin', { Host: HOST, Origin: '' }],
    ['with an Origin without a host', { Host: HOST, Origin: 'file://' }],
    [
      'that neither Host nor X-Forwarded-Host names',
      { Host: 'api', 'X-Forwarded-Host': 'relay.example', Origin: 'http://x' },
    ],
  ];
  for (const [title, headers] of foreign) {
    it(`refuses a change ${title}`, async () => {
      expect(await post(headers)).to.equal(403);
    });
  }

  const own: [title: string, headers: Headers][] = [
    ['of a program, which sends neither header', {}],
    ['of our own page', { 'Sec-Fetch-Site': 'same-origin', Host: HOST, Origin: OWN }],
    [
      'of our own page behind a proxy that rewrites Host',
      { 'Sec-Fetch-Site': 'same-origin', Host: 'api:3000', Origin: OWN },
    ],
    ['of the user, without a page', { 'Sec-Fetch-Site': 'none' }],
    ['of our own page over plain HTTP', { Host: HOST, Origin: OWN }],
    ['of our own page when Host is in capitals', { Host: 'Relay.Example:9999', Origin: OWN }],
    [
      'of our own page when a proxy adds the usual port',
      { Host: 'relay.example:443', Origin: 'https://relay.example' },
    ],
    ['over plain HTTP behind a proxy that forwards the Host', { Host: 'api', 'X-Forwarded-Host': HOST, Origin: OWN }],
    ['behind two such proxies', { Host: 'api', 'X-Forwarded-Host': `${HOST}, inner`, Origin: OWN }],
  ];
  for (const [title, headers] of own) {
    it(`accepts a change ${title}`, async () => {
      expect(await post(headers)).to.equal(200);
    });
  }

  it('lets other sites read, because they cannot see the response', async () => {
    for (const method of ['get', 'head'] as const) {
      const { status } = await supertest(app)
        [method]('/')
        .set({ 'Sec-Fetch-Site': 'cross-site', Origin: 'https://evil.example' });
      expect(status).to.equal(200);
    }
  });
});
