import { once } from 'node:events';
import { Agent } from 'node:http';
import { connect, createServer } from 'node:net';
import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import { QUEUE_PREFIX } from '../../src/queue/payment-queue.ts';
import { startApiProcess } from '../support/api-process.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, http } from '../support/http-client.ts';
import { lookInto, NO_REDIS } from '../support/queue.ts';
import { aPayment, eventually, type TestEnv } from '../support/relay.ts';

/** An API process over a Redis of its own. */
async function apiProcess(env: TestEnv = {}) {
  const redis = await startRedis();
  atTestEnd(() => redis.dispose());
  const api = await startApiProcess({ REDIS_URL: redis.url, ...env });
  await eventually(async () => (await http(api.url).get('/health')).status === 200);
  return { api, redis, queue: () => lookInto(QUEUE_PREFIX, redis.url) };
}

/** A connection for parts of requests. `received` is everything that the API has sent. */
async function openConnection(url: string) {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  const connection = { socket, received: '' };
  socket.on('data', (data) => {
    connection.received += data;
  });
  await once(socket, 'connect');
  return connection;
}

async function untilConnectionsAreRefused(url: string): Promise<void> {
  const codeOf = (error: NodeJS.ErrnoException) => error.code;
  const attempt = () => exchange(`${url}/health/live`, { method: 'GET' }).then(() => undefined, codeOf);
  await eventually(async () => (await attempt()) === 'ECONNREFUSED');
}

describe('an API process that is asked to stop', () => {
  it('ends with code 0 when it is idle', async () => {
    const { api } = await apiProcess();
    expect(await api.stop()).to.equal(0);
    const levels = api.log.map((line) => JSON.parse(line).level);
    expect(levels).to.deep.equal(['info', 'info', 'info']);
  });

  it('responds to every request under load, or refuses the connection', async () => {
    const { api, queue } = await apiProcess();
    const agent = new Agent({ keepAlive: true, maxSockets: 50 });
    atTestEnd(() => agent.destroy());
    const accepted: string[] = [];
    const ends: string[] = [];
    const served = new Set<number>();
    const client = async (number: number) => {
      for (;;) {
        const payment = aPayment();
        try {
          const { status } = await exchange(`${api.url}/payments`, { body: JSON.stringify(payment), agent });
          expect(status).to.equal(204);
          accepted.push(payment.correlationId);
          served.add(number);
        } catch (error) {
          ends.push((error as NodeJS.ErrnoException).code ?? String(error));
          return;
        }
      }
    };
    const clients = Array.from({ length: 50 }, (_, number) => client(number));
    await eventually(() => served.size === 50 && accepted.length > 1_000);
    expect(await api.stop()).to.equal(0);
    await Promise.all(clients);
    expect(Object.groupBy(ends, (code) => code)).to.have.all.keys('ECONNREFUSED');
    expect(new Set(await (await queue()).waiting())).to.deep.equal(new Set(accepted));
  });

  it('refuses new connections, and responds to a request whose body is still coming', async () => {
    const { api, queue } = await apiProcess();
    const { correlationId } = aPayment();
    const body = JSON.stringify({ correlationId, amount: 1 });
    const connection = await openConnection(api.url);
    connection.socket.write(`POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body[0]}`);
    await http(api.url).get('/health/live').expect(200);
    const stopped = api.stop();
    await untilConnectionsAreRefused(api.url);
    connection.socket.write(body.slice(1));
    await once(connection.socket, 'end');
    expect(connection.received).to.match(/^HTTP\/1\.1 204 /);
    expect(await stopped).to.equal(0);
    expect(await (await queue()).isStored(correlationId)).to.equal(true);
  });

  it('responds to a request that waits for a hanging Redis, and ends with code 0', async () => {
    const { api, redis } = await apiProcess();
    redis.signal('SIGSTOP');
    const response = exchange(`${api.url}/payments`, { body: JSON.stringify(aPayment()) });
    const [{ status }, code] = await Promise.all([response, stopOnceSeen(api)]);
    expect(status).to.equal(503);
    expect(code).to.equal(0);
  });

  it('ends with code 0 at SIGINT as well, and when Redis and PostgreSQL are down', async () => {
    const { api, redis } = await apiProcess();
    await redis.stop();
    await http(api.url).post('/payments').send(aPayment()).expect(503);
    api.signal('SIGINT');
    expect(await api.exited).to.equal(0);
  });

  it('does not wait beyond SHUTDOWN_TIMEOUT_MS for a client that never finishes, and ends with code 0', async () => {
    const { api } = await apiProcess({ SHUTDOWN_TIMEOUT_MS: '700' });
    const { socket } = await openConnection(api.url);
    socket.on('error', () => {});
    socket.write('POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{');
    await http(api.url).get('/health/live').expect(200);
    const startedAt = performance.now();
    expect(await api.stop()).to.equal(0);
    expect(performance.now() - startedAt).to.be.below(3_000);
  });

  it('takes SIGINT and SIGTERM at once for one signal, and responds to a request in flight', async () => {
    const { api } = await apiProcess();
    const body = JSON.stringify(aPayment());
    const connection = await openConnection(api.url);
    connection.socket.write(`POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body[0]}`);
    await http(api.url).get('/health/live').expect(200);
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGINT', 'SIGTERM'] as const) {
      api.signal(signal);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await untilConnectionsAreRefused(api.url);
    connection.socket.write(body.slice(1));
    await once(connection.socket, 'end');
    expect(connection.received).to.match(/^HTTP\/1\.1 204 /);
    expect(await api.exited).to.equal(0);
  });

  it('ends at once, with code 1, at a signal more than a second after the first', async () => {
    const { api } = await apiProcess();
    const { socket } = await openConnection(api.url);
    socket.on('error', () => {});
    socket.write('POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{');
    await http(api.url).get('/health/live').expect(200);
    api.signal('SIGTERM');
    await untilConnectionsAreRefused(api.url);
    const repeats = setInterval(() => api.signal('SIGTERM'), 100);
    atTestEnd(() => clearInterval(repeats));
    expect(await api.exited).to.equal(1);
  });
});

