import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type Job, UnrecoverableError } from 'bullmq';
import { addStandardJob } from 'bullmq/dist/cjs/scripts/addStandardJob-9.js';
import { expect } from 'chai';
import { QueueFullError, QueueUnavailableError } from '../../src/errors.ts';
import { ENQUEUE_SCRIPT } from '../../src/queue/enqueue-script.ts';
import { createEnqueuer, type Enqueuer, type NewJob } from '../../src/queue/enqueuer.ts';
import { JOB_NAME, JOB_OPTIONS } from '../../src/queue/payment-queue.ts';
import { createProducerConnection } from '../../src/queue/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { bullQueue, bullWorker, lookInto } from '../support/queue.ts';
import { aPayment } from '../support/relay.ts';
import { freshPrefix, sharedRedis } from '../support/services.ts';
import { countPayments } from '../support/shards.ts';

/** An enqueuer like that of an API node, with a queue of the test's own to look into. */
async function enqueuerOf({ maxSize = Number.POSITIVE_INFINITY, prefix = freshPrefix() } = {}) {
  const redis = createProducerConnection({ url: (await sharedRedis()).url, clusterNodes: [] });
  atTestEnd(() => redis.disconnect());
  await once(redis, 'ready');
  const enqueuer = createEnqueuer({
    redis,
    queue: { name: 'payments', prefix },
    maxSize,
    serverCheck: { fault: undefined },
  });
  atTestEnd(() => enqueuer.close());
  const queue = await lookInto(prefix);
  return { enqueuer, prefix, queue, count: () => countPayments(queue.redis, { name: 'payments', prefix }) };
}

function aJob(fields: object = {}): NewJob & { id: string } {
  const payment = aPayment();
  return { id: payment.correlationId, data: JSON.stringify({ ...payment, ...fields }) };
}

/** Enqueues all in one batch. @returns of each `ok` or the code of its error */
async function resultsOf(enqueuer: Enqueuer, jobs: readonly NewJob[]): Promise<string[]> {
  const settled = await Promise.allSettled(jobs.map((job) => enqueuer.enqueue(job)));
  return settled.map((result) => (result.status === 'fulfilled' ? 'ok' : result.reason.code));
}

/** Takes the next job and ends it as a dead letter, as the worker does with a payload it cannot use. */
async function makeDeadLetter(prefix: string, reason = 'invalid_payment'): Promise<Job> {
  const worker = await bullWorker(prefix);
  const job = (await worker.getNextJob('token'))!;
  await job.moveToFailed(new UnrecoverableError(reason), 'token', false);
  return job;
}

describe('the BullMQ that the enqueuer was made for', () => {
  it('is the one installed, and the one pinned', () => {
    const read = (path: string) => JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'));
    const whatToDo =
      'BullMQ is not the 6.7.0 that src/queue/enqueue-script.ts embeds. Before this version is raised, re-check in the new ' +
      'one: commands/addStandardJob (file name and number of KEYS, the order of KEYS and ARGV, that cmsgpack is used for ' +
      'nothing but unpacking ARGV, that it returns the id); the names of the lists and sets the cap counts ' +
      '(wait, delayed, prioritized) and of the set of dead letters (failed); the job fields ats, atm and progress, which ' +
      'carry over what job-runs.ts reads of earlier runs. Then run test/integration and the chaos test.';
    expect(read('../../node_modules/bullmq/package.json').version, whatToDo).to.equal('6.7.0');
    expect(read('../../package.json').dependencies.bullmq, whatToDo).to.equal('6.7.0');
    expect(addStandardJob.keys, whatToDo).to.equal(9);
    expect(ENQUEUE_SCRIPT).to.include(addStandardJob.content);
  });
});

