// What a script of the lab prints of the guests that it runs in turn: before each 'guest ROUND
// MONITOR', then 'report JSON' where that monitor is Faraday, and a line 'LOAD NUMBER...' for each
// load that the guest came to.
import type { RunReport } from '../../host/report.ts';

export interface GuestSample {
  monitor: string;
  round: number; // 0 is the warm-up
  load: string;
  numbers: number[]; // as the load's program has them
}

export interface GuestReport {
  monitor: string;
  round: number;
  report: RunReport;
}

export function parseGuests(
  output: string,
  loads: readonly string[],
): { samples: GuestSample[]; reports: GuestReport[] } {
  const samples: GuestSample[] = [];
  const reports: GuestReport[] = [];
  let monitor = '';
  let round = 0;
  for (const line of output.replaceAll('\r', '').split('\n')) {
    const [load = '', ...rest] = line.split(' ');
    if (load === 'guest') {
      round = Number(rest[0]);
      monitor = rest.slice(1).join(' ');
    } else if (load === 'report' && rest[0]) {
      const report = JSON.parse(line.slice('report '.length)) as RunReport;
      reports.push({ monitor, round, report });
    } else if (loads.includes(load)) {
      samples.push({ monitor, round, load, numbers: rest.map(Number) });
    }
  }
  return { samples, reports };
}
