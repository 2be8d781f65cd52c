import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import type { PausedQueue } from '../../src/operations/pause-queue.ts';
import type { SteeredGateway, SteeringAct } from '../../src/operations/steer.ts';
import type { GatewayName } from '../../src/payment.ts';
import { steeringKey } from '../../src/queue/bullmq-layout.ts';
import { http } from '../support/http-client.ts';
import { NO_DATABASE } from '../support/queue.ts';
import { eventually, type TestEnv } from '../support/relay.ts';
import { respond } from '../support/scripted-gateway.ts';
import { scriptedRelay } from '../support/scripted-relay.ts';
import { groupsSideBySide } from '../support/side-by-side.ts';

const execute = promisify(execFile);

const OPERATOR = {
  DASHBOARD_USER: 'ada',
  DASHBOARD_PASSWORD: 'secret',
  ALLOW_PURGE: 'true',
  FALLBACK_ON: 'pool_timeout',
  FALLBACK_AFTER_MS: 'never',
};

/** Within this time every worker follows. */
const FOLLOWS_MS = 1_000;

/** A relay, and what its operator does. */
async function steeredRelay(env: TestEnv = {}) {
  const relay = await scriptedRelay({ ...OPERATOR, ...env });
  const headers = { authorization: `Basic ${Buffer.from('ada:secret').toString('base64')}` };
  const change = async <T>(path: string, reason = 'maintenance'): Promise<T> => {
    const body = JSON.stringify({ reason });
    const response = await fetch(`${relay.url}/admin/api/${path}`, { method: 'POST', headers, body });
    expect(response.status, path).to.equal(200);
    return (await response.json()) as T;
  };
  const gateway = async (name: GatewayName): Promise<SteeredGateway> =>
    (
      (await (await fetch(`${relay.url}/admin/api/gateways`, { headers })).json()) as Record<
        GatewayName,
        SteeredGateway
      >
    )[name];
  return {
    ...relay,
    steer: (name: GatewayName, act: SteeringAct, reason?: string) =>
      change<SteeredGateway>(`gateways/${name}/${act}`, reason),
    change,
    gateway,
    headers,
    /** Resolves when every worker has reported that it follows. */
    followed: (name: GatewayName) =>
      eventually(async () => {
        const seen = await gateway(name);
        return seen.workers.length > 0 && seen.isFollowed && seen;
      }),
    health: async () => (await (await fetch(`${relay.url}/health`)).json()) as { problems?: Record<string, string>[] },
  };
}

