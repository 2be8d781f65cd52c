import { expect } from 'chai';
import express from 'express';
import sinon from 'sinon';
import supertest from 'supertest';
import { errorHandler } from '../../../../src/http/error-handler.ts';
import { mayAct, operatorAuth } from '../../../../src/http/operator/operator-auth.ts';
import { atTestEnd } from '../../../support/cleanup.ts';
import { recordingLogger } from '../../../support/logger.ts';

const USER = 'admin';
const PASSWORD = 'p:ss wörd';
const basic = (user: string, password: string) => `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
const RIGHT = basic(USER, PASSWORD);
const VIEWER = basic('viewer', 'only looks');
const WRONG = basic(USER, 'guess');

/** A page for the operator. The clock stands still but for `clock.tick`. */
function stage() {
  const clock = sinon.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout', 'Date'] });
  atTestEnd(() => clock.restore());
  const { logger, entries } = recordingLogger();
  const app = express();
  const logins = {
    operator: { user: USER, password: PASSWORD },
    viewer: { user: 'viewer', password: 'only looks' },
  };
  app.use(operatorAuth(logins, logger), (_request, response) => {
    response.json({ user: response.locals['operator'], mayAct: mayAct(response) });
  });
  app.use(errorHandler(logger));
  const login = (authorization?: string, method: 'get' | 'head' | 'post' | 'put' | 'patch' | 'delete' = 'get') => {
    const request = supertest(app)[method]('/');
    return authorization === undefined ? request : request.set('Authorization', authorization);
  };
  return { clock, entries, login };
}

/** The statuses of so many wrong logins. */
async function guess(login: ReturnType<typeof stage>['login'], count: number): Promise<number[]> {
  const statuses: number[] = [];
  for (let sent = 0; sent < count; sent += 1) statuses.push((await login(WRONG)).status);
  return statuses;
}

describe('operatorAuth', () => {
  const strangers: [title: string, authorization: string | undefined][] = [
    ['without a login', undefined],
    ['with an empty header', ''],
    ['with a wrong password', WRONG],
    ['with a wrong password of the same length', basic(USER, PASSWORD.replace('p', 'q'))],
    ['with a wrong user', basic('root', PASSWORD)],
    ['with the beginning of the password', basic(USER, PASSWORD.slice(0, -1))],
    ['with more than the password', basic(USER, `${PASSWORD}x`)],
    ['with another scheme', RIGHT.replace('Basic', 'Bearer')],
    ['with the password in the clear', `Basic ${USER}:${PASSWORD}`],
    ['with the scheme alone', 'Basic'],
    ['with the scheme and spaces', 'Basic    '],
    ['with two logins', `${RIGHT} ${RIGHT}`],
    ['with text that is no base64', 'Basic %%%'],
    ['with bytes that are no UTF-8', `Basic ${Buffer.from([0xff, 0xfe, 0x3a]).toString('base64')}`],
    ['without a scheme', RIGHT.slice('Basic '.length)],
  ];
  for (const [title, authorization] of strangers) {
    it(`responds 401 and asks for the password ${title}`, async () => {
      const response = await stage().login(authorization);
      expect(response.status).to.equal(401);
      expect(response.body).to.deep.equal({ error: 'unauthorized' });
      expect(response.headers['www-authenticate']).to.equal('Basic realm="Payrelay", charset="UTF-8"');
    });
  }

  it('accepts the scheme in any case, and the login without its padding', async () => {
    const { login } = stage();
    for (const header of [
      RIGHT,
      RIGHT.replace('Basic', 'basic'),
      RIGHT.replace('Basic ', 'BASIC  '),
      RIGHT.replace(/=+$/, ''),
    ]) {
      expect((await login(header)).status, header).to.equal(200);
    }
  });

  it('lets both logins look, and tells the routes who it is', async () => {
    const { login } = stage();
    expect((await login(RIGHT)).body).to.deep.equal({ user: USER, mayAct: true });
    expect((await login(VIEWER)).body).to.deep.equal({ user: 'viewer', mayAct: false });
    expect((await login(VIEWER, 'head')).status).to.equal(200);
  });

  it('responds 403 to every change by the viewer, with a sentence, and lets the operator act', async () => {
    const { login, entries } = stage();
    for (const method of ['post', 'put', 'patch', 'delete'] as const) {
      const { status, body } = await login(VIEWER, method);
      expect(status, method).to.equal(403);
      expect(body.error).to.equal('forbidden');
      expect(body.message).to.be.a('string');
      expect((await login(RIGHT, method)).status, method).to.equal(200);
    }
    expect(entries).to.deep.equal([]);
  });

  it('mixes no user of one login with the password of the other', async () => {
    const { login } = stage();
    expect((await login(basic(USER, 'only looks'))).status).to.equal(401);
    expect((await login(basic('viewer', PASSWORD))).status).to.equal(401);
  });

  it('responds 401 to five wrong logins a second, and 429 at once to the others', async () => {
    const { clock, login } = stage();
    expect(await guess(login, 7)).to.deep.equal([401, 401, 401, 401, 401, 429, 429]);
    const { headers, body } = await login(WRONG);
    expect(headers['retry-after']).to.equal('1');
    expect(headers).not.to.have.property('www-authenticate');
    expect(body).to.deep.equal({ error: 'too_many_logins' });
    clock.tick(1_000);
    expect(await guess(login, 6)).to.deep.equal([401, 401, 401, 401, 401, 429]);
  });

  it('lets the right login in, whatever others try', async () => {
    const { login } = stage();
    await guess(login, 20);
    expect((await login(RIGHT)).status).to.equal(200);
  });

  it('does not count a browser that has not asked its user yet', async () => {
    const { login, entries } = stage();
    for (let count = 0; count < 10; count += 1) expect((await login()).status).to.equal(401);
    expect(entries).to.deep.equal([]);
  });

  it('logs wrong logins once a minute with their count, and when they have ended', async () => {
    const { clock, login, entries } = stage();
    await guess(login, 10);
    clock.tick(59_000);
    await guess(login, 1);
    expect(entries.map(({ level, count }) => [level, count])).to.deep.equal([['warn', 1]]);
    clock.tick(1_000);
    await guess(login, 1);
    expect(entries.map(({ level, count }) => [level, count])).to.deep.equal([
      ['warn', 1],
      ['warn', 12],
    ]);
    clock.tick(61_000);
    expect(entries.at(-1)).to.include({ level: 'info', count: 12 });
    expect(JSON.stringify(entries)).not.to.include('guess');
  });
});
