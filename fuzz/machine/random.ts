// The fuzzer's random numbers.

let state: u32 = 1;

export function seed(value: u32): void {
  state = value == 0 ? 0x9e3779b9 : value;
}

// Marsaglia's xorshift with the shifts 13, 17, 5.
export function bits(): u32 {
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return state;
}

// From 0 to limit - 1.
export function random(limit: u32): u32 {
  return <u32>((<u64>bits() * limit) >> 32);
}

// @ts-ignore: decorator
@inline export function oneIn(many: u32): bool {
  return random(many) == 0;
}
