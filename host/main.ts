// The command line: adds the verbs, parses, turns failures into one line and an exit code.
import { Command, CommanderError } from 'commander';
import { checkCommand } from './cli/check.ts';
import { kernelCommand } from './cli/kernel.ts';
import { runCommand } from './cli/run.ts';
import { EXIT_INTERNAL, EXIT_OK, EXIT_USAGE, FaradayError } from './errors.ts';
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
    .addCommand(checkCommand);
  program.showSuggestionAfterError(false);
  silence(program);
  return program;
}

/** Errors are thrown, not printed: main() says them in one line. Help still goes to stdout. */
function silence(command: Command): void {
  command.exitOverride().configureOutput({ writeErr: () => {} });
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

function fail(program: Command, error: unknown): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0 || error.code === 'commander.help') return EXIT_OK;
    process.stderr.write(`faraday: ${describeUsage(program, error)}\n`);
    return EXIT_USAGE;
  }
  if (error instanceof FaradayError) {
    process.stderr.write(`faraday: ${error.message}\n`);
    return error.exitCode;
  }
  const detail = error instanceof Error ? error.message : String(error);
  process.stderr.write(`faraday: internal error: ${detail.split('\n', 1)[0]}; please report it\n`);
  if (process.env.FARADAY_DEBUG) process.stderr.write(`${(error as Error).stack}\n`);
  return EXIT_INTERNAL;
}

/** Runs the program and sets the exit code. */
export async function main(argv: string[]): Promise<void> {
  const program = buildProgram();
  try {
    checkVerb(program, argv);
    await program.parseAsync(argv, { from: 'user' });
  } catch (error) {
    process.exitCode = fail(program, error);
  }
}
