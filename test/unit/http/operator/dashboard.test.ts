import { expect } from 'chai';
import express from 'express';
import sinon from 'sinon';
import supertest from 'supertest';
import { errorHandler } from '../../../../src/http/error-handler.ts';
import { dashboard } from '../../../../src/http/operator/dashboard.ts';
import { operatorAuth } from '../../../../src/http/operator/operator-auth.ts';
import { sameOriginOnly } from '../../../../src/http/operator/same-origin.ts';
import { recordingLogger } from '../../../support/logger.ts';

const USER = 'admin';
const PASSWORD = 'p:ss wörd';
const basic = (user: string, password: string) => `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
const RIGHT = basic(USER, PASSWORD);

/** The dashboard over a stubbed queue. A request that passes the guard would load bull-board, which asks for the queue. */
function guarded() {
  const queueAdmin = {
    queues: sinon.stub(),
    ping: sinon.stub(),
    failedIds: sinon.stub(),
    failedJob: sinon.stub(),
    purge: sinon.stub(),
    close: sinon.stub(),
  };
  const app = express();
  app.use(
    '/admin/queues',
    operatorAuth({ operator: { user: USER, password: PASSWORD } }, recordingLogger().logger),
    sameOriginOnly,
    dashboard({
      queueAdmin,
      steering: { notePause: sinon.stub().resolves() },
      deadLetters: { find: sinon.stub() },
      enqueuer: { enqueueAgain: sinon.stub() },
    }),
  );
  app.use(errorHandler(recordingLogger().logger));
  return { agent: supertest(app), queueAdmin };
}

type Method = 'get' | 'put' | 'post' | 'patch' | 'delete';
const API = '/admin/queues/api/queues/payments';

describe('dashboard', () => {
  it('responds 401 to a stranger, whatever the path and the method', async () => {
    for (const [method, path] of [
      ['get', API],
      ['get', '/admin/queues/static/js/main.js'],
      ['put', `${API}/pause`],
      ['put', `${API}/obliterate`],
    ] as const) {
      expect((await guarded().agent[method](path)).status, `${method} ${path}`).to.equal(401);
    }
  });

  it('responds 403 to a change that another site makes the browser send', async () => {
    for (const path of ['pause', '1/retry']) {
      const { agent, queueAdmin } = guarded();
      const response = await agent.put(`${API}/${path}`).set({ Authorization: RIGHT, Origin: 'https://evil.example' });
      expect(response.status, path).to.equal(403);
      expect(response.body).to.deep.equal({ error: 'forbidden' });
      expect(queueAdmin.queues.called).to.equal(false);
    }
  });

  describe('given a change that would lose a payment or pay it as another', () => {
    const changes: [method: Method, path: string][] = [
      ['put', 'empty'],
      ['put', 'obliterate'],
      ['put', 'clean/failed'],
      ['put', 'clean/completed'],
      ['put', 'CLEAN/failed/'],
      ['put', '%63lean/failed'],
      ['put', 'retry/completed'],
      ['put', 'concurrency'],
      ['put', 'rate-limit'],
      ['put', '1/clean'],
      ['put', '1/retry/completed'],
      ['put', '1/remove-unprocessed-children'],
      ['put', 'xpause'],
      ['put', 'pause/1'],
      ['post', 'add'],
      ['post', 'pause'],
      ['patch', '1/update-data'],
      ['patch', '1/delay'],
      ['patch', '1/promote'],
      ['delete', '1'],
      ['delete', 'retry'],
    ];
    it('responds 405, also from its own pages', async () => {
      const own = { Authorization: RIGHT, Host: 'relay.example:9999', Origin: 'http://relay.example:9999' };
      for (const [method, path] of changes) {
        for (const headers of [{ Authorization: RIGHT }, own]) {
          const { agent, queueAdmin } = guarded();
          const response = await agent[method](`${API}/${path}`).set(headers);
          expect(response.status, `${method} ${path}`).to.equal(405);
          expect(response.body).to.deep.equal({ error: 'method_not_allowed' });
          expect(response.headers['allow']).to.equal('GET, HEAD');
          expect(queueAdmin.queues.called).to.equal(false);
        }
      }
    });
  });
});
