// JavaScript values into C ones, with every check, and failures into JavaScript errors.
#pragma once

#include <napi.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <string>

#include "failure.h"

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

inline double to_integer(Value value, double least, double most, const char *call, const char *name) {
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

}  // namespace addon
