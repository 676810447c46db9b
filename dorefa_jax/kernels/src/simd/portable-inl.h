// Vectors as arrays, for any processor; compilers make of the loops what the target has.
// Included inside a namespace.

struct Simd {
  static constexpr int kLanes = 8;
  struct Ints {
    uint32_t lane[kLanes];
  };
  using Sums = Ints;
  struct Floats {
    float lane[kLanes];
  };
  static constexpr int kTileRows = 2;
  static constexpr int kTileVectors = 1;
  static constexpr int kWinogradTiles = 1;
  static constexpr int kBitChunk = 0;

  template <class F>
  static DOREFA_INLINE Ints each(F f) {
    Ints result;
    for (int i = 0; i < kLanes; ++i) result.lane[i] = f(i);
    return result;
  }
  template <class F>
  static DOREFA_INLINE Floats each_float(F f) {
    Floats result;
    for (int i = 0; i < kLanes; ++i) result.lane[i] = f(i);
    return result;
  }

  static DOREFA_INLINE Ints zero() { return Ints{}; }
  static DOREFA_INLINE Ints load(const uint32_t* p) {
    Ints result;
    std::memcpy(&result, p, sizeof result);
    return result;
  }
  static DOREFA_INLINE Ints broadcast(uint32_t word) {
    return each([&](int) { return word; });
  }
  static DOREFA_INLINE Ints add(const Ints& a, const Ints& b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }

  static DOREFA_INLINE Ints subtract(const Ints& a, const Ints& b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }

