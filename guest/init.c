// /init of the boot initramfs: loads the modules a stock kernel lacks, mounts the root file
// system and becomes its init. Static, without a C library: a few KiB which the kernel unpacks
// at each boot. host/kernel/initramfs.ts makes the archive around it.
//
// Understood in /proc/cmdline: root=DEVICE rootfstype= rootflags= ro rw rootwait init= ip= (by
// network.c) and MODULE.PARAMETER=VALUE. Left out: root by UUID or label, network roots, md, LVM,
// encryption.
//
// Where it fails it says why on the console and exits; the kernel then panics, which is what it
// does itself when it cannot mount a root.

#include "basics.h"
#include "network.h"

#include <asm/unistd_64.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/reboot.h>

#define BOOT_TIMER_PORT 0x3f0 // assembly/abi.ts: PORT_BOOT_TIMER
#define BOOT_TIMER_MARKER 123 // 'user space reached'

#define ORDER_BYTES 16384
#define FILESYSTEMS_BYTES 4096
#define PARAMETERS_BYTES 2048
#define PATH_BYTES 256
#define WAIT_STEP_MS 10
#define WAIT_MS 2000 // a disk that is there shows itself at once; this is ample
#define ROOTWAIT_MS 30000 // with `rootwait`, which the kernel takes as 'for ever'
#define MNT_DETACH 2

static char cmdline[CMDLINE_BYTES];
static char order[ORDER_BYTES];
static char filesystems[FILESYSTEMS_BYTES];

static struct {
  const char *root;
  const char *types; // comma-separated; null: all that the kernel has
  const char *flags;
  const char *init;
  int writable;
  int wait;
} option;

static int mount_at(const char *source, const char *target, const char *type, word flags,
                    const char *data) {
  return call(__NR_mount, (word)source, (word)target, (word)type, flags, (word)data);
}

__attribute__((noreturn)) static void leave(void) {
  for (;;) call(__NR_exit_group, 1, 0, 0, 0, 0);
}

// --- The steps ----------------------------------------------------------------------------------

static void mark_user_space(void) {
  if (call(__NR_ioperm, BOOT_TIMER_PORT, 1, 1, 0, 0) != 0) return; // locked down: no marker
  __asm__ volatile("outb %b0, %w1" : : "a"(BOOT_TIMER_MARKER), "Nd"(BOOT_TIMER_PORT));
  // Else the right to this port would stay with init for ever.
  call(__NR_ioperm, BOOT_TIMER_PORT, 1, 0, 0, 0);
}

static void mount_early(const char *type, const char *target) {
  long error = mount_at(type, target, type, 0, 0);
  if (error && error != -EBUSY) say("cannot mount ", target, error);
}

static void parse_options(char *text) {
  for (char *item; (item = next_word(&text, " \t\n"));) {
    const char *value;
    if (equal(item, "--")) return; // the rest is for init
    if ((value = after(item, "root="))) option.root = value;
    else if ((value = after(item, "rootfstype="))) option.types = value;
    else if ((value = after(item, "rootflags="))) option.flags = value;
    else if ((value = after(item, "init="))) option.init = value;
    else if (equal(item, "ro")) option.writable = 0;
    else if (equal(item, "rw")) option.writable = 1;
    else if (equal(item, "rootwait")) option.wait = 1;
  }
}

// Collects 'PARAMETER=VALUE' of every 'MODULE.PARAMETER=VALUE' on the command line, as modprobe
// does. `file` is the module's file name, with underscores.
static void module_parameters(const char *file, char *buffer, word size) {
  static char copy[CMDLINE_BYTES];
  char *rest = copy;
  memcpy(copy, cmdline, CMDLINE_BYTES);
  buffer[0] = 0;
  for (char *item; (item = next_word(&rest, " \t\n"));) {
    const char *name = file;
    if (equal(item, "--")) return;
    while (*item && (*item == *name || (*item == '-' && *name == '_'))) item++, name++;
    if (*item != '.' || !equal(name, ".ko")) continue;
    append(buffer, size, item + 1);
    append(buffer, size, " ");
  }
}

static void load_module(const char *file, const char *path) {
  static char parameters[PARAMETERS_BYTES];
  int fd = open_file(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    say("cannot open ", path, fd);
    return;
  }
  module_parameters(file, parameters, sizeof parameters);
  long error = call(__NR_finit_module, fd, (word)parameters, 0, 0, 0);
  if (error && error != -EEXIST) say("cannot load ", file, error);
  call(__NR_close, fd, 0, 0, 0, 0);
}

// True where `type` is one of the comma-separated `types`.
static int is_among(const char *type, const char *types) {
  while (*types) {
    const char *rest = after(types, type);
    if (rest && (*rest == ',' || !*rest)) return 1;
    while (*types && *types++ != ',') continue;
  }
  return 0;
}

// Each line: a file, then what it is for: file systems of the root, and `virtio:ID` for a device.
// One of these that is there is enough; without any it is for all machines.
static int is_wanted(char *purposes) {
  char *purpose = next_word(&purposes, " ");
  if (!purpose) return 1;
  for (; purpose; purpose = next_word(&purposes, " ")) {
    const char *id = after(purpose, "virtio:");
    if (id ? has_virtio_device(id) : !option.types || is_among(purpose, option.types)) return 1;
  }
  return 0;
}

