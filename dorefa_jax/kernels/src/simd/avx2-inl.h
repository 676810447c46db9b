// Vectors of 256 bits. Included inside a namespace and a target region.

struct Simd {
  using Ints = __m256i;
  // For sums in a loop: GCC keeps one of type Ints twice, as it is declared and as intrinsics see it, the other in memory.
  using Sums = int32_t __attribute__((vector_size(32)));
  using Floats = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 2;
  static constexpr int kTileVectors = 2;
  static constexpr int kWinogradTiles = 2;
  static constexpr int kBitChunk = 31;  // words whose counts, 8 at most each, fit the bytes of a lane

  static DOREFA_INLINE Ints zero() { return _mm256_setzero_si256(); }
  static DOREFA_INLINE Ints load(const uint32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static DOREFA_INLINE Ints broadcast(uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }
  static DOREFA_INLINE Ints larger(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
  static DOREFA_INLINE Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  static DOREFA_INLINE void store(uint32_t* p, Ints x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static DOREFA_INLINE void store(uint32_t* p, Floats x) { _mm256_storeu_ps(reinterpret_cast<float*>(p), x); }
  static DOREFA_INLINE Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  static DOREFA_INLINE Ints subtract(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }

  // Counts by nibbles, in bytes; `flush_bits` adds the four bytes of a lane.
  static DOREFA_INLINE Ints add_common_bits(Ints sum, Ints x, Ints w) {
    const Ints nibble = _mm256_set1_epi8(15);
    const Ints count =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const Ints common = _mm256_and_si256(x, w);
    const Ints low = _mm256_shuffle_epi8(count, _mm256_and_si256(common, nibble));
    const Ints high = _mm256_shuffle_epi8(count, _mm256_and_si256(_mm256_srli_epi32(common, 4), nibble));
    return _mm256_add_epi8(sum, _mm256_add_epi8(low, high));
  }
  static DOREFA_INLINE Ints flush_bits(Ints sum, Ints bytes) {
    const Ints pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }

  // Products of bytes saturate in 16 bits here, so even and odd bytes are widened first.
  struct ByteInputs {
    Ints even, odd;
  };
  struct ByteWeights {
    Ints even, odd;
  };
  static DOREFA_INLINE ByteInputs byte_inputs(uint32_t word) {
    return {broadcast(word & 0x00ff00ffu), broadcast((word >> 8) & 0x00ff00ffu)};
  }
  static DOREFA_INLINE ByteWeights byte_weights(Ints w) {
    return {_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8)};
  }
  static DOREFA_INLINE Ints add_byte_products(Ints sum, ByteInputs x, ByteWeights w) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x.even, w.even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x.odd, w.odd));
  }

  static DOREFA_INLINE Ints exclusive_or(Ints a, Ints b) { return _mm256_xor_si256(a, b); }
  template <int kTurn>
  static DOREFA_INLINE Ints rotate_left(Ints x) {
    return _mm256_or_si256(_mm256_slli_epi32(x, kTurn), _mm256_srli_epi32(x, 32 - kTurn));
  }
  template <int kBits>
  static DOREFA_INLINE Ints shift_right(Ints x) {
    return _mm256_srli_epi32(x, kBits);
  }

  static DOREFA_INLINE Floats float_zero() { return _mm256_setzero_ps(); }
  static DOREFA_INLINE Floats load_floats(const float* p) { return _mm256_loadu_ps(p); }
  // `count` floats; the other lanes, and all where it is not positive, are `rest`.
  static DOREFA_INLINE Floats load_some(const float* p, int64_t count, float rest = 0) {
    const auto lanes = static_cast<int>(std::clamp<int64_t>(count, 0, kLanes));
    const Ints is_read = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_blendv_ps(_mm256_set1_ps(rest), _mm256_maskload_ps(p, is_read), _mm256_castsi256_ps(is_read));
  }
  static DOREFA_INLINE Floats broadcast_float(float x) { return _mm256_set1_ps(x); }
  static DOREFA_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static DOREFA_INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static DOREFA_INLINE Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
  // The lanes whose bit is set, zero elsewhere.
  static DOREFA_INLINE Floats select(uint32_t bits, Floats x) {
    const Ints lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const Ints is_set = _mm256_cmpeq_epi32(_mm256_and_si256(broadcast(bits), lane), lane);
    return _mm256_and_ps(_mm256_castsi256_ps(is_set), x);
  }
  static DOREFA_INLINE Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
  static DOREFA_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static DOREFA_INLINE Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  // NaN becomes zero: the second operand is the one returned.
  static DOREFA_INLINE Floats clamp(Floats x, Floats high) {
    return _mm256_min_ps(_mm256_max_ps(x, _mm256_setzero_ps()), high);
  }
  static DOREFA_INLINE bool any_nan(Floats x) { return _mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)) != 0; }
  static DOREFA_INLINE Floats to_floats(Floats x) { return x; }
  static DOREFA_INLINE Floats to_floats(Ints x) { return _mm256_cvtepi32_ps(x); }
  static DOREFA_INLINE Ints truncate(Floats x) { return _mm256_cvttps_epi32(x); }
  static DOREFA_INLINE Ints round_half_even(Floats x) {
    return _mm256_cvtps_epi32(_mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static DOREFA_INLINE Ints count_reached(Ints count, Ints x, Ints threshold) {
    // x >= t, which is not t > x: the comparison gives -1.
    const Ints below = _mm256_cmpgt_epi32(threshold, x);
    return _mm256_add_epi32(count, _mm256_add_epi32(below, _mm256_set1_epi32(1)));
  }
  static DOREFA_INLINE Ints count_reached(Ints count, Floats x, Floats threshold) {
    return _mm256_sub_epi32(count, _mm256_castps_si256(_mm256_cmp_ps(x, threshold, _CMP_GE_OQ)));
  }
  static DOREFA_INLINE Ints count_above(Ints count, Ints x, Ints threshold) {
    return _mm256_sub_epi32(count, _mm256_cmpgt_epi32(threshold, x));
  }
  static DOREFA_INLINE Ints count_above(Ints count, Floats x, Floats threshold) {
    return _mm256_sub_epi32(count, _mm256_castps_si256(_mm256_cmp_ps(x, threshold, _CMP_LT_OQ)));
  }

  // One bit for each lane, lane 0 first: whether it has reached the threshold.
  static DOREFA_INLINE uint32_t reached(Ints x, Ints threshold) {
    const Ints below = _mm256_cmpgt_epi32(threshold, x);
    return ~static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(below))) & 0xffu;
  }
  static DOREFA_INLINE uint32_t reached(Floats x, Floats threshold) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, threshold, _CMP_GE_OQ)));
  }
  // Bit `plane` of each lane, lane 0 first.
  static DOREFA_INLINE uint32_t plane_bits(Ints codes, int plane) {
    const Ints signs = _mm256_sll_epi32(codes, _mm_cvtsi32_si128(31 - plane));
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(signs)));
  }
  static DOREFA_INLINE void store_bytes(uint8_t* p, Ints codes) {
    alignas(32) uint32_t lanes[kLanes];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), codes);
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint8_t>(lanes[i]);
  }
  static DOREFA_INLINE void store_floats(float* p, Floats x, int count) {
    if (count >= kLanes) return _mm256_storeu_ps(p, x);
    alignas(32) float lanes[kLanes];
    _mm256_store_ps(lanes, x);
    std::copy_n(lanes, count, p);
  }
  // 32 codes of `bits` bits, of which words `stride` apart hold a plane each.
  static DOREFA_INLINE void unpack_codes(const uint32_t* planes, int64_t stride, int64_t bits, uint8_t* codes) {
    const Ints byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3,
                                       3, 3, 3, 3, 3);
    const Ints mask = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
    Ints all = zero();
    for (int64_t bit = 0; bit < bits; ++bit, planes += stride) {
      const Ints picked = _mm256_and_si256(_mm256_shuffle_epi8(broadcast(*planes), byte), mask);
      const Ints value = _mm256_set1_epi8(static_cast<char>(1 << bit));
      all = _mm256_or_si256(all, _mm256_and_si256(_mm256_cmpeq_epi8(picked, mask), value));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), all);
  }
  static DOREFA_INLINE int32_t count_bits(uint32_t word) { return __builtin_popcount(word); }
};
