// One-bit weights times few-bit codes by table look-up. Included once for each path, after its Simd and Sink.
//
// The codes of 6 channels of a pixel have 64 subset sums, a table that one vector register holds; 6 weights of an
// output channel are an index into it. VPERMB looks 64 output channels up at once: 384 products in one instruction.

// Adds what runs of tables give at their indices to accumulators, of R pixels and P panels.
struct Lookup {
  const uint8_t* const* runs;  // adjacent tables, of the row's first pixel
  int64_t run_count;
  int64_t depth;           // tables of a run
  int64_t offset;          // bytes to the tile's first pixel
  int64_t pixel_stride;    // bytes from a pixel's tables to those of the next one
  const uint8_t* indices;  // [panel][run][table][lane]
  int64_t panel_stride;    // bytes
  int64_t flush;           // tables whose sum fits a byte
  uint16_t* sums;          // [pixel][panel][128 bytes]
  int64_t sums_stride;     // elements from a pixel to the next
  bool is_first;           // the accumulators are not read
};

#ifdef DOREFA_VBMI

// Of four tables, each in a quarter of a register: 0, a, b, a + b for the three pairs of codes.
struct TablePicks {
  alignas(64) uint8_t first[64] = {}, second[64] = {};  // a and b among the codes
  uint64_t has_first = 0, has_second = 0;
  alignas(64) uint8_t pair[4][3][64] = {};  // of each table's entries, what they add of each pair

  constexpr TablePicks() {
    for (int i = 0; i < 64; ++i) {
      const int pair_at = i / 4 % 4, code = i / 16 * kTableChannels + 2 * pair_at;
      first[i] = static_cast<uint8_t>(code);
      second[i] = static_cast<uint8_t>(code + 1);
      has_first |= uint64_t{pair_at < 3 && (i & 1)} << i;
      has_second |= uint64_t{pair_at < 3 && (i & 2)} << i;
      for (int table = 0; table < 4; ++table) {
        for (int k = 0; k < 3; ++k) pair[table][k][i] = static_cast<uint8_t>(16 * table + 4 * k + (i >> (2 * k) & 3));
      }
    }
  }
};
constexpr TablePicks kPicks;

// The subset sums of 6 codes each, `count` times, in fours: up to 3 tables more are written.
inline void build_tables(const uint8_t* codes, int64_t count, uint8_t* out) {
  for (int64_t at = 0; at < count; at += 4, codes += 4 * kTableChannels) {
    const __m512i four = _mm512_loadu_si512(codes);
    const __m512i pairs =
        _mm512_add_epi8(_mm512_maskz_permutexvar_epi8(kPicks.has_first, _mm512_load_si512(kPicks.first), four),
                        _mm512_maskz_permutexvar_epi8(kPicks.has_second, _mm512_load_si512(kPicks.second), four));
    DOREFA_UNROLL
    for (int table = 0; table < 4; ++table, out += kTableSize) {
      const auto& pick = kPicks.pair[table];
      const __m512i sum = _mm512_add_epi8(_mm512_permutexvar_epi8(_mm512_load_si512(pick[0]), pairs),
                                          _mm512_permutexvar_epi8(_mm512_load_si512(pick[1]), pairs));
      _mm512_storeu_si512(out, _mm512_add_epi8(sum, _mm512_permutexvar_epi8(_mm512_load_si512(pick[2]), pairs)));
    }
  }
}

