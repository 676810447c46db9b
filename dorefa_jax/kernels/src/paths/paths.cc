#include "paths/paths.h"

#if defined(DOREFA_HAS_AMX_PATH)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dorefa {

#if defined(DOREFA_HAS_AMX_PATH)
#define DOREFA_PATH amx
#include "paths/declare_path.inc"
#endif
#if defined(__x86_64__)
#define DOREFA_PATH avx512
#include "paths/declare_path.inc"
#define DOREFA_PATH avx512vnni
#include "paths/declare_path.inc"
#define DOREFA_PATH avx2
#include "paths/declare_path.inc"
#endif
#define DOREFA_PATH portable
#include "paths/declare_path.inc"

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
      amx::table("amx", has_amx),
#endif
#if defined(__x86_64__)
      avx512::table("avx512", has_avx512),
      avx512vnni::table("avx512vnni", has_avx512vnni),
      avx2::table("avx2", has_avx2),
#endif
      portable::table("portable", has_anything),
  };
  return all;
}

int64_t best_path() {
  int64_t best = 0;
  while (!paths()[best].is_supported()) ++best;
  return best;
}

}  // namespace dorefa
