import { credentials, hostInUrl, isPath, tlsContradiction } from './process/addresses.ts';
import { SETTINGS } from './process/setting-table.ts';
import { ConfigError, readSettings } from './process/settings.ts';

/** How the worker reaches one gateway. */
export interface GatewayConfig {
  /** Base URL; the service appends `/payments`. */
  readonly url: string;
  /** Upper bound on connections to this gateway, per worker process. */
  readonly poolSize: number;
  /** How long a payment waits for a free connection before the attempt ends as `pool_timeout`. */
  readonly poolTimeoutMs: number;
  /** From sending a request to the end of its response. */
  readonly receiveTimeoutMs: number;
  /** Lifetime of a connection. */
  readonly connectionMaxAgeMs: number;
  /** Whether a 500 with an empty body proves that the payment was not charged. */
  readonly empty500: 'unknown' | 'refused';
}

/** Where Redis is: one server, the master that sentinels name, or the nodes of a Redis Cluster. */
export interface RedisConfig {
  /** The URL carries username, password, database and TLS (`rediss:`). */
  readonly url: string;
  /** The Unix socket of a server on this host. It replaces the host in the URL. */
  readonly socketPath?: string;
  /** Empty: a single server at `url`. Otherwise the start nodes of a cluster, which uses the credentials in `url`. */
  readonly clusterNodes: readonly { readonly host: string; readonly port: number }[];
  /** Where the sentinels are that know the master. The host in `url` is not used then. */
  readonly sentinels?: {
    readonly nodes: readonly { readonly host: string; readonly port: number }[];
    readonly masterName: string;
    readonly password: string | undefined;
  };
}

/**
 * What a 204 promises. `memory`: a restart of Redis may lose the payment. `disk`: the payment survives even when Redis
 * loses power. `replica`: it survives the loss of Redis' machine, because a second machine has it.
 */
export type Durability = 'memory' | 'disk' | 'replica';

export interface DatabaseConfig {
  readonly url: string;
  readonly poolSize: number;
  readonly ssl: boolean;
}

export interface FallbackConfig {
  /** Which failures prove that the primary never got the payment, so that the fallback may pay it. */
  readonly on: 'pool_timeout' | 'not_sent' | 'never';
  /** A payment older than this goes to the fallback when the primary is down or has no free connection. Infinity: never. */
  readonly afterMs: number;
}

/** A login of the operator's pages. */
export interface Credentials {
  readonly user: string;
  readonly password: string;
}

/** All settings of a process. {@link loadConfig} creates it once; each part receives its slice. */
export interface Config {
  readonly role: 'api' | 'worker' | 'all';
  /** The address to listen on, or the path of a Unix socket, which starts with `/`. */
  readonly host: string;
  /** Ignored for a Unix socket. */
  readonly port: number;
  /** How long the API keeps an idle connection. Longer than the load balancer's own limit. */
  readonly keepAliveTimeoutMs: number;
  readonly logLevel: string;
  readonly shutdownTimeoutMs: number;
  readonly redis: RedisConfig;
  readonly database: DatabaseConfig;
  readonly queue: {
    readonly name: string;
    /** In front of every key in Redis. Its braces put all of them into one slot of a Redis Cluster. */
    readonly prefix: string;
    readonly maxSize: number;
    /** Over how many queues the payments are split. */
    readonly shards: number;
    /** What a 204 must promise: a Redis that promises less is not used. Undefined: one below `disk` is used with a warning. */
    readonly durability: Durability | undefined;
  };
  readonly worker: {
    readonly concurrency: number;
    readonly turnMs: number;
    /** Where a process with the role `worker` serves its metrics. Undefined: nowhere. */
    readonly port: number | undefined;
  };
  /** What a scrape of the metrics must send. Undefined: nothing. */
  readonly metricsToken: string | undefined;
  readonly gateways: {
    readonly primary: GatewayConfig;
    readonly fallback: GatewayConfig;
    /** Upper bound on requests under way at one gateway, of all workers together. Infinity: none. */
    readonly maxInFlight: number;
    /** How long a gateway must respond 400 to a payment before the payment may count as rejected. */
    readonly rejectAfterMs: number;
  };
  readonly fallback: FallbackConfig;
  /** How long ago the last attempt of an unresolved payment must be before an operator may release or reject it, in ms. */
  readonly releaseAfterMs: number;
  readonly deadLetters: {
    /** Upper bound on invalid payments kept as open dead letters. Infinity: all. */
    readonly maxInvalid: number;
  };
  readonly http: {
    readonly summaryRange: 'required' | 'optional';
    readonly validatePayments: boolean;
    readonly allowPurge: boolean;
    /** What a request for the status of a payment must send. Undefined: nothing. */
    readonly statusToken: string | undefined;
    /** Who may look at the operator's pages and act there. Undefined: there are no such pages. */
    readonly dashboard: Credentials | undefined;
    /** Who may look at them, and not act. */
    readonly viewer: Credentials | undefined;
  };
}