// Bytes are summed first; of a pair, the sum of both halves and that of the upper one are kept in 16 bits.
template <int R, int P, int kFlush>
void look_up(const Lookup& p) {
  __m512i all[R][P], upper[R][P];
  DOREFA_UNROLL
  for (int i = 0; i < R; ++i) {
    DOREFA_UNROLL
    for (int j = 0; j < P; ++j) {
      const uint16_t* from = p.sums + i * p.sums_stride + j * 64;
      all[i][j] = p.is_first ? _mm512_setzero_si512() : _mm512_loadu_si512(from);
      upper[i][j] = p.is_first ? _mm512_setzero_si512() : _mm512_loadu_si512(from + 32);
    }
  }
  const int64_t flush = kFlush ? kFlush : p.flush;
  const uint8_t* indices = p.indices;
  for (int64_t run = 0; run < p.run_count; ++run, indices += p.depth * kPanelChannels) {
    const uint8_t* tables = p.runs[run] + p.offset;
    for (int64_t begin = 0; begin < p.depth; begin += flush) {
      const int64_t end = std::min(p.depth, begin + flush);
      __m512i bytes[R][P];
      DOREFA_UNROLL
      for (int i = 0; i < R; ++i) {
        DOREFA_UNROLL
        for (int j = 0; j < P; ++j) bytes[i][j] = _mm512_setzero_si512();
      }
      for (int64_t at = begin; at < end; ++at) {
        __m512i index[P];
        DOREFA_UNROLL
        for (int j = 0; j < P; ++j) index[j] = _mm512_loadu_si512(indices + j * p.panel_stride + at * kPanelChannels);
        DOREFA_UNROLL
        for (int i = 0; i < R; ++i) {
          const __m512i table = _mm512_loadu_si512(tables + i * p.pixel_stride + at * kTableSize);
          DOREFA_UNROLL
          for (int j = 0; j < P; ++j) {
            bytes[i][j] = _mm512_add_epi8(bytes[i][j], _mm512_permutexvar_epi8(index[j], table));
          }
        }
      }
      DOREFA_UNROLL
      for (int i = 0; i < R; ++i) {
        DOREFA_UNROLL
        for (int j = 0; j < P; ++j) {
          all[i][j] = _mm512_add_epi16(all[i][j], bytes[i][j]);
          upper[i][j] = _mm512_add_epi16(upper[i][j], _mm512_srli_epi16(bytes[i][j], 8));
        }
      }
    }
  }
  DOREFA_UNROLL
  for (int i = 0; i < R; ++i) {
    DOREFA_UNROLL
    for (int j = 0; j < P; ++j) {
      uint16_t* to = p.sums + i * p.sums_stride + j * 64;
      _mm512_storeu_si512(to, all[i][j]);
      _mm512_storeu_si512(to + 32, upper[i][j]);
    }
  }
}

// The sums of a panel's 64 channels from its accumulators. Modulo 2^16, the lower halves are what is left.
inline void read_sums(const uint16_t* sums, uint32_t* out) {
  const __m512i all = _mm512_loadu_si512(sums), upper = _mm512_loadu_si512(sums + 32);
  const __m512i lower = _mm512_sub_epi16(all, _mm512_slli_epi16(upper, 8));
  _mm512_storeu_si512(out, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(lower)));
  _mm512_storeu_si512(out + 16, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(lower, 1)));
  _mm512_storeu_si512(out + 32, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(upper)));
  _mm512_storeu_si512(out + 48, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(upper, 1)));
}

#else  // the same without VPERMB, for programs that were packed for another path

inline void build_tables(const uint8_t* codes, int64_t count, uint8_t* out) {
  for (int64_t at = 0; at < count; ++at, codes += kTableChannels, out += kTableSize) {
    out[0] = 0;
    for (int channel = 0; channel < kTableChannels; ++channel) {
      for (int i = 0; i < 1 << channel; ++i) out[(1 << channel) + i] = static_cast<uint8_t>(out[i] + codes[channel]);
    }
  }
}

template <int R, int P, int kFlush>
void look_up(const Lookup& p) {
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < P; ++j) {
      uint16_t* to = p.sums + i * p.sums_stride + j * 64;
      if (p.is_first) std::fill_n(to, 64, uint16_t{0});
      for (int64_t at = 0; at < p.run_count * p.depth; ++at) {
        const uint8_t* table = p.runs[at / p.depth] + p.offset + i * p.pixel_stride + at % p.depth * kTableSize;
        const uint8_t* index = p.indices + j * p.panel_stride + at * kPanelChannels;
        for (int lane = 0; lane < kPanelChannels; ++lane) {
          to[lane] = static_cast<uint16_t>(to[lane] + table[index[lane]]);
        }
      }
    }
  }
}

inline void read_sums(const uint16_t* sums, uint32_t* out) {
  for (int lane = 0; lane < kPanelChannels; ++lane) out[lane / 2 + (lane % 2 ? 32 : 0)] = sums[lane];
}

#endif

template <int R, int P>
void look_up_any(const Lookup& p) {
  if (p.flush == 1) return look_up<R, P, 1>(p);
  if (p.flush == 2) return look_up<R, P, 2>(p);
  return look_up<R, P, 0>(p);
}

// The pixels of a row, in tiles.
template <int P>
void look_up_tiles(Lookup p, int64_t pixels) {
  constexpr int kRows = P == 4 ? 2 : 4;
  for (; pixels >= kRows; pixels -= kRows) {
    look_up_any<kRows, P>(p);
    p.offset += kRows * p.pixel_stride;
    p.sums += kRows * p.sums_stride;
  }
  switch (pixels) {
    case 3: if constexpr (kRows > 3) look_up_any<3, P>(p); break;
    case 2: if constexpr (kRows > 2) look_up_any<2, P>(p); break;
    case 1: look_up_any<1, P>(p); break;
    default: break;
  }
}

