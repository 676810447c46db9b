// A block of images through a program. Included once for each path.

// Pools a strip of sums, [kernel height][width][stride] of either type, into the codes of one row. Maxima take the place
// of sums that were read before.
template <class Sum>
void pool_strip(const Step& pool, uint32_t* sums, int64_t stride, const Sink& sink, int64_t first_row) {
  const Op& op = pool.op;
  for (int64_t x = 0; x < pool.out_width; ++x) {
    for (int64_t channel = 0; channel < stride; channel += Simd::kLanes) {
      const uint32_t* window = sums + x * op.kernel_width * stride + channel;
      Sum largest = Sink::load<Sum>(window);
      for (int64_t v = 0; v < op.kernel_height; ++v) {
        for (int64_t u = v == 0 ? 1 : 0; u < op.kernel_width; ++u) {
          largest = Simd::larger(largest, Sink::load<Sum>(window + (v * op.width + u) * stride));
        }
      }
      Simd::store(sums + x * stride + channel, largest);
    }
  }
  for (int64_t channel = 0, vectors; channel < stride; channel += vectors * Simd::kLanes) {
    vectors = std::min<int64_t>(Simd::kTileVectors, (stride - channel) / Simd::kLanes);
    sink.put_products<Sum>({first_row, channel, static_cast<int>(pool.out_width), static_cast<int>(vectors),
                            sums + channel, stride});
  }
}

#ifdef DOREFA_AMX
void multiply_bytes(Product p, const Sink& sink);
#endif

void multiply(const Product& p, const Sink& sink, const Buffers& buffers, std::vector<int64_t>& held) {
  switch (p.step->op.format) {
    case Format::kBits: return multiply_group<Format::kBits>(p, sink);
#ifdef DOREFA_AMX
    case Format::kBytes: return multiply_bytes(p, sink);
#else
    case Format::kBytes: return multiply_group<Format::kBytes>(p, sink);
#endif
    case Format::kFloats: return multiply_group<Format::kFloats>(p, sink);
    case Format::kWinograd: return multiply_group<Format::kWinograd>(p, sink);
    case Format::kTables: return multiply_tables(p, sink, buffers, held);
  }
}

// The products of one group, strip by strip of the pooling that follows.
void multiply_pooled(Product p, Sink sink, const Step& pool, const Buffers& buffers, std::vector<int64_t>& held,
                     int64_t images) {
  const Step& step = *p.step;
  const int64_t pixels = step.out_height * step.out_width;
  const int32_t* offsets = p.row_offsets;
  const int32_t *row_sums = sink.row_sums, *classes = sink.classes;
  p.rows = pool.op.kernel_height * step.out_width;
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t y = 0; y < pool.out_height; ++y) {
      const int64_t begin = i * pixels + y * p.rows;
      p.row_offsets = offsets + begin;
      sink.row_sums = row_sums ? row_sums + begin : nullptr;
      sink.classes = classes ? classes + begin : nullptr;
      sink.sums = buffers.pooled_sums;
      multiply(p, sink, buffers, held);
      sink.sums = nullptr;
      const int64_t row = (i * pool.out_height + y) * pool.out_width;
      if (is_float(step.op.format)) {
        pool_strip<Simd::Floats>(pool, buffers.pooled_sums, sink.params_stride, sink, row);
      } else {
        pool_strip<Simd::Ints>(pool, buffers.pooled_sums, sink.params_stride, sink, row);
      }
    }
  }
}

void convolve(const Step& step, const Step* pool, const Buffers& buffers, const uint32_t* input, int64_t images,
              Sink sink) {
  const int64_t pixels = step.out_height * step.out_width;
  Product p{&step, nullptr, buffers.row_offsets, images * pixels, nullptr, 0, 0};
  const int64_t bits = step.op.format == Format::kBits ? step.op.weight_bits : 1;
  const int64_t words = group_words(step.op.format, bits, step.taps(), step.group_channels, step.group_outputs);
  const int64_t params = step.params.size / step.op.groups;
  for (int64_t g = 0; g < step.op.groups; ++g) {
    p.input = input + g * step.group_words;
    p.weights = static_cast<const uint32_t*>(step.weights.data) + g * words;
    if (step.is_corrected()) {
      for (int64_t i = 0; i < images; ++i) {
        word_sums(step, p.input + i * step.image_words, buffers.word_sums);
        window_sums(step, buffers.word_sums, buffers.column_sums, buffers.row_sums + i * pixels);
      }
      sink.row_sums = buffers.row_sums;
    }
    sink.first = g * step.group_outputs;
    Sink group = sink;
    group.params += g * params;
    if (sink.floats) group.floats += sink.first;
    if (sink.offsets) group.offsets += g * step.class_count * sink.params_stride;
    std::vector<int64_t> held(step.table_rows, -1);  // input rows, of this group, whose tables are in the buffer
    if (pool) {
      multiply_pooled(p, group, *pool, buffers, held, images);
    } else {
      multiply(p, group, buffers, held);
    }
  }
}

// Word offset of pixel (y, x) of image i of a step's input.
DOREFA_INLINE int32_t pixel_offset(const Step& step, int64_t i, int64_t y, int64_t x) {
  return static_cast<int32_t>(i * step.image_words + y * step.row_words + x * step.pixel_words);
}

