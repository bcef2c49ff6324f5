// One run of a host image over all lanes, in chunks that the caller and threads of a pool take.
#ifndef JAX_CUBIE_FFI_RUN_H_
#define JAX_CUBIE_FFI_RUN_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "stack.h"

namespace jax_cubie {

// Returns 0, or Numba's status where its code raised an error and went no further.
using Entry = int32_t (*)(int64_t start, int64_t stop, const int64_t* arguments);

struct Code {
  Entry entry = nullptr;
  size_t stack = 0;  // bytes that its frames take
};

// How a run ended: an entry's status, and the reason why no thread had enough stack. Both 0 where all is well.
struct Ending {
  int32_t status = 0;
  int no_thread = 0;
};

// Tasks share it by shared_ptr: one that starts after the last chunk was taken, even after the handler has returned,
// finds nothing left and touches no buffer.
class Run {
 public:
  Run(Code code, std::vector<int64_t> arguments, int64_t count, int64_t chunk)
      : code_(code),
        arguments_(std::move(arguments)),
        count_(count),
        chunk_(chunk),
        chunks_(count / chunk + (count % chunk != 0)) {}

  int64_t chunks() const { return chunks_; }

  // Takes chunks until none is left. Returns 0, or why it could take none.
  int Work() {
    if (next_.load(std::memory_order_relaxed) >= chunks_) return 0;
    return CallWithStack(code_.stack, [this] { Take(); });
  }

  // Runs everything: here, and in `helpers` tasks that are given to `schedule`. A task that can't be scheduled is one
  // helper less.
  template <typename Schedule>
  static Ending All(const std::shared_ptr<Run>& run, int64_t helpers, Schedule&& schedule) {
    try {
      for (int64_t i = 0; i < helpers; ++i) schedule([run] { run->Work(); });
    } catch (...) {
    }
    Ending ending;
    const int no_thread = run->Work();
    if (no_thread != 0 && run->Stop()) ending.no_thread = no_thread;
    run->Wait();
    ending.status = run->status_.load(std::memory_order_relaxed);
    return ending;
  }

 private:
  void Take() {
    int64_t mine = 0;
    for (;;) {
      const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= chunks_) break;
      const int32_t ended = code_.entry(i * chunk_, std::min(count_, (i + 1) * chunk_), arguments_.data());
      if (ended != 0) status_.store(ended, std::memory_order_relaxed);
      ++mine;
    }
    Count(mine);
  }

  // Leaves the chunks that nobody has taken undone. Returns whether there were any.
  bool Stop() {
    const int64_t taken = next_.exchange(chunks_, std::memory_order_relaxed);
    if (taken >= chunks_) return false;
    Count(chunks_ - taken);
    return true;
  }

  void Count(int64_t more) {
    if (more == 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    done_ += more;
    if (done_ == chunks_) finished_.notify_all();
  }

  // Waits for chunks that others took, never for a task that waits in the queue: the caller may itself be a thread of
  // that pool. All chunks are taken when Work() has returned.
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return done_ == chunks_; });
  }

  const Code code_;
  const std::vector<int64_t> arguments_;
  const int64_t count_;
  const int64_t chunk_;
  const int64_t chunks_;
  std::atomic<int64_t> next_{0};
  std::atomic<int32_t> status_{0};
  std::mutex mutex_;
  std::condition_variable finished_;
  int64_t done_ = 0;
};

}  // namespace jax_cubie

#endif  // JAX_CUBIE_FFI_RUN_H_
