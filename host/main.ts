// The command line: adds the verbs, parses, turns failures into one line and an exit code.
import { Command, CommanderError } from 'commander';
import { checkCommand } from './cli/check.ts';
import { imageCommand } from './cli/image.ts';
import { kernelCommand } from './cli/kernel.ts';
import { runCommand } from './cli/run.ts';
import { EXIT_HOST, EXIT_INTERNAL, EXIT_OK, EXIT_USAGE, FaradayError } from './errors.ts';
import { oneLine, printError, printOutput } from './log.ts';
import { nearest } from './suggest.ts';
import { VERSION } from './version.ts';

/** The whole program, unparsed: docs/cli.md is tested against it. */
export function buildProgram(): Command {
  const program = new Command('faraday')
    .description('Start Linux guests in microVMs whose every device lives in a WebAssembly cage.')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .helpCommand('help [verb]', 'show help for a verb')
    .addCommand(runCommand, { isDefault: true })
    .addCommand(kernelCommand)
    .addCommand(imageCommand)
    .addCommand(checkCommand);
  program.showSuggestionAfterError(false);
  silence(program);
  return program;
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

function fail(program: Command, error: unknown): number {
  const isHelp = error instanceof CommanderError && error.code === 'commander.help';
  if (isHelp || (error instanceof CommanderError && error.exitCode === 0)) return EXIT_OK;
  const [exitCode, message] = explain(program, error);
  printError(`faraday: ${oneLine(message)}\n`);
  if (process.env.FARADAY_DEBUG) printError(`${(error as Error).stack}\n`);
  return exitCode;
}

/** Runs the program and sets the exit code. */
export async function main(argv: string[]): Promise<void> {
  const program = buildProgram();
  try {
    checkVerb(program, argv);
    await program.parseAsync(argv, { from: 'user' });
  } catch (error) {
    const exitCode = fail(program, error);
    // Help that could not be written has set the code already.
    if (exitCode !== EXIT_OK) process.exitCode = exitCode;
  }
}
