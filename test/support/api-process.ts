import { freePort } from '../../dev/local/ports.ts';
import { type ServiceProcess, startService } from '../../dev/local/service.ts';
import { atTestEnd } from './cleanup.ts';
import { NO_DATABASE } from './queue.ts';
import type { TestEnv } from './relay.ts';

export interface ApiProcess extends ServiceProcess {
  readonly url: string;
  /** Every line it has logged so far. */
  readonly log: readonly string[];
}

/** An API node as a process of its own, with the real key prefix, so it needs its own Redis. Killed after the test. */
export async function startApiProcess(env: TestEnv, port?: number): Promise<ApiProcess> {
  const log: string[] = [];
  const service = await startService({
    name: 'api',
    script: 'src/main.ts',
    env: { APP_ROLE: 'api', HOST: '127.0.0.1', LOG_LEVEL: 'info', ...NO_DATABASE, ...env },
    port: port ?? (await freePort()),
    onLine: (line) => log.push(line),
  });
  atTestEnd(() => service.kill());
  return Object.assign(service, { url: service.url!, log });
}
