// The command line. Calls fcntl, isatty.
//
//   faraday-cell --spawned [--detached]        by a host, with the descriptors of cell-protocol.ts
//   faraday-cell DIR [--disk ID=PATH]...       by hand, from a composed image; ID=fd:N names a
//                                              descriptor that is open already
// and in either case how it is confined.
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DESCRIPTOR "fd:"
#define USAGE \
  "faraday-cell DIR [--disk ID=PATH|ID=fd:N]... [--seccomp enforce|log|off] " \
  "[--landlock auto|required|off] [--namespaces auto|required|off] [--user UID:GID]"

int options_usage(struct failure *failure, const char *what) {
  return fail(failure, EINVAL, "usage", "%s; %s", what, USAGE);
}

int options_descriptor(const char *text) {
  char *end;
  if (strncmp(text, DESCRIPTOR, strlen(DESCRIPTOR)) != 0) return -1;
  unsigned long number = strtoul(text + strlen(DESCRIPTOR), &end, 10);
  bool good = text[strlen(DESCRIPTOR)] >= '0' && text[strlen(DESCRIPTOR)] <= '9' && *end == 0;
  return good && number > STDERR_FILENO && number <= INT32_MAX ? (int)number : -2;
}

static int take_disk(struct options *options, const char *word, struct failure *failure) {
  const char *value = word ? strchr(word, '=') : NULL;
  if (!value || options->disk_count == IMAGE_DEVICE_COUNT_MAX) {
    return options_usage(failure, "--disk takes ID=PATH");
  }
  // Before anything is opened here: what is open now is what the caller meant.
  int number = options_descriptor(value + 1);
  if (number == -2 || (number >= 0 && fcntl(number, F_GETFD) < 0)) {
    return fail(failure, EBADF, "disk", "--disk ID=%s names no descriptor past 2 that is open",
                value + 1);
  }
  options->disks[options->disk_count++] = word;
  return 0;
}

/** One of three words, the number of the first of which is 0. */
static int take_word(uint32_t *to, const char *word, const char *const words[3], const char *what,
                     struct failure *failure) {
  for (uint32_t i = 0; i < 3 && word; i++) {
    if (strcmp(word, words[i]) != 0) continue;
    *to = i;
    return 0;
  }
  return options_usage(failure, what);
}

static int take_user(struct confine_wish *wish, const char *word, struct failure *failure) {
  char *end = NULL;
  if (word && *word >= '0' && *word <= '9') wish->user = (uid_t)strtoul(word, &end, 10);
  bool good = end && *end == ':' && end[1] >= '0' && end[1] <= '9';
  if (good) wish->group = (gid_t)strtoul(end + 1, &end, 10);
  wish->has_user = true;
  return good && *end == 0 ? 0 : options_usage(failure, "--user takes UID:GID");
}

static int take_value(struct options *options, const char *flag, const char *value,
                      struct failure *failure) {
  static const char *const modes[] = {
      [CELL_MODE_OFF] = "off", [CELL_MODE_AUTO] = "auto", [CELL_MODE_REQUIRED] = "required"};
  static const char *const filters[] = {
      [CELL_SECCOMP_OFF] = "off", [CELL_SECCOMP_LOG] = "log", [CELL_SECCOMP_ENFORCE] = "enforce"};
  struct confine_wish *wish = &options->confine;
  if (strcmp(flag, "--disk") == 0) return take_disk(options, value, failure);
  if (strcmp(flag, "--user") == 0) return take_user(wish, value, failure);
  if (strcmp(flag, "--seccomp") == 0) {
    return take_word(&wish->seccomp, value, filters, "--seccomp is unknown", failure);
  }
  if (strcmp(flag, "--landlock") == 0) {
    return take_word(&wish->landlock, value, modes, "--landlock is unknown", failure);
  }
  if (strcmp(flag, "--namespaces") == 0) {
    return take_word(&wish->namespaces, value, modes, "--namespaces is unknown", failure);
  }
  return options_usage(failure, "an argument is not understood");
}

int options_parse(struct options *options, int count, char **words, struct failure *failure) {
  options->confine = (struct confine_wish){
      .seccomp = CELL_SECCOMP_ENFORCE,
      .landlock = CELL_MODE_AUTO,
      .namespaces = CELL_MODE_AUTO,
  };
  for (int i = 1; i < count; i++) {
    if (strcmp(words[i], "--spawned") == 0) {
      options->spawned = true;
    } else if (strcmp(words[i], "--detached") == 0) {
      options->detached = true;
    } else if (words[i][0] == '-') {
      if (take_value(options, words[i], i + 1 < count ? words[i + 1] : NULL, failure)) return -1;
      i++;
    } else if (options->folder) {
      return options_usage(failure, "an argument is not understood");
    } else {
      options->folder = words[i];
    }
  }
  // A terminal must be given back; else what cannot be blocked is better.
  int death = isatty(STDIN_FILENO) ? SIGUSR2 : SIGKILL;
  if (options->spawned && !options->detached) options->confine.death_signal = death;
  options->confine.spawned = options->spawned;
  if (options->spawned != (options->folder != NULL)) return 0;
  return options_usage(failure, "a folder is missing");
}
