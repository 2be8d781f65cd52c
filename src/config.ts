import { availableParallelism } from 'node:os';
import { bool, cleanEnv, EnvError, makeValidator, str } from 'envalid';

/** One gateway, as the worker reaches it. */
export interface GatewayConfig {
  /** Base URL; the service appends `/payments`. */
  readonly url: string;
  /** Connections open to this gateway at most, per worker process. */
  readonly poolSize: number;
  /** How long a payment waits for a free connection before the attempt ends as `pool_timeout`. */
  readonly poolTimeoutMs: number;
  /** How long a request may take from its sending to the end of the answer. */
  readonly receiveTimeoutMs: number;
  /** How long a connection lives. */
  readonly connectionMaxAgeMs: number;
  /** Whether a 500 with an empty body proves that the payment was not charged. */
  readonly empty500: 'unknown' | 'refused';
}

/** Where Redis is: one server, or the nodes of a Redis Cluster. */
export interface RedisConfig {
  /** Username, password, database and TLS (`rediss:`) travel in the URL. */
  readonly url: string;
  /** The Unix socket of a server on this host. It takes the place of the host in the URL. */
  readonly socketPath?: string;
  /** Empty: a single server at `url`. Otherwise the start nodes of a cluster, and `url` only lends its credentials. */
  readonly clusterNodes: readonly { readonly host: string; readonly port: number }[];
}

/**
 * How much a payment that was answered 204 survives. `memory`: no restart of Redis is sure to keep it. `disk`: one that
 * lost power does.
 */
export type Durability = 'memory' | 'disk';

export interface DatabaseConfig {
  readonly url: string;
  readonly poolSize: number;
  readonly ssl: boolean;
}

export interface FallbackConfig {
  /** What counts as "the primary certainly never got it" and so opens the way to the fallback. */
  readonly on: 'pool_timeout' | 'not_sent' | 'never';
  /** A payment this old, whose primary is down or has no free connection, goes to the fallback. Infinity: never. */
  readonly afterMs: number;
}

/** Everything the processes are set up by. Made once by {@link loadConfig}; parts receive their slice. */
export interface Config {
  readonly role: 'api' | 'worker' | 'all';
  /** The address to listen on, or the path of a Unix socket, which starts with `/`. */
  readonly host: string;
  /** Without meaning for a Unix socket. */
  readonly port: number;
  readonly logLevel: string;
  readonly shutdownTimeoutMs: number;
  readonly redis: RedisConfig;
  readonly database: DatabaseConfig;
  readonly queue: {
    readonly name: string;
    readonly maxSize: number;
    /** What a 204 promises, when the operator has said so: a server that contradicts it is not used. */
    readonly durability: Durability | undefined;
  };
  readonly worker: { readonly concurrency: number; readonly turnMs: number };
  readonly gateways: {
    readonly primary: GatewayConfig;
    readonly fallback: GatewayConfig;
    /** How long a gateway must have responded 400 to a payment before that may count as rejected. */
    readonly rejectAfterMs: number;
  };
  readonly fallback: FallbackConfig;
  readonly deadLetters: {
    /** Invalid payments that are kept as open dead letters. Infinity: all. */
    readonly maxInvalid: number;
  };
  readonly http: {
    readonly summaryRange: 'required' | 'optional';
    readonly validatePayments: boolean;
    readonly allowPurge: boolean;
    readonly dashboard: { readonly user: string; readonly password: string } | undefined;
  };
}

/** Thrown by {@link loadConfig}; `message` names every fault, one a line, without the value of a secret. */
export class ConfigError extends Error {
  readonly code = 'invalid_config';
  readonly faults: readonly string[];
  constructor(faults: readonly string[]) {
    super(`the settings are not usable:\n${faults.map((fault) => `  ${fault}`).join('\n')}`);
    this.name = 'ConfigError';
    this.faults = faults;
  }
}

const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;

interface IntegerRule {
  min: number;
  max: number;
  /** A word that stands for "no limit". */
  unlimited?: string;
}

function integer({ min, max, unlimited }: IntegerRule) {
  return makeValidator<number>((input) => {
    if (unlimited !== undefined && input === unlimited) return Number.POSITIVE_INFINITY;
    const value = /^\d+$/.test(input) ? Number(input) : Number.NaN;
    if (value >= min && value <= max) return value;
    const alternative = unlimited === undefined ? '' : ` or "${unlimited}"`;
    throw new EnvError(`must be an integer from ${min} to ${max}${alternative} (got "${input}")`);
  });
}

