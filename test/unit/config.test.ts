import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { expect } from 'chai';
import { type Config, loadConfig } from '../../src/config.ts';
import { ConfigError } from '../../src/process/settings.ts';

/** What is wrong with these settings; empty when they are usable. */
function faultsOf(env: Record<string, string>): readonly string[] {
  try {
    loadConfig(env);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.faults;
    throw error;
  }
}

function frozenParts(value: object): boolean[] {
  return [
    Object.isFrozen(value),
    ...Object.values(value).flatMap((part) => (typeof part === 'object' && part !== null ? frozenParts(part) : [])),
  ];
}

describe('loadConfig', () => {
  it('needs no setting: every one has a safe default', () => {
    const gateway = {
      poolSize: 64,
      poolTimeoutMs: 1000,
      receiveTimeoutMs: 1000,
      connectionMaxAgeMs: 60_000,
      empty500: 'unknown',
    };
    expect(loadConfig({})).to.deep.equal({
      role: 'all',
      host: '0.0.0.0',
      port: 9999,
      keepAliveTimeoutMs: 65_000,
      logLevel: 'info',
      shutdownTimeoutMs: 10_000,
      redis: { url: 'redis://localhost:6379', clusterNodes: [] },
      database: { url: 'postgres://payrelay:payrelay@localhost:5432/payrelay', poolSize: 5, ssl: false },
      queue: { name: 'payments', prefix: '{payrelay}', maxSize: 50_000, shards: 1, durability: undefined },
      worker: { concurrency: 2 * availableParallelism(), turnMs: 0, port: undefined },
      metricsToken: undefined,
      gateways: {
        primary: { url: 'http://localhost:8001', ...gateway },
        fallback: { url: 'http://localhost:8002', ...gateway },
        maxInFlight: Number.POSITIVE_INFINITY,
        rejectAfterMs: 300_000,
      },
      fallback: { on: 'pool_timeout', afterMs: Number.POSITIVE_INFINITY },
      releaseAfterMs: 900_000,
      deadLetters: { maxInvalid: 100_000 },
      http: {
        summaryRange: 'required',
        validatePayments: false,
        allowPurge: false,
        statusToken: undefined,
        dashboard: undefined,
        viewer: undefined,
      },
    });
  });

  const read: [title: string, env: Record<string, string>, value: (config: Config) => unknown, expected: unknown][] = [
    ['APP_ROLE', { APP_ROLE: 'worker' }, (c) => c.role, 'worker'],
    ['HOST', { HOST: '127.0.0.1' }, (c) => c.host, '127.0.0.1'],
    ['PORT', { PORT: '4001' }, (c) => c.port, 4001],
    ['KEEP_ALIVE_TIMEOUT_MS', { KEEP_ALIVE_TIMEOUT_MS: '620000' }, (c) => c.keepAliveTimeoutMs, 620_000],
    ['LOG_LEVEL', { LOG_LEVEL: 'debug', NODE_ENV: 'production' }, (c) => c.logLevel, 'debug'],
    ['SHUTDOWN_TIMEOUT_MS', { SHUTDOWN_TIMEOUT_MS: '1500' }, (c) => c.shutdownTimeoutMs, 1500],
    ['REDIS_URL', { REDIS_URL: 'rediss://redis:6380/2' }, (c) => c.redis.url, 'rediss://redis:6380/2'],
    ['REDIS_HOST and REDIS_PORT', { REDIS_HOST: 'r', REDIS_PORT: '7' }, (c) => c.redis.url, 'redis://r:7'],
    ['REDIS_PASSWORD', { REDIS_PASSWORD: 'p@ss:/' }, (c) => c.redis.url, 'redis://:p%40ss%3A%2F@localhost:6379'],
    ['DURABILITY', { DURABILITY: 'memory' }, (c) => c.queue.durability, 'memory'],
    [
      'REDIS_CLUSTER_NODES',
      { REDIS_CLUSTER_NODES: 'a:7000, [::1]:7001' },
      (c) => c.redis.clusterNodes,
      [
        { host: 'a', port: 7000 },
        { host: '::1', port: 7001 },
      ],
    ],
    [
      'REDIS_SENTINELS, REDIS_MASTER_NAME and REDIS_SENTINEL_PASSWORD',
      { REDIS_SENTINELS: 'a:26379,b:26380', REDIS_MASTER_NAME: 'queue', REDIS_SENTINEL_PASSWORD: 'p' },
      (c) => c.redis.sentinels,
      {
        nodes: [
          { host: 'a', port: 26_379 },
          { host: 'b', port: 26_380 },
        ],
        masterName: 'queue',
        password: 'p',
      },
    ],
    [
      'REDIS_SENTINELS alone',
      { REDIS_SENTINELS: 'a:26379', REDIS_PASSWORD: 'p' },
      (c) => [c.redis.sentinels, c.redis.url],
      [
        { nodes: [{ host: 'a', port: 26_379 }], masterName: 'mymaster', password: undefined },
        'redis://:p@localhost:6379',
      ],
    ],
    ['DURABILITY on two machines', { DURABILITY: 'replica' }, (c) => c.queue.durability, 'replica'],
    ['REDIS_KEY_PREFIX', { REDIS_KEY_PREFIX: 'eu:pay-2' }, (c) => c.queue.prefix, '{eu:pay-2}'],
    ['DATABASE_URL', { DATABASE_URL: 'postgresql://d/x' }, (c) => c.database.url, 'postgresql://d/x'],
    [
      'DB_HOST, DB_PORT, DB_USER, DB_PASSWORD and DB_NAME',
      { DB_HOST: 'd', DB_PORT: '5', DB_USER: 'a b', DB_PASSWORD: 'p@ss', DB_NAME: 'x/y' },
      (c) => c.database.url,
      'postgres://a%20b:p%40ss@d:5/x%2Fy',
    ],
    ['DB_POOL_SIZE', { DB_POOL_SIZE: '9' }, (c) => c.database.poolSize, 9],
    ['DB_SSL', { DB_SSL: 'true' }, (c) => c.database.ssl, true],
    ['PAYMENT_QUEUE_MAX_SIZE', { PAYMENT_QUEUE_MAX_SIZE: '7' }, (c) => c.queue.maxSize, 7],
    [
      'PAYMENT_QUEUE_MAX_SIZE without a limit',
      { PAYMENT_QUEUE_MAX_SIZE: 'infinity' },
      (c) => c.queue.maxSize,
      Number.POSITIVE_INFINITY,
    ],
    ['WORKER_TURN_MS', { WORKER_TURN_MS: '20' }, (c) => c.worker.turnMs, 20],
    ['WORKER_TURN_MS of a worker by itself', { APP_ROLE: 'worker' }, (c) => c.worker.turnMs, 0],
    ['WORKER_PORT', { WORKER_PORT: '9100' }, (c) => c.worker.port, 9100],
    ['WORKER_PORT beside every role', { WORKER_PORT: '9100', APP_ROLE: 'api' }, (c) => c.worker.port, 9100],
    ['RELEASE_AFTER_MS', { RELEASE_AFTER_MS: '60000' }, (c) => c.releaseAfterMs, 60_000],
    [
      'DASHBOARD_VIEWER_USER and DASHBOARD_VIEWER_PASSWORD',
      { DASHBOARD_USER: 'a', DASHBOARD_PASSWORD: 'b', DASHBOARD_VIEWER_USER: 'c', DASHBOARD_VIEWER_PASSWORD: 'd' },
      (c) => c.http.viewer,
      { user: 'c', password: 'd' },
    ],
    ['STATUS_TOKEN', { STATUS_TOKEN: 'a.b_c~d+e/f-0123==' }, (c) => c.http.statusToken, 'a.b_c~d+e/f-0123=='],
    ['METRICS_TOKEN', { METRICS_TOKEN: '0123456789abcdef' }, (c) => c.metricsToken, '0123456789abcdef'],
    ['PAYMENT_QUEUE_MAX_CONCURRENCY', { PAYMENT_QUEUE_MAX_CONCURRENCY: '32' }, (c) => c.worker.concurrency, 32],
    ['GATEWAY_PRIMARY_URL', { GATEWAY_PRIMARY_URL: 'http://p' }, (c) => c.gateways.primary.url, 'http://p'],
    ['GATEWAY_FALLBACK_URL', { GATEWAY_FALLBACK_URL: 'https://f' }, (c) => c.gateways.fallback.url, 'https://f'],
    [
      'a URL without the slashes at its end',
      { GATEWAY_PRIMARY_URL: 'http://p/v1//' },
      (c) => c.gateways.primary.url,
      'http://p/v1',
    ],
    [
      'the other GATEWAY_ settings for both gateways',
      { GATEWAY_POOL_SIZE: '3', GATEWAY_POOL_TIMEOUT_MS: '20', GATEWAY_RECEIVE_TIMEOUT_MS: '30' },
      (c) =>
        [c.gateways.primary, c.gateways.fallback].map(({ poolSize, poolTimeoutMs, receiveTimeoutMs }) => ({
          poolSize,
          poolTimeoutMs,
          receiveTimeoutMs,
        })),
      [
        { poolSize: 3, poolTimeoutMs: 20, receiveTimeoutMs: 30 },
        { poolSize: 3, poolTimeoutMs: 20, receiveTimeoutMs: 30 },
      ],
    ],
    [
      'GATEWAY_CONNECTION_MAX_AGE_MS',
      { GATEWAY_CONNECTION_MAX_AGE_MS: '5' },
      (c) => c.gateways.primary.connectionMaxAgeMs,
      5,
    ],
    ['GATEWAY_EMPTY_500', { GATEWAY_EMPTY_500: 'refused' }, (c) => c.gateways.fallback.empty500, 'refused'],
    ['GATEWAY_MAX_IN_FLIGHT', { GATEWAY_MAX_IN_FLIGHT: '100' }, (c) => c.gateways.maxInFlight, 100],
    ['GATEWAY_REJECT_AFTER_MS', { GATEWAY_REJECT_AFTER_MS: '30000' }, (c) => c.gateways.rejectAfterMs, 30_000],
    ['FALLBACK_ON never', { FALLBACK_ON: 'never' }, (c) => c.fallback.on, 'never'],
    ['FALLBACK_ON', { FALLBACK_ON: 'not_sent' }, (c) => c.fallback.on, 'not_sent'],
    ['FALLBACK_AFTER_MS', { FALLBACK_AFTER_MS: '0' }, (c) => c.fallback.afterMs, 0],
    ['FALLBACK_AFTER_MS never', { FALLBACK_AFTER_MS: 'never' }, (c) => c.fallback.afterMs, Number.POSITIVE_INFINITY],
    ['DEAD_LETTERS_MAX_INVALID', { DEAD_LETTERS_MAX_INVALID: '0' }, (c) => c.deadLetters.maxInvalid, 0],
    [
      'DEAD_LETTERS_MAX_INVALID infinity',
      { DEAD_LETTERS_MAX_INVALID: 'infinity' },
      (c) => c.deadLetters.maxInvalid,
      Number.POSITIVE_INFINITY,
    ],
    ['SUMMARY_RANGE', { SUMMARY_RANGE: 'optional' }, (c) => c.http.summaryRange, 'optional'],
    ['PAYMENTS_VALIDATE', { PAYMENTS_VALIDATE: 'true' }, (c) => c.http.validatePayments, true],
    ['ALLOW_PURGE', { ALLOW_PURGE: 'true' }, (c) => c.http.allowPurge, true],
    [
      'DASHBOARD_USER and DASHBOARD_PASSWORD',
      { DASHBOARD_USER: 'admin', DASHBOARD_PASSWORD: 'x' },
      (c) => c.http.dashboard,
      { user: 'admin', password: 'x' },
    ],
    ['an empty variable as one that is not set', { PORT: '', DATABASE_URL: '' }, (c) => c.port, 9999],
  ];
  it('reads every setting', () => {
    for (const [title, env, value, expected] of read) expect(value(loadConfig(env)), title).to.deep.equal(expected);
  });

  it('prefers a URL to its parts', () => {
    const config = loadConfig({
      REDIS_URL: 'redis://one:1',
      REDIS_HOST: 'other',
      DATABASE_URL: 'postgres://one/db',
      DB_HOST: 'other',
    });
    expect([config.redis.url, config.database.url]).to.deep.equal(['redis://one:1', 'postgres://one/db']);
  });

  it('logs warnings and errors only in production', () => {
    expect(loadConfig({ NODE_ENV: 'production' }).logLevel).to.equal('warn');
  });

  it('is frozen in all its parts', () => {
    const parts = frozenParts(loadConfig({ REDIS_CLUSTER_NODES: 'a:1', DASHBOARD_USER: 'a', DASHBOARD_PASSWORD: 'b' }));
    expect(parts).to.have.length.above(10);
    expect(parts).to.not.include(false);
  });

  const redisUrl = 'REDIS_URL must be a URL starting with redis:// or rediss://';
  const listenAddress = 'HOST must be an IP address without brackets, a host name or the path of a Unix socket';
  const rawMark = 'must write / ? # @ in user and password as %2F %3F %23 %40';
  const noQuery = 'must have no query and no fragment: paths are appended to it';
  const faults: [env: Record<string, string>, fault: string][] = [
    [{ APP_ROLE: 'boss' }, 'APP_ROLE must be one of api, worker, all (got "boss")'],
    [{ PORT: '0' }, 'PORT must be an integer from 1 to 65535 (got "0")'],
    [{ PORT: '65536' }, 'PORT must be an integer from 1 to 65535 (got "65536")'],
    [{ PORT: '80.5' }, 'PORT must be an integer from 1 to 65535 (got "80.5")'],
    [{ PORT: '0x50' }, 'PORT must be an integer from 1 to 65535 (got "0x50")'],
    [{ KEEP_ALIVE_TIMEOUT_MS: '620' }, 'KEEP_ALIVE_TIMEOUT_MS must be an integer from 1000 to 3600000 (got "620")'],
    [{ LOG_LEVEL: 'verbose' }, 'LOG_LEVEL must be one of error, warn, info, debug (got "verbose")'],
    [{ SHUTDOWN_TIMEOUT_MS: '-1' }, 'SHUTDOWN_TIMEOUT_MS must be an integer from 1 to 3600000 (got "-1")'],
    [{ REDIS_URL: 'redis' }, redisUrl],
    [{ REDIS_URL: 'http://redis' }, redisUrl],
    [{ REDIS_URL: 'redis:/0' }, redisUrl],
    [
      { REDIS_URL: 'redis://:secret@r/abc' },
      'REDIS_URL must name its database by a number, as in redis://localhost:6379/0',
    ],
    [
      { REDIS_URL: 'redis://r/0?keyPrefix=x' },
      'REDIS_URL must have no parameter except family, as in redis://localhost:6379/0?family=6',
    ],
    [
      { REDIS_URL: 'redis://r/?db=abc' },
      'REDIS_URL must have no parameter except family, as in redis://localhost:6379/0?family=6',
    ],
    [{ DATABASE_URL: 'postgres://u:12/3@d/x' }, `DATABASE_URL ${rawMark}`],
    [{ DATABASE_URL: 'postgres://u:12#3@d/x' }, `DATABASE_URL ${rawMark}`],
    [{ REDIS_URL: 'redis://u:12?3@r' }, `REDIS_URL ${rawMark}`],
    [{ GATEWAY_PRIMARY_URL: 'http://u:12/3@p' }, `GATEWAY_PRIMARY_URL ${rawMark}`],
    [
      { DATABASE_URL: 'postgres://u@d/x?sslrootcert=/no/such/file' },
      'DATABASE_URL must name as sslrootcert a file that this process may read',
    ],
    [{ REDIS_PORT: 'tcp://10.0.0.1:6379' }, 'REDIS_PORT must be an integer from 1 to 65535'],
    [{ DB_PORT: 's3cret' }, 'DB_PORT must be an integer from 1 to 65535'],
    [{ HOST: '[::1]' }, `${listenAddress} (got "[::1]")`],
    [{ HOST: 'http://relay' }, listenAddress],
    [{ HOST: '999.1.1.1' }, `${listenAddress} (got "999.1.1.1")`],
    [{ REDIS_HOST: 'redis:6379' }, 'REDIS_HOST must be an IP address, a host name or the path of a Unix socket'],
    [{ DB_HOST: 'a b' }, 'DB_HOST must be an IP address, a host name or the path of a Unix socket'],
    [{ REDIS_URL: 'redis://:100%@r' }, 'REDIS_URL must write a literal % as %25'],
    [{ DATABASE_URL: 'postgres://u:%E0@d/x' }, 'DATABASE_URL must write a literal % as %25'],
    [{ GATEWAY_PRIMARY_URL: 'http://p/%zz' }, 'GATEWAY_PRIMARY_URL must write a literal % as %25'],
    [{ GATEWAY_PRIMARY_URL: 'http://p?key=secret' }, `GATEWAY_PRIMARY_URL ${noQuery}`],
    [{ GATEWAY_FALLBACK_URL: 'http://p/#top' }, `GATEWAY_FALLBACK_URL ${noQuery}`],
    [{ GATEWAY_FALLBACK_URL: 'http://p/a b' }, 'GATEWAY_FALLBACK_URL must have no white space in it'],
    [{ DURABILITY: 'tape' }, 'DURABILITY must be one of memory, disk, replica (got "tape")'],
    [{ REDIS_CLUSTER_NODES: 'a:1,b' }, 'REDIS_CLUSTER_NODES must be host:port[,host:port…]'],
    [{ REDIS_CLUSTER_NODES: 'a:70000' }, 'REDIS_CLUSTER_NODES must be host:port[,host:port…]'],
    [{ REDIS_SENTINELS: 'a' }, 'REDIS_SENTINELS must be host:port[,host:port…]'],
    [{ QUEUE_SHARDS: '257' }, 'QUEUE_SHARDS must be an integer from 1 to 256 (got "257")'],
    [
      { QUEUE_SHARDS: '4', PAYMENT_QUEUE_MAX_SIZE: '3' },
      'QUEUE_SHARDS must not be larger than PAYMENT_QUEUE_MAX_SIZE: a shard without room accepts nothing',
    ],
    [
      { REDIS_SENTINELS: 'a:1', REDIS_CLUSTER_NODES: 'b:2' },
      'REDIS_SENTINELS and REDIS_CLUSTER_NODES must not be set together',
    ],
    ...['{a}', 'a b', 'a*', 'ä'].map((prefix): [Record<string, string>, string] => [
      { REDIS_KEY_PREFIX: prefix },
      `REDIS_KEY_PREFIX must be 1 to 64 letters, digits or . _ : - (got "${prefix}")`,
    ]),
    [{ DATABASE_URL: 'mysql://d' }, 'DATABASE_URL must be a URL starting with postgres:// or postgresql://'],
    [{ DB_POOL_SIZE: '1' }, 'DB_POOL_SIZE must be an integer from 2 to 1000 (got "1")'],
    [{ DB_SSL: 'perhaps' }, 'DB_SSL must be true or false'],
    [
      { PAYMENT_QUEUE_MAX_SIZE: 'many' },
      'PAYMENT_QUEUE_MAX_SIZE must be an integer from 1 to 1000000000 or "infinity" (got "many")',
    ],
    [
      { PAYMENT_QUEUE_MAX_CONCURRENCY: '0' },
      'PAYMENT_QUEUE_MAX_CONCURRENCY must be an integer from 1 to 10000 (got "0")',
    ],
    [{ WORKER_TURN_MS: '101' }, 'WORKER_TURN_MS must be an integer from 0 to 100 (got "101")'],
    ...['0', '65536', 'metrics'].map((port): [Record<string, string>, string] => [
      { WORKER_PORT: port },
      `WORKER_PORT must be an integer from 1 to 65535 (got "${port}")`,
    ]),
    ...[
      'too-short',
      '15-letters-long',
      'a token with spaces in it',
      'ein-schönes-langes-Wort',
      'x'.repeat(257),
    ].flatMap((token) =>
      ['STATUS_TOKEN', 'METRICS_TOKEN'].map((name): [Record<string, string>, string] => [
        { [name]: token },
        `${name} must be 16 to 256 letters, digits or - . _ ~ + /`,
      ]),
    ),
    [{ GATEWAY_PRIMARY_URL: 'p:1' }, 'GATEWAY_PRIMARY_URL must be a URL starting with http:// or https://'],
    [{ GATEWAY_FALLBACK_URL: 'ftp://f' }, 'GATEWAY_FALLBACK_URL must be a URL starting with http:// or https://'],
    [{ GATEWAY_POOL_SIZE: '0' }, 'GATEWAY_POOL_SIZE must be an integer from 1 to 10000 (got "0")'],
    [
      { GATEWAY_POOL_TIMEOUT_MS: '1001' },
      'GATEWAY_POOL_TIMEOUT_MS must not be above GATEWAY_TIMEOUT_CAP_MS (1001 > 1000)',
    ],
    [
      { GATEWAY_RECEIVE_TIMEOUT_MS: '1001' },
      'GATEWAY_RECEIVE_TIMEOUT_MS must not be above GATEWAY_TIMEOUT_CAP_MS (1001 > 1000)',
    ],
    [{ FALLBACK_ON: 'monday' }, 'FALLBACK_ON must be one of pool_timeout, not_sent, never (got "monday")'],
    [
      { FALLBACK_AFTER_MS: 'infinity' },
      'FALLBACK_AFTER_MS must be an integer from 0 to 604800000 or "never" (got "infinity")',
    ],
    [
      { DEAD_LETTERS_MAX_INVALID: '-1' },
      'DEAD_LETTERS_MAX_INVALID must be an integer from 0 to 1000000000 or "infinity" (got "-1")',
    ],
    [{ SUMMARY_RANGE: 'none' }, 'SUMMARY_RANGE must be one of required, optional (got "none")'],
    [{ PAYMENTS_VALIDATE: 'maybe' }, 'PAYMENTS_VALIDATE must be true or false (got "maybe")'],
    [{ ALLOW_PURGE: '2' }, 'ALLOW_PURGE must be true or false (got "2")'],
    [{ DASHBOARD_USER: 'a' }, 'DASHBOARD_USER and DASHBOARD_PASSWORD must be set together'],
    [{ DASHBOARD_PASSWORD: 'a' }, 'DASHBOARD_USER and DASHBOARD_PASSWORD must be set together'],
    [
      { DASHBOARD_USER: 'a', DASHBOARD_PASSWORD: 'b', DASHBOARD_VIEWER_USER: 'c' },
      'DASHBOARD_VIEWER_USER and DASHBOARD_VIEWER_PASSWORD must be set together',
    ],
    [
      { DASHBOARD_VIEWER_USER: 'a', DASHBOARD_VIEWER_PASSWORD: 'b' },
      'DASHBOARD_VIEWER_USER needs DASHBOARD_USER: without that there are no pages to look at',
    ],
    [
      { DASHBOARD_USER: 'a', DASHBOARD_PASSWORD: 'b', DASHBOARD_VIEWER_USER: 'a', DASHBOARD_VIEWER_PASSWORD: 'c' },
      'DASHBOARD_VIEWER_USER must not be the same as DASHBOARD_USER',
    ],
    [{ RELEASE_AFTER_MS: '1000' }, 'RELEASE_AFTER_MS must be an integer from 60000 to 604800000 (got "1000")'],
  ];
  it('names a wrong setting and what it must be', () => {
    for (const [env, fault] of faults) expect(faultsOf(env), JSON.stringify(env)).to.deep.equal([fault]);
  });

  describe('given DB_SSL and a DATABASE_URL that decides about TLS', () => {
    const MODES = 'disable, no-verify, prefer, require, verify-ca, verify-full';
    const off = (name: string) => `DB_SSL must not contradict DATABASE_URL, whose ${name} turns TLS off`;
    const on = (name: string) => `DB_SSL must not contradict DATABASE_URL, whose ${name} turns TLS on`;
    const unchecked = 'DB_SSL must not contradict DATABASE_URL, whose sslmode does not check the certificate';
    /** The query of the URL, what is wrong with it when DB_SSL is true, when it is false, and when it is not set. */
    const cases: [query: string, whenTrue: string | undefined, whenFalse: string | undefined, unset?: string][] = [
      ['', undefined, undefined],
      ['?application_name=x', undefined, undefined],
      ['?sslmode=', undefined, undefined],
      ['?sslmode=disable', off('sslmode'), undefined],
      ['?sslmode=no-verify', unchecked, on('sslmode')],
      ['?sslmode=prefer', undefined, on('sslmode')],
      ['?sslmode=require', undefined, on('sslmode')],
      ['?sslmode=verify-full', undefined, on('sslmode')],
      ['?sslmode=require&sslmode=disable', off('sslmode'), undefined],
      ['?ssl=true&sslmode=disable', off('sslmode'), undefined],
      ['?ssl=0', off('ssl'), undefined],
      ['?ssl=true', undefined, on('ssl')],
      ['?sslrootcert=/dev/null', undefined, 'DB_SSL must not contradict DATABASE_URL, whose certificates turn TLS on'],
      ...['?sslmode=disabled', '?sslmode=toString'].map((query): [string, string, string, string] => {
        const fault = `DATABASE_URL must have as sslmode one of ${MODES}`;
        return [query, fault, fault, fault];
      }),
      ...['?ssl=false', '?ssl='].map((query): [string, string, string, string] => {
        const fault = 'DATABASE_URL must have as ssl one of 0, 1, true, no-verify';
        return [query, fault, fault, fault];
      }),
    ];
    const tlsFaults = (query: string, env: Record<string, string>) =>
      faultsOf({ DATABASE_URL: `postgres://u:secret@d/x${query}`, ...env });
    it('refuses a contradiction and a mode that pg does not know', () => {
      for (const [query, whenTrue, whenFalse, unset] of cases) {
        const found = [
          tlsFaults(query, { DB_SSL: 'true' }),
          tlsFaults(query, { DB_SSL: 'false' }),
          tlsFaults(query, {}),
        ];
        const expected = [whenTrue, whenFalse, unset].map((fault) => (fault === undefined ? [] : [fault]));
        expect(found, query).to.deep.equal(expected);
      }
    });

    it('names the other faults, too, and does not repeat the URL', () => {
      const faults = tlsFaults('?sslmode=disable', { DB_SSL: 'true', PORT: 'x' });
      expect(faults).to.have.lengthOf(2);
      expect(faults.join()).to.not.include('secret');
    });
  });

  it('accepts time-outs up to the cap, above a second with a higher cap', () => {
    const env = { GATEWAY_TIMEOUT_CAP_MS: '5000', GATEWAY_POOL_TIMEOUT_MS: '5000', GATEWAY_RECEIVE_TIMEOUT_MS: '4999' };
    expect(faultsOf(env)).to.deep.equal([]);
    expect(faultsOf({ ...env, GATEWAY_RECEIVE_TIMEOUT_MS: '5001' })).to.have.lengthOf(1);
  });

  it('names all faults at once, those between settings too', () => {
    const env = { PORT: 'x', DB_SSL: 'x', GATEWAY_POOL_TIMEOUT_MS: '2000', DASHBOARD_USER: 'a' };
    expect(faultsOf(env).map((fault) => fault.split(' ')[0])).to.have.members([
      'PORT',
      'DB_SSL',
      'GATEWAY_POOL_TIMEOUT_MS',
      'DASHBOARD_USER',
    ]);
    expect(() => loadConfig(env))
      .to.throw(ConfigError, /^the settings are not usable:(\n {2}\S.*){4}$/)
      .with.property('code', 'invalid_config');
  });

  it('checks every setting whatever the role', () => {
    expect(faultsOf({ APP_ROLE: 'api', GATEWAY_POOL_SIZE: 'x' })).to.have.lengthOf(1);
    expect(faultsOf({ APP_ROLE: 'worker', SUMMARY_RANGE: 'x' })).to.have.lengthOf(1);
  });

  it('repeats no value that may be or carry a secret', () => {
    const faults = faultsOf({
      REDIS_URL: 'http://:secret@r',
      REDIS_CLUSTER_NODES: 'secret@a',
      REDIS_SENTINELS: 'secret@a',
      DATABASE_URL: 'mysql://u:secret@d',
      DB_SSL: 'secret',
      GATEWAY_PRIMARY_URL: 'ftp://u:secret@p',
      GATEWAY_FALLBACK_URL: 'http://p?token=secret',
      DASHBOARD_USER: ' secret',
      STATUS_TOKEN: 'secret',
      METRICS_TOKEN: 'secret',
    });
    expect(faults).to.have.lengthOf(10);
    expect(faults.join()).to.not.include('secret');
  });

  it('repeats no secret that was put into the wrong setting', () => {
    const example = readFileSync(new URL('../../.env.example', import.meta.url), 'utf8');
    const names = [...example.matchAll(/^#([A-Z][A-Z0-9_]+)=/gm)].map(([, name]) => name!);
    expect(names).to.include.members(['PORT', 'APP_ROLE', 'REDIS_KEY_PREFIX']);
    for (const misplaced of [
      'postgres://u:s3cret@d/x',
      ' redis://:s3cret@r:1/0 ',
      'https://hooks.example/s3cret',
      's3cret'.repeat(5),
      's3cret@host',
    ]) {
      const env = Object.fromEntries(names.map((name) => [name, misplaced]));
      for (const given of [env, { ...env, REDIS_URL: '', DATABASE_URL: '' }]) {
        const faults = faultsOf(given);
        expect(faults).to.have.length.above(15);
        expect(faults.join()).to.not.include('s3cret');
      }
    }
  });

  it('names a malformed time-out and nothing else', () => {
    for (const name of ['GATEWAY_POOL_TIMEOUT_MS', 'GATEWAY_RECEIVE_TIMEOUT_MS', 'GATEWAY_TIMEOUT_CAP_MS']) {
      expect(faultsOf({ [name]: 'soon' })).to.deep.equal([`${name} must be an integer from 1 to 3600000 (got "soon")`]);
    }
  });

  it('ignores the parts of a URL that is set, even wrong ones', () => {
    const parts = { REDIS_HOST: 'a b', REDIS_PORT: 'tcp://10.0.0.1:6379', REDIS_PASSWORD: 'x' };
    expect(loadConfig({ ...parts, REDIS_URL: 'redis://r' }).redis.url).to.equal('redis://r');
    const database = loadConfig({ DB_HOST: 'a b', DB_PORT: 'tcp://d', DATABASE_URL: 'postgres://d/x' }).database;
    expect(database.url).to.equal('postgres://d/x');
  });

  it('ignores host and port of Redis when sentinels name it, even wrong ones, but not the password', () => {
    const ignored = { REDIS_HOST: '/run/redis.sock', REDIS_PORT: 'tcp://10.0.0.1:6379' };
    const { redis } = loadConfig({ ...ignored, REDIS_PASSWORD: 'secret', REDIS_SENTINELS: 's1:26379' });
    expect(redis.socketPath).to.equal(undefined);
    expect(redis.url).to.include(':secret@');
  });

  it('checks the parts when their URL is not set', () => {
    expect(faultsOf({ ...{ REDIS_URL: '', REDIS_PORT: 'tcp://r' }, DB_PORT: 'tcp://d' })).to.have.lengthOf(2);
  });

  it('refuses white space around a value, but not around a password', () => {
    expect(faultsOf({ PORT: '80 ', GATEWAY_PRIMARY_URL: ' http://p', LOG_LEVEL: '\tinfo' })).to.deep.equal([
      'PORT must have no white space around its value (got "80 ")',
      'LOG_LEVEL must have no white space around its value (got "\tinfo")',
      'GATEWAY_PRIMARY_URL must have no white space around its value',
    ]);
    expect(loadConfig({ REDIS_PASSWORD: ' x ' }).redis.url).to.include('%20x%20');
  });

  it('reads a path as a Unix socket', () => {
    const { redis, database } = loadConfig({ REDIS_HOST: '/run/r.sock', REDIS_PASSWORD: 'p@ss', DB_HOST: '/run/pg' });
    expect(redis).to.deep.include({ socketPath: '/run/r.sock', url: 'redis://:p%40ss@localhost:6379' });
    expect(decodeURIComponent(new URL(database.url).hostname)).to.equal('/run/pg');
  });

  it('uses no Unix socket for Redis when REDIS_URL is set', () => {
    const { redis } = loadConfig({ REDIS_HOST: '/run/r.sock', REDIS_URL: 'redis://r' });
    expect(redis).to.not.have.property('socketPath');
  });

  it('takes the names that compose and Kubernetes give to services', () => {
    for (const HOST of ['localhost', '::', '10.0.0.1', 'app_1', 'relay.example.com', '/run/relay.sock']) {
      expect(loadConfig({ HOST, REDIS_HOST: HOST, DB_HOST: HOST }).host).to.equal(HOST);
    }
    expect(new URL(loadConfig({ REDIS_HOST: '[::1]' }).redis.url).hostname).to.equal('[::1]');
  });

  it('puts an IPv6 host in brackets', () => {
    const { redis, database } = loadConfig({ REDIS_HOST: '::1', DB_HOST: '::1' });
    expect(new URL(redis.url).hostname).to.equal('[::1]');
    expect(new URL(database.url).host).to.equal('[::1]:5432');
  });
});
