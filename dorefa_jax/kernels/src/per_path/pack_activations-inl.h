// Floats to bit planes of codes. Included once for each path, after its Simd.

// The codes of floats, clipped to [0, 1], as bit planes of 32 channels a word, [pixel][plane][word]; where wanted, the
// last plane tells which floats were not clipped, NaN among them. Tells whether a NaN was among them.
template <int Bits>
bool pack_planes(const float* x, int64_t pixels, int64_t channels, int64_t planes, bool wants_inside, uint32_t* out) {
  const Simd::Floats levels = Simd::broadcast_float((1 << Bits) - 1);
  constexpr uint32_t kAllLanes = (uint64_t{1} << Simd::kLanes) - 1;
  const int64_t words = ceil_div(channels, 32);
  bool nan = false;
  for (int64_t p = 0; p < pixels; ++p, x += channels, out += planes * words) {
    for (int64_t word = 0; word < words; ++word) {
      uint32_t bits[Bits] = {}, inside = 0;
      for (int v = 0; v < 32 && word * 32 + v < channels; v += Simd::kLanes) {
        const int64_t first = word * 32 + v;
        // Beyond the last channel is neither code nor inside.
        const Simd::Floats value = Simd::load_some(x + first, channels - first, -1);
        uint32_t is_inside = Simd::reached(value, Simd::float_zero()) & Simd::reached(Simd::broadcast_float(1), value);
        if (Simd::any_nan(value)) {
          nan = true;
          is_inside |= ~Simd::reached(value, value) & kAllLanes;
        }
        inside |= is_inside << v;
        const Simd::Ints code = Simd::round_half_even(Simd::clamp(Simd::multiply(value, levels), levels));
        for (int a = 0; a < Bits; ++a) bits[a] |= Simd::plane_bits(code, a) << v;
      }
      for (int a = 0; a < Bits; ++a) out[a * words + word] = bits[a];
      for (int64_t a = Bits; a < planes; ++a) out[a * words + word] = 0;
      if (wants_inside) out[(planes - 1) * words + word] = inside;
    }
  }
  return nan;
}

bool pack_activations(const float* x, int64_t pixels, int64_t channels, int64_t bits, int64_t planes, bool wants_inside,
                      uint32_t* out) {
  switch (bits) {
    case 1: return pack_planes<1>(x, pixels, channels, planes, wants_inside, out);
    case 2: return pack_planes<2>(x, pixels, channels, planes, wants_inside, out);
    case 3: return pack_planes<3>(x, pixels, channels, planes, wants_inside, out);
    case 4: return pack_planes<4>(x, pixels, channels, planes, wants_inside, out);
    case 5: return pack_planes<5>(x, pixels, channels, planes, wants_inside, out);
    case 6: return pack_planes<6>(x, pixels, channels, planes, wants_inside, out);
    case 7: return pack_planes<7>(x, pixels, channels, planes, wants_inside, out);
    default: return pack_planes<8>(x, pixels, channels, planes, wants_inside, out);
  }
}
