// What this host offers: KVM extensions and the means of confinement.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct probe_extension {
  int number;
  const char *name; // as in linux/kvm.h
};

/** The extensions worth reporting. */
extern const struct probe_extension probe_extensions[];
extern const size_t probe_extension_count;

/** The answer of KVM_CHECK_EXTENSION; 0: absent. */
int probe_extension(int kvm, int number);

/** Landlock's ABI version; 0: not built in or not enabled, as the errno says. */
int probe_landlock(int *error);

#define PROBE_KILL 1u
#define PROBE_TRAP 2u
#define PROBE_LOG 4u

/** What a seccomp filter can do with a call: PROBE_* bits. */
unsigned probe_seccomp(void);

/** 0, or the errno for an io_uring that is restricted to some operations. */
int probe_uring(void);

#define PROBE_NAMESPACES 7

struct probe_namespace {
  const char *name;
  int flag; // CLONE_NEW*
};

extern const struct probe_namespace probe_namespaces[PROBE_NAMESPACES];

/** Tries each, in a child that is gone after: 0 or an errno for each. */
void probe_try_namespaces(int errors[PROBE_NAMESPACES]);

/** Whether no_new_privs exists. */
bool probe_no_new_privs(void);

#ifdef __cplusplus
}
#endif
