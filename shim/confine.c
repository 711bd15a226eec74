// Confinement of the process. Calls unshare, mount, pivot_root, umount2, chdir, setgroups,
// setresgid, setresuid, getrandom, prctl, capset, landlock_*, prlimit.
#include "confine.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "filter.h"
#include "landlock.h"

#define AT(field, offset) _Static_assert(offsetof(struct confined, field) == (offset), #field)
AT(landlock_abi, CELL_CONFINED_LANDLOCK_ABI);
AT(seccomp, CELL_CONFINED_SECCOMP);
AT(capabilities, CELL_CONFINED_CAPABILITIES);
AT(processes, CELL_CONFINED_PROCESSES);
AT(address_space, CELL_CONFINED_ADDRESS_SPACE);
_Static_assert(sizeof(struct confined) == CELL_CONFINED_BYTES, "confined");

// --- Namespaces ---------------------------------------------------------------------------------

#define OTHERS (CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)
#define OTHER_BITS \
  (CELL_NAMESPACE_NET | CELL_NAMESPACE_IPC | CELL_NAMESPACE_UTS | CELL_NAMESPACE_CGROUP)
#define ALL_NAMESPACES \
  (CELL_NAMESPACE_USER | CELL_NAMESPACE_MOUNT | CELL_NAMESPACE_PID | OTHER_BITS)
// A folder that every host has; what is mounted on it is seen by nobody else.
#define PLACE "/dev"

/** A root with nothing in it, to which nothing can be added. */
static int empty_root(void) {
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return -1;
  if (mount("none", PLACE, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
            "size=4k,nr_inodes=1,mode=0555")) {
    return -1;
  }
  // The new root on top of the old, which then goes: pivot_root(2), 'pivot_root(".", ".")'.
  if (chdir(PLACE) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH)) return -1;
  return chdir("/");
}

/** Namespaces by unshare(2), and then the empty root. */
static int leave(int flags, struct confined *confined) {
  if (unshare(flags) != 0) return -1;
  if (flags & CLONE_NEWUSER) confined->namespaces |= CELL_NAMESPACE_USER;
  confined->namespaces |= OTHER_BITS;
  if (empty_root()) return -1;
  confined->namespaces |= CELL_NAMESPACE_MOUNT;
  return 0;
}

// --- User ---------------------------------------------------------------------------------------

// Past what system tools give to accounts, containers and directory services, 2^27 numbers: a cell
// takes one by chance, so that cells can do nothing to each other either.
#define USER_BASE 0x78000000u

/** As far as it is allowed: each of the three needs a right of its own. 0 or an errno. */
static int become(uid_t user, gid_t group) {
  int error = setgroups(0, NULL) ? errno : 0;
  if (setresgid(group, group, group)) error = errno;
  if (setresuid(user, user, user)) error = errno;
  return error;
}

/** Root gives up being root, before the guest can ask for anything. */
static int drop_user(const struct confine_wish *wish, struct failure *failure) {
  uint32_t chance = 0;
  if (getrandom(&chance, sizeof chance, 0) < 0) return fail_errno(failure, "getrandom");
  chance = USER_BASE | (chance & ~USER_BASE & INT32_MAX);
  uid_t user = wish->has_user ? wish->user : chance;
  gid_t group = wish->has_user ? wish->group : chance;
  int error = become(user, group);
  // Root of somebody else's namespace, where other numbers mean nothing, or without the right to
  // change: told by CELL_CONFINED, and an end only where a user was asked for.
  if (error == 0 || !wish->has_user) return 0;
  return fail(failure, error, "setresuid", "%u:%u", user, group);
}

/**
 * Whoever may makes namespaces as it is; everybody else needs a user namespace for it, which root
 * takes too, once it is nobody.
 */
static int leave_host(const struct confine_wish *wish, struct confined *confined,
                      struct failure *failure) {
  bool root = geteuid() == 0;
  bool wanted = wish->namespaces != CELL_MODE_OFF;
  // Only who starts the cell can give it process numbers of its own: then it is the first. To make
  // those its starter, unless root, put it into a user namespace with the rights to make the rest.
  bool first = wish->spawned && getpid() == 1;
  if (wanted && first) confined->namespaces |= CELL_NAMESPACE_PID;
  if (wanted && first && !root) confined->namespaces |= CELL_NAMESPACE_USER;
  bool left = wanted && leave(OTHERS, confined) == 0;
  int error = left ? EPERM : errno;
  if ((root || wish->has_user) && drop_user(wish, failure)) return -1;
  // Now: in a user namespace of its own root is nobody too.
  confined->user = geteuid();
  confined->group = getegid();
  if (left && root && unshare(CLONE_NEWUSER) == 0) confined->namespaces |= CELL_NAMESPACE_USER;
  // EPERM is what everybody else expects of the first attempt; another reason says more.
  if (wanted && !left && leave(CLONE_NEWUSER | OTHERS, confined) && error == EPERM) error = errno;
  uint32_t all = ALL_NAMESPACES & ~(wish->spawned ? 0u : CELL_NAMESPACE_PID);
  if (wanted && (confined->namespaces & all) != all) confined->namespaces_errno = (uint32_t)error;
  if (wish->namespaces != CELL_MODE_REQUIRED || confined->namespaces_errno == 0) return 0;
  return fail(failure, (int)confined->namespaces_errno, "namespaces", "%s",
              "this user may not make all of them");
}

