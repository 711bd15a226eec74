// JavaScript values into C ones, with every check; C structures and failures into JavaScript ones.
#pragma once

#include <napi.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "failure.h"
#include "request.h"
#include "vcpu.h"

namespace addon {

using Napi::Env;
using Napi::Value;

// --- Errors -------------------------------------------------------------------------------------

[[noreturn]] inline void throw_failure(Env env, const failure &failure) {
  std::string name = errno_name(failure.number);
  std::string message = std::string(failure.call) + ": " + strerror(failure.number) + " (" + name +
                        ")";
  if (failure.about[0]) message += std::string(": ") + failure.about;
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, name));
  error.Set("errno", Napi::Number::New(env, failure.number));
  error.Set("syscall", Napi::String::New(env, failure.call));
  throw error;
}

[[noreturn]] inline void throw_argument(Env env, const char *call, const std::string &what) {
  failure problem;
  fail(&problem, EINVAL, call, "%s", what.c_str());
  throw_failure(env, problem);
}

// --- Arguments ----------------------------------------------------------------------------------

inline constexpr double kSafeIntegerMax = 9007199254740991;

inline double to_integer(Value value, double least, double most, const char *call,
                         const char *name) {
  double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= least && number <= most) || std::trunc(number) != number) {
    throw_argument(value.Env(), call,
                   std::string(name) + " is not a whole number from " +
                       std::to_string(static_cast<int64_t>(least)) + " to " +
                       std::to_string(static_cast<int64_t>(most)));
  }
  return number;
}

inline uint64_t to_u64(Value value, const char *call, const char *name) {
  return static_cast<uint64_t>(to_integer(value, 0, kSafeIntegerMax, call, name));
}

inline int to_fd(Value value, const char *call, const char *name, int least = 0) {
  return static_cast<int>(to_integer(value, least, INT32_MAX, call, name));
}

inline bool to_bool(Value value, const char *call, const char *name) {
  if (!value.IsBoolean()) throw_argument(value.Env(), call, std::string(name) + " is no boolean");
  return value.As<Napi::Boolean>().Value();
}

inline Napi::Object to_object(Value value, const char *call, const char *name) {
  if (!value.IsObject()) throw_argument(value.Env(), call, std::string(name) + " is no object");
  return value.As<Napi::Object>();
}

inline Napi::Uint8Array to_bytes(Value value, const char *call, const char *name) {
  if (!value.IsTypedArray() ||
      value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw_argument(value.Env(), call, std::string(name) + " is no Uint8Array");
  }
  return value.As<Napi::Uint8Array>();
}

inline uint64_t to_bits64(Value value, const char *name) {
  bool lossless = false;
  uint64_t bits = value.IsBigInt() ? value.As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (!lossless) {
    throw_argument(value.Env(), "setRegisters", std::string(name) + " is no 64-bit BigInt");
  }
  return bits;
}

inline Napi::Uint8Array copy_bytes(Env env, const uint8_t *bytes, size_t count) {
  Napi::Uint8Array copy = Napi::Uint8Array::New(env, count);
  if (count > 0) memcpy(copy.Data(), bytes, count); // an empty array may have no address at all
  return copy;
}

// --- Structures ---------------------------------------------------------------------------------

inline vcpu_segment to_segment(Value value, const char *name) {
  const char *call = "setRegisters";
  Napi::Object segment = to_object(value, call, name);
  auto field = [&](const char *key, double most) {
    return static_cast<uint32_t>(to_integer(segment.Get(key), 0, most, call, key));
  };
  vcpu_segment result = {};
  result.base = to_bits64(segment.Get("base"), "base");
  result.limit = field("limit", UINT32_MAX);
  result.selector = static_cast<uint16_t>(field("selector", UINT16_MAX));
  result.type = static_cast<uint8_t>(field("type", 15));
  result.present = static_cast<uint8_t>(field("present", 1));
  result.dpl = static_cast<uint8_t>(field("dpl", 3));
  result.db = static_cast<uint8_t>(field("db", 1));
  result.s = static_cast<uint8_t>(field("s", 1));
  result.l = static_cast<uint8_t>(field("l", 1));
  result.g = static_cast<uint8_t>(field("g", 1));
  return result;
}

