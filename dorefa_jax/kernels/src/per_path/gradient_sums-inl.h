// Integer sums of an example, scaled, onto the float sums of all examples. Included once for each path, after its Simd.

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