// --- Capabilities -------------------------------------------------------------------------------

/** Whether it is empty now: refused to whoever has no rights to lose. */
static bool empty_bounding_set(void) {
  bool left = false;
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++) {
    prctl(PR_CAPBSET_DROP, capability);
    left |= prctl(PR_CAPBSET_READ, capability) == 1;
  }
  return !left;
}

static int drop_capabilities(struct confined *confined, struct failure *failure) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
  bool bounding_empty = empty_bounding_set();
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0) {
    confined->capabilities |= CELL_CAPABILITIES_NONE_AMBIENT;
  }
  if (bounding_empty) confined->capabilities |= CELL_CAPABILITIES_NONE_BOUNDING;
  if (syscall(SYS_capset, &header, none)) return fail_errno(failure, "capset");
  confined->capabilities |= CELL_CAPABILITIES_NONE_HELD;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return fail_errno(failure, "PR_SET_NO_NEW_PRIVS");
  confined->no_new_privs = 1;
  prctl(PR_SET_DUMPABLE, 0);
  confined->dumpable = (uint32_t)prctl(PR_GET_DUMPABLE);
  return 0;
}

// --- Landlock -----------------------------------------------------------------------------------

/** A domain that handles every right the kernel knows and grants none. 0 or an errno. */
static int enter_domain(struct confined *confined) {
  long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (abi < 1) return abi < 0 ? errno : ENOTSUP;
  size_t row = landlock_row(abi);
  int rules = (int)syscall(SYS_landlock_create_ruleset, &landlock_abis[row].all,
                           landlock_abis[row].bytes, 0);
  if (rules < 0) return errno;
  int error = syscall(SYS_landlock_restrict_self, rules, 0) ? errno : 0;
  close(rules);
  if (error == 0) confined->landlock_abi = (uint32_t)abi;
  return error;
}

static int enter_landlock(const struct confine_wish *wish, struct confined *confined,
                          struct failure *failure) {
  if (wish->landlock == CELL_MODE_OFF) return 0;
  confined->landlock_errno = (uint32_t)enter_domain(confined);
  if (wish->landlock != CELL_MODE_REQUIRED) return 0;
  if (confined->landlock_abi >= LANDLOCK_ABI_FULL) return 0;
  return fail(failure, confined->landlock_errno ? (int)confined->landlock_errno : ENOTSUP,
              "landlock", "ABI %u, and %zu is needed", confined->landlock_abi,
              LANDLOCK_ABI_FULL);
}

// --- Limits -------------------------------------------------------------------------------------

static int limit(int resource, uint64_t value, struct failure *failure) {
  struct rlimit before;
  if (getrlimit(resource, &before)) return fail_errno(failure, "getrlimit");
  if (value > before.rlim_max) value = before.rlim_max;
  const struct rlimit now = {.rlim_cur = value, .rlim_max = value};
  return setrlimit(resource, &now) ? fail_errno(failure, "setrlimit") : 0;
}

int confine_limits(bool processes, uint64_t address_space, struct confined *confined,
                   struct failure *failure) {
  struct rlimit now;
  // One and not none: poll(2) counts its entries against it. Number 0 is taken, so none is free.
  if (limit(RLIMIT_NOFILE, 1, failure)) return -1;
  if (!processes && limit(RLIMIT_NPROC, 0, failure)) return -1;
  if (limit(RLIMIT_AS, address_space, failure) || limit(RLIMIT_MEMLOCK, 0, failure)) return -1;
  getrlimit(RLIMIT_NOFILE, &now);
  confined->files = now.rlim_cur;
  getrlimit(RLIMIT_NPROC, &now);
  confined->processes = now.rlim_cur;
  getrlimit(RLIMIT_AS, &now);
  confined->address_space = now.rlim_cur;
  return 0;
}

// --- All of it ----------------------------------------------------------------------------------

int confine_process(const struct confine_wish *wish, struct confined *confined,
                    struct failure *failure) {
  *confined = (struct confined){.seccomp = wish->seccomp};
  empty_bounding_set(); // as root, who loses that right with the user; a user namespace refills it
  if (leave_host(wish, confined, failure)) return -1;
  if (drop_capabilities(confined, failure)) return -1;
  if (enter_landlock(wish, confined, failure)) return -1;
  if (limit(RLIMIT_CORE, 0, failure)) return -1;
  // A change of user or rights takes it back: after those.
  if (wish->death_signal) prctl(PR_SET_PDEATHSIG, wish->death_signal);
  return filter_start(failure);
}
