// The threads of a cell. The number of a role is that of its filter in the cell.
export const ROLE_START = 0; // the only one before the guest starts; it becomes the I/O thread
export const ROLE_VCPU = 1; // one for each virtual CPU
export const ROLE_IO = 2;
export const ROLE_CONSOLE = 3;
export const ROLE_NET = 4; // where the machine has a network device

export const ROLE_NAMES = ['start', 'vcpu', 'io', 'console', 'net'] as const; // by number
