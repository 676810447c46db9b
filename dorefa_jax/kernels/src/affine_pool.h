// h(max over a window of factor * y + offset), and its gradients. Included once for each path; the loops are over
// channels, for compilers to make vectors of.

DOREFA_INLINE float bounded(float z, Bound bound) {
  if (bound == Bound::kAbsClip) z = z < 0 ? -z : z;
  z = z < 0 ? 0.0f : z;  // NaN stays
  return bound != Bound::kRelu && z > 1 ? 1.0f : z;
}

DOREFA_INLINE float bound_gradient(float z, Bound bound) {
  switch (bound) {
    case Bound::kClip: return z >= 0 && z <= 1 ? 1.0f : 0.0f;
    case Bound::kAbsClip: return z >= -1 && z <= 1 ? (z > 0 ? 1.0f : z < 0 ? -1.0f : 0.0f) : 0.0f;
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

template <Bound kBound, int kPixels>
void affine_pool_as(const AffinePool& p, const float* image, float* out) {
  const float* pixels[kPixels];
  const float *factor = p.factor, *offset = p.offset;
  for (int64_t y = 0; y < p.height / p.window; ++y) {
    for (int64_t x = 0; x < p.width / p.window; ++x, out += p.channels) {
      find_pixels(p, image, y, x, pixels);
      DOREFA_INDEPENDENT
      for (int64_t c = 0; c < p.channels; ++c) {
        float largest = pixels[0][c] * factor[c] + offset[c];
        for (int i = 1; i < kPixels; ++i) {
          const float z = pixels[i][c] * factor[c] + offset[c];
          largest = z > largest || z != z ? z : largest;  // NaN wins
        }
        out[c] = bounded(largest, kBound);
      }
    }
  }
}

// Equal maxima share the gradient, dz. The gradient of an element y is `factor dz + slope y + intercept`; of factors
// and offsets, sums over positions. What is null is not wanted.
template <Bound kBound, int kPixels, bool kHasSums, bool kHasLine>
void affine_pool_gradient_as(const AffinePool& p, const float* image, const float* g, const GradientLine& line,
                             float* dy, float* dfactor, float* doffset) {
  const float* pixels[kPixels];
  float* gradients[kPixels];
  const float *factor = p.factor, *offset = p.offset;
  for (int64_t y = 0; y < p.height / p.window; ++y) {
    for (int64_t x = 0; x < p.width / p.window; ++x, g += p.channels) {
      find_pixels(p, image, y, x, pixels);
      for (int i = 0; i < kPixels; ++i) gradients[i] = dy ? dy + (pixels[i] - image) : nullptr;
      const auto each_channel = [&](auto has_gradients) {
        DOREFA_INDEPENDENT
        for (int64_t c = 0; c < p.channels; ++c) {
          float z[kPixels];
          DOREFA_UNROLL
          for (int i = 0; i < kPixels; ++i) z[i] = pixels[i][c] * factor[c] + offset[c];
          float largest = z[0], count = 0;
          for (int i = 1; i < kPixels; ++i) largest = z[i] > largest ? z[i] : largest;
          for (int i = 0; i < kPixels; ++i) count += z[i] == largest ? 1.0f : 0.0f;
          const float share = g[c] * bound_gradient(largest, kBound) / (count == 0 ? 1.0f : count);
          float products = 0, total = 0;
          for (int i = 0; i < kPixels; ++i) {
            const float dz = z[i] == largest ? share : 0.0f;
            if constexpr (has_gradients) {
              gradients[i][c] = dz * factor[c];
              if constexpr (kHasLine) gradients[i][c] += pixels[i][c] * line.slope[c] + line.intercept[c];
            }
            if constexpr (kHasSums) {
              products += dz * pixels[i][c];
              total += dz;
            }
          }
          if constexpr (kHasSums) {
            dfactor[c] += products;
            doffset[c] += total;
          }
        }
      };
      if (dy) {
        each_channel(std::true_type());
      } else {
        each_channel(std::false_type());
      }
    }
  }
}

template <Bound kBound>
void affine_pool_of(const AffinePool& p, const float* image, float* out) {
  return p.window == 1 ? affine_pool_as<kBound, 1>(p, image, out) : affine_pool_as<kBound, 4>(p, image, out);
}

template <Bound kBound, bool kHasSums, bool kHasLine>
void affine_pool_gradient_of(const AffinePool& p, const float* image, const float* g, const GradientLine& line,
                             float* dy, float* dfactor, float* doffset) {
  const auto run = p.window == 1 ? affine_pool_gradient_as<kBound, 1, kHasSums, kHasLine>
                                 : affine_pool_gradient_as<kBound, 4, kHasSums, kHasLine>;
  run(p, image, g, line, dy, dfactor, doffset);
}

template <Bound kBound>
void affine_pool_gradient_bounded(const AffinePool& p, const float* image, const float* g, const GradientLine& line,
                                  float* dy, float* dfactor, float* doffset) {
  if (line.slope) return affine_pool_gradient_of<kBound, false, true>(p, image, g, line, dy, dfactor, doffset);
  affine_pool_gradient_of<kBound, true, false>(p, image, g, line, dy, dfactor, doffset);
}

// One image.
void affine_pool(const AffinePool& p, const float* image, float* out) {
  switch (p.bound) {
    case Bound::kClip: return affine_pool_of<Bound::kClip>(p, image, out);
    case Bound::kAbsClip: return affine_pool_of<Bound::kAbsClip>(p, image, out);
    case Bound::kRelu: return affine_pool_of<Bound::kRelu>(p, image, out);
  }
}

// One image. Without a line, the gradients of factors and offsets are added, and `dy` may be null; with one, dy alone
// is computed.
void affine_pool_gradient(const AffinePool& p, const float* image, const float* g, const GradientLine& line, float* dy,
                          float* dfactor, float* doffset) {
  switch (p.bound) {
    case Bound::kClip: return affine_pool_gradient_bounded<Bound::kClip>(p, image, g, line, dy, dfactor, doffset);
    case Bound::kAbsClip: return affine_pool_gradient_bounded<Bound::kAbsClip>(p, image, g, line, dy, dfactor, doffset);
    case Bound::kRelu: return affine_pool_gradient_bounded<Bound::kRelu>(p, image, g, line, dy, dfactor, doffset);
  }
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
