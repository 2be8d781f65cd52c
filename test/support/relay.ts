import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { Redis } from 'ioredis';
import { createSimulatedGateway } from '../../dev/simulated-gateway/simulated-gateway.ts';
import { type Api, startApi } from '../../src/api.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import { createTelemetry, type Telemetry } from '../../src/telemetry/telemetry.ts';
import { startWorker } from '../../src/worker.ts';
import { documentCheck, documentOf, type Exchange } from './api-document.ts';
import { atTestEnd } from './cleanup.ts';
import { type LogEntry, recordingLogger } from './logger.ts';
import { freshDatabase, freshPrefix, sharedRedis } from './services.ts';
import { watchResponses } from './watch-responses.ts';

export type TestEnv = Readonly<Record<string, string>>;

/** A configuration with the shared servers and a database of the test's own. `env` wins. */
export async function testConfig(env: TestEnv = {}): Promise<Config> {
  return loadConfig({
    HOST: '127.0.0.1',
    DURABILITY: 'disk',
    REDIS_URL: env['REDIS_URL'] ?? (await sharedRedis()).url,
    DATABASE_URL: env['DATABASE_URL'] ?? (await freshDatabase()),
    ...env,
  });
}

export interface TestApi {
  readonly url: string;
  readonly prefix: string;
  readonly config: Config;
  readonly entries: readonly LogEntry[];
  readonly api: Api;
  /** Counts the events of the whole test process, so also those of a worker in it. */
  readonly telemetry: Telemetry;
}

/** Ended after the test, or it would count the events of later ones. */
function testTelemetry(role: 'api' | 'worker'): Telemetry {
  const telemetry = createTelemetry({ role, version: 'test' });
  atTestEnd(() => telemetry.close());
  return telemetry;
}

/**
 * An API node in this process on a free port, closed after the test. Over the shared Redis it serves from the start: an API listens
 * before it has seen that its Redis is usable, and responds 503 until then.
 */
export async function testApi(env: TestEnv = {}, prefix = freshPrefix()): Promise<TestApi> {
  const config = { ...withPrefix(await testConfig(env), prefix), port: 0 };
  const { logger, entries } = recordingLogger();
  const telemetry = testTelemetry('api');
  const api = await startApi(config, logger, telemetry);
  expectDocumented(api.port!, config);
  atTestEnd(() => api.close(performance.now() + 5_000));
  const url = `http://127.0.0.1:${api.port}`;
  if (env['REDIS_URL'] === undefined) await eventually(async () => (await fetch(`${url}/health`)).status === 200);
  return { url, prefix, config, entries, api, telemetry };
}

/**
 * Fails the test when a response of the server at this port is not in the document of such an API. It checks them when the test has ended, because tests
 * measure how long a response takes.
 */
export function expectDocumented(port: number, config: Config): void {
  const given: Exchange[] = [];
  const end = watchResponses(port, (exchange) => given.push(exchange));
  atTestEnd(() => {
    end();
    const check = documentCheck(documentOf(config));
    const faults = given.flatMap((exchange) => {
      const fault = check(exchange);
      return fault === undefined ? [] : [`${exchange.method} ${exchange.path}: ${fault}`];
    });
    if (faults.length > 0) {
      throw new Error(`responses that /openapi.json does not describe: ${[...new Set(faults)].join('; ')}`);
    }
  });
}

const withPrefix = (config: Config, prefix: string): Config => ({ ...config, queue: { ...config.queue, prefix } });

/**
 * A worker in this process, closed after the test.
 * @param change sets what no setting allows, for example a time too short for production
 */
export async function testWorker(
  env: TestEnv,
  prefix = freshPrefix(),
  change: (config: Config) => Config = (config) => config,
): Promise<{ entries: readonly LogEntry[]; close(): Promise<void> }> {
  const { logger, entries } = recordingLogger();
  const worker = startWorker(change(withPrefix(await testConfig(env), prefix)), logger, {
    telemetry: testTelemetry('worker'),
    writesHeartbeat: true,
    onStuck: (reason) => {
      throw new Error(reason);
    },
  });
  let closing: Promise<void> | undefined;
  const close = () => {
    closing ??= worker.close(performance.now() + 5_000);
    return closing;
  };
  atTestEnd(close);
  return { entries, close };
}

/** A simulated gateway in this process, closed after the test. */
export async function testGateway(options: Parameters<typeof createSimulatedGateway>[0] = {}) {
  const gateway = createSimulatedGateway(options);
  const { url } = await gateway.listen();
  atTestEnd(() => gateway.close());
  return Object.assign(gateway, { url });
}

/** A plain connection to the shared Redis or another, closed after the test. */
export async function testRedis(url?: string): Promise<Redis> {
  const redis = new Redis(url ?? (await sharedRedis()).url);
  atTestEnd(() => redis.disconnect());
  if (redis.status !== 'ready') await once(redis, 'ready');
  return redis;
}

/** `POST /payments`. A string is sent as it is. */
export function postPayment(url: string, payload: unknown = aPayment()): Promise<Response> {
  return fetch(`${url}/payments`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: typeof payload === 'string' ? payload : JSON.stringify(payload),
  });
}

/** A valid payload with an id of its own. */
export function aPayment(amount = 19.9): { correlationId: string; amount: number } {
  return { correlationId: randomUUID(), amount };
}

/**
 * Resolves with the first value of `look` that is not undefined or false. It polls, for what sends no event: a row in
 * PostgreSQL, a job in Redis. @throws an Error after `timeoutMs`
 */
export async function eventually<T>(
  look: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs = 8_000,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = await look();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > deadline) throw new Error(`did not happen within ${timeoutMs} ms: ${look}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
