// The first rule that a run broke. No specification.
import { RULE_NONE } from "./shared";

let rule: u32 = RULE_NONE;
let where: u64 = 0;
let what: u64 = 0;

export function violate(broken: u32, at: u64, detail: u64): void {
  if (rule != RULE_NONE) return;
  rule = broken;
  where = at;
  what = detail;
}

export function violated(): bool {
  return rule != RULE_NONE;
}

export function forgive(): void {
  rule = RULE_NONE;
}

export function violation(): u32 {
  return rule;
}

export function violationAt(): u64 {
  return where;
}

export function violationDetail(): u64 {
  return what;
}
