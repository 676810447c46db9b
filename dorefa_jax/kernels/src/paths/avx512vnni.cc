// Cascade Lake: bytes by VNNI, bits by a table of nibbles.
#include "paths/path.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,popcnt,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,popcnt,fma")
#endif

namespace dorefa {
namespace avx512vnni {
#include "simd/avx512-inl.h"
#include "per_path/all-inl.h"
}  // namespace avx512vnni
}  // namespace dorefa

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__