inline void look_up_row(const Lookup& p, int64_t panels, int64_t pixels) {
  switch (panels) {
    case 4: return look_up_tiles<4>(p, pixels);
    case 2: return look_up_tiles<2>(p, pixels);
    default: return look_up_tiles<1>(p, pixels);
  }
}

// The sums of a row's pixels, from accumulators of some panels, to where they go.
void put_row(const Product& p, const Sink& sink, const uint16_t* sums, int64_t row, int64_t first_panel, int64_t panels) {
  const Step& step = *p.step;
  for (int64_t i = 0; i < step.out_width; ++i) {
    for (int64_t j = 0; j < panels; ++j, sums += kPanelChannels) {
      alignas(64) uint32_t counts[kPanelChannels];
      read_sums(sums, counts);
      const int64_t first = (first_panel + j) * kPanelChannels;
      const int64_t vectors = panel_width(step.group_outputs, first) / Simd::kLanes;
      for (int64_t at = 0; at < vectors; at += Simd::kTileVectors) {
        const int some = static_cast<int>(std::min<int64_t>(Simd::kTileVectors, vectors - at));
        sink.put_from<Simd::Ints>(row + i, 1, first + at * Simd::kLanes, some, counts + at * Simd::kLanes, kPanelChannels);
      }
    }
  }
}

// The tables of the rows of input under a row of windows, where the buffer does not hold them.
void hold_tables(const Product& p, const Buffers& buffers, int64_t first_input, std::vector<int64_t>& held) {
  const Step& step = *p.step;
  for (int64_t v = 0; v < step.op.kernel_height; ++v) {
    const int64_t input = first_input + v * step.op.dilation_height, slot = input % step.table_rows;
    if (held[slot] == input) continue;
    held[slot] = input;
    const auto* codes = reinterpret_cast<const uint8_t*>(p.input + input * step.row_words);
    uint8_t* out = buffers.tables + slot * step.table_row_bytes;
    for (int64_t x = 0; x < step.padded_width; ++x, codes += step.pixel_words * 4, out += step.tables * kTableSize) {
      build_tables(codes, step.tables, out);
    }
  }
}

// All rows of one group. `held` tells which input row's tables each slot of the buffer holds.
void multiply_tables(const Product& p, const Sink& sink, const Buffers& buffers, std::vector<int64_t>& held) {
  constexpr int64_t kDepth = 128;  // tables of a pixel, and indices of a panel, that stay in the first cache
  const Step& step = *p.step;
  const Op& op = step.op;
  const int64_t panels = ceil_div(step.group_outputs, kPanelChannels);
  const int64_t pixel_bytes = step.tables * kTableSize;
  const int64_t row_runs = op.dilation_width == 1 ? 1 : op.kernel_width;
  const int64_t run_tables = op.kernel_width / row_runs * step.tables;
  const int64_t parts = ceil_div(run_tables, kDepth);  // of a run, each at once
  std::vector<const uint8_t*> runs(op.kernel_height * row_runs);
  Lookup look{};
  look.pixel_stride = op.stride_width * pixel_bytes;
  look.panel_stride = step.taps() * pixel_bytes;
  look.flush = 255 / (kTableChannels * step.levels(op.activation_bits));
  look.sums = buffers.table_sums;
  for (int64_t row = 0; row < p.rows; row += step.out_width) {
    const int64_t first_input = p.row_offsets[row] / step.row_words;
    hold_tables(p, buffers, first_input, held);
    for (int64_t panel = 0, some; panel < panels; panel += some) {
      some = panels - panel >= 4 ? 4 : panels - panel >= 2 ? 2 : 1;
      look.sums_stride = some * kPanelChannels;
      look.is_first = true;
      look.indices = reinterpret_cast<const uint8_t*>(p.weights) + panel * look.panel_stride;
      const int64_t together = std::max<int64_t>(1, kDepth / (some * run_tables));  // runs
      for (int64_t run = 0; run < static_cast<int64_t>(runs.size()); run += look.run_count) {
        look.run_count = std::min<int64_t>(together, runs.size() - run);
        for (int64_t part = 0, at = 0; part < parts; ++part, at += look.depth) {
          look.depth = (run_tables - at) / (parts - part);
          for (int64_t i = 0; i < look.run_count; ++i) {
            const int64_t v = (run + i) / row_runs, u = (run + i) % row_runs;
            const int64_t slot = (first_input + v * op.dilation_height) % step.table_rows;
            runs[i] = buffers.tables + slot * step.table_row_bytes + u * op.dilation_width * pixel_bytes + at * kTableSize;
          }
          look.runs = runs.data();
          look_up_row(look, some, step.out_width);
          look.indices += look.run_count * look.depth * kPanelChannels;
          look.is_first = false;
        }
      }
      put_row(p, sink, buffers.table_sums, row, panel, some);
    }
  }
}
