// Activations times gradients, summed over the positions of each example. Included once for each path, after its Simd.
//
// A lane is an output channel, a row a tap and an input channel; four positions are multiplied by an instruction.
// Positions are numbered along padded rows of input, so that a tap is an offset; behind a row's last position
// gradients are zero, which codes, being odd, never are.

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

template <bool kHasRests, class Sum, int MR, int NR>
DOREFA_INLINE void add_gradients_as(const int32_t* rests, float scale, const Sum (&sum)[MR][NR], float* const* out) {
  const Simd::Floats factor = Simd::broadcast_float(scale);
  DOREFA_UNROLL
  for (int i = 0; i < MR; ++i) {
    const Simd::Ints rest = kHasRests ? Simd::broadcast(static_cast<uint32_t>(rests[i])) : Simd::zero();
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) {
      const auto part = (Simd::Ints)sum[i][j];
      const Simd::Ints total = kHasRests ? Simd::add(Simd::add(part, part), rest) : part;
      float* to = out[i] + j * Simd::kLanes;
      const Simd::Floats value = Simd::add(Simd::multiply(Simd::to_floats(total), factor), Simd::load_floats(to));
      Simd::store_floats(to, value, Simd::kLanes);
    }
  }
}

// Adds scale times the sums of rows to `out`; of 8 bits, twice the sums and what is left of each row.
template <class Sum, int MR, int NR>
DOREFA_INLINE void add_gradients(const WeightGradient& w, const int32_t* rests, float scale, const Sum (&sum)[MR][NR],
                                 float* const* out) {
  if (w.gradient_bits == kMaxBits) return add_gradients_as<true>(rests, scale, sum, out);
  add_gradients_as<false>(rests, scale, sum, out);
}

template <int MR, int NR>
void gradient_tile(const WeightGradient& w, const uint8_t* const* rows, const int32_t* rests, const uint8_t* gradients,
                   float scale, float* const* out) {
  const int64_t lanes = w.step.padded_outputs();
  Simd::Sums sum[MR][NR];
  DOREFA_UNROLL
  for (int i = 0; i < MR; ++i) {
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) sum[i][j] = (Simd::Sums)Simd::zero();
  }
  const auto* words = reinterpret_cast<const uint32_t*>(gradients);
  for (int64_t quad = 0; quad < w.quads; ++quad, words += lanes) {
    Simd::ByteWeights g[NR];
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) g[j] = Simd::byte_weights(Simd::load(words + j * Simd::kLanes));
    DOREFA_UNROLL
    for (int i = 0; i < MR; ++i) {
      uint32_t four;
      std::memcpy(&four, rows[i] + 4 * quad, sizeof four);
      const Simd::ByteInputs a = Simd::byte_inputs(four);
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) {
        sum[i][j] = (Simd::Sums)Simd::add_byte_products((Simd::Ints)sum[i][j], a, g[j]);
      }
    }
  }
  add_gradients(w, rests, scale, sum, out);
}

template <int NR>
void gradient_rows(const WeightGradient& w, const GradientScratch& scratch, int64_t count, const uint8_t* gradients,
                   float scale) {
  constexpr int kRows = Simd::kTileRows;
  int64_t row = 0;
  for (; row + kRows <= count; row += kRows) {
    gradient_tile<kRows, NR>(w, scratch.rows + row, scratch.rests + row, gradients, scale, scratch.out + row);
  }
  for (; row < count; ++row) {
    gradient_tile<1, NR>(w, scratch.rows + row, scratch.rests + row, gradients, scale, scratch.out + row);
  }
}

#ifdef DOREFA_AMX
void multiply_gradients(const WeightGradient& w, const GradientScratch& scratch, int64_t count, const uint8_t* gradients,
                        float scale, float* sums);
#endif

