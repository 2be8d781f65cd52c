import { findRun } from '../src/commands/run-state.ts';
import { runTool } from '../src/process/run-tool.ts';
import { isPart, isState, USAGE } from './breakage.ts';
import { sendCommand } from './run-control.ts';

/** `npm run break -- primary down`: breaks a part of the running `make run`; `ok` mends it. */
async function main(): Promise<number> {
  const [part, state, ...more] = process.argv.slice(2);
  if (!isPart(part) || !isState(state) || more.length > 0) {
    console.error(USAGE);
    return 2;
  }
  const run = await findRun();
  if (run === undefined) {
    console.error('No `make run` is running here: start it in another terminal.');
    return 1;
  }
  console.log(await sendCommand(run.control, part, state));
  return 0;
}

runTool(import.meta, main);
