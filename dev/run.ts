import { loadConfig } from '../src/config.ts';
import { runTool } from '../src/process/run-tool.ts';
import { freePort, isFreePort } from './local/ports.ts';
import { type Stack, startStack } from './stack.ts';

/** `make run`: all of Payrelay on this machine, without Docker, until Ctrl-C. */
const GATEWAY_PORTS = [8001, 8002] as const;

const say = (line: string) => console.log(`  ${line}`);

async function main(): Promise<void> {
  // The services get these settings, too. A wrong one ends the program here, before anything starts.
  const config = loadConfig();
  const dashboard = config.http.dashboard ?? { user: 'admin', password: 'admin' };
  console.log('Starting Payrelay (Ctrl-C stops everything)');
  let stack: Stack | undefined;
  let isStopping = false;
  const starting = startStack({
    apiPorts: [config.port],
    workers: 1,
    gatewayPorts: [await portOr(GATEWAY_PORTS[0]), await portOr(GATEWAY_PORTS[1])],
    redisUrl: process.env['REDIS_URL'],
    databaseUrl: process.env['DATABASE_URL'],
    env: {
      ...ownSettings(),
      HOST: '127.0.0.1',
      ALLOW_PURGE: 'true',
      DASHBOARD_USER: dashboard.user,
      DASHBOARD_PASSWORD: dashboard.password,
    },
    say,
    onLine: (service, line) => {
      if (process.env['LOG_LEVEL'] || !line.includes('"level":"info"')) console.log(`  ${service}: ${line}`);
    },
  });

  const stop = async (exitCode: number) => {
    if (isStopping) return;
    isStopping = true;
    console.log('\nStopping');
    // A stack that is still starting has nothing to lose: its processes are killed when this one exits.
    await stack?.stop();
    console.log('Stopped');
    process.exit(exitCode);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => void stop(0));

  stack = await starting;
  if (isStopping) return;
  const url = stack.apis[0]!.url;
  console.log(`
Payrelay is running.

  pay        curl -i ${url}/payments -d '{"correlationId":"${crypto.randomUUID()}","amount":19.90}'
  summary    curl -s '${url}/payments-summary?from=2020-01-01&to=2100-01-01'
  health     curl -s ${url}/health
  dashboard  ${url}/admin/queues (user ${dashboard.user}, password ${config.http.dashboard ? 'as set' : dashboard.password})
`);
  for (const service of [...stack.apis, ...stack.workers, stack.primary, stack.fallback]) {
    void service.exited.then((code) => {
      if (isStopping) return;
      console.error(`${service.name} ended with code ${code}`);
      void stop(1);
    });
  }
}

/** The port itself if it is free, otherwise any free one. */
async function portOr(port: number): Promise<number> {
  return (await isFreePort(port)) ? port : freePort();
}

/** The settings of the services that our own environment has. */
function ownSettings(): Record<string, string> {
  const names =
    /^(DURABILITY$|LOG_LEVEL$|PAYMENT_|PAYMENTS_|GATEWAY_(POOL|RECEIVE|TIMEOUT)|FALLBACK_|SUMMARY_|DB_|SHUTDOWN_)/;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => names.test(name))) as Record<string, string>;
}

runTool(import.meta, main);
