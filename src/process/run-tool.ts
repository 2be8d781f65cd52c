export interface ToolOptions {
  /** Reports an error of `main` and returns the exit code. By default it prints the message and returns 1. */
  onError?: (error: unknown) => number;
}

/**
 * Runs `main` if its file is the program itself. Importing the file runs nothing.
 * The process exits with the number that `main` returns. Without a number it exits once nothing is running.
 * @param module the `import.meta` of the file
 */
export function runTool(
  module: ImportMeta,
  main: () => Promise<number | undefined> | Promise<void>,
  { onError = printMessage }: ToolOptions = {},
): void {
  // Older than 24.2: without this line such a Node would run nothing and exit with 0.
  if (module.main === undefined)
    throw new Error(`Node 24.2 or newer is needed, and this is ${process.version}: use npm run`);
  if (!module.main) return;
  main().then(
    (code) => {
      if (code !== undefined) process.exit(code);
    },
    (error: unknown) => process.exit(onError(error)),
  );
}

/** An `onError` for developers' tools: prints the message with its stack. */
export function printError(error: unknown): number {
  console.error(error);
  return 1;
}

function printMessage(error: unknown): number {
  console.error(error instanceof Error ? error.message : error);
  return 1;
}
