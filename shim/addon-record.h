// The native records behind the addon's objects, and who keeps them alive.
//
// Objects are plain ones whose methods carry their record, so there is no `this` to get wrong. A
// record lives until every method and buffer that refers to it is collected; close() gives back
// what it holds at once. What is still open when the environment ends is closed by the cleanup
// hook of that environment.
#pragma once

#include <napi.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "addon-values.h"
#include "memory.h"
#include "vcpu.h"
#include "vm.h"
#include "watch.h"

namespace addon {

using Napi::CallbackInfo;

struct Record;

/** What one environment (the main thread's, a worker's) has open. */
struct Environment {
  std::vector<Record *> records;
};

struct Record {
  explicit Record(Environment *owner) : environment(owner) { owner->records.push_back(this); }
  virtual ~Record() { leave(); }

  /** Gives back all that does not need the JavaScript engine. May be called again. */
  virtual void close() = 0;

  void leave() {
    if (environment) std::erase(environment->records, this);
    environment = nullptr;
  }

  Environment *environment;
  int references = 0; // methods and buffers that JavaScript may still use
  bool open = true;
};

inline void clean_up(Environment *environment) {
  while (!environment->records.empty()) {
    environment->records.back()->close();
    environment->records.back()->leave();
  }
  delete environment;
}

inline void release(napi_env, void *, void *record) {
  auto *self = static_cast<Record *>(record);
  if (--self->references == 0) delete self;
}

/** Adds a method that carries its record. */
template <Value (*Function)(const CallbackInfo &)>
void add_method(Napi::Object object, const char *name, Record *record) {
  Napi::Function function = Napi::Function::New<Function>(object.Env(), name, record);
  napi_add_finalizer(object.Env(), function, nullptr, release, record, nullptr);
  record->references++;
  object.Set(name, function);
}

/** An ArrayBuffer over native memory that lives as long as `record`, unless it is detached. */
inline Napi::ArrayBuffer share(Env env, Record *record, void *data, size_t bytes) {
  napi_value value = nullptr;
  record->references++; // given back by release(), which Node calls even where this fails
  if (napi_create_external_arraybuffer(env, data, bytes, release, record, &value) != napi_ok) {
    failure problem;
    fail(&problem, ENOMEM, "napi_create_external_arraybuffer", "%zu bytes", bytes);
    throw_failure(env, problem);
  }
  return Napi::ArrayBuffer(env, value);
}

/** The record of the method being called. To be asked for after the arguments: reading those may
 * run JavaScript, which may close it. */
template <typename Kind>
Kind &record_of(const CallbackInfo &info, const char *call) {
  auto *record = static_cast<Kind *>(info.Data());
  if (record->open) return *record;
  failure problem;
  fail(&problem, EBADF, call, "%s is closed", Kind::kName);
  throw_failure(info.Env(), problem);
}

struct Watch;

/** Guest memory, and where `vcpu.fd` is there, the machine around it. */
struct Machine final : Record {
  static constexpr const char *kName = "the machine";

  explicit Machine(Environment *owner) : Record(owner) { vcpu.fd = -1; }
  ~Machine() override {
    close();
    memory_unmap(&memory);
  }
  void close() override;

  guest_memory memory = {nullptr, 0};
  struct vm vm = {-1, -1};
  struct vcpu vcpu = {};
  exit_record exit = {};
  Watch *watch = nullptr;
  std::vector<Napi::Reference<Napi::ArrayBuffer>> buffers; // weak: the windows and `exit`
};

struct Watch final : Record {
  static constexpr const char *kName = "the watcher";

  explicit Watch(Environment *owner) : Record(owner) {}
  ~Watch() override { close(); }
  void close() override {
    if (!open) return;
    open = false;
    watcher_stop(&watcher);
    if (machine) machine->watch = nullptr;
    machine = nullptr;
  }

  struct watcher watcher = {};
  Machine *machine = nullptr; // until either is closed
};

/** The mapping stays until nothing can reach it: see close_machine() and the destructor. */
inline void Machine::close() {
  if (!open) return;
  open = false;
  if (watch) {
    watcher_detach(&watch->watcher);
    watch->machine = nullptr;
    watch = nullptr;
  }
  vcpu_close(&vcpu);
  vm_close(&vm);
}

}  // namespace addon
