// Float images times float gradients: the weight gradient of a first layer. Included once for each path, after its Simd.

template <int MR, int NR>
DOREFA_INLINE void float_gradient_tile(const float* const* rows, int64_t row_step, const float* g, int64_t g_step,
                                       int64_t count, float* const* out) {
  Simd::Floats sum[MR][NR];
  DOREFA_UNROLL
  for (int i = 0; i < MR; ++i) {
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) sum[i][j] = Simd::load_floats(out[i] + j * Simd::kLanes);
  }
  for (int64_t x = 0, at = 0; x < count; ++x, at += row_step, g += g_step) {
    Simd::Floats gradient[NR];
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) gradient[j] = Simd::load_floats(g + j * Simd::kLanes);
    DOREFA_UNROLL
    for (int i = 0; i < MR; ++i) {
      const Simd::Floats value = Simd::broadcast_float(rows[i][at]);
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) sum[i][j] = Simd::multiply_add(value, gradient[j], sum[i][j]);
    }
  }
  DOREFA_UNROLL
  for (int i = 0; i < MR; ++i) {
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) Simd::store_floats(out[i] + j * Simd::kLanes, sum[i][j], Simd::kLanes);
  }
}

template <int NR>
void float_gradient_rows(const float* const* rows, int64_t row_step, const float* g, int64_t g_step, int64_t count,
                         float* const* out, int64_t row_count) {
  constexpr int kRows = Simd::kTileRows;
  for (; row_count >= kRows; row_count -= kRows, rows += kRows, out += kRows) {
    float_gradient_tile<kRows, NR>(rows, row_step, g, g_step, count, out);
  }
  for (; row_count > 0; --row_count, ++rows, ++out) {
    float_gradient_tile<1, NR>(rows, row_step, g, g_step, count, out);
  }
}

// Adds the weight gradient of one example, of one group, to `sums`, [tap][channel][padded outputs]. `padded` and
// `gradients` have room for a padded image and for a row of gradients with padded outputs.
void add_float_gradient(const Step& step, const float* image, const float* g, float* padded, float* gradients,
                        const float** rows, float** out, float* sums) {
  const Op& op = step.op;
  const int64_t lanes = step.padded_outputs(), channels = op.channels, row_size = step.padded_width * channels;
  std::fill_n(padded, step.padded_height * row_size, 0.0f);
  for (int64_t y = 0; y < op.height; ++y) {
    std::copy_n(image + y * op.width * channels, op.width * channels,
                padded + (y + op.pad_top) * row_size + op.pad_left * channels);
  }
  std::fill_n(gradients, step.out_width * lanes, 0.0f);
  const int64_t count = step.taps() * channels;
  for (int64_t y = 0; y < step.out_height; ++y) {
    for (int64_t x = 0; x < step.out_width; ++x, g += op.outputs) std::copy_n(g, op.outputs, gradients + x * lanes);
    int64_t row = 0;
    for (int64_t v = 0; v < op.kernel_height; ++v) {
      for (int64_t u = 0; u < op.kernel_width; ++u) {
        const float* from = padded + (y * op.stride_height + v * op.dilation_height) * row_size +
                            u * op.dilation_width * channels;
        for (int64_t c = 0; c < channels; ++c) rows[row++] = from + c;
      }
    }
    for (int64_t lane = 0; lane < lanes;) {
      const int64_t vectors = std::min<int64_t>(Simd::kTileVectors, (lanes - lane) / Simd::kLanes);
      for (int64_t i = 0; i < count; ++i) out[i] = sums + i * lanes + lane;
      const auto run = [&](auto multiply) {
        multiply(rows, op.stride_width * channels, gradients + lane, lanes, step.out_width, out, count);
      };
      switch (vectors) {
        case 4: if constexpr (Simd::kTileVectors >= 4) run(float_gradient_rows<4>); break;
        case 3: if constexpr (Simd::kTileVectors >= 3) run(float_gradient_rows<3>); break;
        case 2: if constexpr (Simd::kTileVectors >= 2) run(float_gradient_rows<2>); break;
        default: run(float_gradient_rows<1>); break;
      }
      lane += vectors * Simd::kLanes;
    }
  }
}
