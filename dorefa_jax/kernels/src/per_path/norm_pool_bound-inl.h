// h(max over a window of factor * y + offset + shortcut), and its gradients. Included once for each path; the loops are
// over channels, for compilers to make vectors of.

DOREFA_INLINE float bounded(float z, Bound bound) {
  if (bound == Bound::kNone) return z;
  if (bound == Bound::kAbsClip) z = z < 0 ? -z : z;
  z = z < 0 ? 0.0f : z;  // NaN stays
  return bound != Bound::kRelu && z > 1 ? 1.0f : z;
}

DOREFA_INLINE float bound_gradient(float z, Bound bound) {
  switch (bound) {
    case Bound::kClip: return z >= 0 && z <= 1 ? 1.0f : 0.0f;
    case Bound::kAbsClip: return z >= -1 && z <= 1 ? (z > 0 ? 1.0f : z < 0 ? -1.0f : 0.0f) : 0.0f;
    case Bound::kNone: return 1.0f;
    default: return z > 0 ? 1.0f : 0.0f;
  }
}

// The pixels of a window, `window` squared of them, that a pooled pixel has.
DOREFA_INLINE void find_pixels(const AffinePool& p, const float* image, int64_t y, int64_t x, const float** pixels) {
  for (int64_t v = 0; v < p.window; ++v) {
    for (int64_t u = 0; u < p.window; ++u) {
      pixels[v * p.window + u] = image + ((y * p.window + v) * p.width + x * p.window + u) * p.channels;
    }
  }
}

// What a block adds to its normalized image, or takes from the gradient of its sum; null where there is none.
template <bool kHasSum, int kPixels>
struct Extra {
  const float* pixels[kPixels];
  void find(const AffinePool& p, const float* array, int64_t y, int64_t x) {
    if constexpr (!kHasSum) return;
    if (array) return find_pixels(p, array, y, x, pixels);
    for (const float*& pixel : pixels) pixel = p.zeros;
  }
  DOREFA_INLINE float plus(float z, int i, int64_t c) const {
    if constexpr (kHasSum) return z + pixels[i][c];
    return z;
  }
};

template <Bound kBound, int kPixels, bool kHasSum>
void affine_pool_as(const AffinePool& p, const float* image, float* out, const float* shortcut, float* sum) {
  const float* pixels[kPixels];
  Extra<kHasSum, kPixels> added;
  const float *factor = p.factor, *offset = p.offset;
  for (int64_t y = 0; y < p.height / p.window; ++y) {
    for (int64_t x = 0; x < p.width / p.window; ++x, out += p.channels) {
      find_pixels(p, image, y, x, pixels);
      added.find(p, shortcut, y, x);
      float* sums[kPixels] = {};
      if (kHasSum && sum) {
        for (int i = 0; i < kPixels; ++i) sums[i] = sum + (pixels[i] - image);
      }
      DOREFA_INDEPENDENT
      for (int64_t c = 0; c < p.channels; ++c) {
        float largest = added.plus(pixels[0][c] * factor[c] + offset[c], 0, c);
        if (kHasSum && sum) sums[0][c] = largest;
        for (int i = 1; i < kPixels; ++i) {
          const float z = added.plus(pixels[i][c] * factor[c] + offset[c], i, c);
          if (kHasSum && sum) sums[i][c] = z;
          largest = z > largest || z != z ? z : largest;  // NaN wins
        }
        out[c] = bounded(largest, kBound);
      }
    }
  }
}

// Where to put the gradients of one image: sums over positions for factors and offsets, or, once they are known, the
// gradients of elements.
struct AffinePoolSums {
  float *factor, *offset;
};
struct AffinePoolElements {
  GradientLine line;
  float *dy, *dshortcut;
};

