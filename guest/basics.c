// What guest/init.c and guest/network.c would take from a C library.

#include "basics.h"

#include <asm/unistd_64.h>
#include <linux/errno.h>
#include <linux/fcntl.h>

// --- System calls -------------------------------------------------------------------------------

long call(long number, word a, word b, word c, word d, word e) {
  register word r10 __asm__("r10") = d;
  register word r8 __asm__("r8") = e;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                   : "rcx", "r11", "memory");
  return result;
}

int open_file(const char *path, int flags) {
  return call(__NR_open, (word)path, flags, 0, 0, 0);
}

void sleep_ms(long milliseconds) {
  long time[2] = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  call(__NR_nanosleep, (word)time, 0, 0, 0, 0);
}

// --- Strings ------------------------------------------------------------------------------------

// The compiler may call these two for copies and initialisers, library or not.
void *memcpy(void *to, const void *from, word count) {
  for (word at = 0; at < count; at++) ((char *)to)[at] = ((const char *)from)[at];
  return to;
}

void *memset(void *to, int value, word count) {
  for (word at = 0; at < count; at++) ((volatile char *)to)[at] = value;
  return to;
}

word length(const char *text) {
  word count = 0;
  while (text[count]) count++;
  return count;
}

int equal(const char *one, const char *other) {
  while (*one && *one == *other) one++, other++;
  return *one == *other;
}

const char *after(const char *text, const char *prefix) {
  while (*prefix && *text == *prefix) text++, prefix++;
  return *prefix ? 0 : text;
}

void append(char *buffer, word size, const char *text) {
  word at = length(buffer);
  while (*text && at + 1 < size) buffer[at++] = *text++;
  buffer[at] = 0;
}

char *next_word(char **rest, const char *separators) {
  char *start = *rest;
  for (;; start++) {
    const char *separator = separators;
    while (*separator && *separator != *start) separator++;
    if (!*start) return 0;
    if (!*separator) break;
  }
  char *end = start;
  for (; *end; end++) {
    const char *separator = separators;
    while (*separator && *separator != *end) separator++;
    if (*separator) break;
  }
  *rest = *end ? end + 1 : end;
  *end = 0;
  return start;
}

// --- Messages -----------------------------------------------------------------------------------

static void print(const char *text) { call(__NR_write, 2, (word)text, length(text), 0, 0); }

static void print_error(long error) {
  static const struct {
    int error;
    const char *text;
  } known[] = {{ENOENT, "not found"},        {EIO, "input/output error"},
               {ENXIO, "no such device"},    {EACCES, "permission denied"},
               {EBUSY, "busy"},              {ENODEV, "unknown to this kernel"},
               {EINVAL, "not valid here"},   {EROFS, "read-only"},
               {ENOEXEC, "not executable"},  {ENOMEM, "out of memory"},
               {ENOTBLK, "no block device"}, {ENOTDIR, "not a directory"},
               {ENETUNREACH, "in no network of this machine"}};
  char digits[16];
  int at = sizeof digits - 1;
  digits[at] = 0;
  for (long value = -error; at > 0 && (value || at == sizeof digits - 1); value /= 10) {
    digits[--at] = '0' + value % 10;
  }
  for (word row = 0; row < sizeof known / sizeof known[0]; row++) {
    if (known[row].error != -error) continue;
    print(known[row].text);
    print(", ");
  }
  print("error ");
  print(digits + at);
}

void say(const char *what, const char *subject, long error) {
  print("faraday-init: ");
  print(what);
  print(subject);
  if (error) {
    print(": ");
    print_error(error);
  }
  print("\n");
}

void read_text(const char *path, char *buffer, word size) {
  int fd = open_file(path, O_RDONLY);
  if (fd < 0) {
    say("cannot open ", path, fd);
    return;
  }
  word done = 0;
  while (done + 1 < size) {
    long count = call(__NR_read, fd, (word)(buffer + done), size - 1 - done, 0, 0);
    if (count <= 0) break;
    done += count;
  }
  buffer[done] = 0;
  call(__NR_close, fd, 0, 0, 0, 0);
}
