import { randomUUID } from 'node:crypto';
import { request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { gatewayAdmin } from '../../dev/gateway-admin.ts';
import { createLoad, type LoadReport } from '../../dev/load.ts';
import type { ServiceProcess } from '../../dev/local/service.ts';
import type { Stack } from '../../dev/stack.ts';
import { createFaults } from './draw-fault.ts';
import type { Stage } from './faults.ts';
import { operatorFault } from './operator.ts';

const PAYMENTS_PER_SECOND = 150;
/** Upper bound of faults at the same time. */
const MAX_ACTIVE = 3;

/** A fault lasts 10 s at most, and a start after it 30 s at most. */
const FAULTS_END_WITHIN_MS = 60_000;

/** What happened while the faults were injected. */
export interface Account {
  readonly load: LoadReport;
  /** Ids posted with an invalid payload. */
  readonly invalid: ReadonlySet<string>;
  readonly startedAtMs: number;
  readonly faults: number;
  /** Payments that an operator has released. */
  readonly released: ReadonlySet<string>;
  /** The longest time from the end of the last active fault to the next payment at a gateway. */
  readonly longestRecoveryMs: number;
  /** Faults that could not be injected or taken back, and programs that ended unexpectedly or with a wrong code. */
  readonly failures: readonly string[];
}

/**
 * Load, and faults whose names match the filter, for so many seconds. Resolves when every fault is taken back and every post
 * has ended.
 */
export async function torment(stage: Stage, seconds: number, filter: RegExp): Promise<Account> {
  const { stack, random } = stage;
  const load = createLoad({ urls: stack.apis.map(({ url }) => url!), amount: 19.9 });
  const invalid = new Set<string>();
  const failures: string[] = [];
  const faults = createFaults(stage, filter);
  const startedAtMs = performance.now();
  const elapsedMs = () => performance.now() - startedAtMs;
  const isOver = () => elapsedMs() > seconds * 1000;
  const say = (line: string) => console.log(`  ${(elapsedMs() / 1000).toFixed(1).padStart(6)} s  ${line}`);
  const active = new Map<string, Promise<void>>();
  const recovery = watchRecovery(stack, () => active.size > 0);
  let faultsInjected = 0;
  const released = new Set<string>();

  function activate(on: string, run: () => Promise<void>): void {
    active.set(
      on,
      run()
        .catch((error: unknown) => {
          say(`FAILED: ${error}`);
          failures.push(String(error));
        })
        .finally(() => active.delete(on)),
    );
  }

  async function injectFaults(): Promise<void> {
    const operator = stage.hasOperator ? operatorFault(stage, (id) => released.add(id)) : undefined;
    if (operator && filter.test(operator.name)) {
      faultsInjected += 1;
      say(operator.name);
      activate(operator.on, operator.run);
    }
    while (!isOver()) {
      await sleep(random.between(0.1, 2.5) * 1000);
      const fault = faults.draw();
      if (active.has(fault.on) || active.size >= MAX_ACTIVE) continue;
      faultsInjected += 1;
      say(fault.name);
      activate(fault.on, fault.run);
    }
    await ended();
  }

  /** Resolves when all faults are taken back. @throws an Error that names those that do not end */
  async function ended(): Promise<void> {
    const timeOut = new AbortController();
    const tooLate = sleep(FAULTS_END_WITHIN_MS, undefined, { signal: timeOut.signal, ref: false }).then(
      () => {
        throw new Error(`a fault does not end: ${[...active.keys()].join(', ')}`);
      },
      () => {},
    );
    await Promise.race([Promise.all(active.values()), tooLate]);
    timeOut.abort();
  }

  /** Starts a program again that ended by itself, as a supervisor would. Each such end counts as a failure. */
  function supervise(service: ServiceProcess): void {
    const { pid } = service;
    void service.exited.then((code) => {
      if (active.has(service.name)) return;
      if (isClosed || service.pid !== pid) return;
      say(`FAILED: ${service.name} ended by itself with code ${code}`);
      failures.push(`${service.name} ended by itself with code ${code}`);
      activate(service.name, () => service.start());
    });
  }
  let isClosed = false;
  const supervised = new Map<string, number>();
  const supervisor = setInterval(() => {
    for (const service of [...stack.apis, ...stack.workers]) {
      if (active.has(service.name) || supervised.get(service.name) === service.pid) continue;
      supervised.set(service.name, service.pid);
      supervise(service);
    }
  }, 50);

  async function post(): Promise<void> {
    const posts: Promise<unknown>[] = [];
    const recent: string[] = [];
    while (!isOver()) {
      const draw = Math.random();
      if (draw < 0.05 && recent.length > 0) {
        // Posts an old id again. It may have been paid at either gateway.
        posts.push(load.post(recent[Math.floor(Math.random() * recent.length)]));
      } else if (draw < 0.08) {
        const id = randomUUID();
        posts.push(load.post(id), load.post(id));
      } else if (draw < 0.1) {
        posts.push(postAndHangUp(stack.apis[0]!.url!, load.report));
      } else if (draw < 0.11) {
        const id = randomUUID();
        invalid.add(id);
        posts.push(postInvalid(stack.apis[1]!.url!, id));
      } else {
        const id = randomUUID();
        recent.push(id);
        if (recent.length > 5_000) recent.shift();
        posts.push(load.post(id));
      }
      await sleep(1000 / PAYMENTS_PER_SECOND);
    }
    await Promise.all(posts);
  }

  let longestRecoveryMs: number;
  try {
    await Promise.all([injectFaults(), post()]);
  } finally {
    isClosed = true;
    clearInterval(supervisor);
    longestRecoveryMs = recovery.stop();
  }
  // Waits for a program that is starting again.
  await ended();
  load.close();
  return { load: load.report, invalid, startedAtMs, faults: faultsInjected, released, longestRecoveryMs, failures };
}

/** Measures the times from the end of the last active fault to the next payment at a gateway. `stop` returns the longest, in ms. */
function watchRecovery(stack: Stack, isDisturbed: () => boolean): { stop(): number } {
  let longestMs = 0;
  let paidBefore = 0;
  let calmSinceMs = performance.now();
  let isRecovered = true;
  const look = async () => {
    const counts = await Promise.all(
      [stack.primary, stack.fallback].map(({ url }) => gatewayAdmin(url!).totals()),
    ).catch(() => undefined);
    if (!counts) return;
    const paid = counts[0]!.totalRequests + counts[1]!.totalRequests;
    if (isDisturbed()) {
      calmSinceMs = performance.now();
      isRecovered = false;
    } else if (!isRecovered && paid > paidBefore) {
      longestMs = Math.max(longestMs, performance.now() - calmSinceMs);
      isRecovered = true;
    }
    paidBefore = Math.max(paid, paidBefore);
  };
  const timer = setInterval(() => void look(), 100);
  return {
    stop() {
      clearInterval(timer);
      return longestMs;
    },
  };
}

/** Posts and hangs up before the response. */
function postAndHangUp(url: string, report: LoadReport): Promise<void> {
  const correlationId = randomUUID();
  report.unknown.add(correlationId);
  return new Promise((resolve) => {
    const outgoing = request(`${url}/payments`, { method: 'POST', headers: { 'content-type': 'application/json' } });
    outgoing.on('error', () => {});
    outgoing.on('close', resolve);
    outgoing.end(JSON.stringify({ correlationId, amount: 5 }), () => outgoing.destroy());
  });
}

async function postInvalid(url: string, correlationId: string): Promise<void> {
  await fetch(`${url}/payments`, {
    method: 'POST',
    body: JSON.stringify({ correlationId, amount: -1 }),
    signal: AbortSignal.timeout(5_000),
  }).catch(() => undefined);
}
