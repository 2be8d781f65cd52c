import { describeError } from './describe-error.ts';
import type { Logger } from './logger.ts';

/** A started part of the process: `close` ends it without losing what it has accepted. */
export interface Service {
  /** @param deadline When the process will be gone, in ms as `performance.now()` counts. */
  close(deadline: number): Promise<void>;
}

export interface LifecycleOptions {
  logger: Logger;
  /** From the signal to the forced end. Below the grace period of whatever supervises the process. */
  shutdownTimeoutMs: number;
  /** Tests pass a stand-in; everywhere else the process itself. */
  processLike?: Pick<NodeJS.Process, 'on' | 'exit'>;
}

export interface Lifecycle {
  /** Ends the process by the orderly way with the given exit code, as a signal would with 0. */
  shutdown(reason: string, exitCode: number, cause?: unknown): void;
}

/**
 * Runs until SIGINT or SIGTERM, then closes the services in reverse order of their start and exits with 0.
 *
 * An uncaught error takes the same way with exit code 1. Passing the deadline, or a second signal, exits at once with 1:
 * nothing is lost by that, as every accepted payment is in Redis, but requests under way go unanswered and
 * payments under way are looked at again by the next worker.
 */
export function runUntilSignal(
  services: readonly Service[],
  { logger, shutdownTimeoutMs, processLike = process }: LifecycleOptions,
): Lifecycle {
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
    closeAll(performance.now() + shutdownTimeoutMs).then((failures) => {
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
    // The log is written asynchronously when stdout is a pipe; one turn of the loop lets it out.
    setImmediate(() => processLike.exit(code));
  }

  for (const signal of ['SIGINT', 'SIGTERM'] as const) processLike.on(signal, () => shutdown(signal, 0));
  processLike.on('uncaughtException', (error: Error) => shutdown('uncaught exception', 1, error));
  processLike.on('unhandledRejection', (reason: unknown) => shutdown('unhandled rejection', 1, reason));
  return { shutdown };
}
