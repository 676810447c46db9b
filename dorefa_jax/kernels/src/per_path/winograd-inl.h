// Float convolutions in fewer multiplications, along rows; ../../winograd.py has the mathematics.
// Included once for each path, after its Simd and Sink.

// A row of input [width][channels] to the six points of its tiles, [point][tile][channel].
void transform_row(const float* x, const Step& step, float* line, float* out) {
  constexpr float kInput[kPoints][kPoints] = {{4, 0, -5, 0, 1, 0},  {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
                                              {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
  const int64_t channels = step.pixel_words, tile = step.tile;
  const int64_t phase_words = step.line_words / tile;
  // Columns that are a tile apart side by side, so that vectors run along the tiles.
  std::fill_n(line, step.line_words, 0.0f);
  for (int64_t column = 0; column < step.op.width; ++column) {
    const int64_t padded = column + step.op.pad_left;
    std::copy_n(x + column * channels, channels, line + padded % tile * phase_words + padded / tile * channels);
  }
  const float* from[kPoints];
  for (int64_t i = 0; i < kPoints; ++i) from[i] = line + i % tile * phase_words + i / tile * channels;
  for (int64_t at = 0; at < step.point_words; at += Simd::kLanes) {
    Simd::Floats value[kPoints];
    for (int i = 0; i < kPoints; ++i) value[i] = Simd::load_floats(from[i] + at);
    const int left = static_cast<int>(std::min<int64_t>(step.point_words - at, Simd::kLanes));
    for (int point = 0; point < kPoints; ++point) {
      Simd::Floats sum = Simd::float_zero();
      for (int i = 0; i < kPoints; ++i) {
        sum = Simd::multiply_add(value[i], Simd::broadcast_float(kInput[point][i]), sum);
      }
      Simd::store_floats(out + point * step.point_words + at, sum, left);
    }
  }
}

DOREFA_INLINE Simd::Floats scaled(Simd::Floats x, float factor, Simd::Floats y) {
  return Simd::multiply_add(x, Simd::broadcast_float(factor), y);
}

// The sums at six points to the M outputs of a tile.
template <int M>
DOREFA_INLINE void winograd_outputs(const Simd::Floats (&sum)[kPoints], Simd::Floats (*out)[1]) {
  const Simd::Floats even1 = Simd::add(sum[1], sum[2]), odd1 = scaled(sum[2], -1, sum[1]);
  const Simd::Floats even2 = Simd::add(sum[3], sum[4]), odd2 = scaled(sum[4], -1, sum[3]);
  out[0][0] = Simd::add(sum[0], Simd::add(even1, even2));
  out[1][0] = scaled(odd2, 2, odd1);
  if constexpr (M > 2) out[2][0] = scaled(even2, 4, even1);
  if constexpr (M > 3) out[3][0] = scaled(odd2, 8, odd1);
  out[M - 1][0] = Simd::add(out[M - 1][0], sum[kPoints - 1]);
}

// T tiles of M outputs, side by side in one row, of one vector of output channels.
template <int M, int T>
DOREFA_INLINE void winograd_tiles(const Product& p, const Sink& sink, int64_t row, int64_t channel, const float* w) {
  const Step& step = *p.step;
  const int64_t channels = step.pixel_words;
  const float* input = reinterpret_cast<const float*>(p.input + p.row_offsets[row]);
  Simd::Floats sum[T][kPoints];
  DOREFA_UNROLL
  for (int t = 0; t < T; ++t) {
    DOREFA_UNROLL
    for (int i = 0; i < kPoints; ++i) sum[t][i] = Simd::float_zero();
  }
  for (const int64_t begin : step.segments) {
    const float* x[kPoints];
    DOREFA_UNROLL
    for (int i = 0; i < kPoints; ++i) x[i] = input + begin + i * step.point_words;
    for (int64_t c = 0; c < channels; ++c) {
      DOREFA_UNROLL
      for (int i = 0; i < kPoints; ++i, w += p.panel) {
        const Simd::Floats weights = Simd::load_floats(w);
        DOREFA_UNROLL
        for (int t = 0; t < T; ++t) {
          sum[t][i] = Simd::multiply_add(Simd::broadcast_float(x[i][t * channels + c]), weights, sum[t][i]);
        }
      }
    }
  }
  Simd::Floats out[T * M][1];
  DOREFA_UNROLL
  for (int t = 0; t < T; ++t) winograd_outputs<M>(sum[t], out + t * M);
  sink.put<T * M, 1>(row, channel, out);
}

template <int M>
void winograd_rows(const Product& p, const Sink& sink, int64_t channel, const float* w) {
  const int64_t width = p.step->out_width;
  for (int64_t row = 0; row < p.rows; row += width) {
    int64_t tile = 0;
    for (; tile + Simd::kWinogradTiles * M <= width; tile += Simd::kWinogradTiles * M) {
      winograd_tiles<M, Simd::kWinogradTiles>(p, sink, row + tile, channel, w);
    }
    for (; tile < width; tile += M) winograd_tiles<M, 1>(p, sink, row + tile, channel, w);
  }
}

// All rows of one vector of output channels.
void winograd_rows(const Product& p, const Sink& sink, int64_t channel, const float* w) {
  switch (p.step->tile) {
    case 2: return winograd_rows<2>(p, sink, channel, w);
    case 3: return winograd_rows<3>(p, sink, channel, w);
    default: return winograd_rows<4>(p, sink, channel, w);
  }
}
