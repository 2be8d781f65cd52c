import { createRequire } from 'node:module';
import type { Lifecycle } from './process/lifecycle.ts';
import { watchSignals } from './process/signals.ts';

// Before everything else is loaded, which takes up to half a second.
const signals = watchSignals();
let lifecycle: Lifecycle | undefined;

const { version: VERSION } = createRequire(import.meta.url)('../package.json') as { version: string };

/** The entry of every process. `APP_ROLE` selects the roles; a process loads only the code of its roles. */
async function main(): Promise<void> {
  const [{ loadConfig }, { createLogger }, { runUntilSignal }] = await Promise.all([
    import('./config.ts'),
    import('./process/logger.ts'),
    import('./process/lifecycle.ts'),
  ]);
  const config = loadConfig();
  const logger = createLogger({ level: config.logLevel, role: config.role });
  const { createTelemetry } = await import('./telemetry/telemetry.ts');
  const telemetry = createTelemetry({ role: config.role, version: VERSION });
  const running = runUntilSignal({ signals, logger, shutdownTimeoutMs: config.shutdownTimeoutMs });
  lifecycle = running;
  const { port: workerPort } = config.worker;
  if (config.role === 'worker' && workerPort !== undefined) {
    const { startWorkerServer } = await import('./http/worker-server.ts');
    await running.start(() => startWorkerServer({ ...config, port: workerPort }, { telemetry, logger }));
  }
  if (config.role !== 'worker') {
    const { startApi } = await import('./api.ts');
    await running.start(() => startApi(config, logger, telemetry));
  }
  if (config.role !== 'api') {
    const { startWorker } = await import('./worker.ts');
    await running.start(() =>
      startWorker(config, logger, {
        telemetry,
        // The API part of the same process writes the heartbeat of both.
        writesHeartbeat: config.role === 'worker',
        onStuck: (reason) => running.shutdown(reason, 1),
      }),
    );
  }
  // For a parent that waits for it: a supervisor, `make run`, a test.
  process.send?.('ready');
}

main().catch((error: Error & { code?: unknown }) => {
  const areSettingsFaulty = error.code === 'invalid_config';
  if (areSettingsFaulty) console.error(error.message);
  if (areSettingsFaulty || lifecycle === undefined) process.exit(1);
  lifecycle.shutdown('could not start', 1, error);
});
