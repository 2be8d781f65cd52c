import { dirname, relative } from 'node:path/posix';
import { expect } from 'chai';
import { layerFaults } from '../../../dev/lint-layers.ts';

describe('the layers of src', () => {
  it('are kept by every kind of import', () => {
    const kinds = [
      "import { createApp } from '../http/app.ts';",
      "import type { App } from '../http/app.ts';",
      "import { type App } from '../http/app.ts';",
      "import {\n  type App,\n} from '../http/app.ts';",
      "import '../http/app.ts';",
      "export { createApp } from '../http/app.ts';",
      "export type { App } from '../http/app.ts';",
      "export * from '../http/app.ts';",
      "const app = await import('../http/app.ts');",
      "type App = import('../http/app.ts').App;",
      "import type { App } from './../http/app.ts';",
      "import type { App } from '../../src/http/app.ts';",
    ];
    for (const kind of kinds) {
      const [fault, ...others] = layerFaults('src/ledger/ledger.ts', kind);
      expect(fault, kind).to.match(/^src\/ledger\/ledger\.ts:\d ledger must not import http\/app\.ts$/);
      expect(others).to.deep.equal([]);
    }
  });

  it('point one way', () => {
    const forbidden: [from: string, to: string][] = [
      ['config.ts', 'queue/redis.ts'],
      ['errors.ts', 'http/app.ts'],
      ['payment.ts', 'ledger/ledger.ts'],
      ['batcher.ts', 'telemetry/events.ts'],
      ['process/logger.ts', 'telemetry/events.ts'],
      ['telemetry/events.ts', 'queue/redis.ts'],
      ['http/app.ts', 'gateways/gateway.ts'],
      ['http/operator/health.ts', 'processing/route.ts'],
      ['http/app.ts', 'commands/reconcile.ts'],
      ['queue/redis.ts', 'processing/route.ts'],
      ['queue/redis.ts', 'ledger/ledger.ts'],
      ['queue/redis.ts', 'gateways/gateway.ts'],
      ['queue/redis.ts', 'operations/bury-failed-jobs.ts'],
      ['gateways/circuit.ts', 'queue/redis.ts'],
      ['gateways/circuit.ts', 'ledger/ledger.ts'],
      ['gateways/circuit.ts', 'processing/route.ts'],
      ['ledger/ledger.ts', 'queue/redis.ts'],
      ['ledger/ledger.ts', 'gateways/gateway.ts'],
      ['processing/route.ts', 'queue/redis.ts'],
      ['operations/bury-failed-jobs.ts', 'gateways/gateway.ts'],
      ['operations/bury-failed-jobs.ts', 'http/app.ts'],
      ['commands/reconcile.ts', 'http/app.ts'],
      ['http/app.ts', 'api.ts'],
      ['commands/console.ts', 'worker.ts'],
    ];
    for (const [from, to] of forbidden) {
      const text = `import type { It } from './${relative(dirname(from), to)}';`;
      expect(layerFaults(`src/${from}`, text), `${from} -> ${to}`).to.have.lengthOf(1);
    }
  });

  it('let the entries import everything, and the queue the contract of a run', () => {
    const entry = "import { createApp } from './http/app.ts';\nconst { startApi } = await import('./api.ts');";
    expect(layerFaults('src/main.ts', entry)).to.deep.equal([]);
    const run = "import { type PaymentRun } from '../processing/payment-run.ts';";
    expect(layerFaults('src/queue/payment-worker.ts', run)).to.deep.equal([]);
  });

  it('let processing import types of the ledger, no values', () => {
    expect(layerFaults('src/processing/route.ts', "import type { A } from '../ledger/recorder.ts';")).to.deep.equal([]);
    expect(layerFaults('src/processing/route.ts', "import { a } from '../ledger/recorder.ts';")).to.deep.equal([
      'src/processing/route.ts:1 processing must import ledger/recorder.ts for its types only: `import type`',
    ]);
  });

  it('keep libraries in their rooms', () => {
    for (const library of ['express', 'bullmq', '@bull-board/api', 'bullmq/dist/cjs/index.js']) {
      const faults = layerFaults('src/processing/route.ts', `import type { A } from '${library}';`);
      expect(faults, library).to.have.lengthOf(1);
    }
    expect(layerFaults('src/queue/redis.ts', "import { Redis } from 'ioredis';\nimport 'node:fs';")).to.deep.equal([]);
  });

  it('keep src free of what stands beside it', () => {
    for (const target of ['../../dev/run.ts', '../../test/support/queue.ts', '../../rinha/run.ts']) {
      expect(layerFaults('src/queue/redis.ts', `import '${target}';`), target).to.have.lengthOf(1);
    }
    expect(layerFaults('dev/run.ts', "import '../test/support/queue.ts';")).to.have.lengthOf(1);
    expect(layerFaults('dev/run.ts', "import '../src/config.ts';")).to.deep.equal([]);
    expect(layerFaults('rinha/run.ts', "import '../dev/run.ts';")).to.deep.equal([]);
  });

  it('name a file that is in no listed room, whatever it imports', () => {
    for (const file of ['src/utils/index.ts', 'src/helpers.ts']) {
      expect(layerFaults(file, "import '../config.ts';"), file).to.include(
        `${file}:1 is in no room that dev/lint-layers.ts lists`,
      );
    }
  });

  it("keep BullMQ's insides in one file", () => {
    expect(layerFaults('src/queue/enqueuer.ts', "const a = 1;\nconst runs = job['ats'];")).to.deep.equal([
      "src/queue/enqueuer.ts:2 must leave BullMQ's 'ats' to src/queue/bullmq-layout.ts",
    ]);
    expect(layerFaults('src/queue/enqueuer.ts', 'score * 4096')).to.have.lengthOf(1);
    expect(layerFaults('src/queue/bullmq-layout.ts', "'atm', 'progress', 4096")).to.deep.equal([]);
  });
});