// Adds scale times the integer product of one example to `sums`, [group][tap][channel][padded outputs].
void add_weight_gradient(const WeightGradient& w, const uint32_t* planes, const uint8_t* codes, float scale,
                         const GradientScratch& scratch, float* sums) {
  const Op& op = w.step.op;
  spread_activations(w, planes, scratch.activations);
  spread_gradients(w, codes, scratch.gradients);
  const int64_t lanes = w.step.padded_outputs(), count = w.step.taps() * w.step.group_channels;
  for (int64_t group = 0; group < op.groups; ++group) {
    const uint8_t* activations = scratch.activations + group * w.phases * w.step.group_channels * w.plane_bytes;
    const uint8_t* gradients = scratch.gradients + group * w.padded_quads * lanes * 4;
    int64_t row = 0;
    for (int64_t v = 0; v < op.kernel_height; ++v) {
      for (int64_t u = 0; u < op.kernel_width; ++u) {
        const int64_t y = v * op.dilation_height, x = u * op.dilation_width;
        const int64_t phase = y % op.stride_height * op.stride_width + x % op.stride_width;
        const uint8_t* from = activations + phase * w.step.group_channels * w.plane_bytes +
                              y / op.stride_height * w.pitch + x / op.stride_width;
        for (int64_t c = 0; c < w.step.group_channels; ++c, ++row, from += w.plane_bytes) scratch.rows[row] = from;
      }
    }
    if (w.gradient_bits == kMaxBits) {
      for (int64_t i = 0; i < count; ++i) scratch.rests[i] = activation_sum(w, scratch.rows[i]);
    }
#ifdef DOREFA_AMX
    multiply_gradients(w, scratch, count, gradients, scale, sums + group * count * lanes);
#else
    for (int64_t lane = 0; lane < lanes;) {
      const int64_t vectors = std::min<int64_t>(Simd::kTileVectors, (lanes - lane) / Simd::kLanes);
      for (int64_t i = 0; i < count; ++i) scratch.out[i] = sums + (group * count + i) * lanes + lane;
      const uint8_t* some = gradients + lane * 4;
      switch (vectors) {
        case 4: if constexpr (Simd::kTileVectors >= 4) gradient_rows<4>(w, scratch, count, some, scale); break;
        case 3: if constexpr (Simd::kTileVectors >= 3) gradient_rows<3>(w, scratch, count, some, scale); break;
        case 2: if constexpr (Simd::kTileVectors >= 2) gradient_rows<2>(w, scratch, count, some, scale); break;
        default: gradient_rows<1>(w, scratch, count, some, scale); break;
      }
      lane += vectors * Simd::kLanes;
    }
#endif
  }
}

// The codes of floats, clipped to [0, 1], as bit planes of 32 channels a word, [pixel][plane][word]; where wanted, the
// last plane tells which floats were not clipped, NaN among them. Tells whether a NaN was among them.
template <int Bits>
bool pack_planes(const float* x, int64_t pixels, int64_t channels, int64_t planes, bool wants_inside, uint32_t* out) {
  const Simd::Floats levels = Simd::broadcast_float((1 << Bits) - 1);
  constexpr uint32_t kAllLanes = (uint64_t{1} << Simd::kLanes) - 1;
  const int64_t words = ceil_div(channels, 32);
  bool nan = false;
  for (int64_t p = 0; p < pixels; ++p, x += channels, out += planes * words) {
    for (int64_t word = 0; word < words; ++word) {
      uint32_t bits[Bits] = {}, inside = 0;
      for (int v = 0; v < 32 && word * 32 + v < channels; v += Simd::kLanes) {
        const int64_t first = word * 32 + v;
        // Beyond the last channel is neither code nor inside.
        const Simd::Floats value = Simd::load_some(x + first, channels - first, -1);
        uint32_t is_inside = Simd::reached(value, Simd::float_zero()) & Simd::reached(Simd::broadcast_float(1), value);
        if (Simd::any_nan(value)) {
          nan = true;
          is_inside |= ~Simd::reached(value, value) & kAllLanes;
        }
        inside |= is_inside << v;
        const Simd::Ints code = Simd::round_half_even(Simd::clamp(Simd::multiply(value, levels), levels));
        for (int a = 0; a < Bits; ++a) bits[a] |= Simd::plane_bits(code, a) << v;
      }
      for (int a = 0; a < Bits; ++a) out[a * words + word] = bits[a];
      for (int64_t a = Bits; a < planes; ++a) out[a * words + word] = 0;
      if (wants_inside) out[(planes - 1) * words + word] = inside;
    }
  }
  return nan;
}

bool pack_activations(const float* x, int64_t pixels, int64_t channels, int64_t bits, int64_t planes, bool wants_inside,
                      uint32_t* out) {
  switch (bits) {
    case 1: return pack_planes<1>(x, pixels, channels, planes, wants_inside, out);
    case 2: return pack_planes<2>(x, pixels, channels, planes, wants_inside, out);
    case 3: return pack_planes<3>(x, pixels, channels, planes, wants_inside, out);
    case 4: return pack_planes<4>(x, pixels, channels, planes, wants_inside, out);
    case 5: return pack_planes<5>(x, pixels, channels, planes, wants_inside, out);
    case 6: return pack_planes<6>(x, pixels, channels, planes, wants_inside, out);
    case 7: return pack_planes<7>(x, pixels, channels, planes, wants_inside, out);
    default: return pack_planes<8>(x, pixels, channels, planes, wants_inside, out);
  }
}
