// `faraday run`: boot one guest and stay with it. The default verb.
import { Command } from 'commander';
import { toRunConfig } from '../config.ts';
import { FaradayError } from '../errors.ts';
import { createLog, printError, printOutput } from '../log.ts';
import type { RawSettings } from '../settings.ts';
import { addConfineOptions } from './confine-options.ts';
import { addMachineOptions, settingsOf } from './machine-options.ts';
import { addNetOptions } from './net-options.ts';

/** What of the flags is about what is printed, and no setting of a run. */
interface PrintFlags {
  explainSandbox?: true;
  json?: true;
}

/** `--explain-sandbox`: prints the policy of a run, which it does not start. */
async function explain(settings: RawSettings, configFile?: string, json = false): Promise<void> {
  const config = toRunConfig({ kernel: 'KERNEL', ...settings }, configFile);
  const { explainSandbox } = await import('../confine/explain-sandbox.ts');
  const { sandboxText } = await import('../confine/explain-text.ts');
  const sandbox = explainSandbox(config, settings.kernel !== undefined);
  printOutput(json ? `${JSON.stringify(sandbox, null, 2)}\n` : sandboxText(sandbox));
}

export const runCommand = addConfineOptions(addNetOptions(addMachineOptions(new Command('run'))))
  .description('boot a guest and attach its console to this terminal')
  .option('--engine <engine>', 'cell or v8 (default: cell)')
  .option('--detach', 'leave the guest running in a process of its own')
  .option('--report <file>', 'write what happened as JSON')
  .option('--record <file>', "write every call into a device for 'faraday replay'")
  .option('--log-level <level>', 'error, warn, info or debug (default: warn)')
  .option('--explain-sandbox', 'print what confines this run, and start nothing')
  .option('--json', 'print that as JSON')
  .action(async ({ explainSandbox, json }: PrintFlags, command: Command) => {
    const [{ 'explain-sandbox': _, json: _json, ...settings }, configFile] = settingsOf(command);
    if (explainSandbox) return explain(settings, configFile, json);
    if (json) throw new FaradayError('bad-usage', '--json is for --explain-sandbox; leave it out');
    const config = toRunConfig(settings, configFile);
    const log = createLog(config.logLevel);
    const { runMachine, startMachine } = await import('../machine.ts');
    if (!config.detach) process.exitCode = await runMachine(config, log);
    else printError(`faraday: the guest runs on in process ${await startMachine(config, log)}\n`);
  });
