// Weight gradients by AMX. Included by the path that has it, after amx_products-inl.h.

// Adds scale times the products of rows of activations with one example's gradients to sums, [row][padded outputs].
void multiply_gradients(const WeightGradient& w, const GradientScratch& scratch, int64_t count, const uint8_t* gradients,
                        float scale, float* sums) {
  const int64_t lanes = w.step.padded_outputs(), whole = w.padded_quads / kMatrixWords;
  const int64_t row_bytes = gathered_bytes(w.padded_quads * 4);
  auto* gathered = static_cast<uint8_t*>(gather_scratch(kMatrixRows * row_bytes + 64 + 4 * kMatrixBytes));
  auto* products = reinterpret_cast<int32_t*>(gathered + kMatrixRows * row_bytes + 64);
  const Matrices matrices;
  for (int64_t row = 0; row < count; row += kMatrixRows) {
    const int64_t some = std::min(kMatrixRows, count - row);
    // What lies behind a row's positions meets gradients of zero.
    for (int64_t i = 0; i < some; ++i) copy_vectors(gathered + i * row_bytes, scratch.rows[row + i], w.padded_quads * 4);
    for (int64_t lane = 0; lane < lanes; lane += kMatrixLanes) {
      const bool is_pair = lane + 16 < lanes;
      const Lanes left{gradients + lane * 4, lanes * 4, nullptr};
      if (is_pair) {
        multiply_matrices<2>(gathered, row_bytes, whole, left, {left.words + 64, left.stride, nullptr}, products);
      } else {
        multiply_matrices<1>(gathered, row_bytes, whole, left, {}, products);
      }
      for (int64_t i = 0; i < some; ++i) {
        float* out = sums + (row + i) * lanes + lane;
        const int32_t* from = products + i * kMatrixLanes;
        if (is_pair) {
          Simd::Ints sum[1][2];
          load_sums<1, 2>(from, sum);
          add_gradients(w, scratch.rests + row + i, scale, sum, &out);
        } else {
          Simd::Ints sum[1][1];
          load_sums<1, 1>(from, sum);
          add_gradients(w, scratch.rests + row + i, scale, sum, &out);
        }
      }
    }
  }
}
