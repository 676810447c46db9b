// AMX's instructions in software, slowly: with them its path is tested on processors without AMX.
#ifndef DOREFA_MATRIX_SOFTWARE_H_
#define DOREFA_MATRIX_SOFTWARE_H_

#include <cstdint>
#include <cstring>
#include <stdexcept>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbusd

namespace dorefa {

// The matrix registers of a thread, which are 16 rows of 64 bytes each, or not to be used.
class SoftwareMatrices {
 public:
  static constexpr int kRows = 16, kRowBytes = 64;

  // As the processor's configuration: byte 0 is the palette, row sizes are 16-bit words from byte 16, rows from byte 48.
  void configure(const void* from) {
    uint8_t config[64];
    std::memcpy(config, from, sizeof config);
    for (int i = 0; i < 8; ++i) {
      if (config[0] != 1 || config[16 + 2 * i] != kRowBytes || config[17 + 2 * i] != 0 || config[48 + i] != kRows) {
        throw std::logic_error("matrices of another shape");
      }
    }
    is_configured_ = true;
    std::memset(bytes_, 0xAB, sizeof bytes_);  // the processor clears them, on which nothing shall rely
  }
  void release() { is_configured_ = false; }
  void zero(int to) { std::memset(at(to), 0, kRows * kRowBytes); }
  void load(int to, const void* from, int64_t stride) {
    for (int row = 0; row < kRows; ++row) {
      std::memcpy(at(to) + row * kRowBytes, static_cast<const uint8_t*>(from) + row * stride, kRowBytes);
    }
  }
  void store(int from, void* to, int64_t stride) {
    for (int row = 0; row < kRows; ++row) {
      std::memcpy(static_cast<uint8_t*>(to) + row * stride, at(from) + row * kRowBytes, kRowBytes);
    }
  }
  // to[row][lane] += sum over k of a[row][k] b[k / 4][4 lane + k % 4], of unsigned and signed bytes.
  void multiply(int to, int a, int b) {
    for (int row = 0; row < kRows; ++row) {
      for (int lane = 0; lane < kRows; ++lane) {
        uint8_t* place = at(to) + row * kRowBytes + 4 * lane;
        uint32_t sum;
        std::memcpy(&sum, place, sizeof sum);
        for (int k = 0; k < kRowBytes; ++k) {
          const auto weight = static_cast<int8_t>(at(b)[k / 4 * kRowBytes + 4 * lane + k % 4]);
          sum += static_cast<uint32_t>(at(a)[row * kRowBytes + k] * int32_t{weight});
        }
        std::memcpy(place, &sum, sizeof sum);
      }
    }
  }

 private:
  uint8_t* at(int matrix) {
    if (!is_configured_) throw std::logic_error("matrices before their configuration");
    return bytes_[matrix];
  }

  bool is_configured_ = false;
  uint8_t bytes_[8][kRows * kRowBytes];
};

inline thread_local SoftwareMatrices software_matrices;

}  // namespace dorefa

#define _tile_loadconfig(from) dorefa::software_matrices.configure(from)
#define _tile_release() dorefa::software_matrices.release()
#define _tile_loadd(to, from, stride) dorefa::software_matrices.load(to, from, stride)
#define _tile_stored(from, to, stride) dorefa::software_matrices.store(from, to, stride)
#define _tile_zero(to) dorefa::software_matrices.zero(to)
#define _tile_dpbusd(to, a, b) dorefa::software_matrices.multiply(to, a, b)

#endif  // DOREFA_MATRIX_SOFTWARE_H_
