import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { runSettings } from '../../../dev/run-settings.ts';

const example = readFileSync(new URL('../../../.env.example', import.meta.url), 'utf8');
const names = [...example.matchAll(/^#([A-Z][A-Z0-9_]*)=/gm)].map(([, name]) => name!);

/** `make run` reads these itself. */
const OF_RUN = ['GATEWAY_PRIMARY_PORT', 'GATEWAY_FALLBACK_PORT'];

describe('the settings of make run', () => {
  it('pass every setting of .env.example on, or name it as without effect', () => {
    expect(names).to.have.length.above(40);
    const lost = names.filter((name) => {
      const { services, ignored } = runSettings({ [name]: '8001' });
      return services[name] !== '8001' && !ignored.includes(name) && !OF_RUN.includes(name);
    });
    expect(lost).to.deep.equal([]);
  });

  it('have no effect where compose alone uses them', () => {
    const [, ofCompose] = example.split('# ---- Compose only');
    const expected = [...ofCompose!.matchAll(/^#([A-Z][A-Z0-9_]*)=/gm)]
      .map(([, name]) => name!)
      .filter((name) => !OF_RUN.includes(name));
    const { ignored, services } = runSettings(Object.fromEntries(expected.map((name) => [name, '8001'])));
    expect(ignored).to.have.members(expected);
    expect(services).to.deep.equal({});
  });

  it('name a Redis, a PostgreSQL or gateways that then are not started', () => {
    const started = (env: Record<string, string>) => runSettings(env).starts;
    const all = { redis: true, postgres: true, gateways: true };
    expect(started({})).to.deep.equal(all);
    expect(started({ REDIS_URL: '' })).to.deep.equal(all);
    for (const name of ['REDIS_URL', 'REDIS_HOST', 'REDIS_PORT', 'REDIS_CLUSTER_NODES', 'REDIS_SENTINELS']) {
      expect(started({ [name]: 'x' })).to.deep.equal({ ...all, redis: false });
    }
    for (const name of ['DATABASE_URL', 'DB_HOST', 'DB_PORT']) {
      expect(started({ [name]: 'x' })).to.deep.equal({ ...all, postgres: false });
    }
    for (const name of ['GATEWAY_PRIMARY_URL', 'GATEWAY_FALLBACK_URL']) {
      expect(started({ [name]: 'x' })).to.deep.equal({ ...all, gateways: false });
    }
  });

  it('pass a password on to a named server only', () => {
    expect(runSettings({ REDIS_PASSWORD: 'x' }).ignored).to.deep.equal(['REDIS_PASSWORD']);
    const named = runSettings({ REDIS_PASSWORD: 'x', REDIS_HOST: 'redis.test' });
    expect(named.ignored).to.deep.equal([]);
    expect(named.services).to.deep.equal({ REDIS_HOST: 'redis.test', REDIS_PASSWORD: 'x' });
  });

  it('refuse a wrong one of make run itself in a sentence', () => {
    expect(() => runSettings({ KEEP_DATA: 'yes' })).to.throw('KEEP_DATA must be 0 or 1');
    for (const port of ['0', '65536', 'x']) {
      expect(() => runSettings({ GATEWAY_PRIMARY_PORT: port })).to.throw('GATEWAY_PRIMARY_PORT must be an integer');
    }
    expect(runSettings({ KEEP_DATA: '1', GATEWAY_FALLBACK_PORT: '9002' })).to.deep.include({
      keepsData: true,
      gatewayPorts: { primary: 8001, fallback: 9002 },
    });
  });
});