describe('enqueuer', () => {
  /** Everything in Redis that a worker or the dashboard sees of a queue, but for the times. */
  async function traces(prefix: string) {
    const { redis, key, job, waiting, keys } = await lookInto(prefix);
    const ids = await waiting();
    const jobs = [];
    for (const id of ids) {
      const { timestamp, opts, ...fields } = await job(id);
      expect(Number(timestamp)).to.be.closeTo(Date.now(), 60_000);
      // BullMQ keeps the id among the options as well, where only its own `add` reads it.
      const { jobId: _, ...options } = JSON.parse(opts!);
      jobs.push({ ...fields, options });
    }
    return {
      ids,
      jobs,
      keys: await keys(),
      marker: await redis.zrange(key('marker'), 0, -1, 'WITHSCORES'),
      events: (await redis.xrange(key('events'), '-', '+')).map(([, fields]) => fields),
      counter: await redis.get(key('id')),
    };
  }

  /** Compares the jobs of the enqueuer with those of `queue.addBulk`, in every field, each in a queue prepared alike. */
  async function expectSameJobs(prepare: (prefix: string) => Promise<unknown>): Promise<void> {
    const payloads = [aPayment(), [1, 'two'], aPayment(0.01), null, 'text', { correlationId: 'x' }, aPayment(1e6)];
    const id = (payload: unknown) => {
      const { correlationId } = (payload ?? {}) as { correlationId?: string };
      return correlationId?.length === 36 ? correlationId : undefined;
    };
    const [ours, theirs] = [freshPrefix(), freshPrefix()];
    await prepare(ours);
    await prepare(theirs);
    const { enqueuer } = await enqueuerOf({ prefix: ours });
    await resultsOf(
      enqueuer,
      payloads.map((payload) => ({ id: id(payload), data: JSON.stringify(payload) })),
    );
    const bull = await bullQueue(theirs);
    await bull.addBulk(
      payloads.map((data) => {
        const jobId = id(data);
        return { name: JOB_NAME, data, opts: { ...JOB_OPTIONS, ...(jobId !== undefined && { jobId }) } };
      }),
    );
    const made = await traces(ours);
    expect(made.ids.filter((made) => made !== 'first')).to.have.length(payloads.length);
    // The time at which the delayed job is due is its own.
    const timeless = ({ marker, events, ...rest }: typeof made) => ({
      ...rest,
      marker: marker.map((entry) => (Number(entry) > 1 ? 'a time' : entry)),
      events: events.map((event) => event.map((value) => (/^\d{13}$/.test(value) ? 'a time' : value))),
    });
    expect(timeless(made)).to.deep.equal(timeless(await traces(theirs)));
  }

  it('makes the same jobs as queue.addBulk in an empty queue', () => expectSameJobs(async () => {}));

  it('makes the same jobs as queue.addBulk in a paused queue', () =>
    expectSameJobs(async (prefix) => (await bullQueue(prefix)).pause()));

  it('makes the same jobs as queue.addBulk in a queue at its global concurrency', () =>
    expectSameJobs(async (prefix) => {
      const queue = await bullQueue(prefix);
      await queue.setGlobalConcurrency(1);
      await queue.add(JOB_NAME, 'first', { jobId: 'first' });
      await (await bullWorker(prefix)).getNextJob('token');
    }));

  it('makes the same jobs as queue.addBulk in a queue with delayed jobs', () =>
    expectSameJobs(async (prefix) => {
      await (await bullQueue(prefix)).add(JOB_NAME, 'later', { jobId: 'later', delay: 60_000 });
    }));

  it("makes jobs that BullMQ's own worker processes, in their order", async () => {
    const { enqueuer, prefix, queue } = await enqueuerOf();
    const jobs = Array.from({ length: 5 }, () => aJob());
    const numbered = { id: undefined, data: '[1]' };
    await resultsOf(enqueuer, [...jobs, numbered]);
    const seen: Job[] = [];
    let isDone: () => void;
    const done = new Promise<void>((resolve) => {
      isDone = resolve;
    });
    const worker = await bullWorker(prefix, async (job) => {
      // BullMQ goes on counting on the object it has handed out.
      expect([job.attemptsStarted, job.attemptsMade, job.stalledCounter]).to.deep.equal([1, 0, 0]);
      seen.push(job);
      if (seen.length === 6) isDone();
    });
    await done;
    await worker.close();
    expect(seen.map(({ id }) => id)).to.deep.equal([...jobs.map(({ id }) => id), '6']);
    expect(seen.map(({ data }) => JSON.stringify(data))).to.deep.equal([...jobs, numbered].map(({ data }) => data));
    for (const job of seen) {
      expect(job.name).to.equal('payment');
      expect(job.opts).to.deep.include({ attempts: 1_000_000_000, backoff: { type: 'requeue' }, stackTraceLimit: 1 });
      expect(job.timestamp).to.be.closeTo(Date.now(), 60_000);
    }
    expect(await queue.waiting()).to.deep.equal([]);
  });

  it('wakes a worker that waits', async () => {
    const { enqueuer, prefix } = await enqueuerOf();
    const processed = new Promise<Job>((resolve, reject) => {
      bullWorker(prefix, async (job) => resolve(job)).catch(reject);
    });
    const job = aJob();
    await enqueuer.enqueue(job);
    expect((await processed).id).to.equal(job.id);
  });

  it('stores the text as it is', async () => {
    const { enqueuer, queue } = await enqueuerOf();
    const texts = [
      '{ "amount" : 19.90,\n\t"b":1e2 }',
      '123456789012345678901234567890',
      '"\\u0000\u{1f4b8}"',
      ' null ',
    ];
    await resultsOf(
      enqueuer,
      texts.map((data) => ({ id: undefined, data })),
    );
    for (const [index, text] of texts.entries()) expect((await queue.job(String(index + 1)))['data']).to.equal(text);
  });

  it('keeps a hundred events where BullMQ keeps ten thousand, and leaves another limit as it is', async () => {
    const { enqueuer, queue } = await enqueuerOf();
    await enqueuer.enqueue(aJob());
    expect(await queue.redis.hgetall(queue.key('meta'))).to.deep.equal({ 'opts.maxLenEvents': '100' });
    await queue.redis.hset(queue.key('meta'), 'opts.maxLenEvents', '5000');
    await enqueuer.enqueue(aJob());
    expect(await queue.redis.hget(queue.key('meta'), 'opts.maxLenEvents')).to.equal('5000');
  });

  it('bounds the stream of events', async () => {
    const { enqueuer, queue } = await enqueuerOf();
    await resultsOf(
      enqueuer,
      Array.from({ length: 1000 }, () => aJob()),
    );
    // Redis trims whole nodes of a hundred entries.
    expect(await queue.redis.xlen(queue.key('events'))).to.be.at.most(300);
  });

  it('settles each payment of a batch by its own result', async () => {
    const { enqueuer, queue } = await enqueuerOf({ maxSize: 3 });
    const [queued, first, second, third] = [aJob(), aJob(), aJob(), aJob()];
    await enqueuer.enqueue(queued);
    expect(await resultsOf(enqueuer, [first, queued, second, third, first, aJob(), second])).to.deep.equal([
      'ok',
      'ok',
      'ok',
      'queue_full',
      'ok',
      'queue_full',
      'ok',
    ]);
    expect(await queue.waiting()).to.deep.equal([queued.id, first.id, second.id]);
  });

  it('enqueues any number of payments at once, each once and in order', async () => {
    const { enqueuer, queue } = await enqueuerOf();
    const jobs = Array.from({ length: 1500 }, () => aJob());
    expect(new Set(await resultsOf(enqueuer, jobs))).to.deep.equal(new Set(['ok']));
    expect(await queue.waiting()).to.deep.equal(jobs.map(({ id }) => id));
  });

  it('rejects with QueueFullError and a Retry-After at the cap', async () => {
    const { enqueuer } = await enqueuerOf({ maxSize: 1 });
    await enqueuer.enqueue(aJob());
    const error = await enqueuer.enqueue(aJob()).catch((reason) => reason);
    expect(error).to.be.instanceOf(QueueFullError);
    expect(error).to.deep.include({ code: 'queue_full', status: 503, headers: { 'Retry-After': '1' } });
  });

  it('rejects with QueueUnavailableError after its close', async () => {
    const { enqueuer } = await enqueuerOf();
    const accepted = enqueuer.enqueue(aJob());
    const closed = enqueuer.close();
    expect(await enqueuer.enqueue(aJob()).catch((reason) => reason)).to.be.instanceOf(QueueUnavailableError);
    await Promise.all([accepted, closed]);
  });

  describe('given an id that is queued already', () => {
    const first = aJob({ note: 'first' });
    const again = { ...first, data: first.data.replace('first', 'second') };

    /** Checks that the payment is there once, as it was first posted, and counted as before. */
    async function expectOnce({ enqueuer, queue, count }: Awaited<ReturnType<typeof enqueuerOf>>): Promise<void> {
      const before = await count();
      const keys = await queue.keys();
      expect(await resultsOf(enqueuer, [again, again])).to.deep.equal(['ok', 'ok']);
      expect((await queue.job(first.id))['data']).to.equal(first.data);
      expect(await count()).to.deep.equal(before);
      expect(await queue.keys()).to.deep.equal(keys);
    }

    it('succeeds and keeps the first while it waits', async () => {
      const it = await enqueuerOf();
      await it.enqueuer.enqueue(first);
      await expectOnce(it);
      expect(await it.queue.waiting()).to.deep.equal([first.id]);
    });

    it('succeeds and keeps the first of one batch', async () => {
      const { enqueuer, queue } = await enqueuerOf();
      expect(await resultsOf(enqueuer, [first, again, again])).to.deep.equal(['ok', 'ok', 'ok']);
      expect(await queue.waiting()).to.deep.equal([first.id]);
      expect((await queue.job(first.id))['data']).to.equal(first.data);
    });

    it('succeeds and keeps the first while it is in flight', async () => {
      const it = await enqueuerOf();
      await it.enqueuer.enqueue(first);
      await (await bullWorker(it.prefix)).getNextJob('token');
      await expectOnce(it);
      expect(await it.queue.waiting()).to.deep.equal([]);
    });

    it('succeeds and keeps the first while it is delayed', async () => {
      const it = await enqueuerOf();
      await it.enqueuer.enqueue(first);
      const job = (await (await bullWorker(it.prefix)).getNextJob('token'))!;
      await job.moveToDelayed(Date.now() + 60_000, 'token');
      await expectOnce(it);
      expect(await it.queue.waiting()).to.deep.equal([]);
    });

    it('succeeds and keeps the first at the cap', async () => {
      const it = await enqueuerOf({ maxSize: 1 });
      await it.enqueuer.enqueue(first);
      await expectOnce(it);
      expect(await resultsOf(it.enqueuer, [aJob()])).to.deep.equal(['queue_full']);
    });

    it('enqueues it anew once it was processed', async () => {
      const { enqueuer, prefix, queue } = await enqueuerOf();
      await enqueuer.enqueue(first);
      const job = (await (await bullWorker(prefix)).getNextJob('token'))!;
      await job.moveToCompleted(undefined, 'token', false);
      expect(await queue.isStored(first.id)).to.equal(false);
      await enqueuer.enqueue(again);
      expect((await queue.job(first.id))['data']).to.equal(again.data);
    });
  });

  describe('given the id of a dead letter', () => {
    it('enqueues it anew, with the new payload and nothing left of the failure', async () => {
      const { enqueuer, prefix, queue } = await enqueuerOf();
      const first = aJob({ amount: -1 });
      await enqueuer.enqueue(first);
      const dead = await makeDeadLetter(prefix);
      await dead.log('looked at it');
      expect(await queue.job(first.id)).to.include.keys('failedReason', 'finishedOn', 'stacktrace');
      const other = aJob();
      await enqueuer.enqueue(other);

      const again = { ...first, data: first.data.replace('-1', '1') };
      await enqueuer.enqueue(again);
      expect(await queue.waiting()).to.deep.equal([other.id, first.id]);
      expect(await queue.redis.zcard(queue.key('failed'))).to.equal(0);
      const job = await queue.job(first.id);
      expect(job['data']).to.equal(again.data);
      expect(job).to.not.have.any.keys('failedReason', 'finishedOn', 'processedOn', 'stacktrace', 'returnvalue');
      expect(await queue.redis.exists(`${queue.key(first.id)}:logs`)).to.equal(0);
    });

    it('keeps the fields that say whether it may have been paid: ats, atm and progress', async () => {
      const { enqueuer, prefix, queue } = await enqueuerOf();
      const first = aJob();
      await enqueuer.enqueue(first);
      const worker = await bullWorker(prefix);
      for (const end of [
        (job: Job) => job.moveToDelayed(Date.now(), 'token'),
        (job: Job) => job.moveToDelayed(Date.now(), 'token'),
        (job: Job) => job.moveToFailed(new UnrecoverableError('invalid_payment'), 'token', false),
      ]) {
        const job = (await worker.getNextJob('token'))!;
        await job.updateProgress({ gateway: 'fallback' });
        await end(job);
      }
      const history = (({ ats, atm, progress }) => ({ ats, atm, progress }))(await queue.job(first.id));
      expect(history).to.deep.equal({ ats: '3', atm: '1', progress: '{"gateway":"fallback"}' });

      await enqueuer.enqueue(first);
      expect(await queue.job(first.id)).to.include(history);
      const job = (await worker.getNextJob('token'))!;
      expect(job.id).to.equal(first.id);
      expect(job.attemptsStarted).to.equal(4);
      expect(job.attemptsMade).to.equal(1);
      expect(job.progress).to.deep.equal({ gateway: 'fallback' });
    });

    it('adds none of those fields when they were missing', async () => {
      const { enqueuer, prefix, queue } = await enqueuerOf();
      const first = aJob();
      await enqueuer.enqueue(first);
      await makeDeadLetter(prefix);
      await queue.redis.hdel(queue.key(first.id), 'ats', 'atm');
      await enqueuer.enqueue(first);
      expect(await queue.job(first.id)).to.have.all.keys('name', 'data', 'opts', 'timestamp', 'delay', 'priority');
    });

    it('enqueues it once, however often it is in the batch', async () => {
      const { enqueuer, prefix, queue } = await enqueuerOf();
      const first = aJob();
      await enqueuer.enqueue(first);
      await makeDeadLetter(prefix);
      expect(await resultsOf(enqueuer, [first, first, first])).to.deep.equal(['ok', 'ok', 'ok']);
      expect(await queue.waiting()).to.deep.equal([first.id]);
    });

    it('does not accept it at the cap, and leaves the dead letter as it is', async () => {
      const { enqueuer, prefix, queue } = await enqueuerOf({ maxSize: 1 });
      const first = aJob();
      await enqueuer.enqueue(first);
      await makeDeadLetter(prefix, 'a reason to keep');
      await enqueuer.enqueue(aJob());
      const before = await queue.job(first.id);
      expect(await resultsOf(enqueuer, [first])).to.deep.equal(['queue_full']);
      expect(await queue.job(first.id)).to.deep.equal(before);
      expect(before['failedReason']).to.equal('a reason to keep');
      expect(await queue.redis.zscore(queue.key('failed'), first.id)).to.be.a('string');
    });
  });

  it('counts waiting, delayed and prioritized jobs, and active ones apart', async () => {
    const { enqueuer, prefix, count } = await enqueuerOf();
    const queue = await bullQueue(prefix);
    expect(await count()).to.deep.equal({ size: 0, inFlight: 0 });
    await resultsOf(enqueuer, [aJob(), aJob(), aJob(), { id: undefined, data: 'null' }]);
    await queue.add(JOB_NAME, {}, { delay: 60_000, jobId: randomUUID() });
    await queue.add(JOB_NAME, {}, { priority: 5 });
    await (await bullWorker(prefix)).getNextJob('token');
    expect(await count()).to.deep.equal({ size: 5, inFlight: 1 });
  });
});
