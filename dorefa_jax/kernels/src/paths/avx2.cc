// Processors since 2013: bits by a table of nibbles, bytes by products of 16 bits.
#include "paths/path.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,popcnt,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,popcnt,fma")
#endif

namespace dorefa {
namespace avx2 {
#include "simd/avx2-inl.h"
#include "per_path/all-inl.h"
}  // namespace avx2
}  // namespace dorefa

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__
