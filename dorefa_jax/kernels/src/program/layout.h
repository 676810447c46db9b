// How codes and weights lie in memory; ../../packing.py says the same in pictures.
#ifndef DOREFA_LAYOUT_H_
#define DOREFA_LAYOUT_H_

#include <algorithm>
#include <cstdint>

namespace dorefa {

// What one 32-bit word of an operand holds.
enum class Format : int32_t {
  kBits = 0,    // bit i: one bit plane of channel i of 32
  kBytes = 1,   // byte i: the code of channel i of 4
  kFloats = 2,  // one channel
  kWinograd = 3,  // one channel at one point of a tile of a row, see ../../winograd.py
  kTables = 4,  // of input: as kBytes; of weights: byte i: the index that 6 one-bit weights of a channel are
};

constexpr int64_t kPanelChannels = 64;   // output channels of a weight panel
constexpr int64_t kChannelMultiple = 16;  // a narrower last panel is padded to this
constexpr int kMaxBits = 8;
constexpr int kTableChannels = 6;   // whose codes a table has all sums of
constexpr int kTableSize = 64;      // bytes
constexpr int kPoints = 6;  // of a Winograd tile, of 7 - k outputs where kernels are k wide

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

inline bool is_float(Format format) { return format == Format::kFloats || format == Format::kWinograd; }

inline int64_t channels_per_word(Format format) {
  return format == Format::kBits ? 32 : is_float(format) ? 1 : 4;
}

// Words of one pixel of one plane.
inline int64_t pixel_words(Format format, int64_t channels) { return ceil_div(channels, channels_per_word(format)); }

inline int64_t planes(Format format, int64_t bits) { return format == Format::kBits ? bits : 1; }

// Words of one group's weights: panels of [planes][taps * pixel_words][width]; of indices, all panels are as wide.
inline int64_t group_words(Format format, int64_t bits, int64_t taps, int64_t channels, int64_t outputs) {
  if (format == Format::kTables) {
    return ceil_div(outputs, kPanelChannels) * taps * ceil_div(channels, kTableChannels) * (kPanelChannels / 4);
  }
  return planes(format, bits) * taps * pixel_words(format, channels) * round_up(outputs, kChannelMultiple);
}

// Output channels, padding included, of the panel that starts at `first`.
inline int64_t panel_width(int64_t outputs, int64_t first) {
  return std::min(kPanelChannels, round_up(outputs, kChannelMultiple) - first);
}

}  // namespace dorefa

#endif  // DOREFA_LAYOUT_H_
