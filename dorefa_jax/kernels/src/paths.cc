#include "paths.h"

#if defined(DOREFA_HAS_AMX_PATH)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dorefa {

#define DOREFA_DECLARE(path) \
  namespace path {           \
  void run_block(const Program&, const Buffers&, const void*, int64_t, int64_t, float*); \
  float quantize_gradients(const float*, int64_t, uint64_t, const uint32_t*, int64_t, uint8_t*); \
  bool pack_activations(const float*, int64_t, int64_t, int64_t, int64_t, bool, uint32_t*); \
  void add_weight_gradient(const WeightGradient&, const uint32_t*, const uint8_t*, float, const GradientScratch&, \
                           float*); \
  void add_float_gradient(const Step&, const float*, const float*, float*, float*, const float**, float**, float*); \
  void affine_pool(const AffinePool&, const float*, float*, const float*, float*); \
  void add_affine_pool_sums(const AffinePool&, const float*, const float*, const float*, const float*, float*, float*); \
  void affine_pool_gradient(const AffinePool&, const float*, const float*, const float*, const float*, \
                            const GradientLine&, float*, float*); \
  void pool_windows(const AffinePool&, const float*, float*, uint32_t*); \
  void add_window_gradient(const Step&, const float*, const uint32_t*, const float*, const WindowScratch&, float*, \
                           float*); \
  void add_moments(const float*, int64_t, int64_t, float*, float*); \
  }
#define DOREFA_FUNCTIONS(path) \
  path::run_block, path::quantize_gradients, path::pack_activations, path::add_weight_gradient, \
      path::add_float_gradient, path::affine_pool, path::add_affine_pool_sums, path::affine_pool_gradient, \
      path::pool_windows, path::add_window_gradient, path::add_moments
#if defined(DOREFA_HAS_AMX_PATH)
DOREFA_DECLARE(amx)
#endif
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
#if defined(DOREFA_HAS_AMX_PATH)
// The processor must have the instructions, and the system let this process use their registers.
bool find_amx() {
#if defined(DOREFA_SOFTWARE_AMX)
  return has_avx512();
#else
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
  unsigned a, b, c, d;
  if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTile) == 0 || (d & kInt8) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#endif
}
bool has_amx() {
  static const bool found = find_amx();  // a virtual machine answers CPUID slowly
  return found;
}
#endif
bool has_anything() { return true; }

}  // namespace

const std::vector<Path>& paths() {
  static const std::vector<Path> all = {
#if defined(DOREFA_HAS_AMX_PATH)
      {"amx", has_amx, DOREFA_FUNCTIONS(amx)},
#endif
#if defined(__x86_64__)
      {"avx512", has_avx512, DOREFA_FUNCTIONS(avx512)},
      {"avx512vnni", has_avx512vnni, DOREFA_FUNCTIONS(avx512vnni)},
      {"avx2", has_avx2, DOREFA_FUNCTIONS(avx2)},
#endif
      {"portable", has_anything, DOREFA_FUNCTIONS(portable)},
  };
  return all;
}

int64_t best_path() {
  int64_t best = 0;
  while (!paths()[best].is_supported()) ++best;
  return best;
}

}  // namespace dorefa
