// Any processor: plain C++, which the compiler vectorizes with what the target has.
#include "path.h"

namespace dorefa {
namespace portable {
#include "simd_portable.h"
#include "all-inl.h"
}  // namespace portable
}  // namespace dorefa
