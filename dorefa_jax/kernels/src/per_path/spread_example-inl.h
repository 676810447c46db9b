// One example's activations and gradients as bytes, laid out for a weight gradient. Included once for each path, after its
// Simd. Where positions lie: weight_gradient-inl.h.

// Rows of pixels, 32 at a time: a bit of 32 pixels is a mask, and masks of all planes are codes. What is written behind
// a row are zeros, where its padding or a later row will be.
void spread_rows(const WeightGradient& w, const uint32_t* planes, uint8_t* out) {
  const Op& op = w.step.op;
  const int bits = op.activation_bits;
  for (int64_t y = 0; y < op.height; ++y) {
    for (int64_t x = 0; x < op.width; x += 32) {
      const uint32_t* from = planes + (y * op.width + x) * w.pixel_words;
      const int64_t count = std::min<int64_t>(32, op.width - x);
      uint8_t* to = out + (y + op.pad_top) * w.pitch + x + op.pad_left;
      for (int64_t first = 0; first < op.channels; first += 32, to += 32 * w.plane_bytes) {
        uint32_t words[kMaxBits][32], masks[32][kMaxBits];
        for (int bit = 0; bit < bits; ++bit) std::fill_n(words[bit] + count, 32 - count, 0u);
        for (int64_t pixel = 0; pixel < count; ++pixel) {
          for (int bit = 0; bit < bits; ++bit) {
            words[bit][pixel] = from[pixel * w.pixel_words + bit * w.plane_words + first / 32];
          }
        }
        const int channels = static_cast<int>(std::min<int64_t>(32, op.channels - first));
        for (int bit = 0; bit < bits; ++bit) {
          for (int channel = 0; channel < channels; ++channel) masks[channel][bit] = 0;
          for (int i = 0; i < count; i += Simd::kLanes) {
            const Simd::Ints pixels = Simd::load(words[bit] + i);
            for (int channel = 0; channel < channels; ++channel) {
              masks[channel][bit] |= Simd::plane_bits(pixels, channel) << i;
            }
          }
        }
        for (int channel = 0; channel < channels; ++channel) {
          Simd::unpack_codes(masks[channel], 1, bits, to + channel * w.plane_bytes);
        }
      }
    }
  }
}

// The codes of one example's activations, one channel after another: [group][phase][channel][plane_bytes].
void spread_activations(const WeightGradient& w, const uint32_t* planes, uint8_t* out) {
  const Op& op = w.step.op;
  const int64_t channels = w.step.group_channels;
  std::memset(out, 0, w.activation_bytes);
  if (w.phases == 1) return spread_rows(w, planes, out);  // groups follow each other as their channels do
  for (int64_t y = 0; y < op.height; ++y) {
    const int64_t row = y + op.pad_top;
    for (int64_t x = 0; x < op.width; ++x, planes += w.pixel_words) {
      const int64_t column = x + op.pad_left;
      const int64_t phase = row % op.stride_height * op.stride_width + column % op.stride_width;
      const int64_t position = row / op.stride_height * w.pitch + column / op.stride_width;
      for (int64_t first = 0; first < op.channels; first += 32) {
        uint8_t codes[32];
        Simd::unpack_codes(planes + first / 32, w.plane_words, op.activation_bits, codes);
        const int64_t end = std::min<int64_t>(op.channels, first + 32);
        for (int64_t channel = first; channel < end;) {
          const int64_t group = channel / channels, inner = channel % channels;
          uint8_t* to = out + ((group * w.phases + phase) * channels + inner) * w.plane_bytes + position;
          const int64_t count = std::min(end - channel, channels - inner);
          for (int64_t i = 0; i < count; ++i, to += w.plane_bytes) *to = codes[channel - first + i];
          channel += count;
        }
      }
    }
  }
}

// One example's gradients as signed bytes, [group][four positions][channel][position]: 2 c - n, or c - 128 of 8 bits.
void spread_gradients(const WeightGradient& w, const uint8_t* codes, uint8_t* out) {
  const int64_t n = (1 << w.gradient_bits) - 1;
  const int64_t outputs = w.step.group_outputs, lanes = w.step.padded_outputs();
  std::memset(out, 0, w.gradient_bytes);
  for (int64_t y = 0; y < w.step.out_height; ++y) {
    for (int64_t x = 0; x < w.step.out_width; ++x) {
      const int64_t position = y * w.pitch + x;
      for (int64_t group = 0; group < w.step.op.groups; ++group, codes += outputs) {
        uint8_t* to = out + (group * w.padded_quads + position / 4) * lanes * 4 + position % 4;
        if (w.gradient_bits == kMaxBits) {
          for (int64_t c = 0; c < outputs; ++c) to[4 * c] = static_cast<uint8_t>(codes[c] - 128);
        } else {
          for (int64_t c = 0; c < outputs; ++c) to[4 * c] = static_cast<uint8_t>(2 * codes[c] - n);
        }
      }
    }
  }
}

// Of 8 bits, 2 c - 255 = 2 (c - 128) + 1: the sum of a row's activations at positions that have a gradient.
int32_t activation_sum(const WeightGradient& w, const uint8_t* row) {
  const uint8_t* is_position = w.is_position.data();
  int32_t sum = 0;
  for (int64_t i = 0; i < 4 * w.quads; ++i) sum += row[i] & is_position[i];
  return sum;
}
