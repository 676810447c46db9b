// Max pooling of codes, in bit planes or bytes. Included once for each path.

// Into `a`, the larger of each two codes, of bit planes `a_stride` and `b_stride` words apart.
template <int Bits>
DOREFA_INLINE void take_larger_bits(const uint32_t* __restrict b, int64_t b_stride, uint32_t* __restrict a,
                                    int64_t a_stride, int64_t words) {
  for (int64_t i = 0; i < words; ++i) {
    uint32_t is_larger = 0, is_open = ~uint32_t{0};
    for (int plane = Bits - 1; plane >= 0; --plane) {
      const uint32_t x = a[plane * a_stride + i], y = b[plane * b_stride + i];
      is_larger |= is_open & y & ~x;
      is_open &= ~(x ^ y);
    }
    for (int plane = 0; plane < Bits; ++plane) {
      const uint32_t x = a[plane * a_stride + i], y = b[plane * b_stride + i];
      a[plane * a_stride + i] = (y & is_larger) | (x & ~is_larger);
    }
  }
}

// The same of bytes.
DOREFA_INLINE void take_larger_bytes(const uint32_t* b, uint32_t* a, int64_t words) {
  const uint8_t* __restrict y = reinterpret_cast<const uint8_t*>(b);
  uint8_t* __restrict x = reinterpret_cast<uint8_t*>(a);
  for (int64_t i = 0; i < 4 * words; ++i) x[i] = std::max(x[i], y[i]);
}

// Max pooling of one group of one image: the padding's code, zero, is below no other. `rows` has
// room for a row of each plane, which the rows of a window are pooled into first. Bits is 0 for bytes.
template <int Bits>
void pool_planes(const Step& step, const uint32_t* input, const Step& next, uint32_t* rows, uint32_t* out) {
  constexpr int kPlanes = Bits == 0 ? 1 : Bits;
  const Op& op = step.op;
  const int64_t words = step.pixel_words;
  for (int64_t y = 0; y < step.out_height; ++y) {
    for (int64_t v = 0; v < op.kernel_height; ++v) {
      const uint32_t* row = input + (y * op.stride_height + v * op.dilation_height) * step.row_words;
      if (v == 0) {
        for (int a = 0; a < kPlanes; ++a) {
          std::copy_n(row + a * step.plane_words, step.row_words, rows + a * step.row_words);
        }
      } else if constexpr (Bits == 0) {
        take_larger_bytes(row, rows, step.row_words);
      } else {
        take_larger_bits<Bits>(row, step.plane_words, rows, step.row_words, step.row_words);
      }
    }
    uint32_t* pixel = out + (y + next.op.pad_top) * next.row_words + next.op.pad_left * next.pixel_words;
    for (int64_t x = 0; x < step.out_width; ++x, pixel += next.pixel_words) {
      for (int64_t u = 0; u < op.kernel_width; ++u) {
        const uint32_t* from = rows + (x * op.stride_width + u * op.dilation_width) * words;
        if (u == 0) {
          for (int a = 0; a < kPlanes; ++a) {
            for (int64_t i = 0; i < words; ++i) pixel[a * next.plane_words + i] = from[a * step.row_words + i];
          }
        } else if constexpr (Bits == 0) {
          take_larger_bytes(from, pixel, words);
        } else {
          take_larger_bits<Bits>(from, step.row_words, pixel, next.plane_words, words);
        }
      }
    }
  }
}

void pool(const Step& step, const uint32_t* input, const Step& next, uint32_t* rows, uint32_t* out) {
  if (step.op.format != Format::kBits) return pool_planes<0>(step, input, next, rows, out);
  switch (step.op.activation_bits) {
    case 1: return pool_planes<1>(step, input, next, rows, out);
    case 2: return pool_planes<2>(step, input, next, rows, out);
    case 3: return pool_planes<3>(step, input, next, rows, out);
    case 4: return pool_planes<4>(step, input, next, rows, out);
    case 5: return pool_planes<5>(step, input, next, rows, out);
    case 6: return pool_planes<6>(step, input, next, rows, out);
    case 7: return pool_planes<7>(step, input, next, rows, out);
    default: return pool_planes<8>(step, input, next, rows, out);
  }
}
