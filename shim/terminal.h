// Raw mode of the user's terminal, one for the whole process.
#pragma once

#include "failure.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Raw mode, remembering how the terminal was. It goes back at exit and on SIGABRT, and raw mode
 * comes again on SIGCONT, since shells change a stopped job's terminal. A background job stops
 * first, by SIGTTOU. ENOTTY, EIO where it was then continued in the background, or EBUSY while
 * another terminal is raw; the same one again changes nothing.
 */
int terminal_raw(int fd, struct failure *failure);

/**
 * Remembers how the terminal is while another process of the same job makes it raw: it goes back
 * at exit and by terminal_restore(), and is made raw again on SIGCONT. A background job stops
 * first, as above; errors as above.
 */
int terminal_remember(int fd, struct failure *failure);

/**
 * Raw mode in a process whose starter remembers the terminal, knows whose it is, and makes it raw
 * again after a stop: in a process namespace of its own, job control is a closed book.
 */
int terminal_raw_for_host(int fd, struct failure *failure);

/** The terminal as it was; does nothing where none is raw. Safe in a signal handler. */
void terminal_restore(void);

#ifdef __cplusplus
}
#endif
