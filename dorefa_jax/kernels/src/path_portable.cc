// Any processor: plain C++, which the compiler vectorizes with what the target has.
#include "path.h"

namespace dorefa {
namespace portable {
#include "simd_portable.h"
#include "sink.h"
#include "tile.h"
#include "winograd.h"
#include "tables.h"
#include "input.h"
#include "block.h"
#include "gradient.h"
#include "weight_gradient.h"
#include "float_gradient.h"
#include "affine_pool.h"
#include "image_pool.h"
#include "window_gradient.h"
}  // namespace portable
}  // namespace dorefa
