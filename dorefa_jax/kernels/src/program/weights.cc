#include "program/weights.h"

namespace dorefa {
namespace {

// The signed byte that stands for a code: 2 c - levels, or c - 128 where that does not fit.
uint32_t weight_byte(uint8_t code, int64_t bits) {
  const int value = bits == kMaxBits ? int{code} - 128 : 2 * int{code} - ((1 << bits) - 1);
  return static_cast<uint8_t>(value);
}

}  // namespace

namespace {

// A channel's lane: of two bytes that are summed in 16 bits, the lower ones are the first 32 channels.
int64_t table_lane(int64_t channel) { return channel < 32 ? 2 * channel : 2 * (channel - 32) + 1; }

void pack_indices(const uint8_t* codes, int64_t taps, int64_t channels, int64_t groups, int64_t outputs,
                  uint8_t* bytes) {
  const int64_t tables = ceil_div(channels, kTableChannels);
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t first = 0; first < outputs; first += kPanelChannels, bytes += taps * tables * kPanelChannels) {
      const int64_t real = std::min(kPanelChannels, outputs - first);
      for (int64_t tap = 0; tap < taps; ++tap) {
        for (int64_t c = 0; c < channels; ++c) {
          const uint8_t* from = codes + ((tap * channels + c) * groups + group) * outputs + first;
          uint8_t* to = bytes + (tap * tables + c / kTableChannels) * kPanelChannels;
          for (int64_t n = 0; n < real; ++n) to[table_lane(n)] |= (from[n] & 1) << (c % kTableChannels);
        }
      }
    }
  }
}

}  // namespace

void pack_weights(const uint8_t* codes, Format format, int64_t bits, int64_t taps, int64_t channels, int64_t groups,
                  int64_t outputs, uint32_t* words) {
  if (format == Format::kTables) {
    return pack_indices(codes, taps, channels, groups, outputs, reinterpret_cast<uint8_t*>(words));
  }
  const int64_t per_word = channels_per_word(format);
  const int64_t length = taps * pixel_words(format, channels);
  const int64_t all_planes = planes(format, bits);
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t first = 0; first < outputs; first += kPanelChannels) {
      const int64_t width = panel_width(outputs, first);
      const int64_t real = std::min(width, outputs - first);
      for (int64_t tap = 0; tap < taps; ++tap) {
        for (int64_t c = 0; c < channels; ++c) {
          const uint8_t* from = codes + ((tap * channels + c) * groups + group) * outputs + first;
          uint32_t* to = words + (tap * pixel_words(format, channels) + c / per_word) * width;
          const int64_t at = c % per_word;
          if (format == Format::kBytes) {
            for (int64_t n = 0; n < real; ++n) to[n] |= weight_byte(from[n], bits) << (8 * at);
            continue;
          }
          for (int64_t plane = 0; plane < all_planes; ++plane, to += length * width) {
            for (int64_t n = 0; n < real; ++n) to[n] |= static_cast<uint32_t>((from[n] >> plane) & 1) << at;
          }
        }
      }
      words += all_planes * length * width;
    }
  }
}

void turn_weights(const uint8_t* codes, int64_t taps, int64_t channels, int64_t groups, int64_t outputs,
                  uint8_t* turned, int32_t* sums) {
  constexpr int64_t kBlock = 64;  // channels whose codes, a cache line of outputs each, stay in the cache
  const int64_t lanes = round_up(channels, kChannelMultiple), row = groups * outputs, column = groups * channels;
  std::fill_n(sums, groups * taps * lanes, 0);
  for (int64_t tap = 0; tap < taps; ++tap) {
    const int64_t other = taps - 1 - tap;
    for (int64_t group = 0; group < groups; ++group) {
      const uint8_t* from = codes + tap * channels * row + group * outputs;
      uint8_t* to = turned + other * outputs * column + group * channels;
      for (int64_t first = 0; first < channels; first += kBlock) {
        const int64_t end = std::min(channels, first + kBlock);
        for (int64_t begin = 0; begin < outputs; begin += kBlock) {
          const int64_t stop = std::min(outputs, begin + kBlock);
          for (int64_t o = begin; o < stop; ++o) {
            for (int64_t c = first; c < end; ++c) to[o * column + c] = from[c * row + o];
          }
        }
      }
      int32_t* sum = sums + (group * taps + other) * lanes;
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t o = 0; o < outputs; ++o) sum[c] += from[c * row + o];
      }
    }
  }
}

}  // namespace dorefa
