import { once } from 'node:events';
import { connect } from 'node:net';
import { expect } from 'chai';
import { NO_DATABASE, NO_REDIS } from '../support/queue.ts';
import { type TestEnv, testApi } from '../support/relay.ts';

/** A connection to an API, and its first response. */
async function connection(env: TestEnv) {
  const { url } = await testApi({ ...NO_DATABASE, ...NO_REDIS, ...env });
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  socket.write('GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n');
  const [response] = await once(socket, 'data');
  return { socket, response: String(response) };
}

describe('an idle connection to the API', () => {
  it('is kept for longer than nginx keeps it', async () => {
    const { socket, response } = await connection({});
    socket.destroy();
    expect(response).to.match(/^Keep-Alive: timeout=65\r$/m);
  });

  it('is kept for KEEP_ALIVE_TIMEOUT_MS', async () => {
    const { socket, response } = await connection({ KEEP_ALIVE_TIMEOUT_MS: '620000' });
    socket.destroy();
    expect(response).to.match(/^Keep-Alive: timeout=620\r$/m);
  });

  it('is closed by the API afterwards', async () => {
    const { socket } = await connection({ KEEP_ALIVE_TIMEOUT_MS: '1000' });
    const respondedAt = performance.now();
    await once(socket, 'end');
    socket.destroy();
    expect(performance.now() - respondedAt).to.be.within(950, 5_000);
  });
});
