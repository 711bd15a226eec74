// Landlock and capabilities of Faraday's own process. Calls landlock_*, open(O_PATH), fstat, prctl,
// capset.
//
// Two domains, one in the other. The outer one has what a cell may inherit: TCP and scopes. It lies
// around the cell too, so that Faraday may go on signalling it: a scope ends at the domain that set
// it. The inner one has the files.
#include "addon-landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi.h"
#include "child-outside.h"
#include "landlock.h"

// include/uapi/linux/landlock.h, for headers older than the kernel.
#define FILE_EXECUTE (1u << 0)
#define FILE_WRITE (1u << 1)
#define FILE_READ (1u << 2)
#define FOLDER_READ (1u << 3)
#define FOLDER_REMOVE_FOLDER (1u << 4)
#define FOLDER_REMOVE_FILE (1u << 5)
#define FOLDER_MAKE_FOLDER (1u << 7)
#define FOLDER_MAKE_FILE (1u << 8)
#define FOLDER_REFER (1u << 13)
#define FILE_TRUNCATE (1u << 14)
#define DEVICE_IOCTL (1u << 15)
#define FOR_FILES (FILE_EXECUTE | FILE_WRITE | FILE_READ | FILE_TRUNCATE | DEVICE_IOCTL)

int set_no_new_privs(struct failure *failure) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return fail_errno(failure, "PR_SET_NO_NEW_PRIVS");
  return 0;
}

// --- Domains ------------------------------------------------------------------------------------

static uint64_t rights_of(uint32_t wanted) {
  uint64_t rights = 0;
  if (wanted & SHIM_PATH_READ) rights |= FILE_READ | FOLDER_READ;
  if (wanted & SHIM_PATH_WRITE) rights |= FILE_WRITE | FILE_TRUNCATE;
  if (wanted & SHIM_PATH_CHANGE) {
    rights |= FOLDER_MAKE_FILE | FOLDER_MAKE_FOLDER | FOLDER_REMOVE_FILE | FOLDER_REMOVE_FOLDER |
              FOLDER_REFER;
  }
  if (wanted & SHIM_PATH_EXECUTE) rights |= FILE_EXECUTE;
  if (wanted & SHIM_PATH_DEVICE) rights |= DEVICE_IOCTL;
  return rights;
}

/**
 * Adds one rule. What cannot be opened cannot be used either, and says so itself when it is; what
 * lies on a file system of the kernel's own (EBADFD), such as a pipe, needs no rule.
 */
static int add_rule(int ruleset, const struct path_rule *rule, uint64_t handled) {
  struct landlock_path_beneath_attr beneath = {.parent_fd = open(rule->path, O_PATH | O_CLOEXEC)};
  struct stat status;
  if (beneath.parent_fd < 0) return 0;
  beneath.allowed_access = rights_of(rule->rights) & handled;
  if (fstat(beneath.parent_fd, &status) || !S_ISDIR(status.st_mode)) {
    beneath.allowed_access &= FOR_FILES;
  }
  int error = 0;
  if (beneath.allowed_access &&
      syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0)) {
    error = errno == EBADFD ? 0 : errno;
  }
  close(beneath.parent_fd);
  return error;
}

/** A ruleset as a descriptor, or the negative of an errno. */
static int make_ruleset(const struct landlock_attributes *all, size_t bytes,
                        const struct path_rule *rules, unsigned count) {
  int ruleset = (int)syscall(SYS_landlock_create_ruleset, all, bytes, 0);
  if (ruleset < 0) return -errno;
  for (unsigned i = 0; i < count; i++) {
    int error = add_rule(ruleset, &rules[i], all->files);
    if (error == 0) continue;
    close(ruleset);
    return -error;
  }
  return ruleset;
}

static int restrict_self(int ruleset) {
  return syscall(SYS_landlock_restrict_self, ruleset, 0) ? errno : 0;
}

static int enter(const struct landlock_attributes *all, size_t bytes,
                 const struct path_rule *rules, unsigned count) {
  int ruleset = make_ruleset(all, bytes, rules, count);
  if (ruleset < 0) return -ruleset;
  int error = restrict_self(ruleset);
  close(ruleset);
  return error;
}

static long landlock_abi(void) {
  return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

struct landlock_result enter_landlock(const struct path_rule *rules, unsigned count, bool outside) {
  struct failure failure;
  long abi = landlock_abi();
  if (abi < 1) return (struct landlock_result){.error = abi < 0 ? errno : ENOTSUP};
  size_t row = landlock_row(abi);
  struct landlock_attributes outer = landlock_abis[row].all, inner = outer;
  outer.files = 0;
  inner.net = inner.scoped = 0;
  int error = outer.net ? enter(&outer, landlock_abis[row].bytes, NULL, 0) : 0;
  if (error == 0 && outside && outside_start(&failure)) error = failure.number;
  if (error == 0) error = enter(&inner, landlock_abis[row].bytes, rules, count);
  if (error) return (struct landlock_result){.error = error};
  return (struct landlock_result){.abi = (uint32_t)abi};
}

struct joining {
  int ruleset;
  int error;
};

static void join(void *argument) {
  struct joining *joining = argument;
  joining->error = restrict_self(joining->ruleset);
}

int narrow_landlock(const struct path_rule *rules, unsigned count) {
  long abi = landlock_abi();
  if (abi < 1) return abi < 0 ? errno : ENOTSUP;
  size_t row = landlock_row(abi);
  struct landlock_attributes all = landlock_abis[row].all;
  all.net = all.scoped = 0;
  struct joining joining = {.ruleset = make_ruleset(&all, landlock_abis[row].bytes, rules, count)};
  if (joining.ruleset < 0) return -joining.ruleset;
  join(&joining);
  if (joining.error == 0 && outside_exists()) outside_run(join, &joining);
  close(joining.ruleset);
  return joining.error;
}

// --- Capabilities -------------------------------------------------------------------------------

struct dropping {
  uint32_t keep;
  int error;
};

static void drop(void *argument) {
  struct dropping *dropping = argument;
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
  if (syscall(SYS_capget, &header, sets)) {
    dropping->error = errno;
    return;
  }
  bool bounded = sets[0].effective & (UINT32_C(1) << CAP_SETPCAP);
  for (unsigned i = 0; bounded; i++) {
    if (i < 32 && (dropping->keep & (UINT32_C(1) << i))) continue;
    bounded = prctl(PR_CAPBSET_DROP, i) == 0; // past the last one there is none
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  const uint32_t keep[_LINUX_CAPABILITY_U32S_3] = {dropping->keep, 0};
  for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
    sets[i].permitted &= keep[i];
    sets[i].effective &= keep[i];
    sets[i].inheritable = 0;
  }
  if (syscall(SYS_capset, &header, sets)) dropping->error = errno;
}

int drop_capabilities_but(uint32_t keep, struct failure *failure) {
  struct dropping dropping = {.keep = keep};
  drop(&dropping);
  if (dropping.error == 0 && outside_exists()) outside_run(drop, &dropping);
  errno = dropping.error;
  return dropping.error ? fail_errno(failure, "capset") : 0;
}
