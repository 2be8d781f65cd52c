import type { ServerResponse } from 'node:http';

/** The 429 limiter of `POST /payments`: `maxActive` run, `maxQueued` wait in order of arrival, the rest gets 429. */
export function createPlaces(maxActive: number, maxQueued: number, changed: () => void) {
  const queue = new Set<() => void>();
  let active = 0;
  let isAdmitting = false;
  return {
    get active() {
      return active;
    },
    get queued() {
      return queue.size;
    },
    /** Runs it now or later. False when there is no room. The task calls `leave()` once when it ends. */
    enter(res: ServerResponse, run: () => void): boolean {
      if (active < maxActive) {
        active += 1;
        run();
        return true;
      }
      if (queue.size >= maxQueued) return false;
      waitInLine(queue, res, run, changed);
      return true;
    },
    leave(): void {
      active -= 1;
      if (isAdmitting) return; // a loop, not a recursion: the line may be long
      isAdmitting = true;
      while (active < maxActive) {
        const [next] = queue;
        if (!next) break;
        active += 1;
        next();
      }
      isAdmitting = false;
      changed();
    },
    reset(): void {
      active = 0;
      queue.clear();
    },
  };
}

/**
 * The limiter of the health call: .NET's fixed window. Windows follow each other from the first call on. Each serves one
 * call, two more wait for the next windows, the rest gets 429.
 */
export function createHealthWindow(intervalMs: number, changed: () => void) {
  const maxQueued = 2;
  const queue = new Set<() => void>();
  let startedAt: number | undefined;
  let lastUsed = -1;
  let timer: NodeJS.Timeout | undefined;
  function elapsed(): number {
    startedAt ??= performance.now();
    return performance.now() - startedAt;
  }
  const current = () => Math.floor(elapsed() / intervalMs);
  function schedule(): void {
    timer ??= setTimeout(openWindow, (lastUsed + 1) * intervalMs - elapsed());
  }
  function openWindow(): void {
    timer = undefined;
    const [next] = queue;
    if (!next) return;
    if (current() > lastUsed) {
      lastUsed = current();
      next();
    }
    // A timer may fire a fraction of a millisecond early. Then it is set again.
    if (queue.size > 0) schedule();
    changed();
  }
  return {
    get queued() {
      return queue.size;
    },
    enter(res: ServerResponse, respond: () => void): boolean {
      if (queue.size === 0 && current() > lastUsed) {
        lastUsed = current();
        respond();
        return true;
      }
      if (queue.size >= maxQueued) return false;
      waitInLine(queue, res, respond, changed);
      schedule();
      return true;
    },
    reset(): void {
      clearTimeout(timer);
      timer = undefined;
      queue.clear();
    },
  };
}

/** Adds the request to the end of the line. When the caller hangs up, the request leaves it. */
function waitInLine(queue: Set<() => void>, res: ServerResponse, run: () => void, changed: () => void): void {
  const leave = () => {
    queue.delete(turn);
    changed();
  };
  const turn = () => {
    queue.delete(turn);
    run();
  };
  queue.add(turn);
  res.once('close', leave);
}
