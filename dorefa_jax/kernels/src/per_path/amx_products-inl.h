// Products of bytes by AMX: matrices of 16 rows of 64 bytes. Included by the path that has it, behind run_program-inl.h's parts.
//
// Rows of the input are gathered first, windows side by side, so that 16 rows lie evenly spaced, each on a cache line:
// loads across lines take several times as long. Weights and gradients lie as the instruction wants them.

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
      uint8_t* to = gathered + i * row_bytes;
      for (const int64_t segment : step.segments) {
        const uint32_t* from = p.input + p.row_offsets[row + i] + segment;
        copy_vectors(to, reinterpret_cast<const uint8_t*>(from), step.segment_words * 4);
        to += step.segment_words * 4;
      }  // what lies behind the last segment meets weights of zero
    }
    for (int64_t first = 0; first < step.group_outputs; first += kPanelChannels) {
      const int64_t panel = panel_width(step.group_outputs, first);
      for (int64_t column = 0; column < panel; column += kMatrixLanes) {
        const bool is_pair = column + 16 < panel;
        const auto lanes_at = [&](int64_t at) {
          return Lanes{reinterpret_cast<const uint8_t*>(panel_words(first) + at), panel * 4,
                       tail_bytes ? tails + (first + at) / 16 * kMatrixBytes : nullptr};
        };
        if (is_pair) {
          multiply_matrices<2>(gathered, row_bytes, whole, lanes_at(column), lanes_at(column + 16), sums);
        } else {
          multiply_matrices<1>(gathered, row_bytes, whole, lanes_at(column), {}, sums);
        }
        sink.put_from<Simd::Ints>(row, static_cast<int>(rows), first + column, is_pair ? 2 : 1,
                                  reinterpret_cast<uint32_t*>(sums), kMatrixLanes);
      }
    }
  }
}
