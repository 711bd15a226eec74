// Threads. Calls prctl(PR_SET_NAME), sched_setscheduler, gettid, futex, and starts threads.
#include "thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "filter.h"
#include "futex.h"

#define STACK_BYTES (128 * 1024)

static void *thread_main(void *argument) {
  struct thread *thread = argument;
  prctl(PR_SET_NAME, thread->name);
  // Where that fails it is one like others.
  if (thread->patient) sched_setscheduler(0, SCHED_BATCH, &(const struct sched_param){0});
  thread->id = gettid();
  thread->error = filter_thread(thread->role, thread->index);
  __atomic_store_n(&thread->state, thread->error ? 2 : 1, __ATOMIC_SEQ_CST);
  futex_wake(&thread->state);
  // Without its filter it does nothing more: the start fails.
  while (thread->error) futex_wait(&thread->state, 2, NULL);
  thread->body(thread->argument);
  return NULL;
}

int thread_start(struct thread *thread, const sigset_t *open, struct failure *failure) {
  pthread_attr_t attributes;
  pthread_t ignored;
  sigset_t blocked, mask;
  sigfillset(&blocked);
  sigdelset(&blocked, SIGSYS); // blocked, a forbidden call would end the cell without a word
  for (int number = 1; open && number < NSIG; number++) {
    if (sigismember(open, number) == 1) sigdelset(&blocked, number);
  }
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  pthread_sigmask(SIG_SETMASK, &blocked, &mask);
  int error = pthread_create(&ignored, &attributes, thread_main, thread);
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  pthread_attr_destroy(&attributes);
  return error ? fail(failure, error, "pthread_create", "thread %s", thread->name) : 0;
}

int thread_await(struct thread *thread, struct failure *failure) {
  while (__atomic_load_n(&thread->state, __ATOMIC_SEQ_CST) == 0) {
    futex_wait(&thread->state, 0, NULL);
  }
  if (thread->error == 0) return 0;
  return fail(failure, thread->error, "seccomp", "thread %s", thread->name);
}
