// The gradient quantizer: noise, rounding and codes in one pass. Included once for each path, after its Simd.

constexpr int kChains = 4;  // vectors at a time: a round waits for the one before it
constexpr int kNoise = kChains * Simd::kLanes;

template <int kTurn>
DOREFA_INLINE void threefry_round(Simd::Ints (&a)[kChains], Simd::Ints (&b)[kChains]) {
  DOREFA_UNROLL
  for (int i = 0; i < kChains; ++i) {
    a[i] = Simd::add(a[i], b[i]);
    b[i] = Simd::exclusive_or(Simd::rotate_left<kTurn>(b[i]), a[i]);
  }
}

DOREFA_INLINE void threefry_add(Simd::Ints (&a)[kChains], Simd::Ints (&b)[kChains], uint32_t to_a, uint32_t to_b) {
  DOREFA_UNROLL
  for (int i = 0; i < kChains; ++i) {
    a[i] = Simd::add(a[i], Simd::broadcast(to_a));
    b[i] = Simd::add(b[i], Simd::broadcast(to_b));
  }
}

// Threefry-2x32 with 20 rounds of the counters first, first + 1, ..., both words combined: what jax.random.bits
// gives for a key of its default kind, element by element.
DOREFA_INLINE void threefry(const uint32_t* key, uint64_t first, Simd::Ints (&bits)[kChains]) {
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bdau};
  const auto low = static_cast<uint32_t>(first), high = static_cast<uint32_t>(first >> 32);
  uint32_t lows[kNoise], highs[kNoise];
  for (int i = 0; i < kNoise; ++i) {
    lows[i] = low + static_cast<uint32_t>(i);
    highs[i] = high + (lows[i] < low ? 1u : 0u);
  }
  Simd::Ints a[kChains], b[kChains];
  for (int i = 0; i < kChains; ++i) {
    a[i] = Simd::load(highs + i * Simd::kLanes);
    b[i] = Simd::load(lows + i * Simd::kLanes);
  }
  threefry_add(a, b, keys[0], keys[1]);
  for (int group = 0; group < 5; ++group) {
    if (group % 2 == 0) {
      threefry_round<13>(a, b);
      threefry_round<15>(a, b);
      threefry_round<26>(a, b);
      threefry_round<6>(a, b);
    } else {
      threefry_round<17>(a, b);
      threefry_round<29>(a, b);
      threefry_round<16>(a, b);
      threefry_round<24>(a, b);
    }
    threefry_add(a, b, keys[(group + 1) % 3], keys[(group + 2) % 3] + static_cast<uint32_t>(group + 1));
  }
  DOREFA_UNROLL
  for (int i = 0; i < kChains; ++i) bits[i] = Simd::exclusive_or(a[i], b[i]);
}

// The largest magnitude; NaN where a value is not finite.
float largest_magnitude(const float* g, int64_t size) {
  const Simd::Floats zero = Simd::float_zero();
  Simd::Floats largest = zero, unfit = zero;  // zero times what is not finite is NaN
  for (int64_t at = 0; at < size; at += Simd::kLanes) {
    const Simd::Floats x = Simd::load_some(g + at, size - at);
    unfit = Simd::add(unfit, Simd::multiply(x, zero));
    largest = Simd::larger(largest, Simd::larger(x, Simd::subtract(zero, x)));
  }
  if (Simd::any_nan(unfit)) return std::numeric_limits<float>::quiet_NaN();
  float lanes[Simd::kLanes];
  Simd::store_floats(lanes, largest, Simd::kLanes);
  return *std::max_element(lanes, lanes + Simd::kLanes);
}

// Adds scale (2 code - levels) of an example's gradient to sums.
void add_gradient_codes(const uint8_t* codes, int64_t size, float scale, int64_t levels, float* sums) {
  const float twice = 2 * scale, rest = -scale * static_cast<float>(levels);
  DOREFA_INDEPENDENT
  for (int64_t i = 0; i < size; ++i) sums[i] += twice * static_cast<float>(codes[i]) + rest;
}

// The codes of one example, whose elements are numbers first, first + 1, ... of the batch, and its largest
// magnitude; NaN where a gradient is not finite.
float quantize_gradients(const float* g, int64_t size, uint64_t first, const uint32_t* key, int64_t bits,
                         uint8_t* codes) {
  const float largest = largest_magnitude(g, size);
  if (largest != largest) {
    std::memset(codes, 0, size);
    return largest;
  }
  const Simd::Floats divisor = Simd::broadcast_float(largest == 0 ? 1 : largest), one = Simd::broadcast_float(1);
  const Simd::Floats half = Simd::broadcast_float(static_cast<float>((1 << bits) - 1) / 2);
  const Simd::Floats middle = Simd::broadcast_float(0.5f), unit = Simd::broadcast_float(0x1p-23f);
  for (int64_t begin = 0; begin < size; begin += kNoise) {
    const int64_t count = std::min<int64_t>(kNoise, size - begin);
    float part[kNoise];
    uint8_t whole[kNoise];
    const float* from = g + begin;
    uint8_t* to = codes + begin;
    if (count < kNoise) {
      std::fill(std::copy_n(from, count, part), part + kNoise, 0.0f);
      from = part;
      to = whole;
    }
    Simd::Ints noise[kChains];
    threefry(key, first + begin, noise);
    DOREFA_UNROLL
    for (int i = 0; i < kChains; ++i) {
      // 23 bits and a half: never 0 or 1, so that what lies on the grid stays there.
      const Simd::Floats drawn = Simd::to_floats(Simd::shift_right<9>(noise[i]));
      const Simd::Floats threshold = Simd::multiply(Simd::add(drawn, middle), unit);
      const Simd::Floats x = Simd::load_floats(from + i * Simd::kLanes);
      const Simd::Floats position = Simd::multiply(Simd::add(Simd::divide(x, divisor), one), half);
      const Simd::Ints floor = Simd::truncate(position);
      const Simd::Floats fraction = Simd::subtract(position, Simd::to_floats(floor));
      Simd::store_bytes(to + i * Simd::kLanes, Simd::count_reached(floor, fraction, threshold));
    }
    if (count < kNoise) std::memcpy(codes + begin, whole, count);
  }
  return largest;
}