/** Stops the process once it has begun with the requests sent before. */
async function stopOnceSeen(api: Awaited<ReturnType<typeof startApiProcess>>): Promise<number | null> {
  await http(api.url).get('/health/live').expect(200);
  return api.stop();
}

describe('an API process that cannot start', () => {
  it('ends with code 1 and says which port is taken', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    atTestEnd(() => server.close());
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    const failure = await startApiProcess(NO_REDIS, port).catch((error: Error) => error);
    expect(failure).to.be.instanceOf(Error);
    expect((failure as Error).message)
      .to.match(/ended with code 1/)
      .and.to.include(`PORT is taken: another process listens at 127.0.0.1, port ${port} (EADDRINUSE)`);
  });

  it('ends with code 1 and one sentence about a HOST at which it cannot listen', async () => {
    for (const [HOST, fault] of [
      // An address for documentation, which no machine has.
      ['192.0.2.1', /HOST must be an address of this machine: 192\.0\.2\.1 \(EADDRNOTAVAIL\)/],
      ['nowhere.invalid', /HOST must be a name that resolves to an address: nowhere\.invalid \(\w+\)/],
      [
        '/no/such/directory/api.sock',
        /HOST must be in an existing directory that this process may write: .* \(EACCES\)/,
      ],
    ] as const) {
      const failure = await startApiProcess({ ...NO_REDIS, HOST }).catch((error: Error) => error);
      const { message } = failure as Error;
      expect(message)
        .to.match(/ended with code 1/)
        .and.to.match(fault);
      expect(message).to.not.match(/^\s+at /m);
    }
  });

  it('ends with code 1 and names every wrong setting', async () => {
    const failure = await startApiProcess({
      PAYMENT_QUEUE_MAX_SIZE: 'many',
      SUMMARY_RANGE: 'sometimes',
      REDIS_URL: 'http://localhost',
    }).catch((error: Error) => error);
    const { message } = failure as Error;
    expect(message).to.match(/ended with code 1/);
    for (const name of ['PAYMENT_QUEUE_MAX_SIZE', 'SUMMARY_RANGE', 'REDIS_URL']) expect(message).to.include(name);
  });
});
