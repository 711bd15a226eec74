// The attack build of the cell: what its files share. build/attacks.h, made of attacks.ts, has the
// list of all attacks.
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "control.h"
#include "machine.h"
#include "uring.h"

/** What the test tells an attacker of the host, by words '--attack:NAME=VALUE'. */
struct knowledge {
  const char *folder;    // the run's own: a file 'secret' that only its owner may read
  const char *program;   // path of one, which anybody may execute
  const char *socket;    // path of a listening Unix socket
  const char *abstract;  // name of a listening abstract one
  uint16_t tcp, udp;     // ports of 127.0.0.1 that somebody listens on
  pid_t victim;          // another process, which does nothing
  pid_t parent;          // the process that started this cell
  uintptr_t address;     // something readable in the parent
};

extern struct knowledge known;
extern struct machine *target;  // of this cell
extern struct uring *ring;      // of its disks with io_uring, or NULL
extern __thread bool on_io_thread;
extern int control_fd, kvm_fd;  // its socket; /dev/kvm, which the attack build keeps open

/** errno of a call that failed; 0 where it did what it should not. */
static inline int outcome(long result) { return result < 0 ? errno : 0; }

/** A disk of this cell, by its rights. */
const struct disk *find_disk(bool read_only);

/** 'folder/name', in a buffer of the calling thread. */
const char *in_folder(const char *name);

/** Says something on standard error, in one write. */
void tell(const char *text);

// Each attempts one thing and returns 0 where it was done, else the errno.
#define ATTACK(number, name) int attack_##name(void);
#include "attacks.h"
#undef ATTACK
