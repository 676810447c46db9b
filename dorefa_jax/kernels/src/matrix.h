// Products of bytes by AMX: matrices of 16 rows of 64 bytes. Included by the path that has it, behind block.h's parts.
//
// Rows of the input are gathered first, windows side by side, so that 16 rows lie evenly spaced, each on a cache line:
// loads across lines take several times as long. Weights and gradients lie as the instruction wants them.

struct TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Compilers are not told what the intrinsics read, and could drop or delay what was stored there.
DOREFA_INLINE void matrices_read(const void* from) { asm volatile("" ::"r"(from) : "memory"); }

// Gives this thread's matrix registers their shape, all the same, and gives them back.
class Matrices {
 public:
  Matrices() {
    TileShapes shapes;
    for (int i = 0; i < 8; ++i) {
      shapes.row_bytes[i] = 64;
      shapes.rows[i] = 16;
    }
    matrices_read(&shapes);
    _tile_loadconfig(&shapes);
  }
  ~Matrices() { _tile_release(); }
};

constexpr int64_t kMatrixRows = 32, kMatrixLanes = 32;  // of a product: two matrices each way
constexpr int64_t kMatrixWords = 16;                    // of a row
constexpr int64_t kMatrixBytes = 1024;

// One operand: words k of 16 lanes each, `stride` bytes apart; the last, incomplete matrix stands elsewhere, if any.
struct Lanes {
  const uint8_t* words;
  int64_t stride;
  const uint8_t* tail;
};

