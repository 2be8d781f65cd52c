import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { ServiceProcess, Stack } from '../../tools/stack.ts';
import type { ProxyFault, TcpProxy } from '../../tools/tcp-proxy.ts';
import { sql } from '../support/services.ts';
import type { Random } from './random.ts';

export interface Proxies {
  readonly redis: TcpProxy;
  readonly postgres: TcpProxy;
  readonly primary: TcpProxy;
  readonly fallback: TcpProxy;
}

/** A fault that can be injected; two that touch the same thing never overlap. */
export interface Fault {
  readonly name: string;
  /** What it takes hold of. */
  readonly on: string;
  /** Injects it, waits, and takes it back. Resolves when everything is as before. */
  run(): Promise<void>;
}

/** Every fault that the chaos run draws from; the numbers are those of the README's table. */
export function createFaults(stack: Stack, proxies: Proxies, random: Random): Fault[] {
  const { apis, workers, redis, postgres } = stack as Required<Stack>;
  const seconds = (from: number, to: number) => sleep(random.between(from, to) * 1000);

  const network = (on: keyof Proxies, name: string, fault: ProxyFault, from: number, to: number): Fault => ({
    name: `${on} ${name}`,
    on,
    async run() {
      await proxies[on].set(fault);
      await seconds(from, to);
      await proxies[on].set({ kind: 'none' });
    },
  });
  const gateway = (on: 'primary' | 'fallback', name: string, settings: GatewaySettings): Fault => ({
    name: `${on} ${name}`,
    on,
    async run() {
      await configure(stack[on], settings);
      await seconds(1, 5);
      await configure(stack[on], { delay: 0, failure: false });
    },
  });
  const onProcess = (service: ServiceProcess, name: string, run: () => Promise<unknown>): Fault => ({
    name: `${service.name} ${name}`,
    on: service.name,
    async run() {
      await run();
    },
  });
  const clock = () => ({ CLOCK_SHIFT_MS: String(random.pick([0, 0, 3_600_000, -3_600_000])) });

  const faults: Fault[] = [];
  for (const on of ['primary', 'fallback'] as const) {
    faults.push(
      gateway(on, 'answers 500 (1)', { delay: 0, failure: true }),
      gateway(on, 'is slower than the time-out (2)', { delay: 1_500, failure: false }),
      gateway(on, 'is slow and then fails (2)', { delay: 1_300, failure: true }),
      gateway(on, 'is a little slow', { delay: 80, failure: false }),
      network(on, 'refuses connections (3)', { kind: 'refuse' }, 0.5, 4),
      network(on, 'loses its answers (4)', { kind: 'cut_replies' }, 0.3, 2),
      network(on, 'resets instead of answering (4)', { kind: 'reset_replies' }, 0.3, 2),
      network(on, 'is a black hole (5)', { kind: 'black_hole' }, 0.5, 3),
      network(on, 'is half-open (5)', { kind: 'half_open' }, 0.5, 3),
    );
  }
  faults.push({
    name: 'both gateways answer 500 (7)',
    on: 'primary',
    async run() {
      await Promise.all([stack.primary, stack.fallback].map((each) => configure(each, { delay: 50, failure: true })));
      await seconds(2, 6);
      await Promise.all([stack.primary, stack.fallback].map((each) => configure(each, { delay: 0, failure: false })));
    },
  });
  for (const worker of workers) {
    faults.push(
      onProcess(worker, 'is killed (9, 11)', async () => {
        await worker.kill();
        await seconds(0.1, 3);
        await worker.start(clock());
      }),
      onProcess(worker, 'is stopped past its locks (10)', async () => {
        worker.signal('SIGSTOP');
        await seconds(5.5, 9);
        worker.signal('SIGCONT');
      }),
      onProcess(worker, 'is stopped for a moment (10)', async () => {
        worker.signal('SIGSTOP');
        await seconds(0.2, 2);
        worker.signal('SIGCONT');
      }),
      onProcess(worker, 'is shut down (12, 22)', async () => {
        const code = await worker.stop();
        if (code !== 0) throw new Error(`${worker.name} ended with code ${code} after SIGTERM`);
        await worker.start(clock());
      }),
    );
  }
  for (const api of apis) {
    faults.push(
      onProcess(api, 'is killed (20, 22)', async () => {
        await api.kill();
        await seconds(0.1, 1);
        await api.start(clock());
      }),
      onProcess(api, 'is shut down (12)', async () => {
        const code = await api.stop();
        if (code !== 0) throw new Error(`${api.name} ended with code ${code} after SIGTERM`);
        await api.start();
      }),
    );
  }
  faults.push(
    {
      name: 'redis is restarted (13)',
      on: 'redis',
      async run() {
        await redis!.stop();
        await redis!.start();
      },
    },
    {
      name: 'redis is killed and away for a while (13, 14)',
      on: 'redis',
      async run() {
        await redis!.kill();
        await seconds(0.5, 7);
        await redis!.start();
      },
    },
    {
      name: 'redis hangs (15)',
      on: 'redis',
      async run() {
        redis!.signal('SIGSTOP');
        await seconds(0.5, 3);
        redis!.signal('SIGCONT');
      },
    },
    {
      name: 'redis is out of memory (17)',
      on: 'redis',
      async run() {
        const client = new Redis(redis!.url);
        await client.config('SET', 'maxmemory', '1mb');
        await seconds(0.5, 3);
        await client.config('SET', 'maxmemory', '0');
        client.disconnect();
      },
    },
    {
      name: 'all connections to redis are killed (23)',
      on: 'redis',
      async run() {
        proxies.redis.resetAll();
      },
    },
    network('redis', 'loses its answers (23)', { kind: 'cut_replies' }, 0.2, 1),
    network('redis', 'is a black hole (15)', { kind: 'black_hole' }, 0.5, 3),
    {
      name: 'postgres is restarted (18)',
      on: 'postgres',
      async run() {
        await postgres!.stop();
        await seconds(0, 3);
        await postgres!.start();
      },
    },
    {
      name: 'postgres is killed (18)',
      on: 'postgres',
      async run() {
        await postgres!.kill();
        await seconds(0, 2);
        await postgres!.start();
      },
    },
    {
      name: 'the backends of postgres are terminated (19)',
      on: 'postgres',
      async run() {
        await sql(
          stack.databaseUrl,
          'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL',
        );
      },
    },
    network('postgres', 'loses its answers (19)', { kind: 'cut_replies' }, 0.2, 1),
    network('postgres', 'is a black hole (18)', { kind: 'black_hole' }, 0.5, 4),
  );
  return faults;
}

interface GatewaySettings {
  readonly delay: number;
  readonly failure: boolean;
}

/** Sets how a simulated gateway is. */
export async function configure({ url }: ServiceProcess, { delay, failure }: GatewaySettings): Promise<void> {
  for (const [what, body] of [
    ['delay', { delay }],
    ['failure', { failure }],
  ] as const) {
    const response = await fetch(`${url}/admin/configurations/${what}`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json', 'X-Rinha-Token': '123' },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`the gateway refused ${what}: ${response.status}`);
  }
}
