// The host handler: runs an image's entry over ranges of lanes on XLA's intra-op thread pool.
//
// It has no state: a stateful CPU handler that is registered before the backend starts kills the backend.
// What it knows stands in a process-wide table, content hash -> function pointer.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "common.h"

namespace jax_cubie {
namespace {

// Returns 0, or Numba's status where its code raised an error and went no further.
using Entry = int32_t (*)(int64_t start, int64_t stop, const int64_t* arguments);
using Loader = uintptr_t (*)(const char* key, const uint8_t* data, size_t size, char* message,
                             size_t message_capacity);

// Lanes may take very different times (each has its own step sizes), so a thread gets several chunks.
constexpr int64_t kChunksPerThread = 8;

constexpr size_t kMessageCapacity = 8192;

std::atomic<Loader> host_loader{nullptr};

struct Table {
  std::shared_mutex mutex;
  std::unordered_map<std::string, Entry> entries;
};

// Never destroyed: XLA's threads may outlive this library's static objects.
Table& HostTable() {
  static Table* table = new Table;
  return *table;
}

Entry FindEntry(std::string_view key) {
  Table& table = HostTable();
  std::shared_lock<std::shared_mutex> lock(table.mutex);
  auto found = table.entries.find(std::string(key));
  return found == table.entries.end() ? nullptr : found->second;
}

void AddEntry(std::string_view key, Entry entry) {
  Table& table = HostTable();
  std::unique_lock<std::shared_mutex> lock(table.mutex);
  table.entries[std::string(key)] = entry;
}

// No lock is held while the loader runs: it takes the interpreter's lock, whose holder may wait for ours. Two
// threads may so load one image twice; both entries are good.
ffi::Error LoadEntry(std::string_view key, std::string_view image, Entry* entry) {
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
  uintptr_t address = loader(std::string(key).c_str(), reinterpret_cast<const uint8_t*>(bytes.data()),
                             bytes.size(), &message[0], message.size());
  if (address == 0) {
    message.back() = '\0';
    std::string said(message.c_str());
    return ffi::Error(ffi::ErrorCode::kInternal, "jax_cubie: the host image " + ShortKey(key) +
                      " cannot be loaded: " + (said.empty() ? "the loader did not say why" : said));
  }
  *entry = reinterpret_cast<Entry>(address);
  AddEntry(key, *entry);
  return ffi::Error::Success();
}

// One run over all lanes. Tasks share it by shared_ptr: one that starts after the last chunk was taken, even
// after the handler has returned, finds nothing left and touches no buffer.
struct Run {
  Entry entry;
  std::vector<int64_t> arguments;
  int64_t count;
  int64_t chunk;
  int64_t chunks;
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::condition_variable finished;
  int64_t done = 0;
  std::atomic<int32_t> status{0};

  void Work() {
    int64_t mine = 0;
    for (;;) {
      int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= chunks) break;
      const int32_t ended = entry(i * chunk, std::min(count, (i + 1) * chunk), arguments.data());
      if (ended != 0) status.store(ended, std::memory_order_relaxed);
      ++mine;
    }
    if (mine == 0) return;
    std::lock_guard<std::mutex> lock(mutex);
    done += mine;
    if (done == chunks) finished.notify_all();
  }

  // Waits for chunks that others took, never for a task that waits in the queue: the caller may itself be a
  // thread of that pool. All chunks are taken when Work() has returned.
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [this] { return done == chunks; });
  }
};

ffi::Error Outcome(int32_t status) {
  if (status == 0) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kInternal,
                    "jax_cubie: the host kernel raised an error of Numba's (status " + std::to_string(status) +
                        "), such as an index beyond a tuple or a division by zero, and went no further: its "
                        "results are not complete. Check for the cause in the kernel");
}

ffi::Error Execute(ffi::ThreadPool pool, ffi::RemainingArgs operands, ffi::RemainingRets results,
                   std::string_view key, std::string_view image, ffi::Span<const int64_t> batch,
                   ffi::Span<const int64_t> words, ffi::Span<const int64_t> launch) {
  if (launch.size() != 2) {
    return InvalidArgument("a host launch is 2 numbers (count, grain), got " + std::to_string(launch.size()));
  }
  Lanes lanes;
  if (ffi::Error error = CountLanes(operands, batch, &lanes); error.failure()) return error;
  const int64_t count = launch[0] * lanes.count;
  const int64_t grain = launch[1];
  if (count < 0 || grain < 1) {
    return InvalidArgument("a host launch needs count >= 0 and grain >= 1, got count = " +
                           std::to_string(count) + ", grain = " + std::to_string(grain));
  }
  if (count == 0) return ffi::Error::Success();

  Entry entry = FindEntry(key);
  if (entry == nullptr) {
    if (ffi::Error error = LoadEntry(key, image, &entry); error.failure()) return error;
  }
  std::vector<int64_t> arguments;
  if (ffi::Error error = GatherArguments(operands, results, lanes, words, &arguments); error.failure()) return error;

  // 0 where there is no pool; then everything runs here.
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  // In grains, since every chunk starts at a multiple of one.
  const int64_t grains = count / grain + (count % grain != 0);
  const int64_t grains_per_chunk =
      threads == 1 ? grains : std::max<int64_t>(1, grains / (threads * kChunksPerThread));
  const int64_t chunks = grains / grains_per_chunk + (grains % grains_per_chunk != 0);
  if (chunks == 1) {
    return Outcome(entry(0, count, arguments.data()));
  }

  auto run = std::make_shared<Run>();
  run->entry = entry;
  run->arguments = std::move(arguments);
  run->count = count;
  run->chunk = grains_per_chunk * grain;
  run->chunks = chunks;
  const int64_t helpers = std::min(threads, chunks) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([run] { run->Work(); });
  run->Work();
  run->Wait();
  return Outcome(run->status.load(std::memory_order_relaxed));
}

ffi::Error ExecuteNoThrow(ffi::ThreadPool pool, ffi::RemainingArgs operands, ffi::RemainingRets results,
                          std::string_view key, std::string_view image, ffi::Span<const int64_t> batch,
                          ffi::Span<const int64_t> words, ffi::Span<const int64_t> launch) {
  try {
    return Execute(pool, operands, results, key, image, batch, words, launch);
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

JAX_CUBIE_EXPORT void jax_cubie_add_host_entry(const char* key, uintptr_t address) {
  if (key != nullptr && address != 0) {
    jax_cubie::AddEntry(key, reinterpret_cast<jax_cubie::Entry>(address));
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
                                  .Attr<xla::ffi::Span<const int64_t>>("words")
                                  .Attr<xla::ffi::Span<const int64_t>>("launch"));