/** @throws EnvError, without the value: it may carry a password. */
function parseUrl(input: string, protocols: readonly string[]): URL {
  const url = URL.parse(input);
  if (url !== null && protocols.includes(url.protocol)) return url;
  throw new EnvError(`must be a URL starting with ${protocols.map((protocol) => `${protocol}//`).join(' or ')}`);
}

function urlWith(protocols: readonly string[]) {
  return makeValidator<string>((input) => {
    parseUrl(input, protocols);
    return input;
  });
}

const redisUrl = makeValidator<string>((input) => {
  const { pathname } = parseUrl(input, ['redis:', 'rediss:']);
  // ioredis takes the path for the database, asks for it, and goes on in database 0 when that is refused.
  if (/^(\/\d*)?$/.test(pathname)) return input;
  throw new EnvError('must name its database by a number, as in redis://localhost:6379/0');
});

const durability = makeValidator<Durability>((input) => {
  if (input === 'memory' || input === 'disk') return input;
  if (input === 'replica') throw new EnvError('"replica" is not supported yet: use "disk" or "memory"');
  throw new EnvError(`must be one of memory, disk (got "${input}")`);
});

const hostPorts = makeValidator((input) =>
  input.split(',').map((node) => {
    const match = /^\s*(\[[0-9a-fA-F:]+\]|[^\s:]+):(\d{1,5})\s*$/.exec(node);
    const port = Number(match?.[2]);
    if (!match || port < 1 || port > 65535) throw new EnvError(`must be host:port[,host:port…] (got "${input}")`);
    return { host: match[1]!.replace(/^\[|\]$/g, ''), port };
  }),
);

const HOUR_MS = 3_600_000;
const port = integer({ min: 1, max: 65535 });
const milliseconds = (max: number) => integer({ min: 1, max });

/**
 * Reads and checks every setting, whatever the role, so that a wrong one shows up in the first process started.
 * @throws ConfigError naming all faults at once.
 */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const faults: string[] = [];
  const faulty = new Set<string>();
  // Compose files pass unset variables on as empty ones.
  const present = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''));
  const settings = cleanEnv(
    present,
    {
      APP_ROLE: str({ choices: ['api', 'worker', 'all'], default: 'all' }),
      NODE_ENV: str({ default: 'development' }),
      HOST: str({ default: '0.0.0.0' }),
      PORT: port({ default: 9999 }),
      LOG_LEVEL: str({ choices: LOG_LEVELS, default: undefined }),
      SHUTDOWN_TIMEOUT_MS: milliseconds(HOUR_MS)({ default: 10_000 }),

      REDIS_URL: redisUrl({ default: undefined }),
      REDIS_HOST: str({ default: 'localhost' }),
      REDIS_PORT: port({ default: 6379 }),
      REDIS_PASSWORD: str({ default: undefined }),
      REDIS_CLUSTER_NODES: hostPorts({ default: [] }),
      DURABILITY: durability({ default: undefined }),

      DATABASE_URL: urlWith(['postgres:', 'postgresql:'])({ default: undefined }),
      DB_HOST: str({ default: 'localhost' }),
      DB_PORT: port({ default: 5432 }),
      DB_USER: str({ default: 'payrelay' }),
      DB_PASSWORD: str({ default: 'payrelay' }),
      DB_NAME: str({ default: 'payrelay' }),
      DB_POOL_SIZE: integer({ min: 2, max: 1000 })({ default: 5 }),
      DB_SSL: bool({ default: false }),

      PAYMENT_QUEUE_MAX_SIZE: integer({ min: 1, max: 1_000_000_000, unlimited: 'infinity' })({ default: 50_000 }),
      PAYMENT_QUEUE_MAX_CONCURRENCY: integer({ min: 1, max: 10_000 })({ default: 2 * availableParallelism() }),
      WORKER_TURN_MS: integer({ min: 0, max: 100 })({ default: 0 }),

      GATEWAY_PRIMARY_URL: urlWith(['http:', 'https:'])({ default: 'http://localhost:8001' }),
      GATEWAY_FALLBACK_URL: urlWith(['http:', 'https:'])({ default: 'http://localhost:8002' }),
      GATEWAY_POOL_SIZE: integer({ min: 1, max: 10_000 })({ default: 64 }),
      GATEWAY_POOL_TIMEOUT_MS: milliseconds(HOUR_MS)({ default: 1000 }),
      GATEWAY_RECEIVE_TIMEOUT_MS: milliseconds(HOUR_MS)({ default: 1000 }),
      GATEWAY_TIMEOUT_CAP_MS: milliseconds(HOUR_MS)({ default: 1000 }),

      GATEWAY_CONNECTION_MAX_AGE_MS: milliseconds(24 * HOUR_MS)({ default: 60_000 }),
      GATEWAY_EMPTY_500: str({ choices: ['unknown', 'refused'], default: 'unknown' }),
      GATEWAY_REJECT_AFTER_MS: integer({ min: 30_000, max: 7 * 24 * HOUR_MS })({ default: 300_000 }),

      FALLBACK_ON: str({ choices: ['pool_timeout', 'not_sent', 'never'], default: 'pool_timeout' }),
      FALLBACK_AFTER_MS: integer({ min: 0, max: 7 * 24 * HOUR_MS, unlimited: 'never' })({
        default: Number.POSITIVE_INFINITY,
      }),

      DEAD_LETTERS_MAX_INVALID: integer({ min: 0, max: 1_000_000_000, unlimited: 'infinity' })({ default: 100_000 }),

      SUMMARY_RANGE: str({ choices: ['required', 'optional'], default: 'required' }),
      PAYMENTS_VALIDATE: bool({ default: false }),
      ALLOW_PURGE: bool({ default: false }),
      DASHBOARD_USER: str({ default: undefined }),
      DASHBOARD_PASSWORD: str({ default: undefined }),
    },
    {
      reporter: ({ errors }) => {
        for (const [name, error] of Object.entries(errors)) {
          faulty.add(name);
          faults.push(`${name} ${describe(error)}`);
        }
      },
    },
  );

  // envalid throws when a faulty setting is read. It is reported already, and must not hide the faults checked below.
  const areUsable = (...names: string[]) => names.every((name) => !faulty.has(name));
  for (const name of ['GATEWAY_POOL_TIMEOUT_MS', 'GATEWAY_RECEIVE_TIMEOUT_MS'] as const) {
    if (!areUsable(name, 'GATEWAY_TIMEOUT_CAP_MS')) continue;
    if (settings[name] > settings.GATEWAY_TIMEOUT_CAP_MS) {
      faults.push(
        `${name} must not be above GATEWAY_TIMEOUT_CAP_MS (${settings[name]} > ${settings.GATEWAY_TIMEOUT_CAP_MS})`,
      );
    }
  }
  if ((settings.DASHBOARD_USER === undefined) !== (settings.DASHBOARD_PASSWORD === undefined)) {
    faults.push('DASHBOARD_USER and DASHBOARD_PASSWORD must be set together');
  }
  if (areUsable('DATABASE_URL', 'DB_SSL') && settings.DATABASE_URL !== undefined) {
    const isSslSet = present['DB_SSL'] !== undefined;
    const fault = tlsFault(settings.DATABASE_URL, isSslSet ? settings.DB_SSL : undefined);
    if (fault !== undefined) faults.push(fault);
  }
  if (faults.length > 0) throw new ConfigError(faults);

  const gateway = (url: string): GatewayConfig => ({
    url: url.replace(/\/+$/, ''),
    poolSize: settings.GATEWAY_POOL_SIZE,
    poolTimeoutMs: settings.GATEWAY_POOL_TIMEOUT_MS,
    receiveTimeoutMs: settings.GATEWAY_RECEIVE_TIMEOUT_MS,
    connectionMaxAgeMs: settings.GATEWAY_CONNECTION_MAX_AGE_MS,
    empty500: settings.GATEWAY_EMPTY_500,
  });
  const isRedisAtSocket = settings.REDIS_URL === undefined && settings.REDIS_HOST.startsWith('/');
  const redisHost = isRedisAtSocket ? 'localhost' : hostInUrl(settings.REDIS_HOST);
  const { DASHBOARD_USER: user, DASHBOARD_PASSWORD: password } = settings;
  return deepFreeze({
    role: settings.APP_ROLE,
    host: settings.HOST,
    port: settings.PORT,
    logLevel: settings.LOG_LEVEL ?? (settings.NODE_ENV === 'production' ? 'warn' : 'info'),
    shutdownTimeoutMs: settings.SHUTDOWN_TIMEOUT_MS,
    redis: {
      url:
        settings.REDIS_URL ?? `redis://${credentials('', settings.REDIS_PASSWORD)}${redisHost}:${settings.REDIS_PORT}`,
      ...(isRedisAtSocket && { socketPath: settings.REDIS_HOST }),
      clusterNodes: settings.REDIS_CLUSTER_NODES,
    },
    database: {
      url:
        settings.DATABASE_URL ??
        `postgres://${credentials(settings.DB_USER, settings.DB_PASSWORD)}${hostInUrl(settings.DB_HOST)}:${settings.DB_PORT}/${encodeURIComponent(settings.DB_NAME)}`,
      poolSize: settings.DB_POOL_SIZE,
      ssl: settings.DB_SSL,
    },
    queue: {
      name: 'payments',
      maxSize: settings.PAYMENT_QUEUE_MAX_SIZE,
      durability: settings.DURABILITY,
    },
    worker: {
      concurrency: settings.PAYMENT_QUEUE_MAX_CONCURRENCY,
      turnMs: settings.WORKER_TURN_MS,
    },
    gateways: {
      primary: gateway(settings.GATEWAY_PRIMARY_URL),
      fallback: gateway(settings.GATEWAY_FALLBACK_URL),
      rejectAfterMs: settings.GATEWAY_REJECT_AFTER_MS,
    },
    fallback: { on: settings.FALLBACK_ON, afterMs: settings.FALLBACK_AFTER_MS },
    deadLetters: { maxInvalid: settings.DEAD_LETTERS_MAX_INVALID },
    http: {
      summaryRange: settings.SUMMARY_RANGE,
      validatePayments: settings.PAYMENTS_VALIDATE,
      allowPurge: settings.ALLOW_PURGE,
      dashboard: user !== undefined && password !== undefined ? { user, password } : undefined,
    },
  });
}