inline vcpu_registers to_registers(Value value) {
  const char *call = "setRegisters";
  Napi::Object object = to_object(value, call, "registers");
  auto wide = [&](const char *key) { return to_bits64(object.Get(key), key); };
  auto limit = [&](const char *key) {
    return static_cast<uint16_t>(to_integer(object.Get(key), 0, UINT16_MAX, call, key));
  };
  return {
      .rip = wide("rip"),
      .rsp = wide("rsp"),
      .rbx = wide("rbx"),
      .rsi = wide("rsi"),
      .cr0 = wide("cr0"),
      .cr3 = wide("cr3"),
      .cr4 = wide("cr4"),
      .efer = wide("efer"),
      .gdt_base = wide("gdtBase"),
      .idt_base = wide("idtBase"),
      .gdt_limit = limit("gdtLimit"),
      .idt_limit = limit("idtLimit"),
      .code = to_segment(object.Get("code"), "code"),
      .data = to_segment(object.Get("data"), "data"),
      .task = to_segment(object.Get("task"), "task"),
  };
}

/** Every register under its name in struct kvm_regs and kvm_sregs. */
inline Napi::Object to_register_object(Env env, const vcpu_crash &crash) {
  const kvm_regs &regs = crash.regs;
  const kvm_sregs &sregs = crash.sregs;
  const std::pair<const char *, uint64_t> scalars[] = {
      {"rax", regs.rax}, {"rbx", regs.rbx}, {"rcx", regs.rcx},       {"rdx", regs.rdx},
      {"rsi", regs.rsi}, {"rdi", regs.rdi}, {"rsp", regs.rsp},       {"rbp", regs.rbp},
      {"r8", regs.r8},   {"r9", regs.r9},   {"r10", regs.r10},       {"r11", regs.r11},
      {"r12", regs.r12}, {"r13", regs.r13}, {"r14", regs.r14},       {"r15", regs.r15},
      {"rip", regs.rip}, {"cr0", sregs.cr0}, {"rflags", regs.rflags}, {"cr2", sregs.cr2},
      {"cr3", sregs.cr3}, {"cr4", sregs.cr4}, {"cr8", sregs.cr8},     {"efer", sregs.efer},
      {"apic_base", sregs.apic_base},
      {"gdt.base", sregs.gdt.base}, {"gdt.limit", sregs.gdt.limit},
      {"idt.base", sregs.idt.base}, {"idt.limit", sregs.idt.limit},
  };
  const std::pair<const char *, const kvm_segment *> segments[] = {
      {"cs", &sregs.cs}, {"ds", &sregs.ds}, {"es", &sregs.es}, {"fs", &sregs.fs},
      {"gs", &sregs.gs}, {"ss", &sregs.ss}, {"tr", &sregs.tr}, {"ldt", &sregs.ldt},
  };
  Napi::Object object = Napi::Object::New(env);
  for (const auto &[name, value] : scalars) object.Set(name, Napi::BigInt::New(env, value));
  for (const auto &[name, segment] : segments) {
    std::string prefix = name;
    object.Set(prefix + ".base", Napi::BigInt::New(env, static_cast<uint64_t>(segment->base)));
    object.Set(prefix + ".selector",
               Napi::BigInt::New(env, static_cast<uint64_t>(segment->selector)));
  }
  return object;
}

inline Value to_result(Env env, const request_result &result) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("result", result.result);
  object.Set("bytes", static_cast<double>(result.bytes));
  object.Set("errno", result.error ? errno_name(result.error) : "");
  return object;
}

}  // namespace addon
