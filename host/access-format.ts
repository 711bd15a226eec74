// The layout of a logged access, in a file of its own that runs anywhere: the addon's module does
// not. The build makes C macros of these numbers too, as part of host/shim.ts.

// An access of a cage to guest memory, as a log holds it: this entry, then the bytes that were
// moved, unless it was refused.
export const ACCESS_ENTRY_KIND = 0; // u32, ACCESS_*, with ACCESS_REFUSED where it was
export const ACCESS_ENTRY_LENGTH = 4; // u32
export const ACCESS_ENTRY_ADDRESS = 8; // u64, guest-physical
export const ACCESS_ENTRY_BYTES = 16;
export const ACCESS_READ = 1;
export const ACCESS_WRITE = 2;
export const ACCESS_LOAD16 = 3;
export const ACCESS_STORE16 = 4;
export const ACCESS_FENCE = 5; // no length, no address
export const ACCESS_REFUSED = 0x100;
