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

/** Landlock's ABI version; 0: not built in or not enabled. */
int probe_landlock(void);

/** Whether seccomp filters can kill the process. */
bool probe_seccomp(void);

/** Whether no_new_privs exists. */
bool probe_no_new_privs(void);

#ifdef __cplusplus
}
#endif
