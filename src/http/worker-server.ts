import type { Config } from '../config.ts';
import { isPath } from '../process/addresses.ts';
import type { Service } from '../process/lifecycle.ts';
import type { Logger } from '../process/logger.ts';
import { ConfigError } from '../process/settings.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { createApp } from './app.ts';
import { listenFault } from './listen-fault.ts';
import { live } from './operator/health.ts';
import { metrics } from './operator/metrics.ts';
import type { Route } from './routes.ts';
import { startServer } from './server.ts';

/**
 * Serves what a worker tells about itself, on a port of its own.
 *
 * There is no `/health/ready`: no request is sent to a worker, so nobody could choose another one instead. A worker that
 * waits for Redis, PostgreSQL or a gateway goes on by itself, and `GET /health` of an API node says what it waits for.
 *
 * It starts before the worker, so that a taken port ends the process before it takes a payment. Then it is closed last, and
 * shows a slow shutdown to its end. Closing takes no time: who reads metrics can read them again.
 * @throws ConfigError when it cannot listen at HOST and WORKER_PORT
 */
export async function startWorkerServer(
  {
    host,
    port,
    keepAliveTimeoutMs,
    metricsToken,
  }: Pick<Config, 'host' | 'port' | 'keepAliveTimeoutMs' | 'metricsToken'>,
  { telemetry, logger }: { telemetry: Pick<Telemetry, 'metrics'>; logger: Logger },
): Promise<Service> {
  const routes: Route[] = [
    { method: 'GET', path: '/health/live', handler: live() },
    { method: 'GET', path: '/metrics', handler: metrics(telemetry), bearer: metricsToken },
  ];
  // The socket at HOST is the API's. Like that socket, this address is only for programs of the same machine.
  const address = { host: isPath(host) ? '127.0.0.1' : host, port };
  try {
    const server = await startServer(createApp(routes, { logger }), { ...address, keepAliveTimeoutMs });
    logger.info('listening', address);
    return { close: () => server.abort() };
  } catch (error) {
    const fault = listenFault(address, error as NodeJS.ErrnoException, 'WORKER_PORT');
    throw fault === undefined ? error : new ConfigError([fault]);
  }
}
