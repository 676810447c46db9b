// The gradients of a first layer's weights and bias through max pooling. Of the four pixels of a window one takes the
// gradient, so that a fourth of the products is left: a patch of the image times a number, for each window and output.
// Included once for each path, after float_weight_gradient-inl.h and pool_winners-inl.h.

static_assert(kPatchMultiple % Simd::kLanes == 0, "rows of patches are whole vectors");

// Where the patches of a row of windows are. A patch's rows lie apart from those of its neighbours, whose floats they
// share, so that vectors do not straddle two lines of the cache.
struct Patches {
  const float* rows;            // the first window's patch of its first pixel
  int64_t step;                 // from a window to the next
  int64_t pixels[kWindow];      // offsets of a window's pixels
  const int64_t* vectors;       // offsets of a patch's vectors, `count` of them, which are side by side in the sums
  int64_t count;
};

// Adds one patch times a number.
void add_patch(const Patches& p, int64_t window, int64_t pixel, float factor, float* sums) {
  const float* from = p.rows + window * p.step + p.pixels[pixel];
  for (int64_t i = 0; i < p.count; ++i, sums += Simd::kLanes) {
    const Simd::Floats sum = Simd::multiply_add(Simd::broadcast_float(factor), Simd::load_floats(from + p.vectors[i]),
                                                Simd::load_floats(sums));
    Simd::store_floats(sums, sum, Simd::kLanes);
  }
}

// Adds N vectors, from `first` on, of the patches of a row of windows. Shares and winners are `lanes` apart.
template <int N>
DOREFA_INLINE void add_patch_vectors(const Patches& p, int64_t first, int64_t windows, const float* shares,
                                     const uint32_t* winners, int64_t lanes, float* sums) {
  int64_t offsets[N];
  Simd::Floats sum[N];
  DOREFA_UNROLL
  for (int i = 0; i < N; ++i) {
    offsets[i] = p.vectors[first + i];
    sum[i] = Simd::load_floats(sums + (first + i) * Simd::kLanes);
  }
  const float* rows = p.rows;
  for (int64_t x = 0; x < windows; ++x, rows += p.step, shares += lanes, winners += lanes) {
    const float* from = rows + p.pixels[*winners];
    const Simd::Floats share = Simd::broadcast_float(*shares);
    DOREFA_UNROLL
    for (int i = 0; i < N; ++i) sum[i] = Simd::multiply_add(share, Simd::load_floats(from + offsets[i]), sum[i]);
  }
  DOREFA_UNROLL
  for (int i = 0; i < N; ++i) Simd::store_floats(sums + (first + i) * Simd::kLanes, sum[i], Simd::kLanes);
}

void add_patches(const Patches& p, int64_t windows, const float* shares, const uint32_t* winners, int64_t lanes,
                 float* sums) {
  constexpr int64_t kMost = 5;
  for (int64_t first = 0; first < p.count; first += kMost) {
    switch (std::min(p.count - first, kMost)) {
      case 1: add_patch_vectors<1>(p, first, windows, shares, winners, lanes, sums); break;
      case 2: add_patch_vectors<2>(p, first, windows, shares, winners, lanes, sums); break;
      case 3: add_patch_vectors<3>(p, first, windows, shares, winners, lanes, sums); break;
      case 4: add_patch_vectors<4>(p, first, windows, shares, winners, lanes, sums); break;
      default: add_patch_vectors<kMost>(p, first, windows, shares, winners, lanes, sums); break;
    }
  }
}

