// The command line of a cell.
#pragma once

#include <stdbool.h>

#include "confine.h"
#include "failure.h"
#include "image.h"

struct options {
  bool spawned, detached;
  const char *folder;
  const char *disks[IMAGE_DEVICE_COUNT_MAX]; // ID=PATH or ID=fd:N
  unsigned disk_count;
  struct confine_wish confine;
};

/** Fails with call 'usage' or 'disk': the one line that says what to change. */
int options_parse(struct options *options, int count, char **words, struct failure *failure);

/** The descriptor that 'fd:N' names; -1: it is a path, -2: no number past 2. */
int options_descriptor(const char *text);

int options_usage(struct failure *failure, const char *what);
