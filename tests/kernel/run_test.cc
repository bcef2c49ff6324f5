// Tests of ffi/run.h and ffi/stack.h, compiled and run by test_stack.py. Prints what is wrong; nothing where all is well.
#include <cfenv>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <thread>

#include "run.h"

using namespace jax_cubie;

#define CHECK(condition) \
  if (!(condition)) std::printf("line %d: %s\n", __LINE__, #condition)

constexpr int64_t kCount = 1003;
std::atomic<int> turns[kCount];
std::atomic<bool> gone{false};
std::atomic<int> late{0};

int32_t CountTurns(int64_t start, int64_t stop, const int64_t* arguments) {
  if (gone) ++late;
  for (int64_t i = start; i < stop; ++i) turns[i] += static_cast<int>(arguments[0]);
  std::this_thread::yield();
  return 0;
}

bool EachOnce() {
  bool once = true;
  for (auto& turn : turns) once = once && turn.exchange(0) == 1;
  return once;
}

std::shared_ptr<Run> MakeRun(size_t stack = 0, Entry entry = CountTurns) {
  return std::make_shared<Run>(Code{entry, stack}, std::vector<int64_t>{1}, kCount, 8);
}

void Nested(size_t* left) { *left = RemainingStack(); }

// On a thread whose stack has this size.
void OnThread(size_t stack, const std::function<void()>& body) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, stack);
  pthread_t thread;
  auto call = [](void* body) -> void* {
    (*static_cast<const std::function<void()>*>(body))();
    return nullptr;
  };
  CHECK(pthread_create(&thread, &attributes, call, const_cast<std::function<void()>*>(&body)) == 0);
  pthread_join(thread, nullptr);
}

// Scheduling may fail at any helper; those before it run at once, or only after the handler has returned.
void SchedulingThrows() {
  for (int failing = 0; failing < 4; ++failing) {
    for (bool at_once : {true, false}) {
      std::vector<std::function<void()>> waiting;
      std::vector<std::thread> threads;
      auto schedule = [&](auto task) {
        if (static_cast<int>(waiting.size() + threads.size()) == failing) throw std::bad_alloc();
        if (at_once) {
          threads.emplace_back(task);
        } else {
          waiting.emplace_back(task);
        }
      };
      Ending ending = Run::All(MakeRun(), 4, schedule);
      gone = true;
      CHECK(ending.status == 0 && ending.no_thread == 0);
      CHECK(EachOnce());
      for (auto& task : waiting) task();
      for (auto& thread : threads) thread.join();
      CHECK(late == 0);
      gone = false;
    }
  }
}

void StatusIsKept() {
  auto fails = [](int64_t start, int64_t, const int64_t*) -> int32_t { return start == 80 ? 7 : 0; };
  CHECK(Run::All(MakeRun(0, fails), 0, [](auto) {}).status == 7);
}

void SmallThreads() {
  OnThread(256 * 1024, [] {
    const size_t left = RemainingStack();
    CHECK(left > 150 * 1024 && left < 256 * 1024);
    CHECK(HasStack(64 * 1024) && !HasStack(256 * 1024));
    const auto own = std::this_thread::get_id();
    for (size_t needed : {size_t{1024}, size_t{4} << 20, size_t{300} << 20}) {
      std::thread::id used;
      size_t inside = 0;
      std::fesetround(FE_UPWARD);
      int rounding = 0;
      auto look = [&] {
        used = std::this_thread::get_id();
        rounding = std::fegetround();
        Nested(&inside);
      };
      CHECK(CallWithStack(needed, look) == 0);
      std::fesetround(FE_TONEAREST);
      CHECK((used == own) == (needed == 1024));
      CHECK(inside >= needed);
      CHECK(rounding == FE_UPWARD);
    }
    // Uses what it says that it needs.
    auto deep = [](int64_t, int64_t, const int64_t*) -> int32_t {
      volatile char frame[3 << 20];
      for (size_t i = 0; i < sizeof frame; i += 4096) frame[i] = 1;
      return frame[4096] == 1 ? 5 : 6;
    };
    Ending ending = Run::All(MakeRun(3 << 20, deep), 0, [](auto) {});
    CHECK(ending.status == 5 && ending.no_thread == 0);
  });
}

void NoThreadCanBeMade() {
  const size_t absurd = size_t{1} << 60;
  CHECK(CallWithStack(absurd, [] { std::printf("called\n"); }) != 0);
  Ending ending = Run::All(MakeRun(absurd), 2, [](auto task) { task(); });
  CHECK(ending.no_thread != 0);
  for (auto& turn : turns) CHECK(turn == 0);
}

void FirstThread() {
  rlimit before;
  getrlimit(RLIMIT_STACK, &before);
  auto left = [&](rlim_t limit) {
    rlimit lower{limit, before.rlim_max};
    CHECK(setrlimit(RLIMIT_STACK, &lower) == 0);
    return RemainingStack();
  };
  const size_t small = left(512 * 1024);
  CHECK(small > 0 && small < 512 * 1024);
  const size_t large = left(4 << 20);
  const size_t more = large - small;
  CHECK(more > (3 << 20) && more < (4 << 20));
  if (before.rlim_max == RLIM_INFINITY) CHECK(left(RLIM_INFINITY) <= kLargestFirstStack);
  setrlimit(RLIMIT_STACK, &before);
}

int main() {
  FirstThread();
  SchedulingThrows();
  StatusIsKept();
  SmallThreads();
  NoThreadCanBeMade();
}
