// What the handlers share: messages, threads, and a guard against exceptions.
#ifndef DOREFA_CHECKS_H_
#define DOREFA_CHECKS_H_

#include <exception>
#include <functional>
#include <string>
#include <utility>

#include "batch/parallel.h"
#include "paths/paths.h"
#include "xla/ffi/api/ffi.h"

namespace dorefa {

inline xla::ffi::Error invalid(const std::string& message) {
  return xla::ffi::Error::InvalidArgument("dorefa_jax kernels: " + message);
}

inline bool has_path(int64_t path) {
  return path >= 0 && path < static_cast<int64_t>(paths().size()) && paths()[path].is_supported();
}

inline xla::ffi::Error no_path(int64_t path) {
  return invalid("this processor has no path " + std::to_string(path));
}

inline Schedule schedule_on(xla::ffi::ThreadPool& pool) {
  return [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); };
}

// A handler from which no exception leaves for XLA.
template <auto Handler, class Signature = decltype(Handler)>
struct Guarded;

template <auto Handler, class... Args>
struct Guarded<Handler, xla::ffi::Error (*)(Args...)> {
  static xla::ffi::Error call(Args... args) {
    try {
      return Handler(std::move(args)...);
    } catch (const std::exception& e) {
      return xla::ffi::Error::Internal(std::string("dorefa_jax kernels: ") + e.what());
    }
  }
};

}  // namespace dorefa

#define DOREFA_GUARDED(handler) dorefa::Guarded<handler>::call

#endif  // DOREFA_CHECKS_H_
