// Sapphire Rapids and later: bytes by AMX, the rest as path_avx512.cc has it.
#include "path.h"

#if defined(DOREFA_HAS_AMX_PATH)

#if defined(DOREFA_SOFTWARE_AMX)
#include "matrix_software.h"
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vpopcntdq,avx512vbmi,amx-tile,amx-int8,popcnt,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vpopcntdq,avx512vbmi,amx-tile,amx-int8,popcnt,fma")
#endif
#define DOREFA_VPOPCNTDQ
#define DOREFA_VBMI
#define DOREFA_AMX

namespace dorefa {
namespace amx {
#include "simd_avx512.h"
#include "all-inl.h"
#include "matrix.h"
}  // namespace amx
}  // namespace dorefa

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // DOREFA_HAS_AMX_PATH
