import { SETTING_NAMES } from '../src/config.ts';

/** The servers that `make run` starts unless the settings name others. */
export type OwnServer = 'redis' | 'postgres' | 'gateways';

/** Each of these settings names a server that exists already. Their other settings matter only then. */
const NAMED_BY: Readonly<Record<OwnServer, readonly string[]>> = {
  redis: ['REDIS_URL', 'REDIS_HOST', 'REDIS_PORT', 'REDIS_CLUSTER_NODES', 'REDIS_SENTINELS'],
  postgres: ['DATABASE_URL', 'DB_HOST', 'DB_PORT'],
  gateways: ['GATEWAY_PRIMARY_URL', 'GATEWAY_FALLBACK_URL'],
};

/** What a server of our own does not use. */
const UNUSED_BY_OWN: Readonly<Record<OwnServer, readonly string[]>> = {
  redis: ['REDIS_PASSWORD', 'REDIS_MASTER_NAME', 'REDIS_SENTINEL_PASSWORD'],
  postgres: ['DB_USER', 'DB_PASSWORD', 'DB_NAME', 'DB_SSL'],
  gateways: [],
};

/** Compose alone uses these. `.env` may have them, because both read it. */
const OF_COMPOSE = [
  'BIND_ADDRESS',
  'HTTP_PORT',
  'PROMETHEUS_PORT',
  'GRAFANA_PORT',
  'STOP_GRACE_PERIOD',
  'APP_PLATFORM',
  'PAYRELAY_IMAGE',
  'NODE_TAG',
  'NGINX_TAG',
  'REDIS_TAG',
  'POSTGRES_TAG',
  'PROMETHEUS_TAG',
  'GRAFANA_TAG',
] as const;

export interface RunSettings {
  /** For API and worker, as they were set; `make run` adds its own defaults. */
  readonly services: Readonly<Record<string, string>>;
  /** Names of settings that are set and have no effect here. */
  readonly ignored: readonly string[];
  /** Whether `make run` starts the server. */
  readonly starts: Readonly<Record<OwnServer, boolean>>;
  readonly keepsData: boolean;
  /** Where the worker serves its metrics. */
  readonly workerPort: number;
  readonly gatewayPorts: { readonly primary: number; readonly fallback: number };
}

/**
 * Divides what is set into what the services get and what has no effect in `make run`. An empty value counts as not set.
 * @throws an Error in one sentence when a setting of `make run` itself is wrong. The services' own are checked by `loadConfig`.
 */
export function runSettings(env: NodeJS.ProcessEnv): RunSettings {
  const set = Object.fromEntries(Object.entries(env).filter(([, value]) => (value ?? '') !== '')) as Record<
    string,
    string
  >;
  const isStarted = (server: OwnServer) => !NAMED_BY[server].some((name) => name in set);
  const starts = { redis: isStarted('redis'), postgres: isStarted('postgres'), gateways: isStarted('gateways') };
  const unused = new Set<string>([
    // A process for each role.
    'APP_ROLE',
    ...OF_COMPOSE,
    ...(Object.keys(starts) as OwnServer[]).flatMap((server) => (starts[server] ? UNUSED_BY_OWN[server] : [])),
    ...(starts.gateways ? [] : ['GATEWAY_PRIMARY_PORT', 'GATEWAY_FALLBACK_PORT']),
    // Its URL and its checks of ports need an address.
    ...(set['HOST']?.startsWith('/') ? ['HOST'] : []),
  ]);
  const passed = [...SETTING_NAMES, 'NODE_EXTRA_CA_CERTS'].filter((name) => name in set && !unused.has(name));
  return {
    services: Object.fromEntries(passed.map((name) => [name, set[name]!])),
    ignored: [...unused].filter((name) => name in set),
    starts,
    keepsData: isOn('KEEP_DATA', set['KEEP_DATA']),
    workerPort: portOf('WORKER_PORT', set['WORKER_PORT'], 9100),
    gatewayPorts: {
      primary: portOf('GATEWAY_PRIMARY_PORT', set['GATEWAY_PRIMARY_PORT'], 8001),
      fallback: portOf('GATEWAY_FALLBACK_PORT', set['GATEWAY_FALLBACK_PORT'], 8002),
    },
  };
}

function isOn(name: string, text = '0'): boolean {
  if (text !== '0' && text !== '1') throw new Error(`${name} must be 0 or 1`);
  return text === '1';
}

function portOf(name: string, text: string | undefined, byDefault: number): number {
  if (text === undefined) return byDefault;
  if (!/^\d{1,5}$/.test(text) || Number(text) < 1 || Number(text) > 65_535) {
    throw new Error(`${name} must be an integer from 1 to 65535`);
  }
  return Number(text);
}