function describe(error: Error): string {
  if (error.name === 'EnvMissingError') return 'is required';
  const choices = /Value "(.*)" not in choices \[(.*)\]/.exec(error.message);
  if (choices) return `must be one of ${choices[2]} (got "${choices[1]}")`;
  const boolean = /Invalid bool input: "(.*)"/.exec(error.message);
  return boolean ? `must be true or false (got "${boolean[1]}")` : error.message;
}

/** How pg understands the sslmode of a URL, which it prefers to the option that DB_SSL sets. */
const SSL_MODES: Readonly<Record<string, DatabaseTls>> = {
  disable: 'off',
  'no-verify': 'unchecked',
  prefer: 'checked',
  require: 'checked',
  'verify-ca': 'checked',
  'verify-full': 'checked',
};

/** The same for `ssl`, which counts where there is no sslmode. */
const SSL_SWITCHES: Readonly<Record<string, DatabaseTls>> = {
  '0': 'off',
  '1': 'checked',
  true: 'checked',
  'no-verify': 'unchecked',
};

type DatabaseTls = 'off' | 'unchecked' | 'checked';

/**
 * What is wrong with the TLS settings of a database URL; undefined when nothing is. What pg does not know it takes for "TLS", or
 * for whatever comes next in its rules: a slip of the pen must not decide whether passwords travel in plain text.
 * @param dbSsl DB_SSL, undefined when it is not set: then the URL alone decides.
 */
