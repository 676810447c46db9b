// Any processor: plain C++, which the compiler vectorizes with what the target has.
#include "paths/path.h"

namespace dorefa {
namespace portable {
#include "simd/portable-inl.h"
#include "per_path/all-inl.h"
}  // namespace portable
}  // namespace dorefa
