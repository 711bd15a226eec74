// The exports that start a cell and learn how it ended: see child.h.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "addon-values.h"
#include "child.h"

namespace addon {

using Napi::CallbackInfo;

/** The strings of a JavaScript array, for as long as the result lives. */
inline std::vector<std::string> to_strings(Value value, const char *call, const char *name) {
  if (!value.IsArray()) throw_argument(value.Env(), call, std::string(name) + " is no array");
  Napi::Array array = value.As<Napi::Array>();
  std::vector<std::string> strings;
  for (uint32_t i = 0; i < array.Length(); i++) {
    strings.push_back(array.Get(i).ToString().Utf8Value());
  }
  return strings;
}

inline Value start_child(const CallbackInfo &info) {
  const char *call = "startChild";
  std::vector<std::string> words = to_strings(info[0], call, "words");
  if (words.empty()) throw_argument(info.Env(), call, "words is empty");
  if (!info[1].IsArray()) throw_argument(info.Env(), call, "descriptors is no array");
  Napi::Array numbers = info[1].As<Napi::Array>();
  bool session = to_bool(info[2], call, "session");
  bool namespaces = to_bool(info[3], call, "namespaces");
  std::vector<int> descriptors;
  for (uint32_t i = 0; i < numbers.Length(); i++) {
    descriptors.push_back(to_fd(numbers.Get(i), call, "a descriptor", CHILD_CONTROL));
  }
  std::vector<char *> arguments;
  for (std::string &word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  child child = {};
  failure problem;
  if (child_start(&child, words[0].c_str(), arguments.data(), descriptors.data(),
                  static_cast<unsigned>(descriptors.size()), session, namespaces, &problem)) {
    throw_failure(info.Env(), problem);
  }
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("pid", child.pid);
  object.Set("control", child.control);
  return object;
}

inline Value reap_child(const CallbackInfo &info) {
  auto pid = static_cast<pid_t>(to_integer(info[0], 1, INT32_MAX, "reapChild", "pid"));
  int status = 0;
  failure problem;
  int done = child_reap(pid, &status, &problem);
  if (done < 0) throw_failure(info.Env(), problem);
  return done ? Napi::Number::New(info.Env(), status) : info.Env().Null();
}

}  // namespace addon
