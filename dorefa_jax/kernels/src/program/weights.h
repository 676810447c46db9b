// Codes of weights into panels.
#ifndef DOREFA_WEIGHTS_H_
#define DOREFA_WEIGHTS_H_

#include <cstdint>

#include "program/layout.h"

namespace dorefa {

// Packs codes [taps][channels of a group][groups * outputs of a group]; `words` is zero and has
// room for groups * group_words(...).
void pack_weights(const uint8_t* codes, Format format, int64_t bits, int64_t taps, int64_t channels, int64_t groups,
                  int64_t outputs, uint32_t* words);

// The codes of the convolution that gives the input's gradient: taps turned around, channels and outputs exchanged,
// [tap][output][channel of all groups]; and sums over outputs, [group][turned tap][padded channel].
void turn_weights(const uint8_t* codes, int64_t taps, int64_t channels, int64_t groups, int64_t outputs,
                  uint8_t* turned, int32_t* sums);

}  // namespace dorefa

#endif  // DOREFA_WEIGHTS_H_
