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

// Equal maxima share the gradient.
template <Bound kBound, int kPixels>
void affine_pool_gradient_as(const AffinePool& p, const float* image, const float* g, float* dy, float* dfactor,
                             float* doffset) {
  const float* pixels[kPixels];
  float* gradients[kPixels];
  const float *factor = p.factor, *offset = p.offset;
  for (int64_t y = 0; y < p.height / p.window; ++y) {
    for (int64_t x = 0; x < p.width / p.window; ++x, g += p.channels) {
      find_pixels(p, image, y, x, pixels);
      for (int i = 0; i < kPixels; ++i) gradients[i] = dy + (pixels[i] - image);
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
          gradients[i][c] = dz * factor[c];
          products += dz * pixels[i][c];
          total += dz;
        }
        dfactor[c] += products;
        doffset[c] += total;
      }
    }
  }
}

template <Bound kBound>
void affine_pool_of(const AffinePool& p, const float* image, float* out) {
  return p.window == 1 ? affine_pool_as<kBound, 1>(p, image, out) : affine_pool_as<kBound, 4>(p, image, out);
}

template <Bound kBound>
void affine_pool_gradient_of(const AffinePool& p, const float* image, const float* g, float* dy, float* dfactor,
                             float* doffset) {
  if (p.window == 1) return affine_pool_gradient_as<kBound, 1>(p, image, g, dy, dfactor, doffset);
  affine_pool_gradient_as<kBound, 4>(p, image, g, dy, dfactor, doffset);
}

// One image.
void affine_pool(const AffinePool& p, const float* image, float* out) {
  switch (p.bound) {
    case Bound::kClip: return affine_pool_of<Bound::kClip>(p, image, out);
    case Bound::kAbsClip: return affine_pool_of<Bound::kAbsClip>(p, image, out);
    case Bound::kRelu: return affine_pool_of<Bound::kRelu>(p, image, out);
  }
}

// One image; the gradients of factors and offsets are added.
void affine_pool_gradient(const AffinePool& p, const float* image, const float* g, float* dy, float* dfactor,
                          float* doffset) {
  switch (p.bound) {
    case Bound::kClip: return affine_pool_gradient_of<Bound::kClip>(p, image, g, dy, dfactor, doffset);
    case Bound::kAbsClip: return affine_pool_gradient_of<Bound::kAbsClip>(p, image, g, dy, dfactor, doffset);
    case Bound::kRelu: return affine_pool_gradient_of<Bound::kRelu>(p, image, g, dy, dfactor, doffset);
  }
}
