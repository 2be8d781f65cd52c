import { availableParallelism } from 'node:os';
import { hostPorts, httpUrl, listenAddress, postgresUrl, redisUrl, serverHost } from './addresses.ts';
import {
  asPrivate,
  bearerToken,
  boolean,
  integer,
  keyPrefix,
  oneOf,
  password,
  type Setting,
  text,
} from './settings.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

const port = (byDefault: number) => integer({ min: 1, max: 65_535 }, byDefault);
const optionalPort = () => ({ ...port(0), default: undefined }) as Setting<number | undefined>;
const milliseconds = (max: number, byDefault: number) => integer({ min: 1, max }, byDefault);

/** Every setting: what it accepts, and its default. `.env.example` says what each setting does. */
export const SETTINGS = {
  APP_ROLE: oneOf(['api', 'worker', 'all'], 'all'),
  NODE_ENV: text('development'),
  HOST: listenAddress('0.0.0.0'),
  PORT: port(9999),
  KEEP_ALIVE_TIMEOUT_MS: integer({ min: 1_000, max: HOUR_MS }, 65_000),
  LOG_LEVEL: oneOf(['error', 'warn', 'info', 'debug'], undefined),
  SHUTDOWN_TIMEOUT_MS: milliseconds(HOUR_MS, 10_000),

  REDIS_URL: redisUrl(),
  REDIS_HOST: serverHost('localhost'),
  REDIS_PORT: asPrivate(port(6379)),
  REDIS_PASSWORD: password(undefined),
  REDIS_CLUSTER_NODES: hostPorts(),
  REDIS_SENTINELS: hostPorts(),
  REDIS_MASTER_NAME: text('mymaster'),
  REDIS_SENTINEL_PASSWORD: password(undefined),
  REDIS_KEY_PREFIX: keyPrefix('payrelay'),
  DURABILITY: oneOf(['memory', 'disk', 'replica'], undefined),

  DATABASE_URL: postgresUrl(),
  DB_HOST: serverHost('localhost'),
  DB_PORT: asPrivate(port(5432)),
  DB_USER: text('payrelay'),
  DB_PASSWORD: password('payrelay'),
  DB_NAME: text('payrelay'),
  DB_POOL_SIZE: integer({ min: 2, max: 1000 }, 5),
  DB_SSL: asPrivate(boolean(false)),

  PAYMENT_QUEUE_MAX_SIZE: integer({ min: 1, max: 1_000_000_000, unlimited: 'infinity' }, 50_000),
  PAYMENT_QUEUE_MAX_CONCURRENCY: integer({ min: 1, max: 10_000 }, 2 * availableParallelism()),
  QUEUE_SHARDS: integer({ min: 1, max: 256 }, 1),
  WORKER_TURN_MS: integer({ min: 0, max: 100 }, 0),
  WORKER_PORT: optionalPort(),

  GATEWAY_PRIMARY_URL: httpUrl('http://localhost:8001'),
  GATEWAY_FALLBACK_URL: httpUrl('http://localhost:8002'),
  GATEWAY_POOL_SIZE: integer({ min: 1, max: 10_000 }, 64),
  GATEWAY_POOL_TIMEOUT_MS: milliseconds(HOUR_MS, 1000),
  GATEWAY_MAX_IN_FLIGHT: integer({ min: 1, max: 1_000_000, unlimited: 'infinity' }, Number.POSITIVE_INFINITY),
  GATEWAY_RECEIVE_TIMEOUT_MS: milliseconds(HOUR_MS, 1000),
  GATEWAY_TIMEOUT_CAP_MS: milliseconds(HOUR_MS, 1000),
  GATEWAY_CONNECTION_MAX_AGE_MS: milliseconds(DAY_MS, 60_000),
  GATEWAY_EMPTY_500: oneOf(['unknown', 'refused'], 'unknown'),
  GATEWAY_REJECT_AFTER_MS: integer({ min: 30_000, max: 7 * DAY_MS }, 300_000),

  FALLBACK_ON: oneOf(['pool_timeout', 'not_sent', 'never'], 'pool_timeout'),
  FALLBACK_AFTER_MS: integer({ min: 0, max: 7 * DAY_MS, unlimited: 'never' }, Number.POSITIVE_INFINITY),

  RELEASE_AFTER_MS: integer({ min: 60_000, max: 7 * DAY_MS }, 900_000),

  DEAD_LETTERS_MAX_INVALID: integer({ min: 0, max: 1_000_000_000, unlimited: 'infinity' }, 100_000),

  SUMMARY_RANGE: oneOf(['required', 'optional'], 'required'),
  PAYMENTS_VALIDATE: boolean(false),
  ALLOW_PURGE: boolean(false),
  STATUS_TOKEN: bearerToken(),
  METRICS_TOKEN: bearerToken(),
  DASHBOARD_USER: asPrivate(text(undefined)),
  DASHBOARD_PASSWORD: password(undefined),
  DASHBOARD_VIEWER_USER: asPrivate(text(undefined)),
  DASHBOARD_VIEWER_PASSWORD: password(undefined),
} as const;
