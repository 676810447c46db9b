// The sums of the codes under each window, for weights whose zero is none of their codes. Included once for each path,
// after its Simd.

// The sum of the codes in each word of one group of one image.
void word_sums(const Step& step, const uint32_t* input, int32_t* sums) {
  if (step.op.format != Format::kBits) {
    for (int64_t i = 0; i < step.plane_words; ++i) {
      const uint32_t pairs = (input[i] & 0x00ff00ffu) + ((input[i] >> 8) & 0x00ff00ffu);
      sums[i] = static_cast<int32_t>((pairs & 0xffffu) + (pairs >> 16));
    }
    return;
  }
  std::fill_n(sums, step.plane_words, 0);
  for (int a = step.op.activation_bits - 1; a >= 0; --a) {
    const uint32_t* plane = input + a * step.plane_words;
    for (int64_t i = 0; i < step.plane_words; ++i) sums[i] = 2 * sums[i] + Simd::count_bits(plane[i]);
  }
}

// The sum of the codes under each window, from `sums` of words; `column` has room for a row of words.
void window_sums(const Step& step, const int32_t* sums, int32_t* column, int32_t* out) {
  const Op& op = step.op;
  for (int64_t y = 0; y < step.out_height; ++y, out += step.out_width) {
    std::fill_n(column, step.row_words, 0);
    for (int64_t v = 0; v < op.kernel_height; ++v) {
      const int32_t* row = sums + (y * op.stride_height + v * op.dilation_height) * step.row_words;
      for (int64_t i = 0; i < step.row_words; ++i) column[i] += row[i];
    }
    for (int64_t p = 0; p < step.padded_width; ++p) {  // in place: a pixel's words lie at or behind it
      int32_t sum = 0;
      for (int64_t i = 0; i < step.pixel_words; ++i) sum += column[p * step.pixel_words + i];
      column[p] = sum;
    }
    std::fill_n(out, step.out_width, 0);
    for (int64_t u = 0; u < op.kernel_width; ++u) {
      const int32_t* from = column + u * op.dilation_width;
      if (op.stride_width == 1) {
        for (int64_t x = 0; x < step.out_width; ++x) out[x] += from[x];
      } else {
        for (int64_t x = 0; x < step.out_width; ++x) out[x] += from[x * op.stride_width];
      }
    }
  }
}