// Zeroes the channels of a pixel of the result that are not kept.
DOREFA_INLINE void keep_channels(const Program& program, int64_t pixel, int64_t channels, float* y) {
  const int64_t words = ceil_div(channels, 32);
  const uint32_t* kept = program.kept + (pixel * program.kept_planes + program.kept_planes - 1) * words;
  for (int64_t word = 0; word < words; ++word, y += 32) {
    const int64_t count = std::min<int64_t>(32, channels - word * 32);
    const uint32_t bits = kept[word];
    if (bits == ~uint32_t{0} >> (32 - count)) continue;
    uint32_t values[32];
    std::memcpy(values, y, count * sizeof(float));
    for (int64_t c = 0; c < count; ++c) values[c] &= -(bits >> c & 1);
    std::memcpy(y, values, count * sizeof(float));
  }
}

void run_block(const Program& program, const Buffers& buffers, const void* x, int64_t first_image, int64_t images,
               float* y) {
  const size_t count = program.steps.size();
  for (int64_t i = 0; i < images; ++i) {
    const Step& first = program.steps[0];
    uint32_t* image = buffers.inputs[0] + i * first.image_words;
    const int64_t start = (first_image + i) * program.in_size;
    buffers.nan[i] = false;
    switch (program.input) {
      case Input::kFloats:
        buffers.nan[i] = fill_input(static_cast<const float*>(x) + start, first, buffers.line, image);
        break;
      case Input::kCodes: fill_input(static_cast<const uint8_t*>(x) + start, first, image); break;
      case Input::kPlanes: {
        const int64_t words = first.op.height * int64_t{first.op.width} * program.planes * ceil_div(first.op.channels, 32);
        fill_input_of_planes(static_cast<const uint32_t*>(x) + (first_image + i) * words, program.planes, first, image);
      }
    }
  }
  for (size_t s = 0; s < count; ++s) {
    const Step& step = program.steps[s];
    const Step* next = s + 1 < count ? &program.steps[s + 1] : nullptr;
    uint32_t* input = buffers.inputs[s];
    if (step.is_pool()) {
      for (int64_t i = 0; i < images; ++i) {
        for (int64_t g = 0; g < step.op.groups; ++g) {
          pool(step, input + i * step.image_words + g * step.group_words, *next, buffers.pooled_rows,
               buffers.inputs[s + 1] + i * next->image_words + g * next->group_words);
        }
      }
      continue;
    }
    const Step* pool = next && next->op.kind == Kind::kPoolSums ? next : nullptr;
    if (pool) next = &program.steps[++s + 1];
    const Step& out = pool ? *pool : step;  // whose pixels the codes are of
    int32_t* row = buffers.row_offsets;
    int32_t* code = buffers.code_offsets;
    int32_t* columns = row;  // those of the first row, from which the others are a constant away
    for (int64_t u = 0; u < step.out_width; ++u) *row++ = pixel_offset(step, 0, 0, u * step.op.stride_width / step.tile);
    for (int64_t i = 0; i < images; ++i) {
      for (int64_t v = i == 0 ? 1 : 0; v < step.out_height; ++v) {
        const int32_t begin = pixel_offset(step, i, v * step.op.stride_height, 0);
        for (int64_t u = 0; u < step.out_width; ++u) *row++ = columns[u] + begin;
      }
      for (int64_t v = 0; next && v < out.out_height; ++v) {
        for (int64_t u = 0; u < out.out_width; ++u) {
          *code++ = pixel_offset(*next, i, v + next->op.pad_top, u + next->op.pad_left);
        }
      }
    }
    Sink sink{};
    sink.step = &step;
    sink.params = static_cast<const float*>(step.params.data);
    sink.params_stride = step.padded_outputs();
    sink.outputs = step.group_outputs;
    if (step.op.input_zero) {
      for (int64_t i = 0; i < images; ++i) {
        std::copy(step.classes.begin(), step.classes.end(), buffers.row_classes + i * step.out_height * step.out_width);
      }
      sink.classes = buffers.row_classes;
      sink.offsets = step.class_offsets.data();
    }
    if (next) {
      sink.levels = next->levels(next->op.activation_bits);
      sink.next = next;
      sink.codes = buffers.inputs[s + 1];
      sink.code_offsets = buffers.code_offsets;
    } else {
      sink.scales = program.scales ? program.scales + first_image : nullptr;
      sink.pixels = step.out_height * step.out_width;
      sink.floats = y + first_image * program.out_size;
      sink.float_stride = step.op.outputs;
    }
    convolve(step, pool, buffers, input, images, sink);
  }
  if (program.kept) {
    const Step& last = program.steps.back();
    const int64_t pixels = last.out_height * last.out_width;
    for (int64_t p = first_image * pixels; p < (first_image + images) * pixels; ++p) {
      keep_channels(program, p, last.op.outputs, y + p * last.op.outputs);
    }
  }
  for (int64_t i = 0; i < images; ++i) {
    if (buffers.nan[i]) std::fill_n(y + (first_image + i) * program.out_size, program.out_size, std::numeric_limits<float>::quiet_NaN());
  }
}
