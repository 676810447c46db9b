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

// Where to put the gradients of one image: sums over positions for factors and offsets, or, once they are known, the
// gradients of elements.
struct AffinePoolSums {
  float *factor, *offset;
};
struct AffinePoolElements {
  GradientLine line;
  float* dy;
};

// Equal maxima share the gradient, dz. That of an element y is `factor dz + slope y + intercept`.
template <Bound kBound, int kPixels, class Out>
void affine_pool_gradient_as(const AffinePool& p, const float* image, const float* g, const Out& out) {
  const float* pixels[kPixels];
  const float *factor = p.factor, *offset = p.offset;
  for (int64_t y = 0; y < p.height / p.window; ++y) {
    for (int64_t x = 0; x < p.width / p.window; ++x, g += p.channels) {
      find_pixels(p, image, y, x, pixels);
      float* gradients[kPixels] = {};
      if constexpr (std::is_same_v<Out, AffinePoolElements>) {
        for (int i = 0; i < kPixels; ++i) gradients[i] = out.dy + (pixels[i] - image);
      }
      DOREFA_INDEPENDENT
      for (int64_t c = 0; c < p.channels; ++c) {
        float z[kPixels];
        DOREFA_UNROLL
        for (int i = 0; i < kPixels; ++i) z[i] = pixels[i][c] * factor[c] + offset[c];
        float largest = z[0], count = 0;
        for (int i = 1; i < kPixels; ++i) largest = z[i] > largest ? z[i] : largest;
        for (int i = 0; i < kPixels; ++i) count += z[i] == largest ? 1.0f : 0.0f;
        const float slope = bound_gradient(largest, kBound);
        // Where h is flat no gradient passes, not even one that is not finite.
        const float share = slope == 0 ? 0.0f : g[c] * slope / (count == 0 ? 1.0f : count);
        float products = 0, total = 0;
        for (int i = 0; i < kPixels; ++i) {
          const float dz = z[i] == largest ? share : 0.0f;
          if constexpr (std::is_same_v<Out, AffinePoolElements>) {
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

template <Bound kBound>
void affine_pool_of(const AffinePool& p, const float* image, float* out) {
  return p.window == 1 ? affine_pool_as<kBound, 1>(p, image, out) : affine_pool_as<kBound, 4>(p, image, out);
}

template <Bound kBound, class Out>
void affine_pool_gradient_of(const AffinePool& p, const float* image, const float* g, const Out& out) {
  if (p.window == 1) return affine_pool_gradient_as<kBound, 1>(p, image, g, out);
  affine_pool_gradient_as<kBound, 4>(p, image, g, out);
}

template <class Out>
void affine_pool_gradient_any(const AffinePool& p, const float* image, const float* g, const Out& out) {
  switch (p.bound) {
    case Bound::kClip: return affine_pool_gradient_of<Bound::kClip>(p, image, g, out);
    case Bound::kAbsClip: return affine_pool_gradient_of<Bound::kAbsClip>(p, image, g, out);
    case Bound::kRelu: return affine_pool_gradient_of<Bound::kRelu>(p, image, g, out);
  }
}

// One image.
void affine_pool(const AffinePool& p, const float* image, float* out) {
  switch (p.bound) {
    case Bound::kClip: return affine_pool_of<Bound::kClip>(p, image, out);
    case Bound::kAbsClip: return affine_pool_of<Bound::kAbsClip>(p, image, out);
    case Bound::kRelu: return affine_pool_of<Bound::kRelu>(p, image, out);
  }
}

// Adds one image's gradients of factors and offsets.
void add_affine_pool_sums(const AffinePool& p, const float* image, const float* g, float* dfactor, float* doffset) {
  affine_pool_gradient_any(p, image, g, AffinePoolSums{dfactor, doffset});
}

// The gradients of one image's elements.
void affine_pool_gradient(const AffinePool& p, const float* image, const float* g, const GradientLine& line,
                          float* dy) {
  affine_pool_gradient_any(p, image, g, AffinePoolElements{line, dy});
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
