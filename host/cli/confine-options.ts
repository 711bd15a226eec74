// The flags that say how a run is confined. docs/sandbox.md
import { type Command, Option } from 'commander';
import { collect } from './repeatable.ts';

/** A flag of its own: commander would let the last of '--X' and '--no-X' win without a word. */
function shortForm(flag: string, description: string): Option {
  const option = new Option(flag, description);
  option.negate = false;
  return option;
}

/** Adds the flags of confinement to a verb that starts a guest. */
export function addConfineOptions(command: Command): Command {
  return command
    .option('--seccomp <mode>', 'enforce, log or off (default: enforce)')
    .addOption(shortForm('--no-seccomp', 'the same as --seccomp off'))
    .option('--landlock <mode>', 'auto, required or off (default: auto)')
    .addOption(shortForm('--no-landlock', 'the same as --landlock off'))
    .option(
      '--landlock-rules <rule>',
      'path=PATH,access=ACCESS (r, w, rw): stays open to Faraday itself; repeatable',
      collect,
    )
    .option('--landlock-allow-path <path>', 'PATH[,ro] or PATH,rw, likewise; repeatable', collect)
    .option('--namespaces <mode>', 'auto, required or off (default: auto)')
    .option('--user <user>', 'as root: who the guest runs as, NAME or UID:GID');
}