type Name = keyof typeof SETTINGS;

/** The names of all settings, for a program that passes them on to a service. */
export const SETTING_NAMES = Object.keys(SETTINGS) as readonly Name[];

/**
 * A URL replaces its parts, and sentinels replace the host. What is replaced is not even checked: beside a service named redis,
 * Kubernetes sets `REDIS_PORT=tcp://…` in every container.
 */
const REPLACED_BY = {
  REDIS_URL: ['REDIS_HOST', 'REDIS_PORT', 'REDIS_PASSWORD'],
  REDIS_SENTINELS: ['REDIS_HOST', 'REDIS_PORT'],
  DATABASE_URL: ['DB_HOST', 'DB_PORT', 'DB_USER', 'DB_PASSWORD', 'DB_NAME'],
} as const satisfies Partial<Record<Name, readonly Name[]>>;

const LOGINS = [
  ['DASHBOARD_USER', 'DASHBOARD_PASSWORD'],
  ['DASHBOARD_VIEWER_USER', 'DASHBOARD_VIEWER_PASSWORD'],
] as const;

/**
 * Reads and checks every setting, whatever the role, so that the first process to start reports a wrong one.
 * @throws ConfigError with all faults at once
 */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const isSet = (name: Name) => (env[name] ?? '') !== '';
  const replaced = Object.entries(REPLACED_BY).flatMap(([name, parts]) => (isSet(name as Name) ? parts : []));
  const effective = { ...env, ...Object.fromEntries(replaced.map((name) => [name, undefined])) };
  const { values: settings, faults: faulty } = readSettings(SETTINGS, effective);
  const faults = [...faulty.values()];

  /** Checks a relation between settings. Skipped when one of them is faulty: that fault is already reported. */
  const check = (names: readonly Name[], fault: () => string | undefined) => {
    const found = names.some((name) => faulty.has(name)) ? undefined : fault();
    if (found !== undefined) faults.push(found);
  };
  const { GATEWAY_TIMEOUT_CAP_MS: capMs, DATABASE_URL: databaseUrl } = settings;
  for (const name of ['GATEWAY_POOL_TIMEOUT_MS', 'GATEWAY_RECEIVE_TIMEOUT_MS'] as const) {
    check([name, 'GATEWAY_TIMEOUT_CAP_MS'], () =>
      settings[name] > capMs
        ? `${name} must not be above GATEWAY_TIMEOUT_CAP_MS (${settings[name]} > ${capMs})`
        : undefined,
    );
  }
  for (const [user, secret] of LOGINS) {
    check([user, secret], () =>
      isSet(user) === isSet(secret) ? undefined : `${user} and ${secret} must be set together`,
    );
  }
  check(['DASHBOARD_USER', 'DASHBOARD_VIEWER_USER'], () => {
    if (!isSet('DASHBOARD_VIEWER_USER')) return undefined;
    if (!isSet('DASHBOARD_USER'))
      return 'DASHBOARD_VIEWER_USER needs DASHBOARD_USER: without that there are no pages to look at';
    return settings.DASHBOARD_USER === settings.DASHBOARD_VIEWER_USER
      ? 'DASHBOARD_VIEWER_USER must not be the same as DASHBOARD_USER'
      : undefined;
  });
  check(['REDIS_SENTINELS', 'REDIS_CLUSTER_NODES'], () =>
    isSet('REDIS_SENTINELS') && isSet('REDIS_CLUSTER_NODES')
      ? 'REDIS_SENTINELS and REDIS_CLUSTER_NODES must not be set together'
      : undefined,
  );
  check(['QUEUE_SHARDS', 'PAYMENT_QUEUE_MAX_SIZE'], () =>
    settings.QUEUE_SHARDS > settings.PAYMENT_QUEUE_MAX_SIZE
      ? 'QUEUE_SHARDS must not be larger than PAYMENT_QUEUE_MAX_SIZE: a shard without room accepts nothing'
      : undefined,
  );
  check(['DATABASE_URL', 'DB_SSL'], () => {
    if (databaseUrl === undefined || !isSet('DB_SSL')) return undefined;
    const contradiction = tlsContradiction(databaseUrl, settings.DB_SSL);
    return contradiction && `DB_SSL must not contradict DATABASE_URL, ${contradiction}`;
  });
  if (faults.length > 0) throw new ConfigError(faults);

  const gateway = (url: string): GatewayConfig => ({
    url,
    poolSize: settings.GATEWAY_POOL_SIZE,
    poolTimeoutMs: settings.GATEWAY_POOL_TIMEOUT_MS,
    receiveTimeoutMs: settings.GATEWAY_RECEIVE_TIMEOUT_MS,
    connectionMaxAgeMs: settings.GATEWAY_CONNECTION_MAX_AGE_MS,
    empty500: settings.GATEWAY_EMPTY_500,
  });
  const isRedisAtSocket =
    settings.REDIS_URL === undefined && settings.REDIS_SENTINELS.length === 0 && isPath(settings.REDIS_HOST);
  const redisHost = isRedisAtSocket ? 'localhost' : hostInUrl(settings.REDIS_HOST);
  return deepFreeze({
    role: settings.APP_ROLE,
    host: settings.HOST,
    port: settings.PORT,
    keepAliveTimeoutMs: settings.KEEP_ALIVE_TIMEOUT_MS,
    logLevel: settings.LOG_LEVEL ?? (settings.NODE_ENV === 'production' ? 'warn' : 'info'),
    shutdownTimeoutMs: settings.SHUTDOWN_TIMEOUT_MS,
    redis: {
      url:
        settings.REDIS_URL ?? `redis://${credentials('', settings.REDIS_PASSWORD)}${redisHost}:${settings.REDIS_PORT}`,
      ...(isRedisAtSocket && { socketPath: settings.REDIS_HOST }),
      clusterNodes: settings.REDIS_CLUSTER_NODES,
      ...(settings.REDIS_SENTINELS.length > 0 && {
        sentinels: {
          nodes: settings.REDIS_SENTINELS,
          masterName: settings.REDIS_MASTER_NAME,
          password: settings.REDIS_SENTINEL_PASSWORD,
        },
      }),
    },
    database: {
      url:
        databaseUrl ??
        `postgres://${credentials(settings.DB_USER, settings.DB_PASSWORD)}${hostInUrl(settings.DB_HOST)}:${settings.DB_PORT}/${encodeURIComponent(settings.DB_NAME)}`,
      poolSize: settings.DB_POOL_SIZE,
      ssl: settings.DB_SSL,
    },
    queue: {
      name: 'payments',
      prefix: `{${settings.REDIS_KEY_PREFIX}}`,
      maxSize: settings.PAYMENT_QUEUE_MAX_SIZE,
      shards: settings.QUEUE_SHARDS,
      durability: settings.DURABILITY,
    },
    worker: {
      concurrency: settings.PAYMENT_QUEUE_MAX_CONCURRENCY,
      turnMs: settings.WORKER_TURN_MS,
      port: settings.WORKER_PORT,
    },
    metricsToken: settings.METRICS_TOKEN,
    gateways: {
      primary: gateway(settings.GATEWAY_PRIMARY_URL),
      fallback: gateway(settings.GATEWAY_FALLBACK_URL),
      maxInFlight: settings.GATEWAY_MAX_IN_FLIGHT,
      rejectAfterMs: settings.GATEWAY_REJECT_AFTER_MS,
    },
    fallback: { on: settings.FALLBACK_ON, afterMs: settings.FALLBACK_AFTER_MS },
    releaseAfterMs: settings.RELEASE_AFTER_MS,
    deadLetters: { maxInvalid: settings.DEAD_LETTERS_MAX_INVALID },
    http: {
      summaryRange: settings.SUMMARY_RANGE,
      validatePayments: settings.PAYMENTS_VALIDATE,
      allowPurge: settings.ALLOW_PURGE,
      statusToken: settings.STATUS_TOKEN,
      dashboard: credentialsOf(settings.DASHBOARD_USER, settings.DASHBOARD_PASSWORD),
      viewer: credentialsOf(settings.DASHBOARD_VIEWER_USER, settings.DASHBOARD_VIEWER_PASSWORD),
    },
  });
}

function credentialsOf(user: string | undefined, password: string | undefined): Credentials | undefined {
  return user !== undefined && password !== undefined ? { user, password } : undefined;
}

function deepFreeze<T extends object>(value: T): T {
  for (const part of Object.values(value)) if (typeof part === 'object' && part !== null) deepFreeze(part);
  return Object.freeze(value);
}
