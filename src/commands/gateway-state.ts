import { parseArgs } from 'node:util';
import {
  readSteeredGateways,
  STEERING_ACTS,
  type SteeredGateway,
  type SteeringAct,
  steerGateway,
} from '../operations/steer.ts';
import { runTool } from '../process/run-tool.ts';
import { withSteering } from './steering.ts';
import { whoRuns } from './who.ts';

const USAGE = `npm run gateway-state -- show
npm run gateway-state -- stop|drain|resume primary|fallback --reason …`;

/** `npm run gateway-state`: shows how both gateways are steered, or steers one. @returns the exit code */
async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { reason: { type: 'string' } } });
  const [act = 'show', gateway] = positionals;
  if (act === 'show' && gateway === undefined) {
    const { primary, fallback } = await withSteering(readSteeredGateways);
    print('primary', primary);
    print('fallback', fallback);
    return 0;
  }
  const { reason } = values;
  if (!isAct(act) || (gateway !== 'primary' && gateway !== 'fallback') || !reason?.trim()) {
    console.error(USAGE);
    return 1;
  }
  print(gateway, await withSteering((deps) => steerGateway({ gateway, act, who: whoRuns(), reason }, deps)));
  return 0;
}

function isAct(word: string): word is SteeringAct {
  return Object.hasOwn(STEERING_ACTS, word);
}

function print(
  name: string,
  { state, by, isFollowed, isDrained, notDrained, unresolved, workers }: SteeredGateway,
): void {
  const why = by === undefined ? '' : ` by ${by.who} since ${by.at}${by.reason === undefined ? '' : `: ${by.reason}`}`;
  console.log(`${name}: ${state}${why}`);
  console.log(
    `  ${workers.length} workers, ${isFollowed ? 'all follow' : 'not all follow yet'}; ${unresolved} unresolved`,
  );
  for (const { host, pid, steered = 'unknown', underWay, waiting } of workers) {
    console.log(`  ${host} ${pid}: ${steered}, ${underWay} under way, ${waiting} waiting`);
  }
  if (state !== 'open') console.log(isDrained ? '  drained' : `  not drained: ${notDrained}`);
}

runTool(import.meta, main);
