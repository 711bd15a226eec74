// The methods of a native cage's object: the core's own exports over one instance, its memory, and
// the accesses to guest memory that its calls made.
#pragma once

#include <napi.h>

#include <cerrno>
#include <utility>

#include "abi.h"
#include "addon-record.h"
#include "addon-values.h"
#include "cage.h"

namespace addon {

static_assert(CAGE_TRAPPED == SHIM_CAGE_TRAPPED, "JavaScript tells a trap by the same number");

/** One device. Its memory stays until nothing can reach it: the machine's too. */
struct CageRecord final : Record {
  static constexpr const char *kName = "the cage";

  CageRecord(Environment *owner, Machine *over) : Record(owner), machine(over) {
    machine->references++;
  }
  ~CageRecord() override {
    cage_destroy(cage);
    release(nullptr, nullptr, machine);
  }
  void close() override { open = false; }

  Machine *machine;
  struct cage *cage = nullptr;
  Napi::Reference<Napi::ArrayBuffer> buffer; // weak
  std::vector<uint8_t> log_bytes, script;
  access_log log = {};
};

inline CageRecord &open_cage(const CallbackInfo &info, const char *call) {
  auto &record = record_of<CageRecord>(info, call);
  if (record.machine->open) return record;
  failure problem;
  fail(&problem, EBADF, call, "%s is closed", Machine::kName);
  throw_failure(info.Env(), problem);
}

template <typename... Number, size_t... Index>
Value call_core(const CallbackInfo &info, uint32_t (*call)(struct cage *, Number...),
                std::index_sequence<Index...>) {
  [[maybe_unused]] auto number = [&](size_t index) {
    const std::string name = "argument " + std::to_string(index + 1);
    return static_cast<uint32_t>(to_integer(info[index], 0, UINT32_MAX, "cage", name.c_str()));
  };
  const uint32_t numbers[] = {number(Index)..., 0};
  return Napi::Number::New(info.Env(), call(open_cage(info, "cage").cage, numbers[Index]...));
}

template <typename... Number>
Value call_core(const CallbackInfo &info, uint32_t (*call)(struct cage *, Number...)) {
  return call_core(info, call, std::index_sequence_for<Number...>());
}

/** A call into the core: numbers in, a number out. */
template <auto Call>
Value cage_call(const CallbackInfo &info) {
  return call_core(info, Call);
}

/** Starts to log accesses, in at most so many bytes between two takeAccesses(). 0: stops. */
inline Value log_accesses(const CallbackInfo &info) {
  constexpr double kMost = 1 << 30;
  auto bytes = static_cast<size_t>(to_integer(info[0], 0, kMost, "logAccesses", "capacityBytes"));
  auto &record = open_cage(info, "logAccesses");
  record.log_bytes.resize(bytes);
  record.log = {};
  record.log.bytes = record.log_bytes.data();
  record.log.capacity = bytes;
  cage_log_accesses(record.cage, bytes > 0 ? &record.log : nullptr);
  return info.Env().Undefined();
}

/** The next call's reads find what these accesses did, until they are taken. */
inline Value serve_accesses(const CallbackInfo &info) {
  Napi::Uint8Array bytes = to_bytes(info[0], "serveAccesses", "accesses");
  auto &record = open_cage(info, "serveAccesses");
  record.script.assign(bytes.Data(), bytes.Data() + bytes.ByteLength());
  record.log.script = record.script.data();
  record.log.script_bytes = record.script.size();
  record.log.script_at = 0;
  return info.Env().Undefined();
}

inline Value take_accesses(const CallbackInfo &info) {
  auto &record = open_cage(info, "takeAccesses");
  size_t used = record.log.used;
  record.log.used = 0;
  record.log.script_bytes = record.log.script_at = 0;
  if (used > record.log.capacity) {
    failure problem;
    fail(&problem, ENOBUFS, "takeAccesses", "%zu bytes of accesses", used);
    throw_failure(info.Env(), problem);
  }
  return copy_bytes(info.Env(), record.log_bytes.data(), used);
}

inline Value close_cage(const CallbackInfo &info) {
  auto *record = static_cast<CageRecord *>(info.Data());
  record->close();
  Napi::ArrayBuffer buffer = record->buffer.Value();
  if (!buffer.IsEmpty() && napi_detach_arraybuffer(info.Env(), buffer) == napi_ok) {
    cage_destroy(record->cage);
    record->cage = nullptr;
  }
  return info.Env().Undefined();
}

inline void add_cage_methods(Napi::Object object, CageRecord *record) {
  add_method<cage_call<cage_init>>(object, "init", record);
  add_method<cage_call<cage_read>>(object, "read", record);
  add_method<cage_call<cage_write>>(object, "write", record);
  add_method<cage_call<cage_notify>>(object, "notify", record);
  add_method<cage_call<cage_next>>(object, "next", record);
  add_method<cage_call<cage_complete>>(object, "complete", record);
  add_method<cage_call<cage_input>>(object, "input", record);
  add_method<cage_call<cage_reset>>(object, "reset", record);
  add_method<cage_call<cage_check>>(object, "check", record);
  add_method<cage_call<cage_fail>>(object, "fail", record);
  add_method<log_accesses>(object, "logAccesses", record);
  add_method<serve_accesses>(object, "serveAccesses", record);
  add_method<take_accesses>(object, "takeAccesses", record);
  add_method<close_cage>(object, "close", record);
}

/** A cage over the memory of the object whose method this is. */
inline Value create_cage(const CallbackInfo &info) {
  auto &machine = record_of<Machine>(info, "createCage");
  auto record = std::make_unique<CageRecord>(machine.environment, &machine);
  failure problem;
  record->cage = cage_create(&machine.memory, &problem);
  if (!record->cage) throw_failure(info.Env(), problem);
  CageRecord *cage = record.release();
  Napi::Object object = Napi::Object::New(info.Env());
  add_cage_methods(object, cage);
  Napi::ArrayBuffer memory =
      share(info.Env(), cage, cage_memory(cage->cage), ABI_CAGE_MEMORY_BYTES);
  cage->buffer = Napi::Reference<Napi::ArrayBuffer>::New(memory, 0);
  object.Set("memory", memory);
  return object;
}

}  // namespace addon