// out[32][32] = rows times two operands, of which `whole` matrices are complete.
DOREFA_INLINE void multiply_matrices(const uint8_t* rows, int64_t row_bytes, int64_t whole, const Lanes& left,
                                     const Lanes& right, int32_t* out) {
  const uint8_t* lower = rows + 16 * row_bytes;
  matrices_read(rows);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < whole; ++k) {
    _tile_loadd(4, rows + k * 64, row_bytes);
    _tile_loadd(6, left.words + k * kMatrixWords * left.stride, left.stride);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(7, right.words + k * kMatrixWords * right.stride, right.stride);
    _tile_dpbusd(1, 4, 7);
    _tile_loadd(5, lower + k * 64, row_bytes);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  if (left.tail) {
    _tile_loadd(4, rows + whole * 64, row_bytes);
    _tile_loadd(5, lower + whole * 64, row_bytes);
    _tile_loadd(6, left.tail, 64);
    _tile_loadd(7, right.tail, 64);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_stored(0, out, kMatrixLanes * 4);
  _tile_stored(1, out + 16, kMatrixLanes * 4);
  _tile_stored(2, out + 16 * kMatrixLanes, kMatrixLanes * 4);
  _tile_stored(3, out + 16 * kMatrixLanes + 16, kMatrixLanes * 4);
}

// Copies bytes by whole vectors; up to 63 behind them are read and written too.
DOREFA_INLINE void copy_vectors(uint8_t* to, const uint8_t* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm512_storeu_si512(to + i, _mm512_loadu_si512(from + i));
}

// The bytes of a gathered row: whole cache lines, an odd number of them, so that rows do not meet in the cache.
DOREFA_INLINE int64_t gathered_bytes(int64_t bytes) { return (ceil_div(bytes, 64) | 1) * 64; }

template <int MR, int NR>
DOREFA_INLINE void load_sums(const int32_t* from, Simd::Ints (&sum)[MR][NR]) {
  for (int i = 0; i < MR; ++i) {
    for (int j = 0; j < NR; ++j) {
      sum[i][j] = Simd::load(reinterpret_cast<const uint32_t*>(from + i * kMatrixLanes + j * Simd::kLanes));
    }
  }
}

template <int MR, int NR>
void put_matrix(const Product& p, const Sink& sink, int64_t row, int64_t channel, const int32_t* sums) {
  Simd::Ints sum[MR][NR];
  load_sums<MR, NR>(sums, sum);
  put_products<MR, NR>(p, sink, row, channel, sum);
}

template <int NR>
void put_matrices(const Product& p, const Sink& sink, int64_t row, int64_t rows, int64_t channel, const int32_t* sums) {
  for (; rows >= 4; rows -= 4, row += 4, sums += 4 * kMatrixLanes) put_matrix<4, NR>(p, sink, row, channel, sums);
  for (; rows > 0; --rows, ++row, sums += kMatrixLanes) put_matrix<1, NR>(p, sink, row, channel, sums);
}

// Words `first` to `length` of 16 lanes of a panel, as a matrix with zeros behind them.
DOREFA_INLINE void copy_tail(const uint32_t* words, int64_t panel, int64_t first, int64_t length, uint8_t* tail) {
  std::memset(tail, 0, kMatrixBytes);
  for (int64_t k = first; k < length; ++k) std::memcpy(tail + (k - first) * 64, words + k * panel, 64);
}

// All panels of one group.
void multiply_bytes(Product p, const Sink& sink) {
  const Step& step = *p.step;
  const int64_t length = step.taps() * step.pixel_words, whole = length / kMatrixWords;
  const int64_t row_bytes = gathered_bytes(length * 4), lanes = step.padded_outputs();
  const int64_t tail_bytes = length % kMatrixWords ? lanes / 16 * kMatrixBytes : 0;
  auto* gathered = static_cast<uint8_t*>(gather_scratch(kMatrixRows * row_bytes + 64 + tail_bytes + 4 * kMatrixBytes));
  uint8_t* tails = gathered + kMatrixRows * row_bytes + 64;
  auto* sums = reinterpret_cast<int32_t*>(tails + tail_bytes);
  const auto panel_words = [&](int64_t first) { return p.weights + first * length; };
  for (int64_t lane = 0; tail_bytes && lane < lanes; lane += 16) {
    const int64_t first = lane / kPanelChannels * kPanelChannels;
    copy_tail(panel_words(first) + lane - first, panel_width(step.group_outputs, first), whole * kMatrixWords, length,
              tails + lane / 16 * kMatrixBytes);
  }
  const Matrices matrices;
  for (int64_t row = 0; row < p.rows; row += kMatrixRows) {
    const int64_t rows = std::min(kMatrixRows, p.rows - row);
    for (int64_t i = 0; i < rows; ++i) {
      uint8_t *begin = gathered + i * row_bytes, *to = begin;
      for (const int64_t segment : step.segments) {
        const uint32_t* from = p.input + p.row_offsets[row + i] + segment;
        copy_vectors(to, reinterpret_cast<const uint8_t*>(from), step.segment_words * 4);
        to += step.segment_words * 4;
      }
      std::memset(to, 0, begin + row_bytes - to);
    }
    for (int64_t first = 0; first < step.group_outputs; first += kPanelChannels) {
      const int64_t panel = panel_width(step.group_outputs, first);
      for (int64_t column = 0; column < panel; column += kMatrixLanes) {
        const bool is_pair = column + 16 < panel;
        const auto lanes_at = [&](int64_t at) {
          return Lanes{reinterpret_cast<const uint8_t*>(panel_words(first) + at), panel * 4,
                       tail_bytes ? tails + (first + at) / 16 * kMatrixBytes : nullptr};
        };
        const Lanes left = lanes_at(column), right = lanes_at(column + (is_pair ? 16 : 0));
        multiply_matrices(gathered, row_bytes, whole, left, right, sums);
        if (is_pair) {
          put_matrices<2>(p, sink, row, rows, first + column, sums);
        } else {
          put_matrices<1>(p, sink, row, rows, first + column, sums);
        }
      }
    }
  }
}

// Adds scale times the products of rows of activations with one example's gradients to sums, [row][padded outputs].
void multiply_gradients(const WeightGradient& w, const GradientScratch& scratch, int64_t count, const uint8_t* gradients,
                        float scale, float* sums) {
  const int64_t lanes = w.step.padded_outputs(), whole = w.padded_quads / kMatrixWords;
  const int64_t row_bytes = gathered_bytes(w.padded_quads * 4);
  auto* gathered = static_cast<uint8_t*>(gather_scratch(kMatrixRows * row_bytes + 64 + 4 * kMatrixBytes));
  auto* products = reinterpret_cast<int32_t*>(gathered + kMatrixRows * row_bytes + 64);
  const Matrices matrices;
  for (int64_t row = 0; row < count; row += kMatrixRows) {
    const int64_t some = std::min(kMatrixRows, count - row);
    // What lies behind a row's positions meets gradients of zero.
    for (int64_t i = 0; i < some; ++i) copy_vectors(gathered + i * row_bytes, scratch.rows[row + i], w.padded_quads * 4);
    for (int64_t lane = 0; lane < lanes; lane += kMatrixLanes) {
      const bool is_pair = lane + 16 < lanes;
      const Lanes left{gradients + lane * 4, lanes * 4, nullptr};
      const Lanes right{gradients + (lane + (is_pair ? 16 : 0)) * 4, lanes * 4, nullptr};
      multiply_matrices(gathered, row_bytes, whole, left, right, products);
      for (int64_t i = 0; i < some; ++i) {
        float* out = sums + (row + i) * lanes + lane;
        const int32_t* from = products + i * kMatrixLanes;
        if (is_pair) {
          Simd::Ints sum[1][2];
          load_sums<1, 2>(from, sum);
          add_gradients(w, scratch.rests + row + i, scale, sum, &out);
        } else {
          Simd::Ints sum[1][1];
          load_sums<1, 1>(from, sum);
          add_gradients(w, scratch.rests + row + i, scale, sum, &out);
        }
      }
    }
  }
}
