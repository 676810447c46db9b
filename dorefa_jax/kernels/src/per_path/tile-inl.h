// Rows of input times a panel of weights, in registers. Included once for each path, after its Simd.

// Where the rows of a product lie, and what they are multiplied with.
struct Product {
  const Step* step;
  const uint32_t* input;         // words of the block's images, of one group
  const int32_t* row_offsets;    // word offset of each row's window
  int64_t rows;
  const uint32_t* weights;       // panels of one group
  int64_t weight_plane_words;    // of the panel at hand
  int64_t panel;                 // width of the panel at hand
};

// sum over planes m, k of 2^(m+k) popcount(w_m & x_k), by Horner's rule over m + k.
template <int MR, int NR>
DOREFA_INLINE void bit_tile(const Product& p, const uint32_t* const* x, const uint32_t* w, Simd::Ints (&sum)[MR][NR]) {
  const Step& step = *p.step;
  const int weight_bits = step.op.weight_bits, input_bits = step.op.activation_bits;
  const int64_t segments = static_cast<int64_t>(step.segments.size());
  DOREFA_UNROLL
  for (int i = 0; i < MR; ++i) {
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) sum[i][j] = Simd::zero();
  }
  for (int power = weight_bits + input_bits - 2; power >= 0; --power) {
    DOREFA_UNROLL
    for (int i = 0; i < MR; ++i) {
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) sum[i][j] = Simd::add(sum[i][j], sum[i][j]);
    }
    for (int m = std::max(0, power - input_bits + 1); m < weight_bits && m <= power; ++m) {
      const uint32_t* word = w + m * p.weight_plane_words;
      const int64_t plane = (power - m) * step.plane_words;
      for (int64_t s = 0; s < segments; ++s) {
        const int64_t begin = plane + step.segments[s];
        const int64_t end = begin + step.segment_words;
        for (int64_t from = begin; from < end;) {
          const int64_t to = Simd::kBitChunk ? std::min<int64_t>(end, from + Simd::kBitChunk) : end;
          Simd::Ints part[MR][NR];
          DOREFA_UNROLL
          for (int i = 0; i < MR; ++i) {
            DOREFA_UNROLL
            for (int j = 0; j < NR; ++j) part[i][j] = Simd::kBitChunk ? Simd::zero() : sum[i][j];
          }
          for (; from < to; ++from, word += p.panel) {
            Simd::Ints weights[NR];
            DOREFA_UNROLL
            for (int j = 0; j < NR; ++j) weights[j] = Simd::load(word + j * Simd::kLanes);
            DOREFA_UNROLL
            for (int i = 0; i < MR; ++i) {
              const Simd::Ints input = Simd::broadcast(x[i][from]);
              DOREFA_UNROLL
              for (int j = 0; j < NR; ++j) part[i][j] = Simd::add_common_bits(part[i][j], input, weights[j]);
            }
          }
          DOREFA_UNROLL
          for (int i = 0; i < MR; ++i) {
            DOREFA_UNROLL
            for (int j = 0; j < NR; ++j) {
              sum[i][j] = Simd::kBitChunk ? Simd::flush_bits(sum[i][j], part[i][j]) : part[i][j];
            }
          }
        }
      }
    }
  }
}

template <int MR, int NR>
DOREFA_INLINE void byte_tile(const Product& p, const uint32_t* const* x, const uint32_t* w, Simd::Ints (&sum)[MR][NR]) {
  const Step& step = *p.step;
  DOREFA_UNROLL
  for (int i = 0; i < MR; ++i) {
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) sum[i][j] = Simd::zero();
  }
  for (const int64_t begin : step.segments) {
    for (int64_t at = begin; at < begin + step.segment_words; ++at, w += p.panel) {
      Simd::ByteWeights weights[NR];
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) weights[j] = Simd::byte_weights(Simd::load(w + j * Simd::kLanes));
      DOREFA_UNROLL
      for (int i = 0; i < MR; ++i) {
        const Simd::ByteInputs input = Simd::byte_inputs(x[i][at]);
        DOREFA_UNROLL
        for (int j = 0; j < NR; ++j) sum[i][j] = Simd::add_byte_products(sum[i][j], input, weights[j]);
      }
    }
  }
}

