// What becomes of sums: floats, or codes in the next op's layout. Included once for each path.
//
// A tile gives its sums in memory. So all of this is compiled once for integers and once for floats, not for each shape
// of a tile, which would be most of the time that the kernels take to compile.

// Sums of some rows and some vectors of output channels.
struct Tile {
  int64_t row, channel;  // the first
  int rows, vectors;
  uint32_t* sums;  // integers or floats
  int64_t stride;  // elements from a row to the next

  DOREFA_INLINE uint32_t* at(int i, int j) const { return sums + i * stride + j * Simd::kLanes; }
};

// Where codes go, in variables that stores of bytes cannot change.
struct Place {
  uint8_t* codes;
  const int32_t* offsets;
  int64_t first, outputs, group_channels, group_bytes, plane_bytes;
  int planes;
  bool is_bits, is_grouped;

  // Where the codes of a row's channels begin.
  DOREFA_INLINE uint8_t* pixel(int64_t row, int64_t channel) const {
    int64_t inner = first + channel;
    uint8_t* at = codes + int64_t{offsets[row]} * 4;
    if (is_grouped) {
      at += inner / group_channels * group_bytes;
      inner %= group_channels;
    }
    return at + (is_bits ? inner / 8 : inner);
  }

  DOREFA_INLINE void put(int64_t row, int64_t channel, Simd::Ints code) const {
    uint8_t* at = pixel(row, channel);
    if (is_bits) {
      // A padded channel's code is zero, and 32 divides what a pixel has room for.
      for (int plane = 0; plane < planes; ++plane, at += plane_bytes) {
        const uint32_t bits = Simd::plane_bits(code, plane);
        std::memcpy(at, &bits, Simd::kLanes / 8);
      }
      return;
    }
    const int64_t left = outputs - channel;
    if (left >= Simd::kLanes) return Simd::store_bytes(at, code);
    uint8_t bytes[Simd::kLanes];
    Simd::store_bytes(bytes, code);
    if (left > 0) std::memcpy(at, bytes, left);
  }
};

struct Sink {
  const Step* step;
  const int32_t* row_sums;  // of codes under each row's window; null where no correction is needed
  const int32_t* classes;   // of each row's pixel; null where the input has no zero to subtract
  const int32_t* offsets;   // [class][params_stride], what is subtracted from twice the sums
  const float* params;      // of one group: [2, levels, or 2 levels][padded outputs]
  int64_t params_stride;
  int64_t levels;           // of the codes
  int64_t outputs;          // channels of one group, without padding
  int64_t first;            // of these among all channels

  float* floats;            // [row][float_stride]
  int64_t float_stride;

  const float* scales;      // of each image, for gradients
  int64_t pixels;           // of an image

  uint32_t* sums;           // [row][params_stride], instead of everything below, where a pooling follows

  const Step* next;         // whose input the codes are
  uint32_t* codes;
  const int32_t* code_offsets;  // word offset of each row's pixel

