// Images of floats or codes into the operands of a first layer. Included once for each path, after its Simd.

// Floats of `pixels` pixels to codes, packed; tells whether a NaN was among them.
template <int Bits>
bool quantize_bits(const float* x, int64_t pixels, int64_t stride, const Step& step, uint32_t* out) {
  const Simd::Floats levels = Simd::broadcast_float((1 << Bits) - 1);
  bool nan = false;
  for (int64_t p = 0; p < pixels; ++p, x += stride, out += step.pixel_words) {
    for (int64_t word = 0; word < step.pixel_words; ++word) {
      uint32_t bits[Bits] = {};
      for (int v = 0; v < 32 && word * 32 + v < step.group_channels; v += Simd::kLanes) {
        const int64_t first = word * 32 + v;
        const Simd::Floats value = Simd::load_some(x + first, step.group_channels - first);
        nan |= Simd::any_nan(value);
        const Simd::Ints code = Simd::round_half_even(Simd::clamp(Simd::multiply(value, levels), levels));
        for (int a = 0; a < Bits; ++a) bits[a] |= Simd::plane_bits(code, a) << v;
      }
      for (int a = 0; a < Bits; ++a) out[a * step.plane_words + word] = bits[a];
    }
  }
  return nan;
}

bool quantize_bytes(const float* x, int64_t pixels, int64_t stride, const Step& step, uint32_t* out) {
  const Simd::Floats levels = Simd::broadcast_float(static_cast<float>(step.levels(step.op.activation_bits)));
  bool nan = false;
  for (int64_t p = 0; p < pixels; ++p, x += stride, out += step.pixel_words) {
    uint8_t* bytes = reinterpret_cast<uint8_t*>(out);
    for (int64_t c = 0; c < step.group_channels; c += Simd::kLanes) {
      const int64_t left = step.group_channels - c;
      const Simd::Floats value = Simd::load_some(x + c, left);
      nan |= Simd::any_nan(value);
      const Simd::Ints code = Simd::round_half_even(Simd::clamp(Simd::multiply(value, levels), levels));
      if (left >= Simd::kLanes) {
        Simd::store_bytes(bytes + c, code);
      } else {
        uint8_t stored[Simd::kLanes];
        Simd::store_bytes(stored, code);
        std::memcpy(bytes + c, stored, left);
      }
    }
  }
  return nan;
}

bool quantize_pixels(const float* x, int64_t pixels, int64_t stride, const Step& step, uint32_t* out) {
  if (step.op.format != Format::kBits) return quantize_bytes(x, pixels, stride, step, out);
  switch (step.op.activation_bits) {
    case 1: return quantize_bits<1>(x, pixels, stride, step, out);
    case 2: return quantize_bits<2>(x, pixels, stride, step, out);
    case 3: return quantize_bits<3>(x, pixels, stride, step, out);
    case 4: return quantize_bits<4>(x, pixels, stride, step, out);
    case 5: return quantize_bits<5>(x, pixels, stride, step, out);
    case 6: return quantize_bits<6>(x, pixels, stride, step, out);
    case 7: return quantize_bits<7>(x, pixels, stride, step, out);
    default: return quantize_bits<8>(x, pixels, stride, step, out);
  }
}

// Of floats that are multiplied: infinity times zero is NaN too.
bool any_not_finite(const float* x, int64_t count) {
  const Simd::Floats zero = Simd::float_zero();
  bool found = false;
  int64_t i = 0;
  for (; i + Simd::kLanes <= count; i += Simd::kLanes) {
    found |= Simd::any_nan(Simd::multiply(Simd::load_floats(x + i), zero));
  }
  for (; i < count; ++i) found |= x[i] * 0.0f != 0.0f;
  return found;
}

// Codes of `pixels` pixels, packed; pixels of the result are `step.op.gap_width` apart.
void pack_pixels(const uint8_t* codes, int64_t pixels, int64_t stride, const Step& step, uint32_t* out) {
  const int64_t channels = step.group_channels;
  for (int64_t p = 0; p < pixels; ++p, codes += stride, out += step.op.gap_width * step.pixel_words) {
    if (step.op.format != Format::kBits) {
      std::memcpy(out, codes, channels);
      continue;
    }
    for (int64_t word = 0; word < step.pixel_words; ++word) {
      uint32_t part[32] = {};
      std::copy_n(codes + word * 32, std::min<int64_t>(32, channels - word * 32), part);
      for (int a = 0; a < step.op.activation_bits; ++a) {
        uint32_t bits = 0;
        for (int v = 0; v < 32; v += Simd::kLanes) bits |= Simd::plane_bits(Simd::load(part + v), a) << v;
        out[a * step.plane_words + word] = bits;
      }
    }
  }
}

