#include "paths.h"

namespace dorefa {

#define DOREFA_DECLARE(path) \
  namespace path {           \
  void run_block(const Program&, const Buffers&, const float*, int64_t, float*); \
  }
#if defined(__x86_64__)
DOREFA_DECLARE(avx512)
DOREFA_DECLARE(avx512vnni)
DOREFA_DECLARE(avx2)
#endif
DOREFA_DECLARE(portable)
#undef DOREFA_DECLARE

namespace {

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
}
bool has_avx512vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_avx512() {
  return has_avx512vnni() && __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vbmi");
}
#endif
bool has_anything() { return true; }

}  // namespace

const std::vector<Path>& paths() {
  static const std::vector<Path> all = {
#if defined(__x86_64__)
      {"avx512", has_avx512, avx512::run_block},
      {"avx512vnni", has_avx512vnni, avx512vnni::run_block},
      {"avx2", has_avx2, avx2::run_block},
#endif
      {"portable", has_anything, portable::run_block},
  };
  return all;
}

int64_t best_path() {
  int64_t best = 0;
  while (!paths()[best].is_supported()) ++best;
  return best;
}

}  // namespace dorefa