  // Takes a tile of sums, integers or floats, from registers.
  template <int MR, int NR, class Sum>
  DOREFA_INLINE void put(int64_t row, int64_t channel, const Sum (&sum)[MR][NR]) const {
    alignas(64) uint32_t own[MR * NR * Simd::kLanes];
    const Tile tile = place<MR, NR>(row, channel, own);
    DOREFA_UNROLL
    for (int i = 0; i < MR; ++i) {
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) Simd::store(tile.at(i, j), sum[i][j]);
    }
    put_tile<Sum>(tile);
  }

  // The same of sums in memory, which are changed.
  template <class Sum>
  DOREFA_INLINE void put_from(int64_t row, int rows, int64_t channel, int vectors, uint32_t* from, int64_t stride) const {
    Tile tile{row, channel, rows, vectors, from, stride};
    if (sums) {
      tile.sums = sums + row * params_stride + channel;
      tile.stride = params_stride;
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < vectors; ++j) Simd::store(tile.at(i, j), Simd::load(from + i * stride + j * Simd::kLanes));
      }
    }
    put_tile<Sum>(tile);
  }

  // Where the sums of a tile are to be: where a pooling finds them, or in `own`.
  template <int MR, int NR>
  DOREFA_INLINE Tile place(int64_t row, int64_t channel, uint32_t* own) const {
    if (sums) return {row, channel, MR, NR, sums + row * params_stride + channel, params_stride};
    return {row, channel, MR, NR, own, NR * Simd::kLanes};
  }

  // Takes a tile's sums, and changes them. Those of a pooling stay.
  template <class Sum>
  DOREFA_APART void put_tile(const Tile& tile) const {
    correct(tile, static_cast<const Sum*>(nullptr));
    if (!sums) put_products<Sum>(tile);
  }

  // Sums of codes become the products that they stand for.
  DOREFA_INLINE void correct(const Tile&, const Simd::Floats*) const {}
  DOREFA_INLINE void correct(const Tile& tile, const Simd::Ints*) const {
    if (!row_sums && !classes) return;
    const auto factor = static_cast<uint32_t>(step->row_factor);
    for (int i = 0; i < tile.rows; ++i) {
      const uint32_t sum = row_sums ? static_cast<uint32_t>(row_sums[tile.row + i]) : 0;
      const Simd::Ints correction = Simd::broadcast(sum * factor);
      const int32_t* offset = classes ? offsets + classes[tile.row + i] * params_stride + tile.channel : nullptr;
      for (int j = 0; j < tile.vectors; ++j) {
        uint32_t* at = tile.at(i, j);
        Simd::Ints x = Simd::load(at);
        if (step->doubles) x = Simd::add(x, x);
        x = Simd::add(x, correction);
        if (offset) {
          const auto* from = reinterpret_cast<const uint32_t*>(offset + j * Simd::kLanes);
          x = Simd::subtract(Simd::add(x, x), Simd::load(from));
        }
        Simd::store(at, x);
      }
    }
  }

  // The same of sums that are products already, as a pooling gives them.
  template <class Sum>
  DOREFA_APART void put_products(const Tile& tile) const {
    switch (step->op.output) {
      case Output::kFloats: return put_floats<Sum>(tile);
      case Output::kGradient: return put_gradients<Sum>(tile);
      case Output::kAffine: return put_affine<Sum>(tile);
      case Output::kThresholds:
      case Output::kValley: return put_thresholds<Sum>(tile);
    }
  }

  // No fused multiply-add: thresholds were checked against a product that is rounded.
  static DOREFA_INLINE Simd::Floats affine(Simd::Floats x, Simd::Floats factor, Simd::Floats offset) {
    return Simd::add(Simd::multiply(x, factor), offset);
  }

  template <class Sum>
  DOREFA_INLINE void put_floats(const Tile& tile) const {
    for (int j = 0; j < tile.vectors; ++j) {
      const int64_t channel = tile.channel + j * Simd::kLanes;
      const int64_t left = std::min<int64_t>(outputs - channel, Simd::kLanes);
      if (left <= 0) return;
      const Simd::Floats factor = Simd::load_floats(params + channel);
      const Simd::Floats offset = Simd::load_floats(params + params_stride + channel);
      float* to = floats + tile.row * float_stride + channel;
      for (int i = 0; i < tile.rows; ++i, to += float_stride) {
        const Simd::Floats sum = Simd::to_floats(load<Sum>(tile.at(i, j)));
        Simd::store_floats(to, affine(sum, factor, offset), static_cast<int>(left));
      }
    }
  }

  template <class Sum>
  DOREFA_INLINE void put_gradients(const Tile& tile) const {
    int64_t image = tile.row / pixels, pixel = tile.row % pixels;
    float* to = floats + tile.row * float_stride + tile.channel;
    for (int i = 0; i < tile.rows; ++i, to += float_stride, ++pixel) {
      if (pixel == pixels) {
        pixel = 0;
        ++image;
      }
      const Simd::Floats scale = Simd::broadcast_float(scales[image]);
      for (int j = 0; j < tile.vectors; ++j) {
        const int64_t channel = tile.channel + j * Simd::kLanes;
        const int64_t left = std::min<int64_t>(outputs - channel, Simd::kLanes);
        if (left <= 0) break;
        const Simd::Floats factor = Simd::multiply(Simd::load_floats(params + channel), scale);
        const Simd::Floats sum = Simd::to_floats(load<Sum>(tile.at(i, j)));
        Simd::store_floats(to + j * Simd::kLanes, Simd::multiply(sum, factor), static_cast<int>(left));
      }
    }
  }

  template <class Sum>
  DOREFA_INLINE void put_affine(const Tile& tile) const {
    const Place to = place_of_codes();
    const Simd::Floats high = Simd::broadcast_float(static_cast<float>(levels));
    for (int j = 0; j < tile.vectors; ++j) {
      const int64_t channel = tile.channel + j * Simd::kLanes;
      const Simd::Floats factor = Simd::load_floats(params + channel);
      const Simd::Floats offset = Simd::load_floats(params + params_stride + channel);
      for (int i = 0; i < tile.rows; ++i) {
        const Simd::Floats value = affine(Simd::to_floats(load<Sum>(tile.at(i, j))), factor, offset);
        to.put(tile.row + i, channel, Simd::truncate(Simd::clamp(value, high)));
      }
    }
  }

  template <class Sum>
  DOREFA_INLINE void put_thresholds(const Tile& tile) const {
    const bool is_valley = step->op.output == Output::kValley;
    if (levels <= 3 && !is_valley && next->op.format == Format::kBits && next->op.groups == 1) {
      switch (tile.vectors) {
        case 4: if constexpr (Simd::kTileVectors >= 4) return put_few_thresholds<4, Sum>(tile); break;
        case 3: if constexpr (Simd::kTileVectors >= 3) return put_few_thresholds<3, Sum>(tile); break;
        case 2: if constexpr (Simd::kTileVectors >= 2) return put_few_thresholds<2, Sum>(tile); break;
        default: return put_few_thresholds<1, Sum>(tile);
      }
    }
    const Place to = place_of_codes();
    constexpr int kRows = Simd::kTileRows;
    for (int j = 0; j < tile.vectors; ++j) {
      int i = 0;
      for (; i + kRows <= tile.rows; i += kRows) count_thresholds<kRows, Sum>(tile, to, i, j, is_valley);
      for (; i < tile.rows; ++i) count_thresholds<1, Sum>(tile, to, i, j, is_valley);
    }
  }

  // The planes of 1 and 2 bits follow from comparisons without a code in between, and those of all
  // the tile's channels are stored at once.
  template <int NR, class Sum>
  DOREFA_INLINE void put_few_thresholds(const Tile& tile) const {
    if (levels == 1) return put_planes<NR, 1, Sum>(tile);
    put_planes<NR, 2, Sum>(tile);
  }

  template <int NR, int Bits, class Sum>
  DOREFA_APART void put_planes(const Tile& tile) const {
    constexpr int kLevels = (1 << Bits) - 1;
    const Place to = place_of_codes();
    Sum thresholds[kLevels][NR];
    for (int level = 0; level < kLevels; ++level) {
      const float* from = params + level * params_stride + tile.channel;
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) thresholds[level][j] = load<Sum>(from + j * Simd::kLanes);
    }
    for (int i = 0; i < tile.rows; ++i) {
      uint64_t low = 0, high = 0;
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) {
        const Sum sum = load<Sum>(tile.at(i, j));
        uint32_t bits = Simd::reached(sum, thresholds[0][j]);
        if constexpr (Bits == 2) {
          const uint32_t is_high = Simd::reached(sum, thresholds[1][j]);
          bits = (bits & ~is_high) | Simd::reached(sum, thresholds[2][j]);
          high |= uint64_t{is_high} << (j * Simd::kLanes);
        }
        low |= uint64_t{bits} << (j * Simd::kLanes);
      }
      uint8_t* at = to.pixel(tile.row + i, tile.channel);
      std::memcpy(at, &low, NR * Simd::kLanes / 8);
      if (Bits == 2) std::memcpy(at + to.plane_bytes, &high, NR * Simd::kLanes / 8);
    }
  }

  // The codes of some rows of a vector of channels: the thresholds that are reached, and of a valley those of the
  // second set that are above the sums.
  template <int MR, class Sum>
  DOREFA_INLINE void count_thresholds(const Tile& tile, const Place& to, int first_row, int j, bool is_valley) const {
    const int64_t channel = tile.channel + j * Simd::kLanes;
    Sum sum[MR];
    Simd::Ints code[MR];
    DOREFA_UNROLL
    for (int i = 0; i < MR; ++i) {
      sum[i] = load<Sum>(tile.at(first_row + i, j));
      code[i] = Simd::zero();
    }
    const float* from = params + channel;
    for (int64_t level = 0; level < levels; ++level, from += params_stride) {
      const Sum threshold = load<Sum>(from);
      DOREFA_UNROLL
      for (int i = 0; i < MR; ++i) code[i] = Simd::count_reached(code[i], sum[i], threshold);
    }
    for (int64_t level = 0; is_valley && level < levels; ++level, from += params_stride) {
      const Sum threshold = load<Sum>(from);
      DOREFA_UNROLL
      for (int i = 0; i < MR; ++i) code[i] = Simd::count_above(code[i], sum[i], threshold);
    }
    DOREFA_UNROLL
    for (int i = 0; i < MR; ++i) to.put(tile.row + first_row + i, channel, code[i]);
  }

  // Sums and thresholds are of one type.
  template <class Sum>
  static DOREFA_INLINE Sum load(const void* p) {
    return load_as(p, static_cast<const Sum*>(nullptr));
  }
  static DOREFA_INLINE Simd::Ints load_as(const void* p, const Simd::Ints*) {
    return Simd::load(static_cast<const uint32_t*>(p));
  }
  static DOREFA_INLINE Simd::Floats load_as(const void* p, const Simd::Floats*) {
    return Simd::load_floats(static_cast<const float*>(p));
  }

  DOREFA_INLINE Place place_of_codes() const {
    const Op& op = next->op;
    return {reinterpret_cast<uint8_t*>(codes), code_offsets, first, outputs, next->group_channels, next->group_words * 4,
            next->plane_words * 4, op.activation_bits, op.format == Format::kBits, op.groups > 1};
  }
};
