// The exports by which Faraday's own process gives up rights: see addon-landlock.h.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "addon-child.h"
#include "addon-landlock.h"
#include "addon-values.h"

namespace addon {

/** Two arrays, of paths and of their rights; `paths` keeps the texts alive. */
inline std::vector<path_rule> to_rules(const CallbackInfo &info, const char *call,
                                       const std::vector<std::string> &paths) {
  if (!info[1].IsArray()) throw_argument(info.Env(), call, "rights is no array");
  Napi::Array rights = info[1].As<Napi::Array>();
  if (rights.Length() != paths.size()) {
    throw_argument(info.Env(), call, "there are not as many rights as paths");
  }
  std::vector<path_rule> rules;
  for (uint32_t i = 0; i < rights.Length(); i++) {
    double bits = to_integer(rights.Get(i), 0, UINT32_MAX, call, "rights");
    rules.push_back({.path = paths[i].c_str(), .rights = static_cast<uint32_t>(bits)});
  }
  return rules;
}

inline Value no_new_privs(const CallbackInfo &info) {
  failure problem;
  if (set_no_new_privs(&problem)) throw_failure(info.Env(), problem);
  return info.Env().Undefined();
}

inline Value landlock(const CallbackInfo &info) {
  const char *call = "enterLandlock";
  std::vector<std::string> paths = to_strings(info[0], call, "paths");
  std::vector<path_rule> rules = to_rules(info, call, paths);
  bool outside = to_bool(info[2], call, "outside");
  auto count = static_cast<unsigned>(rules.size());
  landlock_result result = enter_landlock(rules.data(), count, outside);
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("abi", result.abi);
  object.Set("errno", result.error ? errno_name(result.error) : "");
  return object;
}

inline Value landlock_again(const CallbackInfo &info) {
  const char *call = "narrowLandlock";
  std::vector<std::string> paths = to_strings(info[0], call, "paths");
  std::vector<path_rule> rules = to_rules(info, call, paths);
  int error = narrow_landlock(rules.data(), static_cast<unsigned>(rules.size()));
  return Napi::String::New(info.Env(), error ? errno_name(error) : "");
}

inline Value drop_capabilities(const CallbackInfo &info) {
  double keep = to_integer(info[0], 0, UINT32_MAX, "dropCapabilities", "keep");
  failure problem;
  if (drop_capabilities_but(static_cast<uint32_t>(keep), &problem)) {
    throw_failure(info.Env(), problem);
  }
  return info.Env().Undefined();
}

}  // namespace addon
