import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/** A server of our own, on a private port and in a private directory, as `make run` and the tests use them. */
export interface ManagedServer {
  readonly url: string;
  readonly port: number;
  /** Of the process now running; changes with every start. */
  readonly pid: number;
  /** Starts it again after `stop` or `kill`: same port, same data. Resolves when it serves. */
  start(): Promise<void>;
  /** Ends it in its orderly way; the data stay. */
  stop(): Promise<void>;
  /** Ends it as a crash would. */
  kill(): Promise<void>;
  /** SIGSTOP hangs it, SIGCONT lets it go on. */
  signal(signal: NodeJS.Signals): void;
  /** Ends it and removes its data. */
  dispose(): Promise<void>;
}

/** Children and directories that must not outlive us, however we end. */
const children = new Set<ChildProcess>();
const directories = new Set<string>();
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Watches for our own end while there is a child or a directory, and no longer. */
function watchOwnEnd(): void {
  const isNeeded = children.size + directories.size > 0;
  if (isNeeded === process.listeners('exit').includes(removeAll)) return;
  const change = isNeeded ? 'on' : 'off';
  process[change]('exit', removeAll);
  for (const signal of SIGNALS) process[change](signal, exitIfAlone);
}

function removeAll(): void {
  for (const child of children) child.kill('SIGKILL');
  for (const dir of directories) rmSync(dir, { recursive: true, force: true });
}

/** A signal that nobody else handles would end us without the `exit` event. */
function exitIfAlone(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) === 1) process.exit(1);
}

/** Ends the program in its orderly way on a signal, with the code a shell gives to an interrupted one. */
export function stopOnSignal(stop: () => Promise<void>): void {
  for (const signal of SIGNALS) process.on(signal, () => void stop().then(() => process.exit(130)));
}

/** An empty directory. This process removes it when it ends. */
export function temporaryDirectory(name: string): string {
  const dir = mkdtempSync(join(tmpdir(), `payrelay-${name}-`));
  directories.add(dir);
  watchOwnEnd();
  return dir;
}

function removeDirectory(dir: string): void {
  rmSync(dir, { recursive: true, force: true });
  directories.delete(dir);
  watchOwnEnd();
}

function forget(child: ChildProcess): void {
  children.delete(child);
  watchOwnEnd();
}

/** A started process: its last lines are kept, to be shown when it ends unexpectedly. */
export interface StartedProcess {
  readonly child: ChildProcess;
  readonly lastLines: readonly string[];
  readonly exited: Promise<number | null>;
}

export interface ProcessOptions {
  command: string;
  args?: readonly string[];
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  uid?: number | undefined;
  gid?: number | undefined;
  /**
   * What ends the start: a message to its parent (`process.send`), as all our own programs send one, or a line of its output
   * that matches, for programs of others.
   */
  readyWhen: 'message' | RegExp;
  onLine?: ((line: string) => void) | undefined;
  /** How long the start may take. */
  timeoutMs?: number;
}

/**
 * Starts a process and waits until it says that it is ready.
 * It gets a process group of its own: Ctrl-C in a terminal goes to everyone in the terminal's group, and what is stopped
 * in which order is ours to decide.
 * @throws an Error with its last lines when it ends, or takes too long, before that.
 */
export async function startProcess(options: ProcessOptions): Promise<StartedProcess> {
  const { command, args = [], readyWhen, onLine, timeoutMs = 30_000, ...spawnOptions } = options;
  const sendsMessage = readyWhen === 'message';
  const child = spawn(command, args, {
    ...spawnOptions,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', sendsMessage ? 'ipc' : 'ignore'],
  });
  children.add(child);
  watchOwnEnd();
  const lastLines: string[] = [];
  const exited = new Promise<number | null>((resolve) => {
    child.once('exit', (code) => {
      forget(child);
      resolve(code);
    });
  });
  await new Promise<void>((resolve, reject) => {
    const fail = (what: string) => reject(new Error([`${command} ${what}`, ...lastLines].join('\n  ')));
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      fail(`was not ready within ${timeoutMs} ms`);
    }, timeoutMs);
    const ready = () => {
      clearTimeout(timer);
      resolve();
    };
    child.once('message', () => {
      child.disconnect();
      ready();
    });
    for (const stream of [child.stdout!, child.stderr!]) {
      createInterface(stream).on('line', (line) => {
        lastLines.push(line);
        if (lastLines.length > 20) lastLines.shift();
        onLine?.(line);
        if (!sendsMessage && readyWhen.test(line)) ready();
      });
    }
    child.once('error', (error) => {
      clearTimeout(timer);
      forget(child);
      fail(`could not be started: ${error.message}`);
    });
    void exited.then((code) => {
      clearTimeout(timer);
      // What it wrote last is still on its way through the pipes.
      setImmediate(() => fail(`ended with code ${code}`));
    });
  });
  return { child, lastLines, exited };
}

/** A server as a process over a directory of its own, not started yet. */
export function managedServer(options: {
  url: string;
  port: number;
  dir: string;
  stopSignal: NodeJS.Signals;
  process: () => ProcessOptions;
}): ManagedServer {
  let current: StartedProcess | undefined;

  async function end(signal: NodeJS.Signals): Promise<void> {
    if (!current) return;
    const { child, exited } = current;
    current = undefined;
    child.kill(signal);
    // A stopped process takes no other signal.
    child.kill('SIGCONT');
    await exited;
  }

  return {
    url: options.url,
    port: options.port,
    get pid() {
      if (!current) throw new Error('it is not running');
      return current.child.pid!;
    },
    async start() {
      if (current) throw new Error('it is running already');
      current = await startProcess(options.process());
    },
    stop: () => end(options.stopSignal),
    kill: () => end('SIGKILL'),
    signal(signal) {
      current?.child.kill(signal);
    },
    async dispose() {
      await end('SIGKILL');
      removeDirectory(options.dir);
    },
  };
}