function tlsFault(url: string, dbSsl: boolean | undefined): string | undefined {
  const { searchParams } = new URL(url);
  for (const [name, known] of [
    ['sslmode', SSL_MODES],
    ['ssl', SSL_SWITCHES],
  ] as const) {
    // Of several pg takes the last.
    const value = searchParams.getAll(name).at(-1);
    // pg takes an empty sslmode for none, but an empty ssl for "off".
    if (value === undefined || (value === '' && name === 'sslmode')) continue;
    const tls = Object.hasOwn(known, value) ? known[value] : undefined;
    if (tls === undefined) return `DATABASE_URL must have as ${name} one of ${Object.keys(known).join(', ')}`;
    if (dbSsl === undefined || (dbSsl ? tls === 'checked' : tls === 'off')) return undefined;
    const says = !dbSsl ? 'turns TLS on' : tls === 'off' ? 'turns TLS off' : 'does not check the certificate';
    return `DB_SSL must not contradict DATABASE_URL, whose ${name} ${says}`;
  }
  // A certificate in the URL turns TLS on as well.
  const hasCertificate = ['sslcert', 'sslkey', 'sslrootcert'].some((name) => searchParams.has(name));
  return hasCertificate && dbSsl === false
    ? 'DB_SSL must not contradict DATABASE_URL, whose certificates turn TLS on'
    : undefined;
}

function credentials(user: string, password: string | undefined): string {
  return password === undefined ? '' : `${encodeURIComponent(user)}:${encodeURIComponent(password)}@`;
}

/** A path is the directory of a Unix socket, for PostgreSQL as for its own programs. */
function hostInUrl(host: string): string {
  if (host.startsWith('/')) return encodeURIComponent(host);
  return host.includes(':') && !host.startsWith('[') ? `[${host}]` : host;
}

function deepFreeze<T extends object>(value: T): T {
  for (const part of Object.values(value)) if (typeof part === 'object' && part !== null) deepFreeze(part);
  return Object.freeze(value);
}
