// What every source of a path includes, before its target region: later, inline functions of the
// standard library would be compiled for instructions that the processor may lack.
#ifndef DOREFA_PATH_H_
#define DOREFA_PATH_H_

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "program/layout.h"
#include "batch/parallel.h"
#include "paths/paths.h"
#include "program/program.h"

#define DOREFA_INLINE inline __attribute__((always_inline))
#define DOREFA_APART __attribute__((noinline))
#if defined(__clang__)
#define DOREFA_UNROLL _Pragma("clang loop unroll(full)")
#define DOREFA_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define DOREFA_INDEPENDENT _Pragma("GCC ivdep")
#define DOREFA_UNROLL _Pragma("GCC unroll 8")
#endif

#endif  // DOREFA_PATH_H_
