// Failure records. Calls nothing but the C library.
#include "failure.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int fail(struct failure *failure, int number, const char *call, const char *format, ...) {
  va_list arguments;
  failure->number = number;
  failure->call = call;
  va_start(arguments, format);
  vsnprintf(failure->about, sizeof failure->about, format, arguments);
  va_end(arguments);
  return -1;
}

int fail_errno(struct failure *failure, const char *call) {
  failure->number = errno;
  failure->call = call;
  failure->about[0] = 0;
  return -1;
}

const char *errno_name(int number) {
  const char *name = strerrorname_np(number);
  return name ? name : "EUNKNOWN";
}
