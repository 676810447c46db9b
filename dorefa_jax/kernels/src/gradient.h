// The gradient quantizer: noise, rounding and codes in one pass. Included once for each path.

constexpr int kNoise = 64;  // elements at a time

// Threefry-2x32 with 20 rounds of the counters first, first + 1, ..., both words combined: what jax.random.bits
// gives for a key of its default kind, element by element. The loops are over lanes, for compilers to make vectors of.
inline void threefry(const uint32_t* key, uint64_t first, uint32_t* bits) {
  constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bdau};
  uint32_t a[kNoise], b[kNoise];
  for (int i = 0; i < kNoise; ++i) {
    a[i] = static_cast<uint32_t>((first + i) >> 32) + keys[0];
    b[i] = static_cast<uint32_t>(first + i) + keys[1];
  }
  for (int group = 0; group < 5; ++group) {
    for (int round = 0; round < 4; ++round) {
      const int turn = kRotations[group % 2][round];
      for (int i = 0; i < kNoise; ++i) {
        a[i] += b[i];
        b[i] = ((b[i] << turn) | (b[i] >> (32 - turn))) ^ a[i];
      }
    }
    const uint32_t to_a = keys[(group + 1) % 3], to_b = keys[(group + 2) % 3] + group + 1;
    for (int i = 0; i < kNoise; ++i) {
      a[i] += to_a;
      b[i] += to_b;
    }
  }
  for (int i = 0; i < kNoise; ++i) bits[i] = a[i] ^ b[i];
}

// The codes of one example, whose elements are numbers first, first + 1, ... of the batch, and its largest
// magnitude; NaN where a gradient is not finite.
float quantize_gradients(const float* g, int64_t size, uint64_t first, const uint32_t* key, int64_t bits,
                         uint8_t* codes) {
  float lanes[16] = {};
  bool is_finite = true;
  int64_t at = 0;
  for (; at + 16 <= size; at += 16) {
    for (int i = 0; i < 16; ++i) {
      const float x = g[at + i];
      is_finite &= x * 0.0f == 0.0f;
      lanes[i] = std::max(lanes[i], x < 0 ? -x : x);
    }
  }
  float largest = 0;
  for (float lane : lanes) largest = std::max(largest, lane);
  for (; at < size; ++at) {
    is_finite &= g[at] * 0.0f == 0.0f;
    largest = std::max(largest, g[at] < 0 ? -g[at] : g[at]);
  }
  if (!is_finite) {
    std::memset(codes, 0, size);
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float divisor = largest == 0 ? 1 : largest;
  const float half = static_cast<float>((1 << bits) - 1) / 2;
  for (int64_t begin = 0; begin < size; begin += kNoise) {
    uint32_t noise[kNoise];
    float x[kNoise] = {};
    uint8_t code[kNoise];
    const int64_t count = std::min<int64_t>(kNoise, size - begin);
    threefry(key, first + begin, noise);
    std::memcpy(x, g + begin, count * sizeof(float));
    for (int i = 0; i < kNoise; ++i) {
      // 23 bits and a half: never 0 or 1, so that what lies on the grid stays there.
      const float threshold = (static_cast<float>(static_cast<int32_t>(noise[i] >> 9)) + 0.5f) * 0x1p-23f;
      const float position = (x[i] / divisor + 1) * half;
      const int32_t floor = static_cast<int32_t>(position);
      code[i] = static_cast<uint8_t>(floor + (position - static_cast<float>(floor) >= threshold ? 1 : 0));
    }
    std::memcpy(codes + begin, code, count);
  }
  return largest;
}
