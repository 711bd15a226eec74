// The io_uring of the I/O thread: many transfers in flight, each tied to a slot of the caller's.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "failure.h"
#include "request.h"

#define URING_ENTRIES 128u

struct uring {
  int fd; // -1: none; readable while completions wait
  uint8_t *rings;
  size_t rings_bytes;
  struct io_uring_sqe *entries;
  uint32_t *submit_tail, *submit_head, *submit_array;
  uint32_t *complete_head, *complete_tail;
  struct io_uring_cqe *completions;
  uint32_t submit_mask, complete_mask;
  uint32_t prepared; // entries filled since the last uring_submit()
};

struct uring_completion {
  uint32_t slot;
  int32_t result; // bytes, or minus an errno
};

/**
 * Makes the ring and registers the files: a transfer names one by its index in `files`. ENOSYS,
 * EPERM and the like where the host refuses io_uring.
 */
int uring_create(struct uring *ring, const int *files, unsigned count, struct failure *failure);

/**
 * Prepares a read, write or flush. Its ranges must stay until uring_submit(). The caller has no
 * more than URING_ENTRIES transfers between preparation and completion.
 */
void uring_prepare(struct uring *ring, unsigned file, const struct request *request,
                   uint32_t slot);

/** Hands what was prepared to the kernel. 0, or an errno: nothing was taken, call it again. */
int uring_submit(struct uring *ring);

/** Takes one completion, if there is one. */
bool uring_complete(struct uring *ring, struct uring_completion *completion);

/** Waits for at least one completion. 0, or an errno. */
int uring_wait(struct uring *ring);

void uring_close(struct uring *ring);
