// Activations times gradients, summed over the positions of each example. Included once for each path, after its Simd.
//
// A lane is an output channel, a row a tap and an input channel; four positions are multiplied by an instruction.
// Positions are numbered along padded rows of input, so that a tap is an offset; behind a row's last position
// gradients are zero, which codes, being odd, never are.

template <int MR, int NR>
void gradient_tile(const WeightGradient& w, const uint8_t* const* rows, const int32_t* rests, const uint8_t* gradients,
                   float scale, float* const* out) {
  const int64_t lanes = w.step.padded_outputs();
  Simd::Sums sum[MR][NR];
  DOREFA_UNROLL
  for (int i = 0; i < MR; ++i) {
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) sum[i][j] = (Simd::Sums)Simd::zero();
  }
  const auto* words = reinterpret_cast<const uint32_t*>(gradients);
  for (int64_t quad = 0; quad < w.quads; ++quad, words += lanes) {
    Simd::ByteWeights g[NR];
    DOREFA_UNROLL
    for (int j = 0; j < NR; ++j) g[j] = Simd::byte_weights(Simd::load(words + j * Simd::kLanes));
    DOREFA_UNROLL
    for (int i = 0; i < MR; ++i) {
      uint32_t four;
      std::memcpy(&four, rows[i] + 4 * quad, sizeof four);
      const Simd::ByteInputs a = Simd::byte_inputs(four);
      DOREFA_UNROLL
      for (int j = 0; j < NR; ++j) {
        sum[i][j] = (Simd::Sums)Simd::add_byte_products((Simd::Ints)sum[i][j], a, g[j]);
      }
    }
  }
  add_gradients(w, rests, scale, sum, out);
}

template <int NR>
void gradient_rows(const WeightGradient& w, const GradientScratch& scratch, int64_t count, const uint8_t* gradients,
                   float scale) {
  constexpr int kRows = Simd::kTileRows;
  int64_t row = 0;
  for (; row + kRows <= count; row += kRows) {
    gradient_tile<kRows, NR>(w, scratch.rows + row, scratch.rests + row, gradients, scale, scratch.out + row);
  }
  for (; row < count; ++row) {
    gradient_tile<1, NR>(w, scratch.rows + row, scratch.rests + row, gradients, scale, scratch.out + row);
  }
}

#ifdef DOREFA_AMX
void multiply_gradients(const WeightGradient& w, const GradientScratch& scratch, int64_t count, const uint8_t* gradients,
                        float scale, float* sums);
#endif

// Adds scale times the integer product of one example to `sums`, [group][tap][channel][padded outputs].
void add_weight_gradient(const WeightGradient& w, const uint32_t* planes, const uint8_t* codes, float scale,
                         const GradientScratch& scratch, float* sums) {
  const Op& op = w.step.op;
  spread_activations(w, planes, scratch.activations);
  spread_gradients(w, codes, scratch.gradients);
  const int64_t lanes = w.step.padded_outputs(), count = w.step.taps() * w.step.group_channels;
  for (int64_t group = 0; group < op.groups; ++group) {
    const uint8_t* activations = scratch.activations + group * w.phases * w.step.group_channels * w.plane_bytes;
    const uint8_t* gradients = scratch.gradients + group * w.padded_quads * lanes * 4;
    int64_t row = 0;
    for (int64_t v = 0; v < op.kernel_height; ++v) {
      for (int64_t u = 0; u < op.kernel_width; ++u) {
        const int64_t y = v * op.dilation_height, x = u * op.dilation_width;
        const int64_t phase = y % op.stride_height * op.stride_width + x % op.stride_width;
        const uint8_t* from = activations + phase * w.step.group_channels * w.plane_bytes +
                              y / op.stride_height * w.pitch + x / op.stride_width;
        for (int64_t c = 0; c < w.step.group_channels; ++c, ++row, from += w.plane_bytes) scratch.rows[row] = from;
      }
    }
    if (w.gradient_bits == kMaxBits) {
      for (int64_t i = 0; i < count; ++i) scratch.rests[i] = activation_sum(w, scratch.rows[i]);
    }
#ifdef DOREFA_AMX
    multiply_gradients(w, scratch, count, gradients, scale, sums + group * count * lanes);
#else
    for (int64_t lane = 0; lane < lanes;) {
      const int64_t vectors = std::min<int64_t>(Simd::kTileVectors, (lanes - lane) / Simd::kLanes);
      for (int64_t i = 0; i < count; ++i) scratch.out[i] = sums + (group * count + i) * lanes + lane;
      const uint8_t* some = gradients + lane * 4;
      switch (vectors) {
        case 4: if constexpr (Simd::kTileVectors >= 4) gradient_rows<4>(w, scratch, count, some, scale); break;
        case 3: if constexpr (Simd::kTileVectors >= 3) gradient_rows<3>(w, scratch, count, some, scale); break;
        case 2: if constexpr (Simd::kTileVectors >= 2) gradient_rows<2>(w, scratch, count, some, scale); break;
        default: gradient_rows<1>(w, scratch, count, some, scale); break;
      }
      lane += vectors * Simd::kLanes;
    }
#endif
  }
}
