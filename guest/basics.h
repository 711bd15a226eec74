// What guest/init.c and guest/network.c would take from a C library: system calls, strings and
// messages on the console.

#pragma once

#define CMDLINE_BYTES 4096 // the kernel's own limit is 2048

typedef unsigned long word;

// A system call; an error is its negative number.
long call(long number, word a, word b, word c, word d, word e);
int open_file(const char *path, int flags);
void sleep_ms(long milliseconds);

void *memcpy(void *to, const void *from, word count);
void *memset(void *to, int value, word count);
word length(const char *text);
int equal(const char *one, const char *other);

// What follows `prefix` in `text`; null where it does not start so.
const char *after(const char *text, const char *prefix);

// Appends to a string in a buffer of `size` bytes; what does not fit is left out.
void append(char *buffer, word size, const char *text);

// Cuts the next word off `*rest`, at any of `separators`; null at the end.
char *next_word(char **rest, const char *separators);

// One line on the console; `error` is 0 or what a system call returned.
void say(const char *what, const char *subject, long error);

// Reads a whole small file as a string, cut where the buffer ends.
void read_text(const char *path, char *buffer, word size);
