#include "parallel.h"

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

#include "layout.h"

namespace dorefa {
namespace {

constexpr int64_t kAlignment = 64;

class Scratch {
 public:
  ~Scratch() { std::free(data_); }

  void* get(int64_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(kAlignment, round_up(bytes, kAlignment));
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
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

std::mutex shared_mutex;
std::vector<std::pair<void*, int64_t>> shared_blocks;  // not in use

}  // namespace

SharedScratch::SharedScratch(int64_t bytes) : data_(nullptr), size_(0) {
  {
    std::lock_guard<std::mutex> lock(shared_mutex);
    if (!shared_blocks.empty()) {
      // Sorted by size: the smallest that is large enough, else the largest, which makes way for a larger one.
      auto found = std::lower_bound(shared_blocks.begin(), shared_blocks.end(), bytes,
                                    [](const auto& block, int64_t wanted) { return block.second < wanted; });
      if (found == shared_blocks.end()) --found;
      data_ = static_cast<float*>(found->first);
      size_ = found->second;
      shared_blocks.erase(found);
    }
  }
  if (size_ >= bytes && data_ != nullptr) return;
  std::free(data_);
  size_ = round_up(std::max<int64_t>(bytes, 1), kAlignment);
  data_ = static_cast<float*>(std::aligned_alloc(kAlignment, size_));
  if (data_ == nullptr) throw std::bad_alloc();
}

SharedScratch::~SharedScratch() {
  std::lock_guard<std::mutex> lock(shared_mutex);
  try {
    const auto at = std::lower_bound(shared_blocks.begin(), shared_blocks.end(), size_,
                                     [](const auto& block, int64_t wanted) { return block.second < wanted; });
    shared_blocks.insert(at, {data_, size_});
  } catch (...) {
    std::free(data_);
  }
}

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
