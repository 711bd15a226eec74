// stopwatch TEXT... -- COMMAND...: runs COMMAND and prints when each TEXT first appeared in its
// output, in milliseconds from before its start, '-' for one that did not; then the time of its end
// and its exit status. In C, so that the watching costs the one emulated CPU next to nothing.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEXTS_MAX 8
#define OUTPUT_MAX (4 << 20)

static char output[OUTPUT_MAX];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int start(char **command) {
  int ends[2];
  if (pipe(ends) != 0) exit(1);
  if (fork() == 0) {
    dup2(ends[1], 1);
    close(ends[0]);
    close(ends[1]);
    execvp(command[0], command);
    _exit(127);
  }
  close(ends[1]);
  return ends[0];
}

int main(int argc, char **argv) {
  int count = 0;
  while (count + 1 < argc && strcmp(argv[count + 1], "--") != 0) count++;
  if (count > TEXTS_MAX || count + 2 >= argc) return 2;
  double seen[TEXTS_MAX] = {0};
  double begin = now();
  int input = start(argv + count + 2);
  size_t used = 0;
  for (ssize_t got; used < OUTPUT_MAX - 1; used += got) {
    got = read(input, output + used, OUTPUT_MAX - 1 - used);
    if (got <= 0) break;
    double time = now() - begin;
    for (int i = 0; i < count; i++) {
      // A text may have begun in what was read before.
      size_t back = strlen(argv[i + 1]) < used ? strlen(argv[i + 1]) : used;
      const char *from = output + used - back;
      const char *text = argv[i + 1];
      if (seen[i] == 0 && memmem(from, got + back, text, strlen(text))) seen[i] = time;
    }
  }
  int status = 0;
  wait(&status);
  for (int i = 0; i < count; i++) {
    if (seen[i] > 0) printf("%.2f ", seen[i]);
    else printf("- ");
  }
  printf("%.2f %d\n", now() - begin, WIFEXITED(status) ? WEXITSTATUS(status) : 255);
  return 0;
}