// Reads the winners of a vector of outputs of one window: the share of the gradient that each takes, and which pixel
// takes it. Equal maxima share: what others than the first take is added here.
DOREFA_INLINE void read_winners(const Patches& p, int64_t window, const uint32_t* planes, int64_t words,
                                int64_t channel, int64_t left, const float* g, float* shares, uint32_t* winners,
                                float* sums, float* totals) {
  const uint32_t is_output = (uint32_t{1} << std::min<int64_t>(left, Simd::kLanes)) - 1;
  uint32_t bits[kWinnerPlanes], taken = 0, tied = 0;
  for (int i = 0; i < kWinnerPlanes; ++i) bits[i] = (planes[i * words + channel / 32] >> channel % 32) & is_output;
  Simd::Floats winner = Simd::float_zero(), share = Simd::load_some(g + channel, left);
  for (int i = 0; i < kWindow; ++i) {
    winner = Simd::add(winner, Simd::select(bits[i] & ~taken, Simd::broadcast_float(static_cast<float>(i))));
    tied |= bits[i] & taken;
    taken |= bits[i];
  }
  share = Simd::select(taken, share);
  // Twice what is to be turned is taken away, where that is anything.
  const Simd::Floats turned = Simd::select(bits[kWindow], share);
  share = Simd::subtract(Simd::subtract(share, turned), turned);
  Simd::store_floats(totals + channel, Simd::add(Simd::load_some(totals + channel, left), share), static_cast<int>(left));
  Simd::store_floats(shares, share, Simd::kLanes);
  Simd::store(winners, Simd::truncate(winner));
  for (; tied; tied &= tied - 1) {
    const int lane = __builtin_ctz(tied);
    int count = 0;
    for (int i = 0; i < kWindow; ++i) count += bits[i] >> lane & 1;
    shares[lane] /= static_cast<float>(count);
    for (uint32_t i = winners[lane] + 1; i < kWindow; ++i) {
      if (bits[i] >> lane & 1) add_patch(p, window, i, shares[lane], sums + (channel + lane) * p.count * Simd::kLanes);
    }
  }
}

// The rows of the patches of a row of windows whose first is `first`, [image's row][pixel of the result][patch_row(step)].
void copy_patches(const Step& step, const float* image, int64_t first, float* out) {
  const Op& op = step.op;
  const int64_t channels = op.channels, count = op.kernel_width * channels, size = patch_row(step);
  for (int64_t y = first; y < first + patch_rows(step); ++y) {
    const bool is_row = y >= 0 && y < op.height;
    for (int64_t x = 0; x < step.out_width; ++x, out += size) {
      const int64_t column = x * op.stride_width - op.pad_left, columns = op.width - column;
      if (is_row && column >= 0 && columns >= op.kernel_width) {
        const float* from = image + (y * op.width + column) * channels;
        for (int64_t i = 0; i < size; i += Simd::kLanes) {
          Simd::store_floats(out + i, Simd::load_some(from + i, count - i), Simd::kLanes);
        }
        continue;
      }
      std::fill_n(out, size, 0.0f);
      const int64_t begin = std::max<int64_t>(0, -column), end = std::min<int64_t>(op.kernel_width, columns);
      if (is_row && begin < end) {
        std::copy_n(image + (y * op.width + column + begin) * channels, (end - begin) * channels, out + begin * channels);
      }
    }
  }
}

// Adds one image's gradients to `sums`, [output][kernel row][patch_row(step)], and to `totals` of the outputs. All are NaN
// where the image is not finite: by itself NaN would reach those alone whose patches win.
void add_window_gradient(const Step& step, const float* image, const uint32_t* winners, const float* g,
                         const WindowScratch& scratch, float* sums, float* totals) {
  const Op& op = step.op;
  const int64_t outputs = op.outputs, row = step.out_width * patch_row(step);
  if (any_not_finite(image, int64_t{op.height} * op.width * op.channels)) {
    std::fill_n(sums, outputs * op.kernel_height * patch_row(step), std::numeric_limits<float>::quiet_NaN());
    std::fill_n(totals, outputs, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  const int64_t words = ceil_div(outputs, 32), lanes = step.padded_outputs(), windows = step.out_width / 2;
  const int64_t row_vectors = patch_row(step) / Simd::kLanes;
  Patches p;
  p.rows = scratch.patches;
  p.step = 2 * patch_row(step);
  for (int i = 0; i < kWindow; ++i) p.pixels[i] = i / 2 * op.stride_height * row + i % 2 * patch_row(step);
  p.vectors = scratch.offsets;
  p.count = op.kernel_height * row_vectors;
  for (int64_t i = 0; i < p.count; ++i) {
    scratch.offsets[i] = i / row_vectors * row + i % row_vectors * Simd::kLanes;
  }
  for (int64_t y = 0; y < step.out_height / 2; ++y) {
    copy_patches(step, image, 2 * y * op.stride_height - op.pad_top, scratch.patches);
    for (int64_t x = 0; x < windows; ++x, g += outputs, winners += kWinnerPlanes * words) {
      for (int64_t channel = 0; channel < outputs; channel += Simd::kLanes) {
        const int64_t at = x * lanes + channel;
        read_winners(p, x, winners, words, channel, outputs - channel, g, scratch.shares + at, scratch.winners + at,
                     sums, totals);
      }
    }
    for (int64_t output = 0; output < outputs; ++output) {
      add_patches(p, windows, scratch.shares + output, scratch.winners + output, lanes,
                  sums + output * p.count * Simd::kLanes);
    }
  }
}
