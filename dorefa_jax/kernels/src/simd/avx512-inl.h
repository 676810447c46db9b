// Vectors of 512 bits. Included inside a namespace and a target region, once for each way to count bits.

struct Simd {
  using Ints = __m512i;
  // For sums in a loop: GCC keeps one of type Ints twice, as it is declared and as intrinsics see it, the other in memory.
  using Sums = int32_t __attribute__((vector_size(64)));
  using Floats = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 6;     // 6 x 4 accumulators, 4 weights and an input fill the registers
  static constexpr int kTileVectors = 4;
  static constexpr int kWinogradTiles = 4;
  static constexpr int kBitChunk = 0;     // bits are counted into 32-bit lanes at once

  static DOREFA_INLINE Ints zero() { return _mm512_setzero_si512(); }
  static DOREFA_INLINE Ints load(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static DOREFA_INLINE Ints broadcast(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static DOREFA_INLINE Ints larger(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
  static DOREFA_INLINE Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static DOREFA_INLINE void store(uint32_t* p, Ints x) { _mm512_storeu_si512(p, x); }
  static DOREFA_INLINE void store(uint32_t* p, Floats x) { _mm512_storeu_ps(reinterpret_cast<float*>(p), x); }
  static DOREFA_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static DOREFA_INLINE Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }

  static DOREFA_INLINE Ints add_common_bits(Ints sum, Ints x, Ints w) {
    const Ints common = _mm512_and_si512(x, w);
#ifdef DOREFA_VPOPCNTDQ
    return _mm512_add_epi32(sum, _mm512_popcnt_epi32(common));
#else
    const Ints nibble = _mm512_set1_epi8(15);
    const Ints count = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const Ints low = _mm512_shuffle_epi8(count, _mm512_and_si512(common, nibble));
    const Ints high = _mm512_shuffle_epi8(count, _mm512_and_si512(_mm512_srli_epi32(common, 4), nibble));
    return _mm512_dpbusd_epi32(sum, _mm512_add_epi8(low, high), _mm512_set1_epi8(1));
#endif
  }
  static DOREFA_INLINE Ints flush_bits(Ints sum, Ints) { return sum; }

  struct ByteInputs {
    Ints all;
  };
  struct ByteWeights {
    Ints all;
  };
  static DOREFA_INLINE ByteInputs byte_inputs(uint32_t word) { return {broadcast(word)}; }
  static DOREFA_INLINE ByteWeights byte_weights(Ints w) { return {w}; }
  static DOREFA_INLINE Ints add_byte_products(Ints sum, ByteInputs x, ByteWeights w) {
    return _mm512_dpbusd_epi32(sum, x.all, w.all);
  }

  static DOREFA_INLINE Ints exclusive_or(Ints a, Ints b) { return _mm512_xor_si512(a, b); }
  template <int kTurn>
  static DOREFA_INLINE Ints rotate_left(Ints x) {
    return _mm512_rol_epi32(x, kTurn);
  }
  template <int kBits>
  static DOREFA_INLINE Ints shift_right(Ints x) {
    return _mm512_srli_epi32(x, kBits);
  }

  static DOREFA_INLINE Floats float_zero() { return _mm512_setzero_ps(); }
  static DOREFA_INLINE Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
  // `count` floats; the other lanes, and all where it is not positive, are `rest`.
  static DOREFA_INLINE Floats load_some(const float* p, int64_t count, float rest = 0) {
    const int64_t lanes = std::clamp<int64_t>(count, 0, kLanes);
    return _mm512_mask_loadu_ps(_mm512_set1_ps(rest), static_cast<__mmask16>((1 << lanes) - 1), p);
  }
  static DOREFA_INLINE Floats broadcast_float(float x) { return _mm512_set1_ps(x); }
  static DOREFA_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static DOREFA_INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static DOREFA_INLINE Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  // The lanes whose bit is set, zero elsewhere.
  static DOREFA_INLINE Floats select(uint32_t bits, Floats x) {
    return _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), x);
  }
  static DOREFA_INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static DOREFA_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static DOREFA_INLINE Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  // NaN becomes zero: the second operand is the one returned.
  static DOREFA_INLINE Floats clamp(Floats x, Floats high) {
    return _mm512_min_ps(_mm512_max_ps(x, _mm512_setzero_ps()), high);
  }
  static DOREFA_INLINE bool any_nan(Floats x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0; }
  static DOREFA_INLINE Floats to_floats(Floats x) { return x; }
  static DOREFA_INLINE Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
  static DOREFA_INLINE Ints truncate(Floats x) { return _mm512_cvttps_epi32(x); }
  static DOREFA_INLINE Ints round_half_even(Floats x) {
    return _mm512_cvt_roundps_epi32(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static DOREFA_INLINE Ints count_reached(Ints count, Ints x, Ints threshold) {
    return _mm512_mask_add_epi32(count, _mm512_cmpge_epi32_mask(x, threshold), count, _mm512_set1_epi32(1));
  }
  static DOREFA_INLINE Ints count_reached(Ints count, Floats x, Floats threshold) {
    return _mm512_mask_add_epi32(count, _mm512_cmp_ps_mask(x, threshold, _CMP_GE_OQ), count, _mm512_set1_epi32(1));
  }
  static DOREFA_INLINE Ints count_above(Ints count, Ints x, Ints threshold) {
    return _mm512_mask_add_epi32(count, _mm512_cmplt_epi32_mask(x, threshold), count, _mm512_set1_epi32(1));
  }
  static DOREFA_INLINE Ints count_above(Ints count, Floats x, Floats threshold) {
    return _mm512_mask_add_epi32(count, _mm512_cmp_ps_mask(x, threshold, _CMP_LT_OQ), count, _mm512_set1_epi32(1));
  }

  // One bit for each lane, lane 0 first: whether it has reached the threshold.
  static DOREFA_INLINE uint32_t reached(Ints x, Ints threshold) { return _mm512_cmpge_epi32_mask(x, threshold); }
  static DOREFA_INLINE uint32_t reached(Floats x, Floats threshold) {
    return _mm512_cmp_ps_mask(x, threshold, _CMP_GE_OQ);
  }
  // Bit `plane` of each lane, lane 0 first.
  static DOREFA_INLINE uint32_t plane_bits(Ints codes, int plane) {
    return _mm512_test_epi32_mask(codes, _mm512_set1_epi32(1 << plane));
  }
  static DOREFA_INLINE void store_bytes(uint8_t* p, Ints codes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(codes));
  }
  static DOREFA_INLINE void store_floats(float* p, Floats x, int count) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(count >= kLanes ? 0xffff : (1 << count) - 1), x);
  }
  // 32 codes of `bits` bits, of which words `stride` apart hold a plane each.
  static DOREFA_INLINE void unpack_codes(const uint32_t* planes, int64_t stride, int64_t bits, uint8_t* codes) {
    __m256i all = _mm256_setzero_si256();
    for (int64_t bit = 0; bit < bits; ++bit, planes += stride) {
      all = _mm256_or_si256(all, _mm256_maskz_set1_epi8(*planes, static_cast<char>(1 << bit)));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), all);
  }
  static DOREFA_INLINE int32_t count_bits(uint32_t word) { return __builtin_popcount(word); }
};
