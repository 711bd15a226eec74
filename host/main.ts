// The command line: adds the verbs, parses, turns failures into one line and an exit code.
import { Command, CommanderError } from 'commander';
import { EXIT_HOST, EXIT_INTERNAL, EXIT_OK, EXIT_USAGE, FaradayError } from './errors.ts';
import { oneLine, printError, printOutput } from './log.ts';
import { nearest } from './suggest.ts';
import { VERSION } from './version.ts';

/** The verbs, each loaded when it is needed. */
const VERBS: Record<string, () => Promise<Command>> = {
  run: async () => (await import('./cli/run.ts')).runCommand,
  kernel: async () => (await import('./cli/kernel.ts')).kernelCommand,
  image: async () => (await import('./cli/image.ts')).imageCommand,
  net: async () => (await import('./cli/net.ts')).netCommand,
  trace: async () => (await import('./cli/trace.ts')).traceCommand,
  replay: async () => (await import('./cli/replay.ts')).replayCommand,
  check: async () => (await import('./cli/check.ts')).checkCommand,
};
const DEFAULT_VERB = 'run';

/** The program with some of its verbs or all, unparsed: docs/cli.md is tested against it. */
export async function buildProgram(verbs: string[] = Object.keys(VERBS)): Promise<Command> {
  const program = new Command('faraday')
    .description('Start Linux guests in microVMs whose every device lives in a WebAssembly cage.')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .helpCommand('help [verb]', 'show help for a verb');
  for (const verb of verbs) {
    program.addCommand(await VERBS[verb](), { isDefault: verb === DEFAULT_VERB });
  }
  program.showSuggestionAfterError(false);
  silence(program);
  return program;
}

const ABOUT_ALL = ['-h', '--help', '-V', '--version'];

/** The verbs that a command line may need: a start is to load no more than it must. */
function verbsFor(argv: string[]): string[] | undefined {
  const first = argv[0] ?? DEFAULT_VERB;
  if (argv.some((word) => ABOUT_ALL.includes(word))) return undefined;
  if (first.startsWith('-')) return [DEFAULT_VERB];
  return Object.hasOwn(VERBS, first) ? [first] : undefined;
}

/** Errors are thrown, not printed: main() says them in one line. Help still goes to stdout. */
function silence(command: Command): void {
  command.exitOverride().configureOutput({ writeOut: printOutput, writeErr: () => {} });
  command.showSuggestionAfterError(false);
  command.commands.forEach(silence);
}

/** All option names and verbs somebody may have meant. */
function knownWords(command: Command): string[] {
  const own = command.options.flatMap((option) => [option.long ?? '', option.short ?? '']);
  return [...own, ...command.commands.flatMap((sub) => [sub.name(), ...knownWords(sub)])];
}

function describeUsage(program: Command, error: CommanderError): string {
  const message = error.message.replace(/^error: /, '').replace(/\s+/g, ' ');
  const wrong = /unknown (?:option|command) '([^'=]+)/.exec(message)?.[1];
  const meant = wrong && nearest(wrong, knownWords(program).filter(Boolean));
  const hint = meant ? `did you mean '${meant}'?` : "see 'faraday --help'";
  return `${message}; ${hint}`;
}

/** A first word that is no flag and no verb is a mistyped verb, not an argument of `run`. */
function checkVerb(program: Command, argv: string[]): void {
  const first = argv[0];
  if (first === undefined || first.startsWith('-') || first === 'help') return;
  const verbs = program.commands.map((command) => command.name());
  if (verbs.includes(first)) return;
  throw new CommanderError(EXIT_USAGE, 'faraday.unknownVerb', `unknown command '${first}'`);
}

const RIGHTS = 'check its rights and its file system';
const SPACE = 'free some space';
const FILES = "raise the limit of open files ('ulimit -n')";

/** Errors of the system which say something of this host, not of Faraday, and what to do. */
const HOST_ERRORS: Record<string, string> = {
  ...{ EACCES: RIGHTS, EPERM: RIGHTS, EROFS: RIGHTS, EIO: RIGHTS, ESTALE: RIGHTS, EBUSY: RIGHTS },
  ...{ ENOSPC: SPACE, EDQUOT: SPACE, EMFILE: FILES, ENFILE: FILES },
  ...{ ENOMEM: 'free some memory', EAGAIN: "end other processes, or raise 'ulimit -u'" },
};

/** Exit code and text for what went wrong. */
function explain(program: Command, error: unknown): [number, string] {
  if (error instanceof CommanderError) return [EXIT_USAGE, describeUsage(program, error)];
  if (error instanceof FaradayError) return [error.exitCode, error.message];
  const { code, syscall, path } = error as NodeJS.ErrnoException;
  if (syscall !== undefined && code !== undefined && Object.hasOwn(HOST_ERRORS, code)) {
    const what = path === undefined ? syscall : `${path}: ${syscall}`;
    return [EXIT_HOST, `${what} failed on this host (${code}); ${HOST_ERRORS[code]}`];
  }
  const detail = error instanceof Error ? error.message : String(error);
  return [EXIT_INTERNAL, `internal error: ${detail.split('\n', 1)[0]}; please report it`];
}

async function fail(error: unknown): Promise<number> {
  const isHelp = error instanceof CommanderError && error.code === 'commander.help';
  if (isHelp || (error instanceof CommanderError && error.exitCode === 0)) return EXIT_OK;
  const [exitCode, message] = explain(await buildProgram(), error);
  printError(`faraday: ${oneLine(message)}\n`);
  if (process.env.FARADAY_DEBUG) printError(`${(error as Error).stack}\n`);
  return exitCode;
}

/** Runs the program and sets the exit code. */
export async function main(argv: string[]): Promise<void> {
  try {
    const program = await buildProgram(verbsFor(argv));
    checkVerb(program, argv);
    await program.parseAsync(argv, { from: 'user' });
  } catch (error) {
    const exitCode = await fail(error);
    // Help that could not be written has set the code already.
    if (exitCode !== EXIT_OK) process.exitCode = exitCode;
  }
}
