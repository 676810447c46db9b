// What becomes of sums: floats, or codes in the next op's layout. Included once for each path.

struct Sink {
  Output output;
  const int32_t* row_sums;  // of codes under each row's window; null where no correction is needed
  const float* params;      // of one group: [2, levels, or 2 levels][padded outputs]
  int64_t params_stride;
  int64_t levels;           // of the codes
  int64_t outputs;          // channels of one group, without padding
  int64_t first;            // of these among all channels

  float* floats;            // [row][float_stride]
  int64_t float_stride;

  const float* scales;      // of each image, for gradients
  const int32_t* offsets;   // [pixel][params_stride]
  int64_t pixels;           // of an image

  uint32_t* sums;           // [row][params_stride], instead of everything below, where a pooling follows

  const Step* next;         // whose input the codes are
  uint32_t* codes;
  const int32_t* code_offsets;  // word offset of each row's pixel

  // Takes a tile of sums, integers or floats.
  template <int MR, int NR, class Sum>
  DOREFA_INLINE void put(int64_t row, int64_t channel, const Sum (&sum)[MR][NR]) const {
    if (sums) return put_sums<MR, NR>(row, channel, sum);
    switch (output) {
      case Output::kFloats: return put_floats<MR, NR>(row, channel, sum);
      case Output::kGradient: return put_gradients<MR, NR>(row, channel, sum);
      case Output::kAffine: return put_affine<MR, NR>(row, channel, sum);
      case Output::kThresholds:
      case Output::kValley: return put_thresholds<MR, NR>(row, channel, sum);
    }
  }

