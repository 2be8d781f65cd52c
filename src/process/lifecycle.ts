import { describeError } from './describe-error.ts';
import type { Logger } from './logger.ts';
import type { Signals } from './signals.ts';

/** A running part of the process. `close` ends it and loses nothing that it has accepted. */
export interface Service {
  /** @param deadline when the process exits at the latest, in ms of `performance.now()` */
  close(deadline: number): Promise<void>;
}

export interface LifecycleOptions {
  signals: Signals;
  logger: Logger;
  /** From the signal to the forced exit. Must stay below the supervisor's grace period. */
  shutdownTimeoutMs: number;
  /** Tests pass a stand-in. */
  processLike?: Pick<NodeJS.Process, 'on' | 'exit' | 'stdout' | 'stderr'>;
}

export interface Lifecycle {
  /** Starts a service, unless the shutdown has begun. @throws what `service` throws */
  start(service: () => Service | Promise<Service>): Promise<void>;
  /** Closes the services, as a signal does, and exits with the given code. */
  shutdown(reason: string, exitCode: number, cause?: unknown): void;
}

/**
 * Runs until SIGINT or SIGTERM, then closes the services in reverse order of their start and exits with 0.
 *
 * An uncaught error does the same, with exit code 1. A second signal, or passing the deadline, exits at once with 1.
 * That loses nothing, because every accepted payment is in Redis. But requests in flight get no response, and the next
 * worker checks the payments in flight again.
 */
export function runUntilSignal({
  signals,
  logger,
  shutdownTimeoutMs,
  processLike = process,
}: LifecycleOptions): Lifecycle {
  const services: Service[] = [];
  let closing = false;

  function shutdown(reason: string, exitCode: number, cause?: unknown): void {
    if (closing) {
      logger.error('exiting at once', { reason, cause: cause === undefined ? undefined : describeError(cause) });
      exit(1);
      return;
    }
    closing = true;
    logger.log(exitCode === 0 ? 'info' : 'error', 'shutting down', {
      reason,
      cause: cause === undefined ? undefined : describeError(cause),
    });
    const timer = setTimeout(() => {
      logger.error('shutdown deadline passed', { shutdownTimeoutMs });
      exit(1);
    }, shutdownTimeoutMs);
    // `closeAll` never rejects.
    void closeAll(performance.now() + shutdownTimeoutMs).then((failures) => {
      clearTimeout(timer);
      logger.info('stopped', { exitCode: failures === 0 ? exitCode : 1 });
      exit(failures === 0 ? exitCode : 1);
    });
  }

  async function closeAll(deadline: number): Promise<number> {
    let failures = 0;
    for (const service of services.toReversed()) {
      try {
        await service.close(deadline);
      } catch (error) {
        failures += 1;
        logger.error('could not close cleanly', { cause: describeError(error) });
      }
    }
    return failures;
  }

  function exit(code: number): void {
    // With a pipe as stdout, the log is written asynchronously. One turn of the event loop writes it.
    setImmediate(() => processLike.exit(code));
  }

  async function start(service: () => Service | Promise<Service>): Promise<void> {
    if (closing) return;
    services.push(await service());
  }

  signals.listen((signal) => shutdown(signal, 0));
  processLike.on('uncaughtException', (error: Error) => shutdown('uncaught exception', 1, error));
  processLike.on('unhandledRejection', (reason: unknown) => shutdown('unhandled rejection', 1, reason));
  // Payments matter more than their log. Without a listener the EPIPE of a log without a reader would end the process.
  for (const stream of [processLike.stdout, processLike.stderr]) stream.on('error', () => {});
  return { start, shutdown };
}