// Equal maxima share the gradient, dz. That of an element y is `factor dz + slope y + intercept`.
template <Bound kBound, int kPixels, bool kHasSum, class Out>
void affine_pool_gradient_as(const AffinePool& p, const float* image, const float* g, const float* shortcut,
                             const float* gsum, const Out& out) {
  const float* pixels[kPixels];
  Extra<kHasSum, kPixels> added, given;
  const float *factor = p.factor, *offset = p.offset;
  for (int64_t y = 0; y < p.height / p.window; ++y) {
    for (int64_t x = 0; x < p.width / p.window; ++x, g += p.channels) {
      find_pixels(p, image, y, x, pixels);
      added.find(p, shortcut, y, x);
      given.find(p, gsum, y, x);
      float *gradients[kPixels] = {}, *shortcuts[kPixels] = {};
      if constexpr (std::is_same_v<Out, AffinePoolElements>) {
        for (int i = 0; i < kPixels; ++i) gradients[i] = out.dy + (pixels[i] - image);
        for (int i = 0; kHasSum && out.dshortcut && i < kPixels; ++i) shortcuts[i] = out.dshortcut + (pixels[i] - image);
      }
      DOREFA_INDEPENDENT
      for (int64_t c = 0; c < p.channels; ++c) {
        float z[kPixels];
        DOREFA_UNROLL
        for (int i = 0; i < kPixels; ++i) z[i] = added.plus(pixels[i][c] * factor[c] + offset[c], i, c);
        float largest = z[0], count = 0;
        for (int i = 1; i < kPixels; ++i) largest = z[i] > largest ? z[i] : largest;
        for (int i = 0; i < kPixels; ++i) count += z[i] == largest ? 1.0f : 0.0f;
        const float slope = bound_gradient(largest, kBound);
        // Where h is flat no gradient passes, not even one that is not finite.
        const float share = slope == 0 ? 0.0f : g[c] * slope / (count == 0 ? 1.0f : count);
        float products = 0, total = 0;
        for (int i = 0; i < kPixels; ++i) {
          const float dz = given.plus(z[i] == largest ? share : 0.0f, i, c);
          if constexpr (std::is_same_v<Out, AffinePoolElements>) {
            if (kHasSum && out.dshortcut) shortcuts[i][c] = dz;
            gradients[i][c] = dz * factor[c] + (pixels[i][c] * out.line.slope[c] + out.line.intercept[c]);
          } else {
            products += dz * pixels[i][c];
            total += dz;
          }
        }
        if constexpr (std::is_same_v<Out, AffinePoolSums>) {
          out.factor[c] += products;
          out.offset[c] += total;
        }
      }
    }
  }
}

// Calls `run` with the bound, the pixels of a window, and whether there is more than the image, as constants.
template <Bound kBound, class Run>
void with_window(const AffinePool& p, const Run& run) {
  using Window1 = std::integral_constant<int, 1>;
  using Window2 = std::integral_constant<int, 4>;
  using BoundHere = std::integral_constant<Bound, kBound>;
  if (p.window == 1) return p.has_sum ? run(BoundHere(), Window1(), std::true_type()) : run(BoundHere(), Window1(), std::false_type());
  return p.has_sum ? run(BoundHere(), Window2(), std::true_type()) : run(BoundHere(), Window2(), std::false_type());
}

template <class Run>
void with_constants(const AffinePool& p, const Run& run) {
  switch (p.bound) {
    case Bound::kClip: return with_window<Bound::kClip>(p, run);
    case Bound::kAbsClip: return with_window<Bound::kAbsClip>(p, run);
    case Bound::kRelu: return with_window<Bound::kRelu>(p, run);
    case Bound::kNone: return with_window<Bound::kNone>(p, run);
  }
}

// One image.
void affine_pool(const AffinePool& p, const float* image, float* out, const float* shortcut, float* sum) {
  with_constants(p, [&](auto bound, auto pixels, auto has_sum) {
    affine_pool_as<bound(), pixels(), has_sum()>(p, image, out, shortcut, sum);
  });
}

// Adds one image's gradients of factors and offsets.
void add_affine_pool_sums(const AffinePool& p, const float* image, const float* g, const float* shortcut,
                          const float* gsum, float* dfactor, float* doffset) {
  with_constants(p, [&](auto bound, auto pixels, auto has_sum) {
    const AffinePoolSums out{dfactor, doffset};
    affine_pool_gradient_as<bound(), pixels(), has_sum()>(p, image, g, shortcut, gsum, out);
  });
}

// The gradients of one image's elements, and of its shortcut.
void affine_pool_gradient(const AffinePool& p, const float* image, const float* g, const float* shortcut,
                          const float* gsum, const GradientLine& line, float* dy, float* dshortcut) {
  with_constants(p, [&](auto bound, auto pixels, auto has_sum) {
    const AffinePoolElements out{line, dy, dshortcut};
    affine_pool_gradient_as<bound(), pixels(), has_sum()>(p, image, g, shortcut, gsum, out);
  });
}

// Adds the sums, and the sums of squares, of each channel of an image.
void add_moments(const float* image, int64_t pixels, int64_t channels, float* sums, float* squares) {
  for (int64_t p = 0; p < pixels; ++p, image += channels) {
    DOREFA_INDEPENDENT
    for (int64_t c = 0; c < channels; ++c) {
      sums[c] += image[c];
      squares[c] += image[c] * image[c];
    }
  }
}
