// How much stack the running thread has left, and threads of our own where that is too little.
//
// An image says how much its code takes. Which thread runs it is XLA's choice: the caller's (a small one that Python
// made, or the first one, whose limit may have been lowered meanwhile), or one of a pool, made under a limit of its day.
#ifndef JAX_CUBIE_FFI_STACK_H_
#define JAX_CUBIE_FFI_STACK_H_

#include <pthread.h>
#include <sys/auxv.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace jax_cubie {

// What is wanted beyond the code's own frames: for the mathematical library that it calls, and for a signal's handler.
constexpr size_t kStackReserve = 64 * 1024;
// What a thread's own data may take of the stack that it is made with.
constexpr size_t kThreadData = 512 * 1024;
// The process's first stack grows, towards what else is mapped. Linux keeps 128 MiB free below it, whatever the limit
// says; a half of them is relied on.
constexpr size_t kLargestFirstStack = 64 * 1024 * 1024;

struct StackRange {
  uintptr_t low = 0;
  uintptr_t high = 0;  // 0 where it is not known
  bool first = false;  // of the process's first thread
};

inline StackRange FindStack() {
  StackRange range;
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return range;
  void* low = nullptr;
  size_t size = 0;
  size_t guard = 0;
  if (pthread_attr_getstack(&attributes, &low, &size) == 0 && pthread_attr_getguardsize(&attributes, &guard) == 0) {
    range.low = reinterpret_cast<uintptr_t>(low) + guard;
    range.high = reinterpret_cast<uintptr_t>(low) + size;
    // At the first stack's end the kernel puts the environment and, last of all, the program's name. They count where it
    // looks at the limit; glibc leaves them out. No other stack is so near.
    const uintptr_t name = getauxval(AT_EXECFN);
    range.first = range.low <= name && name < range.high + kLargestFirstStack;
    if (range.first) range.high = (name | 0xffff) + 1;  // a page's end, whatever its size
  }
  pthread_attr_destroy(&attributes);
  return range;
}

// Bytes below the caller's frame; 0 where that is not known, as on a stack that is no thread's.
inline size_t RemainingStack() {
  static thread_local const StackRange range = FindStack();  // for the first thread that takes long
  const uintptr_t here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  if (here >= range.high) return 0;
  if (!range.first) return here > range.low ? here - range.low : 0;
  rlimit limit;
  if (getrlimit(RLIMIT_STACK, &limit) != 0) return 0;
  const size_t size = std::min<rlim_t>(limit.rlim_cur, kLargestFirstStack);
  const size_t used = range.high - here;
  return used < size ? size - used : 0;
}

inline bool HasStack(size_t bytes) { return RemainingStack() >= bytes + kStackReserve; }

// Calls `function` on a thread with `bytes` of stack: on this one, or on another that is waited for. It inherits this
// one's rounding and treatment of denormal numbers. Returns 0, or why there is no such thread; then nothing was called.
template <typename Function>
int CallWithStack(size_t bytes, Function&& function) {
  if (HasStack(bytes)) {
    function();
    return 0;
  }
  pthread_attr_t attributes;
  if (int why = pthread_attr_init(&attributes); why != 0) return why;
  constexpr size_t kUnit = 64 * 1024;
  const size_t size = (bytes + kStackReserve + kThreadData + kUnit - 1) / kUnit * kUnit;
  pthread_t thread;
  int why = pthread_attr_setstacksize(&attributes, size);
  if (why == 0) {
    auto call = [](void* argument) -> void* {
      (*static_cast<std::remove_reference_t<Function>*>(argument))();
      return nullptr;
    };
    why = pthread_create(&thread, &attributes, call, &function);
  }
  pthread_attr_destroy(&attributes);
  if (why == 0) pthread_join(thread, nullptr);
  return why;
}

}  // namespace jax_cubie

#endif  // JAX_CUBIE_FFI_STACK_H_
