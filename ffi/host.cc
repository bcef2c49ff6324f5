// The host handler: runs an image's entry over ranges of lanes on XLA's intra-op thread pool.
//
// It has no state: a stateful CPU handler that is registered before the backend starts kills the backend.
// What it knows stands in a process-wide table, content hash -> function pointer.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "common.h"
#include "run.h"

namespace jax_cubie {
namespace {

// Returns the entry's address, or 0; then the message says why.
using Loader = uintptr_t (*)(const char* key, const uint8_t* data, size_t size, size_t* stack, char* message,
                             size_t message_capacity);

// The loader is Python, and llvmlite's linker.
constexpr size_t kLoaderStack = 1024 * 1024;

// Lanes may take very different times (each has its own step sizes), and where they are sorted by that, the last chunk takes
// longest: it is no more than a small part of what a thread does.
constexpr int64_t kChunksPerThread = 32;

constexpr size_t kMessageCapacity = 8192;

std::atomic<Loader> host_loader{nullptr};

struct Table {
  std::shared_mutex mutex;
  std::unordered_map<std::string, Code> codes;
};

// Never destroyed: XLA's threads may outlive this library's static objects.
Table& HostTable() {
  static Table* table = new Table;
  return *table;
}

bool FindCode(std::string_view key, Code* code) {
  Table& table = HostTable();
  std::shared_lock<std::shared_mutex> lock(table.mutex);
  auto found = table.codes.find(std::string(key));
  if (found == table.codes.end()) return false;
  *code = found->second;
  return true;
}

void AddCode(std::string_view key, Code code) {
  Table& table = HostTable();
  std::unique_lock<std::shared_mutex> lock(table.mutex);
  table.codes[std::string(key)] = code;
}

// `what` needs more stack than the thread at hand has left, and a thread with more could not be made.
ffi::Error NoThread(const std::string& what, size_t stack, int why, const std::string& advice) {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                    "jax_cubie: " + what + " takes " + std::to_string(stack) + " bytes of stack. This thread has " +
                        std::to_string(RemainingStack()) + " left, and a thread with more could not be made: " +
                        std::strerror(why) + ". Let the process have more memory and threads (ulimit -v, ulimit -u)" +
                        advice);
}

// No lock is held while the loader runs: it takes the interpreter's lock, whose holder may wait for ours. Two
// threads may so load one image twice; both entries are good.
ffi::Error LoadCode(std::string_view key, std::string_view image, Code* code) {
  Loader loader = host_loader.load(std::memory_order_acquire);
  if (loader == nullptr) {
    return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                      "jax_cubie: import jax_cubie in this process before running a computation that "
                      "contains its kernels: the kernel " + ShortKey(key) +
                          " is not loaded, and nothing is set to load it.");
  }
  std::string bytes;
  if (ffi::Error error = DecodeImage(key, image, &bytes); error.failure()) return error;
  std::string message(kMessageCapacity, '\0');
  const std::string name(key);
  uintptr_t address = 0;
  int no_thread = CallWithStack(kLoaderStack, [&] {
    address = loader(name.c_str(), reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), &code->stack,
                     &message[0], message.size());
  });
  if (no_thread != 0) return NoThread("loading an image", kLoaderStack, no_thread, "");
  if (address == 0) {
    message.back() = '\0';
    std::string said(message.c_str());
    return ffi::Error(ffi::ErrorCode::kInternal, "jax_cubie: the host image " + ShortKey(key) +
                      " cannot be loaded: " + (said.empty() ? "the loader did not say why" : said));
  }
  code->entry = reinterpret_cast<Entry>(address);
  AddCode(key, *code);
  return ffi::Error::Success();
}

ffi::Error Outcome(const Code& code, Ending ending) {
  if (ending.no_thread != 0) {
    return NoThread("a lane", code.stack, ending.no_thread,
                    ", or use float32, a method with fewer stages, or smaller arrays in f");
  }
  if (ending.status == 0) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kInternal,
                    "jax_cubie: the host kernel raised an error of Numba's (status " + std::to_string(ending.status) +
                        "), such as an index beyond a tuple or a division by zero, and went no further: its "
                        "results are not complete. Check for the cause in the kernel");
}

