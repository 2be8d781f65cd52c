import { parseArgs } from 'node:util';
import { type PausedQueue, pauseQueue, resumeQueue, showQueue } from '../operations/pause-queue.ts';
import { runTool } from '../process/run-tool.ts';
import { withSteering } from './steering.ts';
import { whoRuns } from './who.ts';

const USAGE = `npm run queue-state -- show
npm run queue-state -- pause|resume --reason …`;

/** `npm run queue-state`: shows whether the queue is paused, pauses it, or ends the pause. @returns the exit code */
async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { reason: { type: 'string' } } });
  const [act = 'show'] = positionals;
  const reason = values.reason?.trim();
  if (act === 'show') {
    print(await withSteering(showQueue));
    return 0;
  }
  const change = act === 'pause' ? pauseQueue : act === 'resume' ? resumeQueue : undefined;
  if (change === undefined || !reason) {
    console.error(USAGE);
    return 1;
  }
  print(await withSteering((deps) => change({ who: whoRuns(), reason }, deps)));
  return 0;
}

function print({ isPaused, by, inFlight }: PausedQueue): void {
  const why = by === undefined ? '' : ` by ${by.who} since ${by.at}${by.reason === undefined ? '' : `: ${by.reason}`}`;
  console.log(`${isPaused ? 'paused' : 'not paused'}${why}; ${inFlight} payments in flight`);
}

runTool(import.meta, main);
