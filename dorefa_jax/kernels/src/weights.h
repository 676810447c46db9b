// Codes of weights into panels.
#ifndef DOREFA_WEIGHTS_H_
#define DOREFA_WEIGHTS_H_

#include <cstdint>

#include "layout.h"

namespace dorefa {

// Packs codes [taps][channels of a group][groups * outputs of a group]; `words` is zero and has
// room for groups * group_words(...).
void pack_weights(const uint8_t* codes, Format format, int64_t bits, int64_t taps, int64_t channels, int64_t groups,
                  int64_t outputs, uint32_t* words);

}  // namespace dorefa

#endif  // DOREFA_WEIGHTS_H_
