#include "batch/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "program/layout.h"

namespace dorefa {
namespace {

constexpr int64_t kAlignment = 64;

// Memory is kept for the next call, and given back once kPatience calls in a row have needed less than half of it: one
// large image leaves nothing behind. A training step makes some dozens of calls, so its largest is never forgotten.
// Below kAlwaysKept the C library would keep the memory to itself.
constexpr int64_t kPatience = 256;
constexpr int64_t kAlwaysKept = int64_t{32} << 20;

class Scratch {
 public:
  Scratch() = default;
  Scratch(Scratch&& other) noexcept { *this = std::move(other); }
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(calls_, other.calls_);
    return *this;
  }
  ~Scratch() { std::free(data_); }

  int64_t size() const { return size_; }

  // Notes a call that needs so much; returns whether the memory is to be kept.
  bool is_kept(int64_t bytes) {
    calls_ = bytes > size_ / 2 ? 0 : calls_ + 1;
    return size_ <= kAlwaysKept || calls_ < kPatience;
  }

  void* get(int64_t bytes) {
    if (!is_kept(bytes) || bytes > size_ || data_ == nullptr) {
      std::free(std::exchange(data_, nullptr));
      size_ = 0;
      data_ = std::aligned_alloc(kAlignment, round_up(std::max<int64_t>(bytes, 1), kAlignment));
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
  int64_t calls_ = 0;  // in a row, that needed less than half
};

// Parts that threads take in turn. Who waits has found none left to take, so every open
// part is in work on a running thread, and tasks that start too late find nothing to do.
struct Parts {
  explicit Parts(int64_t count) : left(count) {}
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::condition_variable is_done;
  int64_t left;
  std::exception_ptr error;
};

}  // namespace

void* thread_scratch(int64_t bytes) {
  static thread_local Scratch scratch;
  return scratch.get(bytes);
}

void* gather_scratch(int64_t bytes) {
  static thread_local Scratch scratch;
  return scratch.get(bytes);
}

namespace {

// What is not in use, sorted by size. Never destroyed: threads may outlive the statics.
struct SharedBlocks {
  std::mutex mutex;
  std::vector<Scratch> blocks;

  std::vector<Scratch>::iterator first_of_size(int64_t bytes) {
    return std::lower_bound(blocks.begin(), blocks.end(), bytes,
                            [](const Scratch& block, int64_t wanted) { return block.size() < wanted; });
  }
};

SharedBlocks& shared() {
  static SharedBlocks& blocks = *new SharedBlocks;
  return blocks;
}

// The smallest that is large enough, else the largest, which makes way for a larger one.
Scratch take_shared(int64_t bytes) {
  const std::lock_guard<std::mutex> lock(shared().mutex);
  std::vector<Scratch>& blocks = shared().blocks;
  if (blocks.empty()) return {};
  auto found = shared().first_of_size(bytes);
  if (found == blocks.end()) --found;
  Scratch taken = std::move(*found);
  blocks.erase(found);
  const auto is_forgotten = [](Scratch& block) { return !block.is_kept(0); };
  blocks.erase(std::remove_if(blocks.begin(), blocks.end(), is_forgotten), blocks.end());
  return taken;
}

void give_back_shared(Scratch block) {
  const std::lock_guard<std::mutex> lock(shared().mutex);
  try {
    shared().blocks.insert(shared().first_of_size(block.size()), std::move(block));
  } catch (const std::bad_alloc&) {
    // The block is freed instead.
  }
}

}  // namespace

struct SharedScratch::Block {
  Scratch scratch;
};

SharedScratch::SharedScratch(int64_t bytes) : block_(new Block{take_shared(bytes)}) {
  floats_ = static_cast<float*>(block_->scratch.get(bytes));
}

SharedScratch::~SharedScratch() { give_back_shared(std::move(block_->scratch)); }

void for_each_part(int64_t count, int64_t threads, const Schedule& schedule, const MakeWorker& make_worker) {
  if (count <= 0) return;
  auto parts = std::make_shared<Parts>(count);
  // The reference is used only while a part is open, and the caller waits for that.
  auto work = [parts, count, &make_worker] {
    std::function<void(int64_t)> worker;
    for (int64_t part; (part = parts->next++) < count;) {
      std::exception_ptr error;
      try {
        if (!worker) worker = make_worker();
        worker(part);
      } catch (...) {
        error = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(parts->mutex);
      if (error) parts->error = error;
      if (--parts->left == 0) parts->is_done.notify_all();
    }
  };
  try {
    for (int64_t i = 1; i < std::min(threads, count); ++i) schedule(work);
  } catch (...) {
    // Fewer threads, then: tasks that run already must be waited for, and this thread takes the rest.
  }
  work();
  std::unique_lock<std::mutex> lock(parts->mutex);
  parts->is_done.wait(lock, [&] { return parts->left == 0; });
  if (parts->error) std::rethrow_exception(parts->error);
}

}  // namespace dorefa
