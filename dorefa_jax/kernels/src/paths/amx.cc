// Sapphire Rapids and later: bytes by AMX, the rest as avx512.cc has it.
#include "paths/path.h"

#if defined(DOREFA_HAS_AMX_PATH)

#if defined(DOREFA_SOFTWARE_AMX)
#include "simd/amx_in_software.h"
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
#include "simd/avx512-inl.h"
#include "simd/amx-inl.h"
#include "per_path/all-inl.h"
#include "per_path/amx_products-inl.h"
#include "per_path/amx_weight_gradient-inl.h"
}  // namespace amx
}  // namespace dorefa

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // DOREFA_HAS_AMX_PATH
