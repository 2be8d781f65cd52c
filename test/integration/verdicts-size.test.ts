import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { expect } from 'chai';
import { eventually } from '../support/relay.ts';
import { charged, json, type Reply, respond, scriptedGateway } from '../support/scripted-gateway.ts';
import { ledgerReader } from '../support/scripted-relay.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { startTestStack } from '../support/stack.ts';

const MEGABYTE = 1_000_000;
const MEMORY_BUDGET = 200 * MEGABYTE;

const BODY_20_MB = Buffer.alloc(20 * MEGABYTE, 'x');

/** Sends until the other end closes the connection. */
const endless =
  (status: number, headers: Readonly<Record<string, string>> = {}): Reply =>
  ({ response }) => {
    const chunk = Buffer.alloc(65_536, 'x');
    response.writeHead(status, headers);
    const send = () => {
      while (!response.destroyed && response.write(chunk));
    };
    response.on('drain', send);
    send();
  };

/** The peak memory of a process, in bytes; its current memory where the system does not show the peak. */
function peakBytes(pid: number): number {
  const status = `/proc/${pid}/status`;
  const kilobytes = existsSync(status)
    ? /VmHWM:\s*(\d+)/.exec(readFileSync(status, 'utf8'))![1]
    : execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' });
  return Number(kilobytes) * 1024;
}

/**
 * Runs a worker process with sixteen payments that each get this response. @returns among others its gateway and the peak of
 * its memory
 */
async function survive(reply: Reply, { isOver }: { isOver: (recorded: number, sent: number) => boolean }) {
  const primary = await scriptedGateway();
  primary.onPayment = () => reply;
  const stack = await startTestStack({
    env: {
      GATEWAY_PRIMARY_URL: primary.url,
      // A machine busy with megabytes must not look like a hanging gateway.
      GATEWAY_RECEIVE_TIMEOUT_MS: '5000',
      GATEWAY_TIMEOUT_CAP_MS: '5000',
      LOG_LEVEL: 'info',
    },
  });
  const ledger = await ledgerReader(stack.databaseUrl);
  const ids = await stack.postMany(16);
  await eventually(async () => isOver((await ledger()).size, primary.posts.length), 25_000);
  return { primary, stack, ids, ledger, peak: peakBytes(stack.workers[0]!.pid) };
}

/** A body over 64 KiB proves nothing, whatever its start. The look-up decides, and the payment is recorded. */
async function expectPaidWithinMemory(reply: Reply): Promise<void> {
  const { primary, peak, ledger } = await survive(charged(reply), { isOver: (recorded) => recorded === 16 });
  expect(peak).to.be.below(MEMORY_BUDGET);
  expect(primary.posts, 'sends').to.have.length(16);
  expect(primary.lookUps, 'look-ups').to.have.length(16);
  const rows = await ledger();
  const times = [...rows].map(([id, { requestedAt }]) => [id, requestedAt]).sort();
  expect(times).to.deep.equal([...primary.onRecord].map(([id, { requestedAt }]) => [id, requestedAt]).sort());
}

/** Nothing is recorded, there is no dead letter, and the payments are sent again. */
async function expectUnpaidWithinMemory(reply: Reply): Promise<void> {
  const { stack, peak, ids, ledger } = await survive(reply, { isOver: (_, sent) => sent >= 18 });
  expect(peak).to.be.below(MEMORY_BUDGET);
  expect([...(await ledger()).keys()]).to.deep.equal([]);
  expect(await stack.redis.zcard(stack.queueKey('failed')), 'dead letters').to.equal(0);
  const alive = await Promise.all(ids.map((id) => stack.redis.exists(stack.queueKey(id))));
  expect(
    alive.filter((exists) => exists === 0),
    'lost',
  ).to.deep.equal([]);
}

describe('a response larger than 64 KiB', () => {
  sideBySide(
    {
      'of 20 MB with 200 takes no memory, and the look-up decides': async () => {
        await expectPaidWithinMemory(respond(200, BODY_20_MB));
      },
      'without an end, with 200, takes no memory, and the look-up decides': async () => {
        await expectPaidWithinMemory(endless(200));
      },
      'that is small only while compressed takes no memory, and the look-up decides': async () => {
        await expectPaidWithinMemory(respond(200, gzipSync(BODY_20_MB), { 'content-encoding': 'gzip' }));
      },
      'of 20 MB of JSON with 400 takes no memory and is no dead letter': async () => {
        await expectUnpaidWithinMemory(json(400, { message: 'x'.repeat(20 * MEGABYTE) }));
      },
      'without an end, with 502, takes no memory': async () => {
        await expectUnpaidWithinMemory(endless(502, { 'content-type': 'text/html' }));
      },
      'as a look-up, without an end, takes no memory and proves nothing': async () => {
        const reply: Reply = (arrival, gateway) => {
          gateway.onLookUp = () => endless(200);
          json(422, { message: 'CorrelationId already exists' })(arrival, gateway);
        };
        await expectUnpaidWithinMemory(reply);
      },
    },
    { atOnce: 3 },
  );
});
