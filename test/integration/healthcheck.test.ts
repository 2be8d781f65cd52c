import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { atTestEnd } from '../support/cleanup.ts';

const SCRIPT = fileURLToPath(new URL('../../docker/healthcheck.sh', import.meta.url));

/** Responds 200 to /health/live, never to /hangs, and 404 to all else. @returns its port */
async function listen(): Promise<string> {
  const server = createServer(({ url }, response) => {
    if (url !== '/hangs') response.writeHead(url === '/health/live' ? 200 : 404).end('a body');
  });
  atTestEnd(() => {
    server.close();
    server.closeAllConnections();
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return String((server.address() as AddressInfo).port);
}

/** Runs the script as Docker does, with a timeout. */
function check(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<{ isHealthy: boolean; says: string }> {
  const options = { env: { PATH: process.env['PATH'], ...env }, timeout: 1_000 };
  return new Promise((resolve) =>
    execFile('bash', [SCRIPT, ...args], options, (error, stdout) =>
      resolve({ isHealthy: error === null, says: stdout.trim() }),
    ),
  );
}

const HEALTHY = { isHealthy: true, says: '' };

describe('healthcheck.sh', () => {
  it('asks the port it is given, and PORT without one', async () => {
    const port = await listen();
    expect(await check(['/health/live', '200', port], { PORT: '1' })).to.deep.equal(HEALTHY);
    expect(await check(['/health/live', '200'], { PORT: port })).to.deep.equal(HEALTHY);
    expect(await check(['/payments/1', '404'], { PORT: port })).to.deep.equal(HEALTHY);
  });

  it('says which other status came', async () => {
    const port = await listen();
    expect(await check(['/health/ready', '200', port])).to.deep.equal({
      isHealthy: false,
      says: 'the response to GET /health/ready was 404',
    });
  });

  it('fails where nothing listens, and does not end while nothing responds', async () => {
    expect((await check(['/health/live', '200', String(await freePort())])).isHealthy).to.equal(false);
    expect((await check(['/hangs', '200', await listen()])).isHealthy).to.equal(false);
  });
});