  template <int MR, int NR, class Sum>
  DOREFA_INLINE void put_sums(int64_t row, int64_t channel, const Sum (&sum)[MR][NR]) const {
    uint32_t* to = sums + row * params_stride + channel;
    DOREFA_UNROLL
    for (int i = 0; i < MR; ++i, to += params_stride) {
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) Simd::store(to + j * Simd::kLanes, sum[i][j]);
    }
  }

  // No fused multiply-add: thresholds were checked against a product that is rounded.
  static DOREFA_INLINE Simd::Floats affine(Simd::Floats x, Simd::Floats factor, Simd::Floats offset) {
    return Simd::add(Simd::multiply(x, factor), offset);
  }

  template <int MR, int NR, class Sum>
  DOREFA_INLINE void put_floats(int64_t row, int64_t channel, const Sum (&sum)[MR][NR]) const {
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j, channel += Simd::kLanes) {
      const int64_t left = std::min<int64_t>(outputs - channel, Simd::kLanes);
      if (left <= 0) return;
      const Simd::Floats factor = Simd::load_floats(params + channel);
      const Simd::Floats offset = Simd::load_floats(params + params_stride + channel);
      float* to = floats + row * float_stride + channel;
      DOREFA_UNROLL
      for (int i = 0; i < MR; ++i, to += float_stride) {
        Simd::store_floats(to, affine(Simd::to_floats(sum[i][j]), factor, offset), static_cast<int>(left));
      }
    }
  }

  template <int MR, int NR>
  DOREFA_INLINE void put_gradients(int64_t, int64_t, const Simd::Floats (&)[MR][NR]) const {}  // sums are integers

  template <int MR, int NR>
  DOREFA_INLINE void put_gradients(int64_t row, int64_t channel, const Simd::Ints (&sum)[MR][NR]) const {
    int64_t image = row / pixels, pixel = row % pixels;
    float* to = floats + row * float_stride + channel;
    DOREFA_UNROLL
    for (int i = 0; i < MR; ++i, to += float_stride) {
      const Simd::Floats scale = Simd::broadcast_float(scales[image]);
      const auto* offset = reinterpret_cast<const uint32_t*>(offsets + pixel * params_stride + channel);
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) {
        const int64_t left = std::min<int64_t>(outputs - channel - j * Simd::kLanes, Simd::kLanes);
        if (left <= 0) break;
        const Simd::Ints twice = Simd::add(sum[i][j], sum[i][j]);
        const Simd::Floats total = Simd::to_floats(Simd::subtract(twice, Simd::load(offset + j * Simd::kLanes)));
        const Simd::Floats factor = Simd::multiply(Simd::load_floats(params + channel + j * Simd::kLanes), scale);
        Simd::store_floats(to + j * Simd::kLanes, Simd::multiply(total, factor), static_cast<int>(left));
      }
      if (++pixel == pixels) {
        pixel = 0;
        ++image;
      }
    }
  }

  template <int MR, int NR, class Sum>
  DOREFA_INLINE void put_affine(int64_t row, int64_t channel, const Sum (&sum)[MR][NR]) const {
    const Simd::Floats high = Simd::broadcast_float(static_cast<float>(levels));
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j, channel += Simd::kLanes) {
      const Simd::Floats factor = Simd::load_floats(params + channel);
      const Simd::Floats offset = Simd::load_floats(params + params_stride + channel);
      DOREFA_UNROLL
      for (int i = 0; i < MR; ++i) {
        const Simd::Floats value = affine(Simd::to_floats(sum[i][j]), factor, offset);
        put_codes(row + i, channel, Simd::truncate(Simd::clamp(value, high)));
      }
    }
  }

  // The planes of 1 and 2 bits follow from comparisons without a code in between, and those of all
  // the tile's channels are stored at once.
  template <int MR, int NR, class Sum>
  DOREFA_INLINE void put_few_thresholds(int64_t row, int64_t channel, const Sum (&sum)[MR][NR]) const {
    uint64_t low[MR] = {}, high[MR] = {};
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) {
      const float* threshold = params + channel + j * Simd::kLanes;
      const auto first = load_like(sum[0][j], threshold);
      if (levels == 1) {
        DOREFA_UNROLL
        for (int i = 0; i < MR; ++i) low[i] |= uint64_t{Simd::reached(sum[i][j], first)} << (j * Simd::kLanes);
        continue;
      }
      const auto second = load_like(sum[0][j], threshold + params_stride);
      const auto third = load_like(sum[0][j], threshold + 2 * params_stride);
      DOREFA_UNROLL
      for (int i = 0; i < MR; ++i) {
        const uint32_t is_high = Simd::reached(sum[i][j], second);
        const uint32_t is_odd = (Simd::reached(sum[i][j], first) & ~is_high) | Simd::reached(sum[i][j], third);
        low[i] |= uint64_t{is_odd} << (j * Simd::kLanes);
        high[i] |= uint64_t{is_high} << (j * Simd::kLanes);
      }
    }
    DOREFA_UNROLL
    for (int i = 0; i < MR; ++i) {
      uint8_t* pixel = code_pixel(row + i, channel);
      std::memcpy(pixel, &low[i], NR * Simd::kLanes / 8);
      if (levels > 1) std::memcpy(pixel + next->plane_words * 4, &high[i], NR * Simd::kLanes / 8);
    }
  }

  static DOREFA_INLINE void put_plane(uint8_t* pixel, uint32_t bits) { std::memcpy(pixel, &bits, Simd::kLanes / 8); }

  template <int MR, int NR, class Sum>
  DOREFA_INLINE void put_thresholds(int64_t row, int64_t channel, const Sum (&sum)[MR][NR]) const {
    const bool is_valley = output == Output::kValley;
    if (levels <= 3 && !is_valley && next->op.format == Format::kBits && next->op.groups == 1) {
      return put_few_thresholds<MR, NR>(row, channel, sum);
    }
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j, channel += Simd::kLanes) {
      Simd::Ints code[MR];
      DOREFA_UNROLL
      for (int i = 0; i < MR; ++i) code[i] = Simd::zero();
      for (int64_t level = 0; level < levels; ++level) {
        const auto threshold = load_like(sum[0][j], params + level * params_stride + channel);
        DOREFA_UNROLL
        for (int i = 0; i < MR; ++i) code[i] = Simd::count_reached(code[i], sum[i][j], threshold);
      }
      if (is_valley) count_below<MR, NR>(code, channel, j, sum);
      DOREFA_UNROLL
      for (int i = 0; i < MR; ++i) put_codes(row + i, channel, code[i]);
    }
  }

  // Adds the thresholds of the second set that are above the sums.
  template <int MR, int NR, class Sum>
  DOREFA_INLINE void count_below(Simd::Ints (&code)[MR], int64_t channel, int j, const Sum (&sum)[MR][NR]) const {
    for (int64_t level = levels; level < 2 * levels; ++level) {
      const auto threshold = load_like(sum[0][j], params + level * params_stride + channel);
      DOREFA_UNROLL
      for (int i = 0; i < MR; ++i) code[i] = Simd::count_above(code[i], sum[i][j], threshold);
    }
  }

  // Thresholds are of the sums' own type.
  static DOREFA_INLINE Simd::Floats load_like(const Simd::Floats&, const float* p) { return Simd::load_floats(p); }
  static DOREFA_INLINE Simd::Ints load_like(const Simd::Ints&, const float* p) {
    return Simd::load(reinterpret_cast<const uint32_t*>(p));
  }

  // Where the codes of a row's channels begin.
  DOREFA_INLINE uint8_t* code_pixel(int64_t row, int64_t channel) const {
    int64_t inner = first + channel;
    uint32_t* pixel = codes + code_offsets[row];
    if (next->op.groups > 1) {
      pixel += inner / next->group_channels * next->group_words;
      inner %= next->group_channels;
    }
    return reinterpret_cast<uint8_t*>(pixel) + (next->op.format == Format::kBits ? inner / 8 : inner);
  }

  DOREFA_INLINE void put_codes(int64_t row, int64_t channel, Simd::Ints code) const {
    uint8_t* pixel = code_pixel(row, channel);
    if (next->op.format == Format::kBits) {
      // A padded channel's code is zero, and 32 divides what a pixel has room for.
      for (int plane = 0; plane < next->op.activation_bits; ++plane, pixel += next->plane_words * 4) {
        put_plane(pixel, Simd::plane_bits(code, plane));
      }
      return;
    }
    const int64_t left = outputs - channel;
    if (left >= Simd::kLanes) return Simd::store_bytes(pixel, code);
    uint8_t bytes[Simd::kLanes];
    Simd::store_bytes(bytes, code);
    if (left > 0) std::memcpy(pixel, bytes, left);
  }
};