// An image of codes into the first op's input.
void fill_input(const uint8_t* codes, const Step& step, uint32_t* image) {
  const Op& op = step.op;
  for (int64_t y = 0; y < op.height; ++y, codes += int64_t{op.width} * op.channels) {
    const int64_t row = (y * op.gap_height + op.pad_top) * step.row_words + op.pad_left * step.pixel_words;
    for (int64_t g = 0; g < op.groups; ++g) {
      pack_pixels(codes + g * step.group_channels, op.width, op.channels, step, image + g * step.group_words + row);
    }
  }
}

// One group of a pixel, of which `planes` has a word of 32 channels in each plane, `stride` words apart.
DOREFA_INLINE void copy_pixel(const uint32_t* planes, int64_t stride, int64_t first, const Step& step, uint32_t* out) {
  const Op& op = step.op;
  const int64_t channels = step.group_channels, shift = first % 32;
  planes += first / 32;
  if (op.format != Format::kBits) {
    auto* bytes = reinterpret_cast<uint8_t*>(out);
    for (int64_t done = -shift; done < channels; done += 32, ++planes) {
      uint8_t codes[32];
      Simd::unpack_codes(planes, stride, op.activation_bits, codes);
      const int64_t begin = std::max<int64_t>(0, -done), end = std::min<int64_t>(32, channels - done);
      std::memcpy(bytes + done + begin, codes + begin, end - begin);
    }
    return;
  }
  for (int64_t a = 0; a < op.activation_bits; ++a, planes += stride, out += step.plane_words) {
    for (int64_t word = 0; word < step.pixel_words; ++word) {
      const int64_t left = channels - word * 32;
      uint32_t bits = planes[word] >> shift;
      if (shift && left > 32 - shift) bits |= planes[word + 1] << (32 - shift);
      out[word] = left < 32 ? bits & ((uint32_t{1} << left) - 1) : bits;
    }
  }
}

// An image of bit planes into the first op's input.
void fill_input_of_planes(const uint32_t* planes, int64_t plane_count, const Step& step, uint32_t* image) {
  const Op& op = step.op;
  const int64_t stride = ceil_div(op.channels, 32);
  const uint32_t* end = image + step.image_words;
  for (int64_t y = 0; y < op.height; ++y) {
    uint32_t* out = image + (y + op.pad_top) * step.row_words + op.pad_left * step.pixel_words;
    for (int64_t x = 0; x < op.width; ++x, planes += plane_count * stride, out += step.pixel_words) {
      if (op.format != Format::kBits && op.channels <= 32 && op.groups == 1 && end - out >= 8) {
        // Codes of channels that are not there are zero, as padding is, or lie where a later pixel will be.
        Simd::unpack_codes(planes, stride, op.activation_bits, reinterpret_cast<uint8_t*>(out));
        continue;
      }
      for (int64_t g = 0; g < op.groups; ++g) {
        copy_pixel(planes, stride, g * step.group_channels, step, out + g * step.group_words);
      }
    }
  }
}

// An image of floats into the first op's input; tells whether it met a NaN.
bool fill_input(const float* x, const Step& step, float* line, uint32_t* image) {
  const Op& op = step.op;
  bool nan = is_float(op.format) && any_not_finite(x, int64_t{op.height} * op.width * op.channels);
  for (int64_t y = 0; y < op.height; ++y) {
    const float* row = x + y * op.width * op.channels;
    if (op.format == Format::kWinograd) {
      transform_row(row, step, line, reinterpret_cast<float*>(image + (y + op.pad_top) * step.row_words));
      continue;
    }
    for (int64_t g = 0; g < op.groups; ++g) {
      uint32_t* out = image + g * step.group_words + (y + op.pad_top) * step.row_words + op.pad_left * step.pixel_words;
      const float* from = row + g * step.group_channels;
      if (!is_float(op.format)) {
        nan |= quantize_pixels(from, op.width, op.channels, step, out);
      } else if (op.groups == 1) {
        std::memcpy(out, from, op.width * op.channels * sizeof(float));
      } else {
        for (int64_t p = 0; p < op.width; ++p) {
          std::memcpy(out + p * step.pixel_words, from + p * op.channels, step.group_channels * sizeof(float));
        }
      }
    }
  }
  return nan;
}
