import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { startService } from '../../dev/local/service.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { http } from '../support/http-client.ts';
import { aPayment, eventually, postPayment, type TestEnv, testGateway } from '../support/relay.ts';
import { freshDatabase, sql } from '../support/services.ts';
import { createTlsProxy, PRIVATE_CA } from '../support/tls-proxy.ts';

/** Redis, PostgreSQL and a gateway, each in plain text and behind a certificate of a private certificate authority. */
async function stage() {
  const redis = await startRedis();
  atTestEnd(() => redis.dispose());
  const databaseUrl = await freshDatabase();
  const gateway = await testGateway();
  const tls = {
    redis: await createTlsProxy(redis.port),
    postgres: await createTlsProxy(Number(new URL(databaseUrl).port), 'postgres'),
    gateway: await createTlsProxy(Number(new URL(gateway.url).port)),
  };
  const tlsDatabaseUrl = new URL(databaseUrl);
  tlsDatabaseUrl.host = `localhost:${tls.postgres.port}`;
  return {
    tls,
    gateway,
    plainEnv: { REDIS_URL: redis.url, DATABASE_URL: databaseUrl, GATEWAY_PRIMARY_URL: gateway.url },
    tlsEnv: {
      REDIS_URL: `rediss://localhost:${tls.redis.port}`,
      DATABASE_URL: tlsDatabaseUrl.href,
      DB_SSL: 'true',
      GATEWAY_PRIMARY_URL: `https://localhost:${tls.gateway.port}`,
    },
    rows: () => sql<{ correlation_id: string }>(databaseUrl, 'SELECT correlation_id FROM payments'),
  };
}

/** API and worker in a process of their own, because Node reads the trusted authorities at its start. Killed after the test. */
async function startRelay(env: TestEnv): Promise<string> {
  const service = await startService({
    name: 'relay',
    script: 'src/main.ts',
    env: { APP_ROLE: 'all', HOST: '127.0.0.1', LOG_LEVEL: 'info', ...env },
    port: await freePort(),
  });
  atTestEnd(() => service.kill());
  return service.url!;
}

describe('servers with a certificate of a private authority', () => {
  it('are all trusted with NODE_EXTRA_CA_CERTS', async () => {
    const { tlsEnv, tls, rows } = await stage();
    const url = await startRelay({ ...tlsEnv, NODE_EXTRA_CA_CERTS: PRIVATE_CA });
    const payment = aPayment();
    await eventually(async () => (await postPayment(url, payment)).status === 204);
    const [row] = await eventually(async () => {
      const found = await rows();
      return found.length > 0 && found;
    });
    expect(row!.correlation_id).to.equal(payment.correlationId);
    expect(Math.min(...Object.values(tls).map(({ trusted }) => trusted))).to.be.above(0);
  });

  it('are trusted with sslrootcert in DATABASE_URL too, for PostgreSQL alone', async () => {
    const { plainEnv, tlsEnv, tls } = await stage();
    const DATABASE_URL = `${tlsEnv.DATABASE_URL}?sslmode=verify-full&sslrootcert=${encodeURIComponent(PRIVATE_CA)}`;
    const url = await startRelay({ ...plainEnv, DATABASE_URL });
    await eventually(async () => (await http(url).get('/health/ready')).status === 200);
    expect(tls.postgres.trusted).to.be.above(0);
  });

  it('are not trusted without it: nothing is sent to such a Redis or PostgreSQL', async () => {
    const { tlsEnv, tls } = await stage();
    const url = await startRelay(tlsEnv);
    expect((await postPayment(url)).status).to.equal(503);
    const { body } = await http(url).get('/health/ready').expect(503);
    expect(body.checks).to.include({ redis: false, postgres: false });
    for (const { connections, trusted } of [tls.redis, tls.postgres]) {
      expect(connections).to.be.above(0);
      expect(trusted).to.equal(0);
    }
  });

  it('are not trusted without it: no payment is sent to such a gateway', async () => {
    const { plainEnv, tlsEnv, tls, gateway } = await stage();
    const url = await startRelay({ ...plainEnv, GATEWAY_PRIMARY_URL: tlsEnv.GATEWAY_PRIMARY_URL });
    await eventually(async () => (await postPayment(url)).status === 204);
    await eventually(() => tls.gateway.connections > 1);
    expect(tls.gateway.trusted).to.equal(0);
    expect(gateway.requests.total).to.equal(0);
  });
});
