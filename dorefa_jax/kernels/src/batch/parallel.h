// Work in numbered parts, on as many threads as there are.
#ifndef DOREFA_PARALLEL_H_
#define DOREFA_PARALLEL_H_

#include <cstdint>
#include <functional>
#include <memory>

namespace dorefa {

// Runs a task on some thread, at some time, or never.
using Schedule = std::function<void(std::function<void()>)>;

// Makes what a thread does with a part; called once on each thread that finds one.
using MakeWorker = std::function<std::function<void(int64_t part)>()>;

// Does parts 0 to count - 1, each on one thread, and returns when all are done. What a part throws is thrown here.
void for_each_part(int64_t count, int64_t threads, const Schedule& schedule, const MakeWorker& make_worker);

// Memory that a thread keeps between calls, so that pages are not mapped anew; aligned for vectors.
// The next call on the same thread gives the same memory, unless many calls in a row have needed much less.
void* thread_scratch(int64_t bytes);

// The same, apart from it, for what a path gathers inside a call.
void* gather_scratch(int64_t bytes);

// Memory that the threads of one call share, kept for the next call; as much of it as calls run at once.
class SharedScratch {
 public:
  explicit SharedScratch(int64_t bytes);
  ~SharedScratch();
  SharedScratch(const SharedScratch&) = delete;
  SharedScratch& operator=(const SharedScratch&) = delete;
  float* floats() const { return floats_; }

 private:
  struct Block;
  std::unique_ptr<Block> block_;
  float* floats_;
};

}  // namespace dorefa

#endif  // DOREFA_PARALLEL_H_