template <int MR, int NR>
DOREFA_INLINE void float_tile(const Product& p, const uint32_t* const* x, const uint32_t* w, Simd::Floats (&sum)[MR][NR]) {
  const Step& step = *p.step;
  const float* weight = reinterpret_cast<const float*>(w);
  DOREFA_UNROLL
  for (int i = 0; i < MR; ++i) {
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) sum[i][j] = Simd::float_zero();
  }
  for (const int64_t begin : step.segments) {
    for (int64_t at = begin; at < begin + step.segment_words; ++at, weight += p.panel) {
      Simd::Floats weights[NR];
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) weights[j] = Simd::load_floats(weight + j * Simd::kLanes);
      DOREFA_UNROLL
      for (int i = 0; i < MR; ++i) {
        const Simd::Floats input = Simd::broadcast_float(reinterpret_cast<const float*>(x[i])[at]);
        DOREFA_UNROLL
        for (int j = 0; j < NR; ++j) sum[i][j] = Simd::multiply_add(input, weights[j], sum[i][j]);
      }
    }
  }
}

template <Format F, int MR, int NR>
void run_tile(const Product& p, const Sink& sink, int64_t row, int64_t channel, const uint32_t* w) {
  const uint32_t* x[MR];
  DOREFA_UNROLL
  for (int i = 0; i < MR; ++i) x[i] = p.input + p.row_offsets[row + i];
  if constexpr (F == Format::kFloats) {
    Simd::Floats sum[MR][NR];
    float_tile<MR, NR>(p, x, w, sum);
    sink.put<MR, NR>(row, channel, sum);
  } else {
    Simd::Ints sum[MR][NR];
    if constexpr (F == Format::kBits) {
      bit_tile<MR, NR>(p, x, w, sum);
    } else {
      byte_tile<MR, NR>(p, x, w, sum);
    }
    sink.put<MR, NR>(row, channel, sum);
  }
}

// All rows of one vector of output channels: winograd-inl.h.
void winograd_rows(const Product& p, const Sink& sink, int64_t channel, const float* w);

template <Format F, int NR>
void run_rows(const Product& p, const Sink& sink, int64_t row, int64_t channel, const uint32_t* w) {
  for (; row + Simd::kTileRows <= p.rows; row += Simd::kTileRows) {
    run_tile<F, Simd::kTileRows, NR>(p, sink, row, channel, w);
  }
  switch (p.rows - row) {
    case 5: if constexpr (Simd::kTileRows > 5) run_tile<F, 5, NR>(p, sink, row, channel, w); break;
    case 4: if constexpr (Simd::kTileRows > 4) run_tile<F, 4, NR>(p, sink, row, channel, w); break;
    case 3: if constexpr (Simd::kTileRows > 3) run_tile<F, 3, NR>(p, sink, row, channel, w); break;
    case 2: if constexpr (Simd::kTileRows > 2) run_tile<F, 2, NR>(p, sink, row, channel, w); break;
    case 1: run_tile<F, 1, NR>(p, sink, row, channel, w); break;
    default: break;
  }
}

// All panels of one group.
template <Format F>
void multiply_group(Product p, const Sink& sink) {
  const Step& step = *p.step;
  const int64_t length = step.taps() * step.pixel_words;
  const uint32_t* w = p.weights;
  for (int64_t first = 0; first < step.group_outputs; first += kPanelChannels) {
    p.panel = panel_width(step.group_outputs, first);
    p.weight_plane_words = length * p.panel;
    for (int64_t column = 0; column < p.panel;) {
      if constexpr (F == Format::kWinograd) {
        winograd_rows(p, sink, first + column, reinterpret_cast<const float*>(w + column));
        column += Simd::kLanes;
        continue;
      }
      const int64_t vectors = std::min<int64_t>(Simd::kTileVectors, (p.panel - column) / Simd::kLanes);
      const int64_t channel = first + column;
      switch (vectors) {
        case 4: if constexpr (Simd::kTileVectors >= 4) run_rows<F, 4>(p, sink, 0, channel, w + column); break;
        case 3: if constexpr (Simd::kTileVectors >= 3) run_rows<F, 3>(p, sink, 0, channel, w + column); break;
        case 2: if constexpr (Simd::kTileVectors >= 2) run_rows<F, 2>(p, sink, 0, channel, w + column); break;
        default: run_rows<F, 1>(p, sink, 0, channel, w + column); break;
      }
      column += vectors * Simd::kLanes;
    }
    w += planes(step.op.format, step.op.weight_bits) * p.weight_plane_words;
  }
}
