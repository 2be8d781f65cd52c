/** `npm run gateway`: one simulated payment gateway as a process of its own, set up by the environment. */
import { runTool } from '../../src/process/run-tool.ts';
import { createSimulatedGateway } from './simulated-gateway.ts';

interface GatewaySettings {
  port: number;
  host: string;
  transactionFee: number;
  token: string;
}

/** An empty variable counts as not set. @throws one Error that names every wrong setting */
function loadSettings(env: NodeJS.ProcessEnv): GatewaySettings {
  const faults: string[] = [];
  const port = env['PORT'] || '8001';
  const fee = env['TRANSACTION_FEE'] || '0.05';
  const token = env['INITIAL_TOKEN'] || '123';
  const host = env['HOST'] || '0.0.0.0';
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65_535) {
    faults.push(`PORT must be an integer from 0 to 65535 (got "${port}")`);
  }
  if (!/^(\d+(\.\d+)?|\.\d+)$/.test(fee) || Number(fee) > 1) {
    faults.push(`TRANSACTION_FEE must be a number from 0 to 1, for example 0.05 for 5 % (got "${fee}")`);
  }
  // No other text fits into the X-Rinha-Token header, so every admin call would get 401.
  if (!/^[\x21-\x7e]+$/.test(token)) {
    faults.push('INITIAL_TOKEN must be printable ASCII without spaces');
  }
  if (/\s|\//.test(host)) {
    faults.push(`HOST must be an address or a host name (got "${host}")`);
  }
  if (faults.length > 0) throw new Error(faults.join('; '));
  return { port: Number(port), host, transactionFee: Number(fee), token };
}

function listenFault(error: unknown, { port, host }: GatewaySettings): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'EADDRINUSE') return `port ${port} is taken on ${host}; set PORT to a free one`;
  if (code === 'EACCES') return `not allowed to listen on port ${port}; set PORT above 1023`;
  return `cannot listen on ${host}:${port}: ${message}`;
}

function fail(message: string): void {
  console.error(`simulated gateway: ${message}`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  let settings: GatewaySettings;
  try {
    settings = loadSettings(process.env);
  } catch (error) {
    return fail((error as Error).message);
  }
  const { port, host, ...options } = settings;
  // Only tests in the same process read arrival times. Here they would fill the memory.
  const gateway = createSimulatedGateway({ ...options, recordArrivals: false });
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void gateway.close());
  try {
    const { url } = await gateway.listen(port, host);
    console.log(`simulated gateway listening on ${url}`);
    process.send?.('ready');
  } catch (error) {
    fail(listenFault(error, settings));
  }
}

runTool(import.meta, main);
