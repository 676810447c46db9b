// The instruction sets that the kernels are compiled for, in one library, and the choice at run time.
#ifndef DOREFA_PATHS_H_
#define DOREFA_PATHS_H_

#include <cstdint>
#include <vector>

#include "program/operands.h"

// Compilers that know AMX.
#if defined(__x86_64__) && defined(__linux__) && \
    ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 11))
#define DOREFA_HAS_AMX_PATH
#endif

namespace dorefa {

struct Path {
  const char* name;
  bool (*is_supported)();
#define DOREFA_KERNEL(result, name, arguments) result(*name) arguments;
#include "paths/kernels.inc"
#undef DOREFA_KERNEL
};

// All paths of this build, the best first. The last runs everywhere.
const std::vector<Path>& paths();

// The best path that this processor has.
int64_t best_path();

}  // namespace dorefa

#endif  // DOREFA_PATHS_H_
