// The flags of the network, of a verb that starts a guest. docs/cli.md
import type { Command } from 'commander';
import { parseNetFlag } from '../net-config.ts';
import type { RawSettings } from '../settings.ts';
import { collect } from './repeatable.ts';

function collectNet(text: string, nets: RawSettings[] = []): RawSettings[] {
  return [...nets, parseNetFlag(text)];
}

/** Adds the flags of the network to a verb. */
export function addNetOptions(command: Command): Command {
  return command
    .option('--net-backend <backend>', 'none, tap, vhost-net, macvtap or user (default: none)')
    .option(
      '--net <net>',
      'a network, tap=NAME[,OPTION...] or fd=N[,OPTION...]; repeatable',
      collectNet,
    )
    .option('--tap <name>', 'the same as --net tap=NAME')
    .option('--mac <address>', 'the MAC address of the one network')
    .option(
      '-p, --publish <ports>',
      '[ADDRESS:]HOST:GUEST[/udp], a port that leads to the guest; repeatable',
      collect,
    );
}
