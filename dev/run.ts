import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseEnv } from 'node:util';
import { findRun, RUN_DIRECTORY, type RunState } from '../src/commands/run-state.ts';
import { loadConfig } from '../src/config.ts';
import { runTool } from '../src/process/run-tool.ts';
import { listenError } from './local/ports.ts';
import { type RunSettings, runSettings } from './run-settings.ts';
import { type RunningStack, startRunStack } from './run-stack.ts';
import { createStatusLine } from './status-line.ts';

/** `make run`: all of Payrelay on this machine, without Docker, until Ctrl-C. */
async function main(): Promise<void> {
  const settings = runSettings({ ...readDotEnv(), ...process.env });
  // The services get these settings, too. A wrong one ends the program here, before anything starts.
  loadConfig(settings.services);
  const other = await findRun();
  if (other !== undefined) {
    throw new Error(
      `\`make run\` is running here already (process ${other.pids['run']}): end that one with Ctrl-C first.`,
    );
  }
  const taken = await takenPorts(settings);
  if (taken !== undefined) throw new Error(taken);

  console.log('Starting Payrelay (Ctrl-C stops everything)');
  if (settings.ignored.length > 0) console.log(`  without effect here: ${settings.ignored.join(', ')}`);
  const statusLine = createStatusLine(process.stdout, {
    knowsCircuits: ['info', 'debug'].includes(settings.services['LOG_LEVEL'] ?? 'info'),
  });
  let stack: RunningStack | undefined;
  let isStopping = false;
  const stop = async (exitCode: number) => {
    if (isStopping) return;
    isStopping = true;
    statusLine.close();
    console.log('\nStopping');
    rmSync(STATE_FILE, { force: true });
    // A stack that is still starting has nothing to lose: its processes are killed when this one exits.
    await stack?.stop();
    console.log('Stopped');
    process.exit(exitCode);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => void stop(0));
  // Nobody reads it any more, as in `make run | head`. Without a listener the error would end this process with the stack half stopped.
  process.stdout.on('error', () => void stop(0));

  const starting = startRunStack({
    settings,
    say: (line) => statusLine.print(`  ${line}`),
    onRestart: () => stack && !isStopping && writeState(stack.state()),
    onEnd: () => void stop(1),
    onLine(service, line) {
      statusLine.note(line);
      if (settings.services['LOG_LEVEL'] || !line.includes('"level":"info"')) statusLine.print(`  ${service}: ${line}`);
    },
  });
  stack = await starting;
  if (isStopping) return;
  writeState(stack.state());
  statusLine.print(help(stack));
  statusLine.start(stack.status);
}

const STATE_FILE = join(RUN_DIRECTORY, 'state.json');

function writeState(state: RunState): void {
  mkdirSync(RUN_DIRECTORY, { recursive: true });
  const next = `${STATE_FILE}.next`;
  writeFileSync(next, `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600 });
  // A reader sees the whole old file or the whole new one.
  renameSync(next, STATE_FILE);
}

/** As compose does: a variable of the environment takes precedence. */
function readDotEnv(): NodeJS.Dict<string> {
  return existsSync('.env') ? parseEnv(readFileSync('.env', 'utf8')) : {};
}

/** One sentence about the ports that are not free; undefined when all are. */
async function takenPorts({ services, starts, gatewayPorts, workerPort }: RunSettings): Promise<string | undefined> {
  const host = services['HOST'] ?? '127.0.0.1';
  const wanted = [
    { setting: 'PORT', port: Number(services['PORT'] ?? 9999), host },
    { setting: 'WORKER_PORT', port: workerPort, host },
    ...(starts.gateways
      ? [
          { setting: 'GATEWAY_PRIMARY_PORT', port: gatewayPorts.primary, host: '127.0.0.1' },
          { setting: 'GATEWAY_FALLBACK_PORT', port: gatewayPorts.fallback, host: '127.0.0.1' },
        ]
      : []),
  ];
  const errors = await Promise.all(wanted.map(({ port, host: at }) => listenError(port, at)));
  // Any other error is no matter of the port; the service that meets it says so.
  const taken = wanted.filter((_, index) => ['EADDRINUSE', 'EACCES'].includes(errors[index]?.code ?? ''));
  if (taken.length === 0) return undefined;
  const ports = taken.map(({ port }) => port).join(', ');
  const example = taken.map(({ setting, port }) => `${setting}=${port > 64_000 ? port - 1 : port + 1000}`).join(' ');
  return `Port ${ports} cannot be used, because another program has it or this user may not: choose another, for example ${example} make run`;
}

function help({ apiUrl, workerUrl, dashboard }: RunningStack): string {
  return `
Payrelay is running.

  pay        curl -i ${apiUrl}/payments -d '{"correlationId":"${crypto.randomUUID()}","amount":19.90}'
  summary    curl -s '${apiUrl}/payments-summary?from=2020-01-01&to=2100-01-01'
  health     curl -s ${apiUrl}/health
  metrics    curl -s ${apiUrl}/metrics ${workerUrl}/metrics
  dashboard  ${apiUrl}/admin/queues (${dashboard})
  break it   npm run break -- primary down (fallback, redis, postgres, worker; slow, ok)
  look into  npm run console
`;
}

runTool(import.meta, main);
