// h(max over 2x2 windows), which keeps a few bits of each window for the gradient. Included once for each path, after
// its Simd. Winners are [window][plane][word of 32 channels]: a plane for each pixel of a window, set where the pixel
// takes the gradient, and one that is set where h turns its sign.

constexpr int kWindow = 4;  // pixels
static_assert(kWinnerPlanes == kWindow + 1, "a plane for each pixel, and one of signs");

// One bit for each lane: where h has a slope at z, and where that is negative. NaN has none.
template <Bound kBound>
DOREFA_INLINE void slopes(Simd::Floats z, uint32_t* has_slope, uint32_t* is_negative) {
  const Simd::Floats zero = Simd::float_zero(), one = Simd::broadcast_float(1);
  const uint32_t is_from_zero = Simd::reached(z, zero), is_to_zero = Simd::reached(zero, z);
  *is_negative = 0;
  if constexpr (kBound == Bound::kClip) {
    *has_slope = is_from_zero & Simd::reached(one, z);
  } else if constexpr (kBound == Bound::kAbsClip) {
    *has_slope = (is_from_zero ^ is_to_zero) & Simd::reached(z, Simd::broadcast_float(-1)) & Simd::reached(one, z);
    *is_negative = is_to_zero & *has_slope;
  } else if constexpr (kBound == Bound::kNone) {
    *has_slope = is_from_zero | is_to_zero;
  } else {
    *has_slope = is_from_zero & ~is_to_zero;
  }
}

// NaN stays.
template <Bound kBound>
DOREFA_INLINE Simd::Floats bounded_vector(Simd::Floats z) {
  if constexpr (kBound == Bound::kNone) return z;
  const Simd::Floats zero = Simd::float_zero();
  if constexpr (kBound == Bound::kAbsClip) z = Simd::larger(Simd::subtract(zero, z), z);
  z = Simd::larger(zero, z);
  return kBound == Bound::kRelu ? z : Simd::smaller(Simd::broadcast_float(1), z);
}

template <Bound kBound>
void pool_windows_as(const AffinePool& p, const float* image, float* out, uint32_t* winners) {
  const int64_t words = ceil_div(p.channels, 32);
  const float* pixels[kWindow];
  for (int64_t y = 0; y < p.height / 2; ++y) {
    for (int64_t x = 0; x < p.width / 2; ++x, out += p.channels, winners += kWinnerPlanes * words) {
      find_pixels(p, image, y, x, pixels);
      for (int64_t word = 0; word < words; ++word) {
        uint32_t planes[kWinnerPlanes] = {};
        for (int at = 0; at < 32; at += Simd::kLanes) {
          const int64_t channel = word * 32 + at, left = p.channels - channel;
          if (left <= 0) break;
          Simd::Floats z[kWindow];
          for (int i = 0; i < kWindow; ++i) z[i] = Simd::load_some(pixels[i] + channel, left);
          const Simd::Floats largest = Simd::larger(Simd::larger(z[0], z[1]), Simd::larger(z[2], z[3]));
          uint32_t has_slope, is_negative;
          slopes<kBound>(largest, &has_slope, &is_negative);
          if (left < Simd::kLanes) has_slope &= (uint32_t{1} << left) - 1;
          for (int i = 0; i < kWindow; ++i) planes[i] |= (Simd::reached(z[i], largest) & has_slope) << at;
          planes[kWindow] |= (is_negative & has_slope) << at;
          Simd::store_floats(out + channel, bounded_vector<kBound>(largest), static_cast<int>(left));
        }
        for (int i = 0; i < kWinnerPlanes; ++i) winners[i * words + word] = planes[i];
      }
    }
  }
}

// One image; the window is 2, and factors and offsets are not looked at.
void pool_windows(const AffinePool& p, const float* image, float* out, uint32_t* winners) {
  switch (p.bound) {
    case Bound::kClip: return pool_windows_as<Bound::kClip>(p, image, out, winners);
    case Bound::kAbsClip: return pool_windows_as<Bound::kAbsClip>(p, image, out, winners);
    case Bound::kRelu: return pool_windows_as<Bound::kRelu>(p, image, out, winners);
    case Bound::kNone: return pool_windows_as<Bound::kNone>(p, image, out, winners);
  }
}
