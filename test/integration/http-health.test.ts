import { once } from 'node:events';
import { connect } from 'node:net';
import { expect } from 'chai';
import { http } from '../support/http-client.ts';
import { bullQueue, bullWorker, connectedApi, NO_DATABASE, NO_REDIS } from '../support/queue.ts';
import { aPayment, eventually, testApi, testWorker } from '../support/relay.ts';

describe('GET /health', () => {
  it('responds with ok and zeros for an empty queue with a worker', async () => {
    const { url, prefix, config } = await testApi();
    await testWorker({ DATABASE_URL: config.database.url }, prefix);
    const body = await eventually(async () => {
      const response = await http(url).get('/health').expect(200);
      return response.body.status === 'ok' && response.body;
    });
    expect(body).to.deep.equal({ status: 'ok', queue: { queue_size: 0, in_flight: 0 }, workers: 1 });
  });

  it('counts waiting, delayed and prioritized jobs as queue_size and active ones as in_flight', async () => {
    const { url, prefix } = await connectedApi();
    for (let i = 0; i < 5; i += 1) await http(url).post('/payments').send(aPayment()).expect(204);
    const queue = await bullQueue(prefix);
    await queue.add('payment', {}, { delay: 60_000 });
    await queue.add('payment', {}, { priority: 1 });
    const worker = await bullWorker(prefix);
    await worker.getNextJob('token');
    await worker.getNextJob('token');
    const { body } = await http(url).get('/health').expect(200);
    expect(body.queue).to.deep.equal({ queue_size: 5, in_flight: 2 });
  });

  it('counts neither dead letters nor completed jobs', async () => {
    const { url, prefix } = await connectedApi();
    const queue = await bullQueue(prefix);
    await queue.add('payment', {}, { removeOnComplete: false });
    await queue.add('payment', {});
    const worker = await bullWorker(prefix);
    const completed = await worker.getNextJob('token');
    await completed!.moveToCompleted(undefined, 'token', false);
    const failed = await worker.getNextJob('token');
    await failed!.moveToFailed(new Error('no'), 'token', false);
    expect(await queue.getFailedCount()).to.equal(1);
    const { body } = await http(url).get('/health').expect(200);
    expect(body.queue).to.deep.equal({ queue_size: 0, in_flight: 0 });
  });
});

describe('GET /health/live', () => {
  it('responds with 200 while Redis and PostgreSQL are down', async () => {
    const { url } = await testApi({ ...NO_REDIS, ...NO_DATABASE });
    const { body } = await http(url).get('/health/live').expect(200);
    expect(body).to.deep.equal({ status: 'ok' });
  });
});

describe('GET /health/ready', () => {
  it('responds with 200 while Redis and PostgreSQL are reachable', async () => {
    const { url } = await testApi();
    const { body } = await eventually(async () => {
      const response = await http(url).get('/health/ready');
      return response.status === 200 && response;
    });
    expect(body).to.deep.equal({ status: 'ok', checks: { redis: true, postgres: true, accepting: true } });
  });

  it('responds with 200 while PostgreSQL is unreachable: payments wait for it in Redis', async () => {
    const { url } = await connectedApi();
    const { body } = await http(url).get('/health/ready').expect(200);
    expect(body).to.deep.equal({ status: 'ok', checks: { redis: true, postgres: false, accepting: true } });
  });

  it('responds with 503 and names what is not reachable', async () => {
    const { url } = await testApi({ ...NO_REDIS, ...NO_DATABASE });
    const { body } = await http(url).get('/health/ready').expect(503);
    expect(body).to.deep.equal({ status: 'unavailable', checks: { redis: false, postgres: false, accepting: true } });
  });

  it('responds with 503 once the node has been told to stop, on connections that are still open', async () => {
    const { url, api } = await connectedApi();
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    let received = '';
    socket.on('data', (data) => {
      received += data;
    });
    const payment = JSON.stringify(aPayment());
    socket.write(`POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: ${payment.length}\r\n\r\n`);
    // An upload under way keeps the connection open; the node has seen it once it responds to a later client.
    await once(socket, 'connect');
    await http(url).get('/health/live').expect(200);
    const closed = api.close(performance.now() + 5_000);
    await eventually(
      async () =>
        (await http(url)
          .get('/health/live')
          .catch(() => 'refused')) === 'refused',
    );
    socket.write(`${payment}GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n`);
    await once(socket, 'end');
    expect(received.match(/HTTP\/1\.1 \d+/g)).to.deep.equal(['HTTP/1.1 204', 'HTTP/1.1 503']);
    expect(received).to.include('"accepting":false');
    await closed;
  });
});