describe('steering', function () {
  this.timeout(60_000);

  groupsSideBySide(
    {
      'a stopped gateway': {
        'gets nothing from any of ten workers within a second, while payments come': async () => {
          const relay = await steeredRelay({ PAYMENT_QUEUE_MAX_CONCURRENCY: '4', DB_POOL_SIZE: '2' });
          for (let n = 0; n < 10; n += 1) await relay.work();
          await eventually(async () => (await relay.gateway('primary')).workers.length === 10, 20_000);
          let isOver = false;
          const ids: string[] = [];
          const load = (async () => {
            while (!isOver) ids.push(await relay.post());
          })();
          await eventually(() => relay.primary.posts.length > 50);
          await relay.steer('primary', 'stop');
          const stoppedAtMs = performance.now();
          await relay.followed('primary');
          await sleep(Math.max(0, 2 * FOLLOWS_MS + stoppedAtMs - performance.now()));
          isOver = true;
          await load;
          const late = relay.primary.posts.filter(({ atMs }) => atMs > stoppedAtMs + FOLLOWS_MS);
          expect(late.map(({ correlationId }) => correlationId)).to.deep.equal([]);
          expect(relay.primary.posts.length).to.be.below(ids.length);
          const seen = await relay.gateway('primary');
          expect(seen.workers.map(({ steered, underWay }) => [steered, underWay])).to.deep.equal(
            Array(10).fill(['stopped', 0]),
          );
          expect(relay.fallback.posts).to.deep.equal([]);
          await relay.steer('primary', 'resume');
          await relay.recorded(ids);
          await relay.expectTrueBooks();
        },

        'is a problem of /health with who, why and since when, and the reason of the payments that wait': async () => {
          const relay = await steeredRelay();
          await relay.work();
          const { by } = await relay.steer('primary', 'stop', 'the provider moves');
          expect(by).to.include({ who: 'ada', reason: 'the provider moves' });
          await relay.followed('primary');
          const { problems } = await relay.health();
          expect(problems).to.deep.equal([
            {
              code: 'primary_down',
              since: by!.at,
              cause: 'the primary gateway does not accept payments: stopped by ada: the provider moves',
            },
          ]);
          const id = await relay.post();
          await eventually(async () => (await relay.status(id))['state'] === 'in_flight');
          expect(await relay.status(id)).to.deep.include({
            reason: 'gateway_stopped',
            detail: 'the primary gateway is stopped by ada: the provider moves',
            since: by!.at,
          });
        },

        'leaves the payments that only it may get in the queue, where an operator can decide about them': async () => {
          const relay = await steeredRelay();
          relay.primary.onPayment = () => respond(502);
          const ids = await relay.postMany(6);
          await relay.work();
          await eventually(async () => (await relay.unresolved()).length === ids.length);
          await relay.steer('primary', 'stop');
          await relay.followed('primary');
          await relay.hurry(ids);
          const isBack = async (id: string) => (await relay.job(id))['reasonCode'] === 'stopped';
          await eventually(async () => (await Promise.all(ids.map(isBack))).every(Boolean));
          await eventually(async () => (await relay.active()).length === 0);
          const sent = relay.primary.posts.length;
          expect(await relay.status(ids[0]!)).to.deep.include({
            state: 'unresolved',
            boundTo: 'primary',
            reason: 'gateway_stopped',
          });
          await relay.hurry(ids);
          await sleep(FOLLOWS_MS);
          expect(relay.primary.posts.length).to.equal(sent);
          const drained = await eventually(async () => {
            const seen = await relay.gateway('primary');
            return seen.isDrained && seen;
          }, 15_000);
          expect(drained).to.include({ state: 'stopped', unresolved: ids.length });
          relay.primary.onPayment = () => undefined;
          await relay.steer('primary', 'resume');
          await relay.followed('primary');
          await relay.hurry(ids);
          await relay.recorded(ids);
          await relay.expectTrueBooks();
        },

        'gets nothing from a worker that starts while it is stopped': async () => {
          const relay = await steeredRelay();
          await relay.steer('primary', 'stop');
          const ids = await relay.postMany(20);
          for (let starts = 0; starts < 3; starts += 1) {
            const worker = await relay.work();
            await eventually(async () => (await relay.active()).length === 16);
            await relay.followed('primary');
            await worker.close();
          }
          expect(relay.primary.posts).to.deep.equal([]);
          await relay.steer('primary', 'resume');
          await relay.work();
          await relay.recorded(ids);
        },

        'stays stopped after a purge': async () => {
          const relay = await steeredRelay();
          await relay.steer('fallback', 'stop');
          expect((await fetch(`${relay.url}/purge-payments`, { method: 'POST' })).status).to.equal(200);
          expect(await relay.gateway('fallback')).to.deep.include({ state: 'stopped' });
        },

        'counts as down for FALLBACK_AFTER_MS: the payments that are old enough go to the fallback': async () => {
          const relay = await steeredRelay({ FALLBACK_AFTER_MS: '1000' });
          await relay.work();
          await relay.steer('primary', 'stop');
          await relay.followed('primary');
          const postedAtMs = performance.now();
          const ids = await relay.postMany(5);
          await relay.recorded(ids);
          expect(relay.primary.posts).to.deep.equal([]);
          expect(Math.min(...relay.fallback.posts.map(({ atMs }) => atMs)) - postedAtMs).to.be.at.least(990);
          await relay.expectTrueBooks();
        },

        'never counts as not_sent: under FALLBACK_ON=not_sent nothing goes to the fallback': async () => {
          const relay = await steeredRelay({ FALLBACK_ON: 'not_sent' });
          await relay.work();
          await relay.steer('primary', 'stop');
          await relay.followed('primary');
          const ids = await relay.postMany(20);
          await eventually(async () => (await relay.active()).length === 16);
          await sleep(FOLLOWS_MS);
          expect([...relay.primary.posts, ...relay.fallback.posts]).to.deep.equal([]);
          await relay.steer('primary', 'resume');
          const rows = await relay.recorded(ids);
          expect(new Set([...rows.values()].map((row) => row.gateway))).to.deep.equal(new Set(['default']));
        },

        'keeps the payments in their places when both are stopped: nothing circles': async () => {
          const relay = await steeredRelay({ FALLBACK_AFTER_MS: '100' });
          await relay.work();
          for (const name of ['primary', 'fallback'] as const) await relay.steer(name, 'stop');
          for (const name of ['primary', 'fallback'] as const) await relay.followed(name);
          const ids = await relay.postMany(30);
          await eventually(async () => (await relay.active()).length === 16);
          const before = await relay.fetches(ids);
          await sleep(2_000);
          expect((await relay.fetches(ids)) - before).to.equal(0);
          expect([...relay.primary.posts, ...relay.fallback.posts]).to.deep.equal([]);
          await relay.steer('fallback', 'resume');
          await relay.recorded(ids);
          expect(relay.primary.posts).to.deep.equal([]);
        },
      },

      'a gateway that drains': {
        'gets the payments that only it may get, although others fill the worker, and then is drained': async () => {
          const relay = await steeredRelay({ PAYMENT_QUEUE_MAX_CONCURRENCY: '4' });
          relay.primary.onPayment = () => respond(502);
          const tied = await relay.postMany(4);
          await relay.work();
          await eventually(async () => (await relay.unresolved()).length === tied.length);
          await relay.steer('primary', 'drain');
          await relay.followed('primary');
          const others = await relay.postMany(20);
          const seen = await relay.gateway('primary');
          expect(seen).to.include({ state: 'draining', isDrained: false });
          relay.primary.onPayment = () => undefined;
          await relay.hurry(tied);
          await relay.recorded(tied);
          const drained = await eventually(async () => {
            const now = await relay.gateway('primary');
            return now.isDrained && now;
          }, 15_000);
          expect(drained.unresolved).to.equal(0);
          expect(others.filter((id) => relay.primary.postsOf(id).length > 0)).to.deep.equal([]);
          await relay.steer('primary', 'resume');
          await relay.recorded(others);
          await relay.expectTrueBooks();
        },
      },

      'a pause': {
        'has who, why and since when, and ends in the dashboard as well': async () => {
          const relay = await steeredRelay();
          await relay.work();
          const paused = await relay.change<PausedQueue>('pause', 'a restore');
          expect(paused).to.deep.include({ isPaused: true, inFlight: 0 });
          expect(paused.by).to.include({ who: 'ada', reason: 'a restore' });
          const id = await relay.post();
          expect(await relay.status(id)).to.deep.include({
            reason: 'queue_paused',
            detail: 'ada has paused the queue: a restore',
            since: paused.by!.at,
          });
          const ofPause = async () => (await relay.health()).problems?.find(({ code }) => code === 'queue_paused');
          const cause = 'workers take no payments: the queue was paused by ada: a restore';
          expect(await ofPause()).to.deep.equal({ code: 'queue_paused', since: paused.by!.at, cause });
          const board = (act: string) =>
            http(relay.url).put(`/admin/queues/api/queues/payments/${act}`).set(relay.headers);
          expect((await board('resume')).status).to.equal(200);
          await relay.recorded([id]);
          expect(await ofPause()).to.equal(undefined);
          expect((await board('pause')).status).to.equal(200);
          expect((await ofPause())!['cause']).to.equal('workers take no payments: the queue was paused by ada');
          const resumed = await relay.change<PausedQueue>('resume');
          expect(resumed).to.deep.equal({ isPaused: false, inFlight: 0 });
          await relay.recorded([await relay.post()]);
        },
      },

      'the commands': {
        'stop a gateway and pause the queue, also without PostgreSQL, and say how far the workers follow': async () => {
          const relay = await steeredRelay();
          await relay.work();
          const run = (script: string, ...args: string[]) =>
            execute(
              process.execPath,
              [fileURLToPath(new URL(`../../src/commands/${script}.ts`, import.meta.url)), ...args],
              {
                env: {
                  ...process.env,
                  ...NO_DATABASE,
                  REDIS_URL: relay.redisUrl,
                  REDIS_KEY_PREFIX: relay.prefix.slice(1, -1),
                },
              },
            );
          const stopped = await run('gateway-state', 'stop', 'fallback', '--reason', 'a test');
          expect(stopped.stdout).to.match(/^fallback: stopped by \S+@\S+ since \S+: a test$/m);
          await relay.followed('fallback');
          const { stdout } = await run('gateway-state');
          expect(stdout).to.match(/^primary: open$/m);
          expect(stdout).to.match(/^ {2}\S+ \d+: stopped, 0 under way, 0 waiting$/m);
          expect((await run('queue-state', 'pause', '--reason', 'a test')).stdout).to.match(
            /^paused by .+: a test; 0 /,
          );
          const failure = await run('queue-state', 'resume', '--reason', 'over').catch(
            (error: { stderr: string }) => error,
          );
          expect(failure.stderr).to.include('PostgreSQL');
          expect((await run('queue-state')).stdout).to.match(/^paused by /);
        },

        'change nothing without a reason or with a word that they do not know': async () => {
          const relay = await steeredRelay();
          for (const args of [
            ['gateway-state', 'stop', 'primary'],
            ['gateway-state', 'stop', 'both', '--reason', 'a'],
            ['gateway-state', 'end', 'primary', '--reason', 'a'],
            ['queue-state', 'pause'],
            ['queue-state', 'stop', '--reason', 'a'],
          ]) {
            const [script, ...rest] = args;
            const file = fileURLToPath(new URL(`../../src/commands/${script}.ts`, import.meta.url));
            const failure = await execute(process.execPath, [file, ...rest]).catch((error: { code: number }) => error);
            expect(failure, args.join(' ')).to.include({ code: 1 });
          }
          expect(await relay.gateway('primary')).to.include({ state: 'open' });
        },
      },

      'a worker': {
        'takes nothing while it cannot read what was decided, says so, and goes on by itself': async () => {
          const relay = await steeredRelay();
          const key = steeringKey({ name: 'payments', prefix: relay.prefix });
          await relay.redis.set(key, 'of another program');
          const id = await relay.post();
          await relay.work();
          const cause = await eventually(async () => {
            const problems = (await relay.health()).problems ?? [];
            return problems.find(({ code }) => code === 'wrong_type')?.['cause'];
          });
          expect(cause).to.match(/^workers take no payments/);
          expect(relay.primary.posts).to.deep.equal([]);
          await relay.redis.del(key);
          await relay.recorded([id]);
        },

        'sends nothing to a gateway whose state it cannot read': async () => {
          const relay = await steeredRelay();
          await relay.redis.hset(
            steeringKey({ name: 'payments', prefix: relay.prefix }),
            'primary',
            '{"state":"later"}',
          );
          await relay.post();
          await relay.work();
          await eventually(async () => (await relay.active()).length === 1);
          await relay.followed('primary');
          expect(await relay.gateway('primary')).to.include({ state: 'stopped' });
          expect(relay.primary.posts).to.deep.equal([]);
        },
      },
    },
    { atOnce: 4 },
  );
});