  static DOREFA_INLINE Ints larger(const Ints& a, const Ints& b) {
    return each([&](int i) {
      return static_cast<int32_t>(a.lane[i]) > static_cast<int32_t>(b.lane[i]) ? a.lane[i] : b.lane[i];
    });
  }
  static DOREFA_INLINE Floats larger(const Floats& a, const Floats& b) {
    return each_float([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  template <class Lanes>
  static DOREFA_INLINE void store(uint32_t* p, const Lanes& x) {
    std::memcpy(p, &x, sizeof x);
  }

  // 32 codes of `bits` bits, of which words `stride` apart hold a plane each.
  static DOREFA_INLINE void unpack_codes(const uint32_t* planes, int64_t stride, int64_t bits, uint8_t* codes) {
    std::memset(codes, 0, 32);
    for (int64_t bit = 0; bit < bits; ++bit, planes += stride) {
      const uint32_t word = *planes;
      for (int i = 0; i < 32; ++i) codes[i] |= static_cast<uint8_t>((word >> i & 1) << bit);
    }
  }
  static DOREFA_INLINE int32_t count_bits(uint32_t x) {
    x = x - ((x >> 1) & 0x55555555u);
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0fu;
    x = x + (x >> 8);
    return static_cast<int32_t>((x + (x >> 16)) & 63u);
  }
  static DOREFA_INLINE Ints add_common_bits(const Ints& sum, const Ints& x, const Ints& w) {
    return each([&](int i) { return sum.lane[i] + static_cast<uint32_t>(count_bits(x.lane[i] & w.lane[i])); });
  }
  static DOREFA_INLINE Ints flush_bits(const Ints& sum, const Ints&) { return sum; }

  struct ByteInputs {
    int32_t byte[4];
  };
  struct ByteWeights {
    Ints all;
  };
  static DOREFA_INLINE ByteInputs byte_inputs(uint32_t word) {
    ByteInputs result;
    for (int j = 0; j < 4; ++j) result.byte[j] = static_cast<int32_t>((word >> (8 * j)) & 255u);
    return result;
  }
  static DOREFA_INLINE ByteWeights byte_weights(const Ints& w) { return {w}; }
  static DOREFA_INLINE Ints add_byte_products(const Ints& sum, const ByteInputs& x, const ByteWeights& w) {
    return each([&](int i) {
      uint32_t total = sum.lane[i];
      for (int j = 0; j < 4; ++j) {
        const int32_t weight = static_cast<int8_t>((w.all.lane[i] >> (8 * j)) & 255u);
        total += static_cast<uint32_t>(x.byte[j] * weight);
      }
      return total;
    });
  }

  static DOREFA_INLINE Ints exclusive_or(const Ints& a, const Ints& b) {
    return each([&](int i) { return a.lane[i] ^ b.lane[i]; });
  }
  template <int kTurn>
  static DOREFA_INLINE Ints rotate_left(const Ints& x) {
    return each([&](int i) { return (x.lane[i] << kTurn) | (x.lane[i] >> (32 - kTurn)); });
  }
  template <int kBits>
  static DOREFA_INLINE Ints shift_right(const Ints& x) {
    return each([&](int i) { return x.lane[i] >> kBits; });
  }

  static DOREFA_INLINE Floats float_zero() { return Floats{}; }
  static DOREFA_INLINE Floats load_floats(const float* p) {
    Floats result;
    std::memcpy(&result, p, sizeof result);
    return result;
  }
  // `count` floats; the other lanes, and all where it is not positive, are `rest`.
  static DOREFA_INLINE Floats load_some(const float* p, int64_t count, float rest = 0) {
    return each_float([&](int i) { return i < count ? p[i] : rest; });
  }
  static DOREFA_INLINE Floats broadcast_float(float x) {
    return each_float([&](int) { return x; });
  }
  static DOREFA_INLINE Floats multiply(const Floats& a, const Floats& b) {
    return each_float([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static DOREFA_INLINE Floats smaller(const Floats& a, const Floats& b) {
    return each_float([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  // The lanes whose bit is set, zero elsewhere.
  static DOREFA_INLINE Floats select(uint32_t bits, const Floats& x) {
    return each_float([&](int i) { return bits >> i & 1 ? x.lane[i] : 0.0f; });
  }
  static DOREFA_INLINE Floats divide(const Floats& a, const Floats& b) {
    return each_float([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static DOREFA_INLINE Floats subtract(const Floats& a, const Floats& b) {
    return each_float([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static DOREFA_INLINE Floats add(const Floats& a, const Floats& b) {
    return each_float([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static DOREFA_INLINE Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
    return add(multiply(a, b), c);
  }
  // NaN becomes zero, since no comparison with it holds.
  static DOREFA_INLINE Floats clamp(const Floats& x, const Floats& high) {
    return each_float([&](int i) {
      const float positive = x.lane[i] > 0.0f ? x.lane[i] : 0.0f;
      return positive < high.lane[i] ? positive : high.lane[i];
    });
  }
  static DOREFA_INLINE bool any_nan(const Floats& x) {
    bool found = false;
    for (int i = 0; i < kLanes; ++i) found |= x.lane[i] != x.lane[i];
    return found;
  }
  static DOREFA_INLINE Floats to_floats(const Floats& x) { return x; }
  static DOREFA_INLINE Floats to_floats(const Ints& x) {
    return each_float([&](int i) { return static_cast<float>(static_cast<int32_t>(x.lane[i])); });
  }
  static DOREFA_INLINE Ints truncate(const Floats& x) {
    return each([&](int i) { return static_cast<uint32_t>(static_cast<int32_t>(x.lane[i])); });
  }
  static DOREFA_INLINE Ints round_half_even(const Floats& x) {
    // Sums with 1.5 * 2^23 have no fraction: the addition rounds, to even.
    const float shift = 12582912.0f;
    return each([&](int i) { return static_cast<uint32_t>(static_cast<int32_t>((x.lane[i] + shift) - shift)); });
  }
  static DOREFA_INLINE Ints count_reached(const Ints& count, const Ints& x, const Ints& t) {
    return each([&](int i) {
      return count.lane[i] + (static_cast<int32_t>(x.lane[i]) >= static_cast<int32_t>(t.lane[i]) ? 1u : 0u);
    });
  }
  static DOREFA_INLINE Ints count_reached(const Ints& count, const Floats& x, const Floats& t) {
    return each([&](int i) { return count.lane[i] + (x.lane[i] >= t.lane[i] ? 1u : 0u); });
  }
  static DOREFA_INLINE Ints count_above(const Ints& count, const Ints& x, const Ints& t) {
    return each([&](int i) {
      return count.lane[i] + (static_cast<int32_t>(x.lane[i]) < static_cast<int32_t>(t.lane[i]) ? 1u : 0u);
    });
  }
  static DOREFA_INLINE Ints count_above(const Ints& count, const Floats& x, const Floats& t) {
    return each([&](int i) { return count.lane[i] + (x.lane[i] < t.lane[i] ? 1u : 0u); });
  }

  // One bit for each lane, lane 0 first: whether it has reached the threshold.
  static DOREFA_INLINE uint32_t reached(const Ints& x, const Ints& t) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) {
      bits |= (static_cast<int32_t>(x.lane[i]) >= static_cast<int32_t>(t.lane[i]) ? 1u : 0u) << i;
    }
    return bits;
  }
  static DOREFA_INLINE uint32_t reached(const Floats& x, const Floats& t) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= (x.lane[i] >= t.lane[i] ? 1u : 0u) << i;
    return bits;
  }
  // Bit `plane` of each lane, lane 0 first.
  static DOREFA_INLINE uint32_t plane_bits(const Ints& codes, int plane) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= ((codes.lane[i] >> plane) & 1u) << i;
    return bits;
  }
  static DOREFA_INLINE void store_bytes(uint8_t* p, const Ints& codes) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint8_t>(codes.lane[i]);
  }
  static DOREFA_INLINE void store_floats(float* p, const Floats& x, int count) {
    std::copy_n(x.lane, std::min(count, kLanes), p);
  }
};
