import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect } from 'chai';
import express, { type ErrorRequestHandler, type RequestHandler } from 'express';
import sinon from 'sinon';
import supertest from 'supertest';
import {
  ConflictError,
  ForbiddenError,
  InvalidJsonError,
  InvalidRequestError,
  LedgerUnavailableError,
  MethodNotAllowedError,
  NotFoundError,
  PayloadTooLargeError,
  QueueFullError,
  QueueUnavailableError,
  UnauthorizedError,
} from '../../../src/errors.ts';
import { errorHandler } from '../../../src/http/error-handler.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { recordingLogger } from '../../support/logger.ts';

/** An app whose every route ends in what `handler` throws. */
function failing(handler: RequestHandler) {
  const { logger, entries } = recordingLogger();
  const app = express();
  app.all('/things/:id', handler);
  app.use(errorHandler(logger));
  return { app, entries, get: () => supertest(app).get('/things/1') };
}

const throwing = (error: unknown) =>
  failing(() => {
    throw error;
  });

describe('error handler', () => {
  const responses: [error: Error, status: number, body: object][] = [
    [new QueueFullError('full'), 503, { error: 'queue_full' }],
    [new QueueUnavailableError('no reply'), 503, { error: 'queue_unavailable' }],
    [new InvalidJsonError('bad'), 400, { error: 'invalid_json' }],
    [new PayloadTooLargeError('big'), 413, { error: 'payload_too_large' }],
    [new NotFoundError('none'), 404, { error: 'not_found' }],
    [new MethodNotAllowedError(['GET', 'HEAD']), 405, { error: 'method_not_allowed' }],
    [
      new InvalidRequestError([
        { param: 'from', message: 'is required' },
        { param: 'to', message: 'is required' },
      ]),
      400,
      {
        error: 'invalid_request',
        errors: [
          { param: 'from', message: 'is required' },
          { param: 'to', message: 'is required' },
        ],
      },
    ],
    [new LedgerUnavailableError('no reply'), 503, { error: 'ledger_unavailable' }],
    [new UnauthorizedError('Basic'), 401, { error: 'unauthorized' }],
    [new ForbiddenError('no'), 403, { error: 'forbidden' }],
    [
      new ConflictError('no', { details: { error: { key: 'K' }, message: 'no' } }),
      409,
      { error: { key: 'K' }, message: 'no' },
    ],
    [new TypeError('secret detail'), 500, { error: 'internal_error' }],
    [Object.assign(new Error('secret detail'), { status: 502 }), 500, { error: 'internal_error' }],
    [Object.assign(new Error('secret detail'), { status: '400' }), 500, { error: 'internal_error' }],
  ];
  for (const [error, status, body] of responses) {
    it(`responds with ${status} ${JSON.stringify(body)} to ${error.name}: ${error.message}`, async () => {
      const response = await throwing(error).get();
      expect(response.status).to.equal(status);
      expect(response.body).to.deep.equal(body);
      expect(response.headers['content-type']).to.match(/^application\/json/);
    });
  }

  for (const thrown of ['text', { message: 'an object' }, 7]) {
    it(`responds with 500 to ${JSON.stringify(thrown)}, which is not an error`, async () => {
      const response = await throwing(thrown).get();
      expect(response.status).to.equal(500);
      expect(response.body).to.deep.equal({ error: 'internal_error' });
    });
  }

  it('responds with 400 for a path that Express does not accept', async () => {
    const { app, entries } = throwing(new Error('never reached'));
    const response = await supertest(app).get('/things/%E0%A4%A');
    expect(response.status).to.equal(400);
    expect(response.body).to.deep.equal({
      error: 'invalid_request',
      errors: [{ param: 'path', message: 'is malformed' }],
    });
    expect(entries).to.deep.equal([]);
  });

  it('catches what an async route rejects with', async () => {
    const { get } = failing(async () => {
      throw new QueueFullError('full');
    });
    expect((await get()).status).to.equal(503);
  });

  it('sends Retry-After when the error says when', async () => {
    const response = await throwing(new QueueFullError('full', { retryAfterSeconds: 3 })).get();
    expect(response.headers['retry-after']).to.equal('3');
  });

  it('sends no Retry-After when the error does not say when', async () => {
    const response = await throwing(new QueueFullError('full')).get();
    expect(response.headers).to.not.have.property('retry-after');
  });

  it('sends Retry-After while the ledger is down', async () => {
    const response = await throwing(new LedgerUnavailableError('no reply')).get();
    expect(response.headers['retry-after']).to.equal('1');
  });

  it('lists the methods that are allowed', async () => {
    const response = await throwing(new MethodNotAllowedError(['GET', 'HEAD'])).get();
    expect(response.headers['allow']).to.equal('GET, HEAD');
  });

  it('logs an unexpected fault as an error, with its path and cause', async () => {
    const { get, entries } = throwing(new TypeError('secret detail', { cause: new Error('deeper') }));
    await get();
    expect(entries).to.deep.equal([
      {
        level: 'error',
        message: 'request failed unexpectedly',
        path: '/things/1',
        cause: 'TypeError: secret detail <- Error: deeper',
      },
    ]);
  });

  for (const error of [new NotFoundError('none'), new InvalidJsonError('bad'), new InvalidRequestError([])]) {
    it(`logs nothing for ${error.code}, the client's own fault`, async () => {
      const { get, entries } = throwing(error);
      await get();
      expect(entries).to.deep.equal([]);
    });
  }

  it('aborts a response that has begun', async () => {
    const { get, entries } = failing((_request, response) => {
      response.write('{"begun":');
      throw new Error('in the middle');
    });
    const failure = await get().then(
      () => undefined,
      (error: Error) => error,
    );
    expect(failure).to.be.instanceOf(Error);
    expect(entries).to.deep.equal([
      {
        level: 'error',
        message: 'failed after the response had begun',
        path: '/things/1',
        cause: 'Error: in the middle',
      },
    ]);
  });

  it('closes the connection when the body has not come in full', async () => {
    const { app } = throwing(new PayloadTooLargeError('big'));
    const server = app.listen(0, '127.0.0.1');
    await once(server, 'listening');
    atTestEnd(() => {
      server.closeAllConnections();
      return new Promise((done) => server.close(done));
    });
    const { port } = server.address() as AddressInfo;
    const request = httpRequest({ host: '127.0.0.1', port, path: '/things/1', method: 'POST' });
    request.on('error', () => {}); // the server may cut the body off
    request.write('[');
    const [response] = await once(request, 'response');
    expect(response.statusCode).to.equal(413);
    expect(response.headers.connection).to.equal('close');
    request.destroy();
  });

  it('neither responds nor logs when the client has disconnected', () => {
    const { logger, entries } = recordingLogger();
    const request = { destroyed: true, complete: false, path: '/things/1' };
    const response = {}; // touching it would throw
    const next = sinon.spy();
    const [error, ...rest] = [
      new Error('aborted'),
      request,
      response,
      next,
    ] as unknown as Parameters<ErrorRequestHandler>;
    errorHandler(logger)(error, ...rest);
    expect(entries).to.deep.equal([]);
    expect(next.called).to.equal(false);
  });

  describe('during an outage', () => {
    function outage(error: Error) {
      const clock = sinon.useFakeTimers({ toFake: ['performance'] });
      atTestEnd(() => clock.restore());
      const { logger, entries } = recordingLogger();
      let thrown = error;
      const app = express();
      app.use(() => {
        throw thrown;
      });
      app.use(errorHandler(logger));
      return {
        clock,
        entries,
        async fail(times: number, otherError = error) {
          thrown = otherError;
          for (let request = 0; request < times; request += 1) await supertest(app).get('/');
        },
      };
    }

    it('logs the first failure, then one line a minute with the count', async () => {
      const { clock, entries, fail } = outage(new QueueUnavailableError('no reply', { cause: new Error('why') }));
      const cause = 'QueueUnavailableError queue_unavailable: no reply <- Error: why';
      await fail(3);
      expect(entries).to.have.lengthOf(1);
      expect(entries[0]).to.include({ level: 'warn', code: 'queue_unavailable', count: 1, cause });
      clock.tick(59_999);
      await fail(1);
      expect(entries).to.have.lengthOf(1);
      clock.tick(1);
      await fail(1);
      expect(entries).to.have.lengthOf(2);
      expect(entries[1]).to.include({ code: 'queue_unavailable', count: 5, cause });
    });

    it('logs each kind of outage separately', async () => {
      const { entries, fail } = outage(new QueueUnavailableError('no reply'));
      await fail(2);
      await fail(2, new QueueFullError('full'));
      await fail(2, new LedgerUnavailableError('no reply'));
      expect(entries.map(({ code }) => code)).to.deep.equal(['queue_unavailable', 'queue_full', 'ledger_unavailable']);
    });
  });
});
