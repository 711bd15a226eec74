// stopwatch [-l SECONDS] TEXT... -- COMMAND...: runs COMMAND and prints when each TEXT first
// appeared in its output, in milliseconds from before its start, '-' for one that did not; then the
// time of its end and its exit status. The empty text stands for the first byte. After so many
// seconds (60) the command is killed: status 255. In C, so that the watching costs next to nothing.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEXTS_MAX 8
#define OUTPUT_MAX (4 << 20)
#define LIMIT_SECONDS 60

static char output[OUTPUT_MAX];
static pid_t child;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void kill_child(int number) {
  (void)number;
  kill(-child, SIGKILL); // what it started itself too
}

static int start(char **command) {
  int ends[2];
  if (pipe(ends) != 0) exit(1);
  child = vfork(); // the cheapest: nothing of ours is copied
  if (child == 0) {
    setpgid(0, 0);
    dup2(ends[1], 1);
    close(ends[0]);
    close(ends[1]);
    execvp(command[0], command);
    _exit(127);
  }
  close(ends[1]);
  return ends[0];
}

static size_t least(size_t one, size_t other) { return one < other ? one : other; }

int main(int argc, char **argv) {
  unsigned limit = LIMIT_SECONDS;
  if (argc > 2 && strcmp(argv[1], "-l") == 0) {
    limit = (unsigned)atoi(argv[2]);
    argc -= 2;
    argv += 2;
  }
  char **texts = argv + 1;
  int count = 0;
  while (count + 1 < argc && strcmp(texts[count], "--") != 0) count++;
  if (count > TEXTS_MAX || count + 2 >= argc) return 2;
  double seen[TEXTS_MAX] = {0};
  signal(SIGALRM, kill_child);
  double begin = now();
  int input = start(texts + count + 1);
  alarm(limit);
  size_t used = 0;
  for (ssize_t got; used < OUTPUT_MAX - 1; used += (size_t)got) {
    got = read(input, output + used, OUTPUT_MAX - 1 - used);
    if (got <= 0) break;
    double time = now() - begin;
    for (int i = 0; i < count; i++) {
      // A text may have begun in what was read before.
      size_t length = strlen(texts[i]), back = least(length, used);
      const char *from = output + used - back;
      if (seen[i] == 0 && memmem(from, (size_t)got + back, texts[i], length)) seen[i] = time;
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  double end = now() - begin;
  for (int i = 0; i < count; i++) {
    if (seen[i] > 0) printf("%.3f ", seen[i]);
    else printf("- ");
  }
  printf("%.3f %d\n", end, WIFEXITED(status) ? WEXITSTATUS(status) : 255);
  return 0;
}
