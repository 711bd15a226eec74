// The running machine of a cell: its devices on their bus, its vCPUs on their threads, and the
// state that both obey: running, paused, stopping.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "console.h"
#include "device.h"
#include "image.h"
#include "thread.h"
#include "vcpu.h"
#include "vm.h"

#define MACHINE_DEVICES_MAX CELL_REPORT_DEVICE_COUNT_MAX
#define MACHINE_PORTS 0x800u

enum machine_state { MACHINE_RUNNING, MACHINE_PAUSED, MACHINE_STOPPING };

struct machine;

struct cpu {
  struct machine *machine;
  struct vcpu vcpu;
  struct exit_record record;
  struct thread thread;
  uint64_t exits[CELL_EXIT_KIND_COUNT];
  uint64_t unclaimed;
};

/** Why the guest is over: the first thread that has a reason fills it. */
struct ending {
  uint32_t claimed; // atomic
  uint32_t cause;   // CELL_CAUSE_*
  uint32_t signal;
  uint32_t exit_kind; // SHIM_EXIT_*
  uint64_t exit_code;
  bool crashed; // `crash` holds registers
  struct vcpu_crash crash;
};

struct machine {
  struct guest_memory memory;
  struct vm vm;
  uint32_t page_count; // of views
  struct vm_page pages[IMAGE_DEVICE_COUNT_MAX];
  uint32_t cpu_count;
  uint32_t device_count;
  struct device *serial;
  struct console console;
  int wake;    // eventfd towards the I/O thread: the ending, or room for input
  int network; // eventfd towards the network thread: a driver came or went; -1: no such thread
  uint32_t state;   // futex: enum machine_state
  uint32_t parked;  // futex: vCPU threads that stand still
  uint32_t stopped; // futex: vCPU threads that do nothing more
  uint64_t marker_ns; // atomic
  struct ending ending;
  struct device devices[MACHINE_DEVICES_MAX];
  struct cpu cpus[IMAGE_CPU_COUNT_MAX];
  uint8_t ports[MACHINE_PORTS];             // device number + 1, or 0
  uint8_t windows[IMAGE_DEVICE_COUNT_MAX];  // likewise
};

/** Creates all devices of the image, and where the machine has a VM their interrupt lines. */
int machine_add_devices(struct machine *machine, const struct image *image,
                        struct failure *failure);

/** Creates the vCPUs and gives the first one its registers. */
int machine_add_cpus(struct machine *machine, const struct image *image, struct failure *failure);

/** Starts one confined thread per vCPU; they stand still until machine_resume(). */
int machine_start(struct machine *machine, struct failure *failure);

/** Ends the guest, for the first reason given. From any thread. */
void machine_end(struct machine *machine, uint32_t cause, uint32_t signal);

/** Tells the I/O thread that there is news. */
void machine_wake(const struct machine *machine);

/** Tells the network thread that a driver came or went. */
void machine_wake_network(const struct machine *machine);

// The I/O thread's: each returns once every vCPU obeys. Requests in flight must be drained before,
// because a vCPU may wait for one.
void machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);
void machine_stop(struct machine *machine);
