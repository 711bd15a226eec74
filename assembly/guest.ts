// The one door to guest memory: the only file that uses the imported accessors. The host checks
// both sides of every access in 64 bits and refuses what leaves guest RAM or the cage.

@external("guest", "read")
declare function importRead(address: u64, destination: u32, length: u32): u32;
@external("guest", "write")
declare function importWrite(address: u64, source: u32, length: u32): u32;
@external("guest", "load16")
declare function importLoad16(address: u64): i32;
@external("guest", "store16")
declare function importStore16(address: u64, value: u32): u32;
@external("guest", "fence")
declare function importFence(): void;

/** Copies guest bytes into the cage, where they can no longer change. False: refused. */
// @ts-ignore: decorator
@inline export function guestRead(address: u64, destination: usize, length: u32): bool {
  return importRead(address, <u32>destination, length) == 0;
}

/** Copies cage bytes into guest memory. False: refused. */
// @ts-ignore: decorator
@inline export function guestWrite(address: u64, source: usize, length: u32): bool {
  return importWrite(address, <u32>source, length) == 0;
}

/** Loads an aligned 16-bit value with acquire order; -1: refused. */
// @ts-ignore: decorator
@inline export function guestLoad16(address: u64): i32 {
  return importLoad16(address);
}

/** Stores an aligned 16-bit value with release order. False: refused. */
// @ts-ignore: decorator
@inline export function guestStore16(address: u64, value: u16): bool {
  return importStore16(address, value) == 0;
}

/** Full store-load barrier. */
// @ts-ignore: decorator
@inline export function guestFence(): void {
  importFence();
}
