import { randomUUID } from 'node:crypto';
import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange } from '../support/http-client.ts';
import { aPayment, eventually } from '../support/relay.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS, startTestStack, type TestStack } from '../support/stack.ts';

const CALLS = 10_000;
const CLIENTS = 16;
const PAYMENTS = 2_500;

/** More than Redis keeps of them, so that of some only the row is left. */
const DEAD_LETTERS = 120;

type State = 'paid' | 'unresolved' | 'in_flight' | 'retrying' | 'queued' | 'dead_letter' | 'discarded';

interface Status {
  readonly state: State;
  readonly reason?: string;
  readonly [field: string]: unknown;
}

/** Asks one API after the other, over keep-alive connections. */
function asker({ apis }: Pick<TestStack, 'apis'>) {
  const agent = new Agent({ keepAlive: true, maxSockets: CLIENTS });
  atTestEnd(() => agent.destroy());
  let calls = 0;
  return {
    get calls() {
      return calls;
    },
    async status(id: string): Promise<Status> {
      const { url } = apis[calls++ % apis.length]!;
      const { status, text } = await exchange(`${url}/payments/${id}`, { method: 'GET', agent });
      expect(status, text).to.equal(200);
      return JSON.parse(text) as Status;
    },
  };
}

/** What the states of a payment may be, seen one call after the other. */
function witness() {
  const seen = new Map<State, number>();
  const lastOf = new Map<string, State>();
  const wrong: string[] = [];
  return {
    seen,
    wrong,
    /** Call it before the request. @returns a function to call with the response */
    watch(id: string, mayBeDead: boolean): (status: Status) => void {
      // Seen before this call began. Other calls may overlap with it.
      const before = lastOf.get(id);
      return ({ state }) => {
        seen.set(state, (seen.get(state) ?? 0) + 1);
        if (before === 'paid' && state !== 'paid') wrong.push(`${id}: paid, then ${state}`);
        if (state === 'dead_letter' && !mayBeDead) wrong.push(`${id}: dead_letter, and its payload is valid`);
        if (lastOf.get(id) !== 'paid') lastOf.set(id, state);
      };
    },
  };
}

describe('GET /payments/{correlationId} of a relay of processes', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide({
    'finds each of thousands of payments in each of 10,000 calls, while they move, a worker is killed and dead letters are posted again':
      async () => {
        const stack = await startTestStack({ apis: 2, workers: 2 });
        const { primary, apis, workers, accepted, post, startWorker, settled, isQueueEmpty, redis, queueKey } = stack;
        primary.set({ delayMs: 5 });
        const ask = asker(stack);
        const { seen, wrong, watch } = witness();
        const dead = Array.from({ length: DEAD_LETTERS }, (): string => randomUUID());
        for (const correlationId of dead) {
          const body = JSON.stringify({ correlationId, amount: -1 });
          expect((await exchange(`${apis[0]!.url}/payments`, { body })).status).to.equal(204);
        }
        const isDead = new Set(dead);
        const known = [...dead];

        let sent = 0;
        async function postAll(): Promise<void> {
          while (sent < PAYMENTS) {
            sent += 1;
            const payment = aPayment(sent / 100);
            await post(payment);
            known.push(payment.correlationId);
          }
        }
        /** Queues a dead letter again, with a valid amount. */
        async function postAgain(correlationId: string): Promise<void> {
          await eventually(async () => (await ask.status(correlationId)).state === 'dead_letter', PATIENCE_MS);
          await post({ correlationId, amount: 1 });
        }
        async function killOne(): Promise<void> {
          await primary.waitFor(({ payments }) => payments.size >= PAYMENTS / 5, PATIENCE_MS);
          await workers[0]!.kill();
          // As the latest ones they are asked for again and again, also in the seconds until another worker takes them over.
          known.push(...(await redis.lrange(queueKey('active'), 0, -1)));
          await startWorker();
        }
        let isOver = false;
        const clients = Array.from({ length: CLIENTS }, async () => {
          while (!isOver || ask.calls < CALLS) {
            // The latest move; of the others some are paid.
            const from = Math.random() < 0.7 ? Math.max(0, known.length - 200) : 0;
            const id = known[from + Math.floor(Math.random() * (known.length - from))]!;
            const saw = watch(id, isDead.has(id));
            saw(await ask.status(id));
            if (ask.calls > CALLS) await sleep(5);
          }
        });
        const moves = Promise.all([postAll(), postAll(), postAll(), killOne(), ...dead.map(postAgain)])
          .then(() => eventually(isQueueEmpty, PATIENCE_MS))
          .finally(() => {
            isOver = true;
          });
        await Promise.all([moves, ...clients]);

        expect(wrong).to.deep.equal([]);
        expect(ask.calls).to.be.at.least(CALLS);
        // The states between are short, and which calls meet them is chance. The next test provokes each.
        expect([...seen.keys()]).to.include.members(['paid', 'dead_letter']);
        await settled();
        for (const id of accepted) expect((await ask.status(id)).state, id).to.equal('paid');
      },

    'follows a payment whose worker is killed: in flight, unresolved, paid': async () => {
      const stack = await startTestStack({ workers: 1 });
      const { primary, workers, post, startWorker, settled } = stack;
      const { status } = asker(stack);
      primary.set({ delayMs: 600 });
      const payment = aPayment();
      await post(payment);
      const until = (fields: Partial<Status>) =>
        eventually(async () => {
          const found = await status(payment.correlationId);
          return Object.entries(fields).every(([name, value]) => found[name] === value) && found;
        }, PATIENCE_MS);
      await primary.waitFor(({ requests }) => requests.inFlight === 1, PATIENCE_MS);
      await until({ state: 'in_flight', reason: 'being_paid' });
      await workers[0]!.kill();
      const lost = await until({ state: 'unresolved', reason: 'worker_lost' });
      expect(lost).to.include({ boundTo: 'primary', attempts: 1 });
      await startWorker();
      expect(await until({ state: 'paid' })).to.include({ gateway: 'primary', amount: payment.amount });
      await settled();
    },
  });
});