ffi::Error Execute(ffi::ThreadPool pool, ffi::RemainingArgs operands, ffi::RemainingRets results,
                   std::string_view key, std::string_view image, ffi::Span<const int64_t> batch,
                   ffi::Span<const int64_t> filled, ffi::Span<const int64_t> words, ffi::Span<const int64_t> launch) {
  if (launch.size() != 2) {
    return InvalidArgument("a host launch is 2 numbers (count, grain), got " + std::to_string(launch.size()));
  }
  Lanes lanes;
  if (ffi::Error error = CountLanes(operands, batch, filled, &lanes); error.failure()) return error;
  const int64_t count = launch[0] * lanes.count;
  const int64_t grain = launch[1];
  if (count < 0 || grain < 1) {
    return InvalidArgument("a host launch needs count >= 0 and grain >= 1, got count = " +
                           std::to_string(count) + ", grain = " + std::to_string(grain));
  }
  auto copy = [](void* to, const void* from, size_t bytes) {
    std::memcpy(to, from, bytes);
    return ffi::Error::Success();
  };
  if (ffi::Error error = FillResults(operands, results, filled, copy); error.failure()) return error;
  if (count == 0) return ffi::Error::Success();

  Code code;
  if (!FindCode(key, &code)) {
    if (ffi::Error error = LoadCode(key, image, &code); error.failure()) return error;
  }
  std::vector<int64_t> arguments;
  if (ffi::Error error = GatherArguments(operands, results, lanes, words, &arguments); error.failure()) return error;

  // 0 where there is no pool; then everything runs here.
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  // In grains, since every chunk starts at a multiple of one.
  const int64_t grains = count / grain + (count % grain != 0);
  const int64_t grains_per_chunk =
      threads == 1 ? grains : std::max<int64_t>(1, grains / (threads * kChunksPerThread));
  auto run = std::make_shared<Run>(code, std::move(arguments), count, grains_per_chunk * grain);
  const int64_t helpers = std::min(threads, run->chunks()) - 1;
  return Outcome(code, Run::All(run, helpers, [&pool](auto task) { pool.Schedule(std::move(task)); }));
}

ffi::Error ExecuteNoThrow(ffi::ThreadPool pool, ffi::RemainingArgs operands, ffi::RemainingRets results,
                          std::string_view key, std::string_view image, ffi::Span<const int64_t> batch,
                          ffi::Span<const int64_t> filled, ffi::Span<const int64_t> words,
                          ffi::Span<const int64_t> launch) {
  try {
    return Execute(pool, operands, results, key, image, batch, filled, words, launch);
  } catch (const std::exception& exception) {
    return ffi::Error(ffi::ErrorCode::kInternal, std::string("jax_cubie: ") + exception.what());
  }
}

}  // namespace
}  // namespace jax_cubie

// `loader` may be null: then unknown images are errors again.
JAX_CUBIE_EXPORT void jax_cubie_set_host_loader(jax_cubie::Loader loader) {
  jax_cubie::host_loader.store(loader, std::memory_order_release);
}

JAX_CUBIE_EXPORT void jax_cubie_add_host_entry(const char* key, uintptr_t address, size_t stack) {
  if (key != nullptr && address != 0) {
    jax_cubie::AddCode(key, {reinterpret_cast<jax_cubie::Entry>(address), stack});
  }
}

// The version of the headers this library was built on: major * 1000 + minor.
JAX_CUBIE_EXPORT int32_t jax_cubie_ffi_api_version() { return XLA_FFI_API_MAJOR * 1000 + XLA_FFI_API_MINOR; }

JAX_CUBIE_EXPORT XLA_FFI_Error* jax_cubie_host_execute(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_cubie_host_execute, jax_cubie::ExecuteNoThrow,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("key")
                                  .Attr<std::string_view>("image")
                                  .Attr<xla::ffi::Span<const int64_t>>("batch")
                                  .Attr<xla::ffi::Span<const int64_t>>("filled")
                                  .Attr<xla::ffi::Span<const int64_t>>("words")
                                  .Attr<xla::ffi::Span<const int64_t>>("launch"));
