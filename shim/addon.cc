// The addon: the export table behind host/shim.ts and nothing else. Every export reads its
// arguments, checks them, makes one call into the C shim, converts the answer and returns, or
// throws an Error with `code` (an errno name), `errno` and `syscall`.
#include <napi.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "abi.h"
#include "addon-cage.h"
#include "addon-child.h"
#include "addon-confine.h"
#include "addon-ioctl.h"
#include "addon-record.h"
#include "addon-values.h"
#include "block.h"
#include "entropy.h"
#include "lock.h"
#include "probe.h"
#include "terminal.h"

namespace {

using namespace addon;

// --- Methods of guest memory --------------------------------------------------------------------

Value load_file(const CallbackInfo &info) {
  int fd = to_fd(info[0], "loadFile", "fd");
  uint64_t offset = to_u64(info[1], "loadFile", "fileOffset");
  uint64_t length = to_u64(info[2], "loadFile", "lengthBytes");
  uint64_t address = to_u64(info[3], "loadFile", "address");
  auto &machine = record_of<Machine>(info, "loadFile");
  failure problem;
  if (memory_load_file(&machine.memory, fd, offset, length, address, &problem)) {
    throw_failure(info.Env(), problem);
  }
  return info.Env().Undefined();
}

Value load_bytes(const CallbackInfo &info) {
  Napi::Uint8Array bytes = to_bytes(info[0], "loadBytes", "bytes");
  uint64_t address = to_u64(info[1], "loadBytes", "address");
  auto &machine = record_of<Machine>(info, "loadBytes");
  failure problem;
  if (memory_load_bytes(&machine.memory, bytes.Data(), bytes.ByteLength(), address, &problem)) {
    throw_failure(info.Env(), problem);
  }
  return info.Env().Undefined();
}

Value execute_block(const CallbackInfo &info) {
  Napi::Object rights = to_object(info[0], "executeBlock", "disk");
  const struct disk disk = {
      .fd = to_fd(rights.Get("fd"), "executeBlock", "fd"),
      .capacity_bytes = to_u64(rights.Get("capacityBytes"), "executeBlock", "capacityBytes"),
      .read_only = to_bool(rights.Get("readOnly"), "executeBlock", "readOnly"),
  };
  Napi::Uint8Array record = to_bytes(info[1], "executeBlock", "record");
  auto &machine = record_of<Machine>(info, "executeBlock");
  return to_result(info.Env(),
                   block_execute(&machine.memory, &disk, record.Data(), record.ByteLength()));
}

Value execute_entropy(const CallbackInfo &info) {
  Napi::Uint8Array record = to_bytes(info[0], "executeEntropy", "record");
  auto &machine = record_of<Machine>(info, "executeEntropy");
  return to_result(info.Env(),
                   entropy_execute(&machine.memory, record.Data(), record.ByteLength()));
}

/** Closes it and takes the buffers away from JavaScript, so that the memory can go at once. */
Value close_machine(const CallbackInfo &info) {
  auto *machine = static_cast<Machine *>(info.Data());
  bool detached = true;
  machine->close();
  for (auto &buffer : machine->buffers) {
    Napi::ArrayBuffer value = buffer.Value();
    if (value.IsEmpty()) continue; // collected already
    detached &= napi_detach_arraybuffer(info.Env(), value) == napi_ok;
  }
  if (detached) memory_unmap(&machine->memory);
  machine->buffers.clear();
  return info.Env().Undefined();
}

// --- Methods of a machine -----------------------------------------------------------------------

Value set_registers(const CallbackInfo &info) {
  vcpu_registers registers = to_registers(info[0]);
  auto &machine = record_of<Machine>(info, "setRegisters");
  failure problem;
  if (vcpu_set_registers(&machine.vcpu, &registers, &problem)) throw_failure(info.Env(), problem);
  return info.Env().Undefined();
}

Value run(const CallbackInfo &info) {
  auto &machine = record_of<Machine>(info, "run");
  failure problem;
  int kind = vcpu_step(&machine.vcpu, &problem);
  if (kind < 0) throw_failure(info.Env(), problem);
  return Napi::Number::New(info.Env(), kind);
}

Value pulse_irq(const CallbackInfo &info) {
  auto pin = static_cast<uint32_t>(to_integer(info[0], 0, IOAPIC_PINS - 1, "pulseIrq", "pin"));
  auto &machine = record_of<Machine>(info, "pulseIrq");
  failure problem;
  if (vm_pulse_irq(&machine.vm, pin, &problem)) throw_failure(info.Env(), problem);
  return info.Env().Undefined();
}

Value crash_state(const CallbackInfo &info) {
  auto &machine = record_of<Machine>(info, "crashState");
  vcpu_crash crash;
  failure problem;
  if (vcpu_read_crash(&machine.vcpu, &machine.memory, &crash, &problem)) {
    throw_failure(info.Env(), problem);
  }
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("registers", to_register_object(info.Env(), crash));
  object.Set("instructionBytes",
             copy_bytes(info.Env(), crash.instruction, crash.instruction_count));
  return object;
}

// --- Methods of a watcher -----------------------------------------------------------------------

constexpr size_t kReadMax = 65536;

Value take_events(const CallbackInfo &info) {
  auto &watch = record_of<Watch>(info, "takeEvents");
  return Napi::Number::New(info.Env(), watcher_take_events(&watch.watcher));
}

Value read_input(const CallbackInfo &info) {
  auto most = static_cast<size_t>(to_integer(info[0], 1, kReadMax, "readInput", "maxBytes"));
  auto &watch = record_of<Watch>(info, "readInput");
  uint8_t bytes[kReadMax];
  failure problem;
  ssize_t count = watcher_read(&watch.watcher, bytes, most, &problem);
  if (count == WATCHER_NOTHING) return info.Env().Null();
  if (count < 0) throw_failure(info.Env(), problem);
  return copy_bytes(info.Env(), bytes, static_cast<size_t>(count));
}

Value watch_input(const CallbackInfo &info) {
  watcher_arm_input(&record_of<Watch>(info, "watchInput").watcher);
  return info.Env().Undefined();
}

Value remind(const CallbackInfo &info) {
  double milliseconds = to_integer(info[0], 0, UINT32_MAX, "remind", "milliseconds");
  auto &watch = record_of<Watch>(info, "remind");
  failure problem;
  if (watcher_remind(&watch.watcher, static_cast<uint32_t>(milliseconds), &problem)) {
    throw_failure(info.Env(), problem);
  }
  return info.Env().Undefined();
}

Value write_output(const CallbackInfo &info) {
  Napi::Uint8Array bytes = to_bytes(info[0], "writeOutput", "bytes");
  auto &watch = record_of<Watch>(info, "writeOutput");
  failure problem;
  ssize_t count = watcher_write(&watch.watcher, bytes.Data(), bytes.ByteLength(), &problem);
  if (count < 0) throw_failure(info.Env(), problem);
  return Napi::Number::New(info.Env(), static_cast<double>(count));
}

Value close_watcher(const CallbackInfo &info) {
  static_cast<Watch *>(info.Data())->close();
  return info.Env().Undefined();
}

// --- Exports ------------------------------------------------------------------------------------

// Tells a machine's object from any other that is passed to createWatcher().
constexpr napi_type_tag kMachineTag = {0x9d1c5be27f6a4e03, 0xb0a3f4412c86d75e};

Napi::ArrayBuffer share_of(Env env, Machine *machine, void *data, size_t bytes) {
  Napi::ArrayBuffer buffer = share(env, machine, data, bytes);
  machine->buffers.push_back(Napi::Reference<Napi::ArrayBuffer>::New(buffer, 0));
  return buffer;
}

/** Guest RAM in windows, since Node 20 takes no external buffer beyond 4 GiB. */
void expose_windows(Napi::Object object, Machine *machine) {
  constexpr uint64_t kStride = SHIM_WINDOW_STRIDE;
  const guest_memory &memory = machine->memory;
  Napi::Array windows = Napi::Array::New(object.Env());
  for (uint64_t start = 0; start == 0 || start + SHIM_WINDOW_OVERLAP < memory.bytes;
       start += kStride) {
    uint64_t bytes = std::min(memory.bytes - start, kStride + SHIM_WINDOW_OVERLAP);
    windows[windows.Length()] = share_of(object.Env(), machine, memory.base + start, bytes);
  }
  object.Set("windows", windows);
  object.Set("memory", windows.Get(0u));
}

Napi::Object expose_memory(Env env, Machine *machine) {
  Napi::Object object = Napi::Object::New(env);
  add_method<load_file>(object, "loadFile", machine);
  add_method<load_bytes>(object, "loadBytes", machine);
  add_method<execute_block>(object, "executeBlock", machine);
  add_method<execute_entropy>(object, "executeEntropy", machine);
  add_method<create_cage>(object, "createCage", machine);
  add_method<close_machine>(object, "close", machine);
  expose_windows(object, machine);
  return object;
}

Napi::Object expose_machine(Env env, Machine *machine) {
  Napi::Object object = expose_memory(env, machine);
  add_method<set_registers>(object, "setRegisters", machine);
  add_method<run>(object, "run", machine);
  add_method<pulse_irq>(object, "pulseIrq", machine);
  add_method<crash_state>(object, "crashState", machine);
  object.Set("exit", share_of(env, machine, &machine->exit, sizeof machine->exit));
  napi_wrap(env, object, machine, release, machine, nullptr);
  machine->references++;
  napi_type_tag_object(env, object, &kMachineTag);
  return object;
}

Value create_memory(const CallbackInfo &info) {
  uint64_t bytes = to_u64(info[0], "createMemory", "memoryBytes");
  auto machine = std::make_unique<Machine>(static_cast<Environment *>(info.Data()));
  failure problem;
  if (memory_map(&machine->memory, bytes, &problem)) throw_failure(info.Env(), problem);
  return expose_memory(info.Env(), machine.release());
}

Value create_vm(const CallbackInfo &info) {
  const char *call = "createVm";
  Napi::Object options = to_object(info[0], call, "options");
  uint64_t bytes = to_u64(options.Get("memoryBytes"), call, "memoryBytes");
  auto count = static_cast<unsigned>(to_integer(options.Get("cpuCount"), 1, 255, call, "cpuCount"));
  Value path = options.Get("kvmPath");
  std::string kvm_path = path.IsUndefined() ? "/dev/kvm" : path.ToString().Utf8Value();
  auto machine = std::make_unique<Machine>(static_cast<Environment *>(info.Data()));
  failure problem;
  if (memory_map(&machine->memory, bytes, &problem)) throw_failure(info.Env(), problem);
  int kvm = kvm_open(kvm_path.c_str(), &problem);
  if (kvm < 0 || vm_create(&machine->vm, kvm, &machine->memory, nullptr, 0, &problem) ||
      vcpu_create(&machine->vcpu, &machine->vm, 0, count, &machine->exit, &problem)) {
    throw_failure(info.Env(), problem);
  }
  return expose_machine(info.Env(), machine.release());
}

Machine &to_machine(Value value) {
  const char *call = "createWatcher";
  bool tagged = false;
  void *record = nullptr;
  Napi::Object object = to_object(value, call, "vm");
  napi_check_object_type_tag(value.Env(), object, &kMachineTag, &tagged);
  if (!tagged || napi_unwrap(value.Env(), object, &record) != napi_ok) {
    throw_argument(value.Env(), call, "vm was not made by createVm()");
  }
  return *static_cast<Machine *>(record);
}

Value create_watcher(const CallbackInfo &info) {
  const char *call = "createWatcher";
  Napi::Object options = to_object(info[1], call, "options");
  int input = to_fd(options.Get("inputFd"), call, "inputFd", -1);
  int output = to_fd(options.Get("outputFd"), call, "outputFd", -1);
  bool signals = to_bool(options.Get("signals"), call, "signals");
  Machine &machine = to_machine(info[0]);
  if (!machine.open) throw_argument(info.Env(), call, "vm is closed");
  if (machine.watch) throw_argument(info.Env(), call, "vm has a watcher already");
  auto watch = std::make_unique<Watch>(static_cast<Environment *>(info.Data()));
  failure problem;
  if (watcher_start(&watch->watcher, &machine.vcpu, input, output, signals, &problem)) {
    throw_failure(info.Env(), problem);
  }
  watch->machine = &machine;
  machine.watch = watch.get();
  Record *record = watch.release();
  Napi::Object object = Napi::Object::New(info.Env());
  add_method<take_events>(object, "takeEvents", record);
  add_method<read_input>(object, "readInput", record);
  add_method<watch_input>(object, "watchInput", record);
  add_method<remind>(object, "remind", record);
  add_method<write_output>(object, "writeOutput", record);
  add_method<close_watcher>(object, "close", record);
  return object;
}

Value probe_kvm(const CallbackInfo &info) {
  failure problem;
  int kvm = kvm_open("/dev/kvm", &problem);
  if (kvm < 0) throw_failure(info.Env(), problem);
  Napi::Object extensions = Napi::Object::New(info.Env());
  for (size_t i = 0; i < probe_extension_count; i++) {
    extensions.Set(probe_extensions[i].name, probe_extension(kvm, probe_extensions[i].number));
  }
  close(kvm);
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("kvmApiVersion", KVM_API_VERSION);
  object.Set("extensions", extensions);
  return object;
}

Value probe_confinement(const CallbackInfo &info) {
  Napi::Object object = Napi::Object::New(info.Env());
  int landlock_error = 0;
  int uring_error = probe_uring();
  unsigned actions = probe_seccomp();
  object.Set("landlockAbi", probe_landlock(&landlock_error));
  object.Set("landlockErrno", landlock_error ? errno_name(landlock_error) : "");
  object.Set("seccomp", (actions & PROBE_KILL) != 0);
  object.Set("seccompTrap", (actions & PROBE_TRAP) != 0);
  object.Set("seccompLog", (actions & PROBE_LOG) != 0);
  object.Set("noNewPrivs", probe_no_new_privs());
  object.Set("ioUringErrno", uring_error ? errno_name(uring_error) : "");
  return object;
}

Value probe_namespace_errors(const CallbackInfo &info) {
  int errors[PROBE_NAMESPACES];
  probe_try_namespaces(errors);
  Napi::Object object = Napi::Object::New(info.Env());
  for (size_t i = 0; i < PROBE_NAMESPACES; i++) {
    object.Set(probe_namespaces[i].name, errors[i] ? errno_name(errors[i]) : "");
  }
  return object;
}

Value lock_whole_file(const CallbackInfo &info) {
  int fd = to_fd(info[0], "lockFile", "fd");
  bool exclusive = to_bool(info[1], "lockFile", "exclusive");
  failure problem;
  int taken = lock_file(fd, exclusive, &problem);
  if (taken < 0) throw_failure(info.Env(), problem);
  return Napi::Boolean::New(info.Env(), taken == 1);
}

Value make_terminal_raw(const CallbackInfo &info) {
  int fd = to_fd(info[0], "terminalRaw", "fd");
  failure problem;
  if (terminal_raw(fd, &problem)) throw_failure(info.Env(), problem);
  return info.Env().Undefined();
}

Value remember_terminal(const CallbackInfo &info) {
  int fd = to_fd(info[0], "terminalRemember", "fd");
  failure problem;
  if (terminal_remember(fd, &problem)) throw_failure(info.Env(), problem);
  return info.Env().Undefined();
}

Value restore_terminal(const CallbackInfo &info) {
  terminal_restore();
  return info.Env().Undefined();
}

template <Value (*Function)(const CallbackInfo &)>
void add_export(Napi::Object exports, const char *name, Environment *environment) {
  exports.Set(name, Napi::Function::New<Function>(exports.Env(), name, environment));
}

Napi::Object init(Env env, Napi::Object exports) {
  auto *environment = new Environment;
  env.AddCleanupHook(clean_up, environment);
  add_export<create_memory>(exports, "createMemory", environment);
  add_export<create_vm>(exports, "createVm", environment);
  add_export<create_watcher>(exports, "createWatcher", environment);
  add_export<probe_kvm>(exports, "probeKvm", environment);
  add_export<probe_confinement>(exports, "probeConfinement", environment);
  add_export<probe_namespace_errors>(exports, "probeNamespaces", environment);
  add_export<lock_whole_file>(exports, "lockFile", environment);
  add_export<request_of_device>(exports, "ioctl", environment);
  add_export<start_child>(exports, "startChild", environment);
  add_export<reap_child>(exports, "reapChild", environment);
  add_export<no_new_privs>(exports, "setNoNewPrivs", environment);
  add_export<landlock>(exports, "enterLandlock", environment);
  add_export<landlock_again>(exports, "narrowLandlock", environment);
  add_export<drop_capabilities>(exports, "dropCapabilities", environment);
  add_export<make_terminal_raw>(exports, "terminalRaw", environment);
  add_export<remember_terminal>(exports, "terminalRemember", environment);
  add_export<restore_terminal>(exports, "terminalRestore", environment);
  return exports;
}

}  // namespace

NODE_API_MODULE(faraday, init)