static void load_modules(void) {
  char *lines = order;
  read_text("/modules/order", order, sizeof order);
  for (char *line; (line = next_word(&lines, "\n"));) {
    char *file = next_word(&line, " ");
    if (!file) continue;
    char path[PATH_BYTES] = "/modules/";
    append(path, sizeof path, file);
    if (is_wanted(line)) load_module(file, path);
    call(__NR_unlink, (word)path, 0, 0, 0, 0); // gives its memory back
  }
}

static void wait_for_root(void) {
  if (!after(option.root, "/dev/")) {
    say("only a device such as /dev/vda is understood, not root=", option.root, 0);
    leave();
  }
  long limit = option.wait ? ROOTWAIT_MS : WAIT_MS;
  for (long waited = 0; waited < limit; waited += WAIT_STEP_MS) {
    if (call(__NR_access, (word)option.root, 0, 0, 0, 0) == 0) return;
    sleep_ms(WAIT_STEP_MS);
  }
  say("no such disk: root=", option.root, 0);
  leave();
}

static long mount_as(const char *type) {
  word flags = MS_SILENT | (option.writable ? 0 : MS_RDONLY);
  long error = mount_at(option.root, "/newroot", type, flags, option.flags);
  if (error != -EACCES && error != -EROFS) return error;
  return mount_at(option.root, "/newroot", type, flags | MS_RDONLY, option.flags);
}

static void mount_root(void) {
  char *types = filesystems;
  long error = -ENODEV;
  if (option.types) {
    append(filesystems, sizeof filesystems, option.types);
    for (char *type; (type = next_word(&types, ","));) {
      if ((error = mount_as(type)) == 0) return;
    }
  } else {
    read_text("/proc/filesystems", filesystems, sizeof filesystems);
    for (char *line; (line = next_word(&types, "\n"));) {
      if (after(line, "nodev")) continue; // needs no disk, so it is none for a root
      char *type = next_word(&line, "\t ");
      if (type && (error = mount_as(type)) == 0) return;
    }
  }
  say("cannot mount root=", option.root, error);
  leave();
}

static void move_mount(const char *from, const char *to) {
  if (mount_at(from, to, 0, MS_MOVE, 0) == 0) return;
  // A root without this folder does without the file system.
  call(__NR_umount2, (word)from, MNT_DETACH, 0, 0, 0);
}

static void switch_root(void) {
  move_mount("/dev", "/newroot/dev");
  move_mount("/proc", "/newroot/proc");
  move_mount("/sys", "/newroot/sys");
  call(__NR_chdir, (word) "/newroot", 0, 0, 0, 0);
  long error = mount_at(".", "/", 0, MS_MOVE, 0);
  if (!error) error = call(__NR_chroot, (word) ".", 0, 0, 0, 0);
  if (!error) error = call(__NR_chdir, (word) "/", 0, 0, 0, 0);
  if (!error) return;
  say("cannot switch to ", option.root, error);
  leave();
}

// The console of the new root, if it has one, in place of the initramfs's.
static void reopen_console(void) {
  int fd = open_file("/dev/console", O_RDWR | O_NOCTTY);
  if (fd < 0) return;
  for (int target = 0; target < 3; target++) call(__NR_dup2, fd, target, 0, 0, 0);
  if (fd > 2) call(__NR_close, fd, 0, 0, 0, 0);
}

static long execute(const char *path, char **argv, char **envp) {
  argv[0] = (char *)path;
  return call(__NR_execve, (word)path, (word)argv, (word)envp, 0, 0);
}

static void start_init(char **argv, char **envp) {
  static const char *const usual[] = {"/sbin/init", "/etc/init", "/bin/init", "/bin/sh"};
  if (option.init) {
    say("cannot run init=", option.init, execute(option.init, argv, envp));
    return;
  }
  for (word at = 0; at < sizeof usual / sizeof usual[0]; at++) {
    long error = execute(usual[at], argv, envp);
    if (error != -ENOENT) say("cannot run ", usual[at], error);
  }
  say("found no init on ", option.root, 0);
}

__attribute__((noreturn, used)) static void run(word *stack) {
  char **argv = (char **)(stack + 1);
  char **envp = argv + stack[0] + 1;
  static char words[CMDLINE_BYTES];

  mark_user_space();
  mount_early("proc", "/proc");
  mount_early("sysfs", "/sys");
  mount_early("devtmpfs", "/dev");
  read_text("/proc/cmdline", cmdline, sizeof cmdline);
  memcpy(words, cmdline, CMDLINE_BYTES);
  parse_options(words);
  load_modules();
  configure_network(cmdline);
  if (!option.root) {
    execute("/sbin/init", argv, envp);
    say("no root= on the kernel command line, ", "and no /sbin/init here: powering off", 0);
    call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0, 0);
    leave();
  }
  wait_for_root();
  mount_root();
  switch_root();
  reopen_console();
  start_init(argv, envp);
  leave();
}

// The kernel enters with the stack pointing at argc; a C function needs it aligned to 16.
__asm__(".globl _start\n"
        "_start:\n"
        "  xor %ebp, %ebp\n"
        "  mov %rsp, %rdi\n"
        "  and $-16, %rsp\n"
        "  call run\n");
