// Ice Lake, Zen 4 and later: bits by VPOPCNTDQ, bytes by VNNI, tables by VPERMB.
#include "paths/path.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vpopcntdq,avx512vbmi,popcnt,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vpopcntdq,avx512vbmi,popcnt,fma")
#endif
#define DOREFA_VPOPCNTDQ
#define DOREFA_VBMI

namespace dorefa {
namespace avx512 {
#include "simd/avx512-inl.h"
#include "per_path/all-inl.h"
}  // namespace avx512
}  // namespace dorefa

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__
