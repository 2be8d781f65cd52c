import type { ServiceProcess } from './local/service.ts';

/** Long enough to read in the log what happened, short enough that a person does not wait. */
const PAUSE_MS = 1_000;

/** More ends than that are no accident. A restart would only hide the fault. */
const MAX_RESTARTS = 5;
const WINDOW_MS = 60_000;

export interface KeepRunningOptions {
  readonly service: Pick<ServiceProcess, 'name' | 'exited' | 'start'>;
  readonly say: (line: string) => void;
  /** It was started again. */
  readonly onStart: () => void;
  /** It ended too often, or did not start again. */
  readonly onEnd: () => void;
  /** Time in ms. Tests pass a stand-in. */
  readonly nowMs?: () => number;
}

export interface KeptService {
  /** From now on an end is expected and nothing starts it. Resolves when no start is under way. */
  pause(): Promise<void>;
  /** Starts the service if it has ended, and watches it again. */
  resume(): Promise<void>;
}

/** Starts a service again, a second after each unexpected end, at most five times a minute. */
export function keepRunning(options: KeepRunningOptions): KeptService {
  const { service, say, onStart, onEnd, nowMs = () => performance.now() } = options;
  let isPaused = false;
  let hasEnded = false;
  let timer: NodeJS.Timeout | undefined;
  let starting = Promise.resolve();
  let restarts: number[] = [];

  function watch(): void {
    hasEnded = false;
    void service.exited.then((code) => {
      hasEnded = true;
      if (!isPaused) restartLater(code);
    });
  }

  function restartLater(code: number | null): void {
    restarts = restarts.filter((at) => at > nowMs() - WINDOW_MS);
    const how = code === null ? 'was killed' : `ended with code ${code}`;
    if (restarts.length === MAX_RESTARTS) {
      say(`${service.name} ${how}, for the sixth time in a minute; it is not started again`);
      onEnd();
      return;
    }
    say(`${service.name} ${how}; it starts again in ${PAUSE_MS / 1_000} s`);
    restarts.push(nowMs());
    timer = setTimeout(() => {
      starting = start();
    }, PAUSE_MS);
  }

  async function start(): Promise<void> {
    try {
      await service.start();
      watch();
      onStart();
    } catch (error) {
      if (isPaused) return;
      say((error as Error).message);
      onEnd();
    }
  }

  watch();
  return {
    pause() {
      isPaused = true;
      clearTimeout(timer);
      return starting;
    },
    async resume() {
      if (!isPaused) return;
      isPaused = false;
      if (!hasEnded) return;
      starting = start();
      await starting;
    },
  };
}
