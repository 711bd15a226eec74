// The thread outside. Calls pthread_create, sem_wait, sem_post, prctl(PR_SET_NAME).
//
// It may not end before the process does: the kernel tells a cell of its parent's death when the
// thread that started it is gone (PR_SET_PDEATHSIG).
#include "child-outside.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>

#define STACK_BYTES (64 * 1024)

static sem_t wanted, done;
static bool exists;
static void (*current_job)(void *argument);
static void *current_argument;

static void wait_for(sem_t *semaphore) {
  while (sem_wait(semaphore) && errno == EINTR) {
  }
}

static void *thread_main(void *unused) {
  (void)unused;
  prctl(PR_SET_NAME, "faraday-outside");
  for (;;) {
    wait_for(&wanted);
    current_job(current_argument);
    sem_post(&done);
  }
  return NULL;
}

int outside_start(struct failure *failure) {
  if (exists) return 0;
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, mask;
  sem_init(&wanted, 0, 0);
  sem_init(&done, 0, 0);
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  sigfillset(&all); // the signals are the other threads'
  pthread_sigmask(SIG_SETMASK, &all, &mask);
  int error = pthread_create(&thread, &attributes, thread_main, NULL);
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  pthread_attr_destroy(&attributes);
  if (error) return fail(failure, error, "pthread_create", "the thread that starts cells");
  exists = true;
  return 0;
}

void outside_run(void (*job)(void *argument), void *argument) {
  if (!exists) {
    job(argument);
    return;
  }
  current_job = job;
  current_argument = argument;
  sem_post(&wanted);
  wait_for(&done);
}

int outside_exists(void) {
  return exists;
}
