// The export for requests to a device or an interface, whose structures TypeScript lays out: a
// network is opened with many of them, once, and none is worth a function of its own.
#pragma once

#include <napi.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "abi.h"
#include "addon-values.h"

namespace addon {

/** struct ifreq: requests that take it do not say so in their number, TUNSETIFF even lies. */
constexpr size_t kInterfaceBytes = 40;

/** ioctl() on `fd`, or on a socket that is there for this one call. */
inline int ioctl_once(int fd, unsigned long request, void *argument, int *error) {
  int used = fd != SHIM_IOCTL_SOCKET ? fd : socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  int answer = used < 0 ? -1 : ioctl(used, request, argument);
  *error = errno;
  if (used != fd && used >= 0) close(used);
  return answer;
}

inline Value request_of_device(const Napi::CallbackInfo &info) {
  const char *call = "ioctl";
  int fd = to_fd(info[0], call, "fd", SHIM_IOCTL_SOCKET);
  auto request = static_cast<unsigned long>(to_integer(info[1], 0, UINT32_MAX, call, "request"));
  int answer = 0;
  int error = 0;
  if (info[2].IsNumber()) {
    auto number = static_cast<uintptr_t>(to_integer(info[2], 0, UINT32_MAX, call, "argument"));
    answer = ioctl_once(fd, request, reinterpret_cast<void *>(number), &error);
  } else {
    Napi::Uint8Array bytes = to_bytes(info[2], call, "argument");
    if (bytes.ByteLength() < _IOC_SIZE(request)) {
      throw_argument(info.Env(), call, "argument is shorter than the kernel takes it");
    }
    std::vector<uint8_t> copy(bytes.Data(), bytes.Data() + bytes.ByteLength());
    if (copy.size() < kInterfaceBytes) copy.resize(kInterfaceBytes);
    answer = ioctl_once(fd, request, copy.data(), &error);
    memcpy(bytes.Data(), copy.data(), bytes.ByteLength());
  }
  if (answer >= 0) return Napi::Number::New(info.Env(), answer);
  failure problem;
  errno = error;
  fail_errno(&problem, call);
  throw_failure(info.Env(), problem);
}

}  // namespace addon
