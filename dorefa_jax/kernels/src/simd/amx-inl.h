// Matrix registers: products of rows of bytes with one or two operands of 16 lanes each. Included by the path that has them, after
// its Simd.

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

// out[32][32] = rows times one operand, whose lanes are the first 16, or two, of which `whole` matrices are complete.
template <int N>
DOREFA_INLINE void multiply_matrices(const uint8_t* rows, int64_t row_bytes, int64_t whole, const Lanes& left,
                                     const Lanes& right, int32_t* out) {
  static_assert(N == 1 || N == 2, "an operand or two");
  const uint8_t* lower = rows + 16 * row_bytes;
  matrices_read(rows);
  _tile_zero(0);
  _tile_zero(2);
  if constexpr (N == 2) {
    _tile_zero(1);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < whole; ++k) {
    _tile_loadd(4, rows + k * 64, row_bytes);
    _tile_loadd(6, left.words + k * kMatrixWords * left.stride, left.stride);
    _tile_dpbusd(0, 4, 6);
    if constexpr (N == 2) {
      _tile_loadd(7, right.words + k * kMatrixWords * right.stride, right.stride);
      _tile_dpbusd(1, 4, 7);
    }
    _tile_loadd(5, lower + k * 64, row_bytes);
    _tile_dpbusd(2, 5, 6);
    if constexpr (N == 2) _tile_dpbusd(3, 5, 7);
  }
  if (left.tail) {
    _tile_loadd(4, rows + whole * 64, row_bytes);
    _tile_loadd(5, lower + whole * 64, row_bytes);
    _tile_loadd(6, left.tail, 64);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(2, 5, 6);
    if constexpr (N == 2) {
      _tile_loadd(7, right.tail, 64);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(3, 5, 7);
    }
  }
  _tile_stored(0, out, kMatrixLanes * 4);
  _tile_stored(2, out + 16 * kMatrixLanes, kMatrixLanes * 4);
  if constexpr (N == 2) {
    _tile_stored(1, out + 16, kMatrixLanes * 4);
    _tile_stored(3, out + 16 * kMatrixLanes + 16, kMatrixLanes * 4);
  }
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
