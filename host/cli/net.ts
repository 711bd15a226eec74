// `faraday net`: makes and removes a tap for a guest. docs/networking.md has the recipes.
import { Command } from 'commander';
import { printOutput } from '../log.ts';
import type { Step } from '../net/net-plan.ts';
import type { UpFlags } from '../net/net-request.ts';

type Module = typeof import('../net/up-down.ts');

const linesOf = ({ commandLine }: Module, steps: readonly Step[]): string =>
  steps.map((step) => `${commandLine(step)}\n`).join('');

async function runUp(name: string, flags: UpFlags & { dryRun?: boolean }): Promise<void> {
  const { toUpRequest } = await import('../net/net-request.ts');
  const net = await import('../net/up-down.ts');
  const { steps, already, next } = net.netUp(toUpRequest(name, flags), flags.dryRun === true);
  if (flags.dryRun && !already) return printOutput(linesOf(net, steps));
  const state = already ? 'is there already' : 'is ready';
  printOutput(`# ${name} ${state}. Next:\nfaraday run --kernel KERNEL --net ${next}\n`);
}

async function runDown(name: string, flags: { dryRun?: boolean }): Promise<void> {
  const { checkName } = await import('../net/net-request.ts');
  const net = await import('../net/up-down.ts');
  const { steps, nat } = net.netDown(checkName('NAME', name), flags.dryRun === true);
  if (flags.dryRun) return printOutput(linesOf(net, steps));
  const left = nat ? '; net.ipv4.ip_forward stays as it is' : '';
  printOutput(`# ${name} is removed${left}\n`);
}

const upCommand = new Command('up')
  .description('make a tap that lasts until it is removed or the host restarts')
  .argument('<name>', 'of the tap')
  .helpOption('-h, --help', 'show help')
  .option('--bridge <name>', 'put it into this bridge, made where it is not there')
  .option('--nat', 'let its guests out under the address of this host, by nftables')
  .option('--user <user>', 'who may use it, a name or number (default: who called, also by sudo)')
  .option('--address <cidr>', "this host's address among the guests, such as 10.0.0.1/24")
  .option('--queues <number>', 'queue pairs that it may have, 1 to 8 (default: 1)')
  .option('--mtu <bytes>', 'its MTU, 68 to 65521')
  .option('--dry-run', 'print the commands and run none')
  .action(runUp);

const downCommand = new Command('down')
  .description("remove a tap of 'net up' and what came with it")
  .argument('<name>', 'of the tap')
  .helpOption('-h, --help', 'show help')
  .option('--dry-run', 'print the commands and run none')
  .action(runDown);

export const netCommand = new Command('net')
  .description('make and remove a tap for a guest')
  .helpOption('-h, --help', 'show help')
  .helpCommand(false)
  .addCommand(upCommand)
  .addCommand(downCommand);
