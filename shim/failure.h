// How every function of the shim reports a failure: the errno, the call that gave it, and a
// sentence where the errno alone would not tell the caller what to change.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

struct failure {
  int number;       // an errno
  const char *call; // static text: a system call, an ioctl, or the exported function
  char about[160];  // empty, or what is wrong with what
};

/** Fills `failure` and returns -1, so that callers write `return fail(...)`. */
int fail(struct failure *failure, int number, const char *call, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/** fail() with the current errno and nothing more to say. */
int fail_errno(struct failure *failure, const char *call);

/** 'EACCES' for EACCES; 'EUNKNOWN' for a number this C library cannot name. */
const char *errno_name(int number);

#ifdef __cplusplus
}
#endif
