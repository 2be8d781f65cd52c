import { loadConfig } from './config.ts';
import { type Lifecycle, runUntilSignal, type Service } from './process/lifecycle.ts';
import { createLogger } from './process/logger.ts';
import { ConfigError } from './process/settings.ts';

/** The entry of every process. `APP_ROLE` selects the roles; a process loads only the code of its roles. */
async function main(): Promise<void> {
  const config = loadConfig();
  const logger = createLogger({ level: config.logLevel, role: config.role });
  const services: Service[] = [];
  let lifecycle: Lifecycle | undefined;
  if (config.role !== 'worker') {
    const { startApi } = await import('./api.ts');
    services.push(await startApi(config, logger));
  }
  if (config.role !== 'api') {
    const { startWorker } = await import('./worker.ts');
    services.push(startWorker(config, logger, { onStuck: (reason) => lifecycle?.shutdown(reason, 1) }));
  }
  lifecycle = runUntilSignal(services, { logger, shutdownTimeoutMs: config.shutdownTimeoutMs });
  // For a parent that waits for it: a supervisor, `make run`, a test.
  process.send?.('ready');
}

main().catch((error: unknown) => {
  // Nothing has started yet, so there is nothing to close.
  console.error(error instanceof ConfigError ? error.message : error);
  process.exit(1);
});
