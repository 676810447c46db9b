// What becomes of sums: floats, or codes in the next op's layout. Included once for each path.

struct Sink {
  Output output;
  const int32_t* row_sums;  // of codes under each row's window; null where no correction is needed
  const float* params;      // of one group: [2 or levels][padded outputs]
  int64_t params_stride;
  int64_t levels;           // of the codes
  int64_t outputs;          // channels of one group, without padding
  int64_t first;            // of these among all channels

  float* floats;            // [row][float_stride]
  int64_t float_stride;

  const Step* next;         // whose input the codes are
  uint32_t* codes;
  const int32_t* code_offsets;  // word offset of each row's pixel

  // Takes kLanes channels of a row, as integers or floats, whichever the product made, and as floats.
  template <class Sum>
  DOREFA_INLINE void put(int64_t row, int64_t channel, Sum sum, Simd::Floats value) const {
    if (output == Output::kThresholds) {
      Simd::Ints code = Simd::zero();
      for (int64_t i = 0; i < levels; ++i) {
        code = Simd::count_reached(code, sum, load_like(sum, params + i * params_stride + channel));
      }
      return put_codes(row, channel, code);
    }
    // No fused multiply-add: thresholds were checked against a product that is rounded.
    value = Simd::add(Simd::multiply(value, Simd::load_floats(params + channel)),
                      Simd::load_floats(params + params_stride + channel));
    if (output == Output::kAffine) {
      const Simd::Floats high = Simd::broadcast_float(static_cast<float>(levels));
      return put_codes(row, channel, Simd::truncate(Simd::clamp(value, high)));
    }
    const int64_t left = outputs - channel;
    if (left > 0) {
      Simd::store_floats(floats + row * float_stride + channel, value,
                         static_cast<int>(std::min<int64_t>(left, Simd::kLanes)));
    }
  }

  // Thresholds are of the sums' own type.
  static DOREFA_INLINE Simd::Floats load_like(const Simd::Floats&, const float* p) { return Simd::load_floats(p); }
  static DOREFA_INLINE Simd::Ints load_like(const Simd::Ints&, const float* p) {
    return Simd::load(reinterpret_cast<const uint32_t*>(p));
  }

  DOREFA_INLINE void put_codes(int64_t row, int64_t channel, Simd::Ints code) const {
    int64_t inner = first + channel;
    uint32_t* pixel = codes + code_offsets[row];
    if (next->op.groups > 1) {
      pixel += inner / next->group_channels * next->group_words;
      inner %= next->group_channels;
    }
    if (next->op.format == Format::kBits) {
      // A padded channel's code is zero, and 32 divides what a pixel has room for.
      for (int plane = 0; plane < next->op.activation_bits; ++plane, pixel += next->plane_words) {
        const uint32_t bits = Simd::plane_bits(code, plane);
        std::memcpy(reinterpret_cast<uint8_t*>(pixel) + inner / 8, &bits, Simd::kLanes / 8);
      }
      return;
    }
    uint8_t* byte = reinterpret_cast<uint8_t*>(pixel) + inner;
    const int64_t left = outputs - channel;
    if (left >= Simd::kLanes) return Simd::store_bytes(byte, code);
    uint8_t bytes[Simd::kLanes];
    Simd::store_bytes(bytes, code);
    if (left > 0) std::memcpy(byte, bytes, left);
  }
};
