import { expect } from 'chai';
import express from 'express';
import supertest from 'supertest';
import { bearerAuth } from '../../../src/http/bearer-auth.ts';
import { errorHandler } from '../../../src/http/error-handler.ts';
import { recordingLogger } from '../../support/logger.ts';

const TOKEN = 'a-token-of-16-and-more==';

function stage() {
  const { logger, entries } = recordingLogger();
  const app = express();
  app.use(bearerAuth(TOKEN, logger), (_request, response) => void response.json('in'));
  app.use(errorHandler(logger));
  const ask = (authorization?: string) => {
    const request = supertest(app).get('/');
    return authorization === undefined ? request : request.set('Authorization', authorization);
  };
  return { ask, entries };
}

describe('bearerAuth', () => {
  const strangers: [title: string, authorization: string | undefined][] = [
    ['without a token', undefined],
    ['with another token', `Bearer ${TOKEN.replace('a', 'b')}`],
    ['with the beginning of the token', `Bearer ${TOKEN.slice(0, -1)}`],
    ['with more than the token', `Bearer ${TOKEN}x`],
    ['with another scheme', `Basic ${TOKEN}`],
    ['with the token as basic auth', `Basic ${Buffer.from(TOKEN).toString('base64')}`],
    ['with the scheme alone', 'Bearer'],
    ['with two tokens', `Bearer ${TOKEN} ${TOKEN}`],
    ['without a scheme', TOKEN],
  ];
  for (const [title, authorization] of strangers) {
    it(`responds 401 and names the scheme ${title}`, async () => {
      const { status, body, headers } = await stage().ask(authorization);
      expect(status).to.equal(401);
      expect(body).to.deep.equal({ error: 'unauthorized' });
      expect(headers['www-authenticate']).to.equal('Bearer realm="Payrelay"');
    });
  }

  it('accepts the token, and the scheme in any case', async () => {
    const { ask } = stage();
    for (const header of [`Bearer ${TOKEN}`, `bearer ${TOKEN}`, `BEARER   ${TOKEN} `]) {
      expect((await ask(header)).status, header).to.equal(200);
    }
  });

  it('responds 429 to more than five wrong tokens a second, lets the right one in, and logs no token', async () => {
    const { ask, entries } = stage();
    const guesses = [];
    for (let sent = 0; sent < 7; sent += 1) guesses.push((await ask('Bearer guess-a-token')).status);
    expect(guesses).to.deep.equal([401, 401, 401, 401, 401, 429, 429]);
    expect((await ask(`Bearer ${TOKEN}`)).status).to.equal(200);
    expect(entries).to.have.length(1);
    expect(JSON.stringify(entries)).not.to.include('guess');
  });
});
