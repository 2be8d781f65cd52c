import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/** A server of our own, on a private port and in a private directory, as `make run` and the tests use them. */
export interface ManagedServer {
  readonly url: string;
  readonly port: number;
  /** The directory of its data. */
  readonly dir: string;
  /** Of the process that runs now. Each start has another. @throws an Error while none runs */
  readonly pid: number;
  /** Starts it again after `stop` or `kill`, on the same port with the same data. Resolves when it is ready. */
  start(): Promise<void>;
  /** Closes it in order. The data stay. */
  stop(): Promise<void>;
  /** Kills it, as a crash would. The data stay. */
  kill(): Promise<void>;
  /** SIGSTOP makes it hang, SIGCONT makes it go on. */
  signal(signal: NodeJS.Signals): void;
  /** Kills it and removes its data. A server whose data are kept is closed in order instead. */
  dispose(): Promise<void>;
}

/** Children and directories that must not outlive this process, however it ends. */
const children = new Set<ChildProcess>();
const directories = new Set<string>();
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Listens for the end of this process while it has a child or a directory, and no longer. */
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

/** Without a listener a signal ends the process without the `exit` event. So exit, unless another listener does. */
function exitIfAlone(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) === 1) process.exit(1);
}

/** On a signal, stops in order and exits with the code that a shell gives to an interrupted program. */
export function stopOnSignal(stop: () => Promise<void>): void {
  for (const signal of SIGNALS) process.on(signal, () => void stop().then(() => process.exit(130)));
}

/** An empty directory. This process removes it when it exits. */
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

/** A started process. Its last lines say why, when it ends unexpectedly. */
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
 * Starts a process and waits until it is ready.
 * It gets a process group of its own: Ctrl-C in a terminal signals the whole group of the terminal, but we stop the processes
 * in order.
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
      // Its last lines may still be in the pipes.
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
  isKept: boolean;
  stopSignal: NodeJS.Signals;
  process: () => ProcessOptions;
}): ManagedServer {
  let current: StartedProcess | undefined;

  async function end(signal: NodeJS.Signals): Promise<void> {
    if (!current) return;
    const { child, exited } = current;
    current = undefined;
    child.kill(signal);
    // A process that SIGSTOP has stopped handles no other signal before.
    child.kill('SIGCONT');
    await exited;
  }

  return {
    url: options.url,
    port: options.port,
    dir: options.dir,
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
      await end(options.isKept ? options.stopSignal : 'SIGKILL');
      if (!options.isKept) removeDirectory(options.dir);
    },
  };
}
