// The CUDA handlers: load an image once per content hash, and launch its kernel on XLA's stream.
//
//   instantiate   loads the image's code for each architecture that is here. A bad one fails here, with no graph being
//                 captured.
//   initialize    the device is known: checks the launch, opts in to large shared memory, brings the code.
//   execute       launches, and before that fills results that want it. It may be captured into a CUDA graph, so it does
//                 nothing else.
#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <utility>

#include "common.h"
#include "driver.h"

namespace jax_cubie {
namespace {

constexpr char kMagic[] = "JAXCUBIE";
constexpr size_t kMagicSize = 8;
constexpr uint32_t kContainerVersion = 2;
constexpr uint32_t kMaxBlobs = 1024;
constexpr uint32_t kCubin = 1;
constexpr uint32_t kPtx = 2;

constexpr int kDefaultSharedLimit = 48 * 1024;

// Of every compute capability (CUDA C++ Programming Guide, table of technical specifications).
constexpr int64_t kMaxGridZ = 65535;

struct Blob {
  uint32_t kind;
  uint32_t arch;
  uint64_t local;  // bytes of local memory that a thread takes at least, its functions' included
  std::string_view bytes;
};

// Code runs on newer devices of its compute capability's major number, PTX on all newer ones.
bool RunsOn(const Blob& blob, uint32_t arch) {
  return blob.arch <= arch && (blob.kind == kPtx || blob.arch / 10 == arch / 10);
}

std::string Name(const Blob& blob) {
  return std::string(blob.kind == kCubin ? "cubin" : "PTX") + " for sm_" + std::to_string(blob.arch);
}

template <typename T>
bool ReadLittleEndian(std::string_view bytes, size_t* offset, T* value) {
  if (bytes.size() - *offset < sizeof(T)) return false;
  T result = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    result |= static_cast<T>(static_cast<unsigned char>(bytes[*offset + i])) << (8 * i);
  }
  *offset += sizeof(T);
  *value = result;
  return true;
}

// Returns why the container is damaged, or nothing.
std::string ParseContainer(std::string_view bytes, uint32_t* parameters, std::vector<Blob>* blobs) {
  if (bytes.size() < kMagicSize || std::memcmp(bytes.data(), kMagic, kMagicSize) != 0) {
    return "it does not begin with the magic \"JAXCUBIE\"";
  }
  size_t offset = kMagicSize;
  uint32_t version = 0;
  uint32_t count = 0;
  if (!ReadLittleEndian(bytes, &offset, &version) || !ReadLittleEndian(bytes, &offset, &count)) {
    return "its header is cut off";
  }
  if (version != kContainerVersion) {
    return "its format is version " + std::to_string(version) + ", this library reads version " +
           std::to_string(kContainerVersion) + " (another jax_cubie wrote it: build it again with this one)";
  }
  if (!ReadLittleEndian(bytes, &offset, parameters)) return "its header is cut off";
  if (count == 0) return "it holds no code";
  if (count > kMaxBlobs) return "it claims to hold " + std::to_string(count) + " blobs";
  std::vector<uint64_t> sizes(count);
  blobs->resize(count);
  for (uint32_t i = 0; i < count; ++i) {
    Blob& blob = (*blobs)[i];
    if (!ReadLittleEndian(bytes, &offset, &blob.kind) || !ReadLittleEndian(bytes, &offset, &blob.arch) ||
        !ReadLittleEndian(bytes, &offset, &blob.local) || !ReadLittleEndian(bytes, &offset, &sizes[i])) {
      return "its table of blobs is cut off";
    }
    if (blob.kind != kCubin && blob.kind != kPtx) {
      return "blob " + std::to_string(i) + " is of the unknown kind " + std::to_string(blob.kind);
    }
    if (sizes[i] == 0) return "blob " + std::to_string(i) + " is empty";
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (sizes[i] > bytes.size() - offset) {
      return "blob " + std::to_string(i) + " should have " + std::to_string(sizes[i]) + " bytes, " +
             std::to_string(bytes.size() - offset) + " are left";
    }
    (*blobs)[i].bytes = bytes.substr(offset, sizes[i]);
    offset += sizes[i];
  }
  if (offset != bytes.size()) return std::to_string(bytes.size() - offset) + " bytes too many at its end";
  return "";
}

// What the driver writes while it assembles PTX. It may do so as late as the first use on a device, so this
// lives as long as the library.
struct JitLog {
  std::array<char, 4096> text{};
  std::array<int, 2> options{kJitErrorLogBuffer, kJitErrorLogBufferSizeBytes};
  std::array<void*, 2> values{text.data(), reinterpret_cast<void*>(static_cast<uintptr_t>(4096))};
};

// A kernel for one architecture or more.
struct Kernel {
  CUlibrary library = nullptr;
  CUkernel kernel = nullptr;
  std::string what;  // "cubin for sm_90"
  uint64_t local = 0;
  std::unique_ptr<JitLog> log;
};

// A kernel on one device.
struct OnDevice {
  const Kernel* kernel = nullptr;
  int static_shared = 0;
  int local = 0;
  int max_threads = 0;
  int dynamic_shared_limit = 0;  // what the kernel may ask for now
  bool brought = false;          // its code is in the device's context
};

struct Loaded {
  std::string name;
  uint32_t parameters = 0;
  std::vector<std::unique_ptr<Kernel>> kernels;
  std::map<int, const Kernel*> by_architecture;
  std::string problems;  // why there is none for an architecture that is here
  std::mutex mutex;
  std::map<CUdevice, OnDevice> devices;
};

struct DeviceLimits {
  int architecture = 0;  // 90
  int max_threads = 0;
  std::array<int, 3> max_block{};
  std::array<int, 3> max_grid{};
  int max_shared = 0;  // with the opt-in
  int multiprocessors = 0;
  int resident_threads = 0;  // of a multiprocessor
  size_t memory = 0;
};

struct Table {
  std::shared_mutex mutex;
  std::unordered_map<std::string, std::unique_ptr<Loaded>> images;
  std::mutex loading;
  std::mutex limits_mutex;
  std::map<CUdevice, DeviceLimits> limits;
};

// Never destroyed: XLA's threads may outlive static objects, and the driver may be gone by then.
Table& CudaTable() {
  static Table* table = new Table;
  return *table;
}

Loaded* FindImage(std::string_view key) {
  Table& table = CudaTable();
  std::shared_lock<std::shared_mutex> lock(table.mutex);
  auto found = table.images.find(std::string(key));
  return found == table.images.end() ? nullptr : found->second.get();
}

std::string Advice(CUresult result) {
  switch (result) {
    case kErrorUnsupportedPtxVersion:
      return "the driver is too old for this PTX: update the driver, or build a cubin for this GPU";
    case kErrorNoBinaryForGpu:
      return "the image was built for another architecture: build it for this GPU";
    case kErrorInvalidImage:
    case kErrorInvalidPtx:
      return "the code is damaged, or made for a newer GPU or by a newer compiler than the driver knows: "
             "build it again, or update the driver";
    case kErrorJitCompilerNotFound:
      return "the driver's PTX compiler is not installed: build a cubin for this GPU";
    case kErrorNotFound:
      return "the code does not hold the entry jax_cubie_entry: build it again";
    default:
      return "";
  }
}

int Architecture(const Driver& driver, CUdevice device) {
  int major = 0;
  int minor = 0;
  driver.DeviceGetAttribute(&major, kDeviceComputeCapabilityMajor, device);
  driver.DeviceGetAttribute(&minor, kDeviceComputeCapabilityMinor, device);
  return 10 * major + minor;
}

std::vector<int> PresentArchitectures(const Driver& driver) {
  std::vector<int> present;
  CUdevice device = 0;
  for (int ordinal = 0; driver.DeviceGet(&device, ordinal) == kSuccess; ++ordinal) {
    present.push_back(Architecture(driver, device));
  }
  return present;
}

// "sm_90, sm_90"
std::string Names(const std::vector<int>& architectures) {
  std::string text;
  for (int architecture : architectures) text += (text.empty() ? "sm_" : ", sm_") + std::to_string(architecture);
  return text.empty() ? "none" : text;
}

CUresult LoadBlob(const Driver& driver, const Blob& blob, Kernel* loaded, std::string* problem) {
  const char* step = "cuLibraryLoadData";
  CUresult result;
  if (blob.kind == kPtx) {
    std::string text(blob.bytes);  // the driver wants it to end with a zero
    loaded->log = std::make_unique<JitLog>();
    JitLog& log = *loaded->log;
    result = driver.LibraryLoadData(&loaded->library, text.c_str(), log.options.data(), log.values.data(), 2,
                                    nullptr, nullptr, 0);
  } else {
    result = driver.LibraryLoadData(&loaded->library, blob.bytes.data(), nullptr, nullptr, 0, nullptr,
                                    nullptr, 0);
  }
  if (result == kSuccess) {
    // Loading is lazy: bad code may only fail here.
    step = "cuLibraryGetKernel";
    result = driver.LibraryGetKernel(&loaded->kernel, loaded->library, kEntrySymbol);
    if (result != kSuccess) driver.LibraryUnload(loaded->library);
  }
  if (result == kSuccess) {
    loaded->what = Name(blob);
    loaded->local = blob.local;
    return result;
  }
  *problem += "\n  " + Name(blob) + " (" + std::to_string(blob.bytes.size()) + " bytes): " + step + ": " +
              driver.Describe(result);
  if (loaded->log != nullptr) {
    loaded->log->text.back() = '\0';
    std::string said(loaded->log->text.data());
    while (!said.empty() && (said.back() == '\n' || said.back() == ' ')) said.pop_back();
    if (!said.empty()) *problem += "; " + said;
  }
  if (std::string advice = Advice(result); !advice.empty()) *problem += "; " + advice;
  return result;
}

// For each architecture the newest code that runs on it: a cubin, else PTX.
void LoadBlobs(const Driver& driver, const std::vector<Blob>& blobs, const std::vector<int>& architectures,
               Loaded* loaded) {
  std::vector<size_t> order(blobs.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(blobs[a].kind, -int64_t{blobs[a].arch}) < std::pair(blobs[b].kind, -int64_t{blobs[b].arch});
  });
  std::map<size_t, const Kernel*> tried;  // null where it failed
  for (int architecture : architectures) {
    if (loaded->by_architecture.count(architecture) != 0) continue;
    bool fits = false;
    for (size_t i : order) {
      if (!RunsOn(blobs[i], architecture)) continue;
      fits = true;
      if (tried.count(i) == 0) {
        auto kernel = std::make_unique<Kernel>();
        const bool good = LoadBlob(driver, blobs[i], kernel.get(), &loaded->problems) == kSuccess;
        tried[i] = good ? kernel.get() : nullptr;
        if (good) loaded->kernels.push_back(std::move(kernel));
      }
      if (tried[i] == nullptr) continue;
      loaded->by_architecture[architecture] = tried[i];
      break;
    }
    if (fits) continue;
    std::string names;
    for (const Blob& blob : blobs) names += (names.empty() ? "" : ", ") + Name(blob);
    loaded->problems += "\n  it holds nothing for sm_" + std::to_string(architecture) + ", only: " + names +
                        "; build it where such a GPU is, or name it in JAX_CUBIE_CUDA_TARGET";
  }
}

ffi::Error NoCode(const Driver& driver, const Loaded& loaded, const std::string& architectures) {
  return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                    "jax_cubie: no code in the CUDA image " + loaded.name + " can be loaded (GPUs here: " +
                        architectures + "; the driver supports CUDA " + driver.Version() + "):" + loaded.problems);
}

ffi::Error LoadImage(std::string_view key, std::string_view image, Loaded** found) {
  *found = FindImage(key);
  if (*found != nullptr) return ffi::Error::Success();

  Table& table = CudaTable();
  std::lock_guard<std::mutex> loading(table.loading);
  *found = FindImage(key);
  if (*found != nullptr) return ffi::Error::Success();

  std::string bytes;
  if (ffi::Error error = DecodeImage(key, image, &bytes); error.failure()) return error;
  uint32_t parameters = 0;
  std::vector<Blob> blobs;
  if (std::string why = ParseContainer(bytes, &parameters, &blobs); !why.empty()) {
    return InvalidArgument("the CUDA image " + ShortKey(key) + " is damaged: " + why);
  }
  const Driver& driver = Driver::Get();
  if (!driver.missing.empty()) {
    return ffi::Error(ffi::ErrorCode::kUnavailable, "jax_cubie: " + driver.missing);
  }
  auto loaded = std::make_unique<Loaded>();
  loaded->name = ShortKey(key);
  loaded->parameters = parameters;
  const std::vector<int> present = PresentArchitectures(driver);
  LoadBlobs(driver, blobs, present, loaded.get());
  if (loaded->by_architecture.empty()) return NoCode(driver, *loaded, Names(present));
  std::unique_lock<std::shared_mutex> lock(table.mutex);
  *found = loaded.get();
  table.images.emplace(std::string(key), std::move(loaded));
  return ffi::Error::Success();
}

struct Launch {
  std::array<int64_t, 3> grid;
  std::array<int64_t, 3> block;
  int64_t shared;
  int64_t resident = 0;  // with a queue of lanes: threads that a multiprocessor is to hold

  bool empty() const { return std::count(grid.begin(), grid.end(), 0) != 0; }

  // A negative number -n of blocks stands for one block for every n lanes; in z for as many as a grid may have, the
  // kernel takes the other lanes in turn.
  void Resolve(int64_t lanes) {
    for (size_t i = 0; i < 3; ++i) {
      if (grid[i] >= 0) continue;
      const int64_t width = -grid[i];
      grid[i] = lanes / width + (lanes % width != 0);
      if (i == 2) grid[i] = std::min(grid[i], kMaxGridZ);
    }
  }

  // Threads that have a queue take one lane after the other, so there are no more of them than are to run at once.
  void Bound(int64_t multiprocessors) {
    if (resident == 0) return;
    const int64_t threads = block[0] * block[1] * block[2];
    grid[0] = std::min(grid[0], multiprocessors * std::max<int64_t>(1, resident / threads));
  }

  std::string ToString() const {
    auto triple = [](const std::array<int64_t, 3>& v) {
      return "(" + std::to_string(v[0]) + ", " + std::to_string(v[1]) + ", " + std::to_string(v[2]) + ")";
    };
    return "grid " + triple(grid) + ", block " + triple(block) + ", " + std::to_string(shared) +
           " bytes of dynamic shared memory";
  }
};

ffi::Error ParseLaunch(ffi::Span<const int64_t> words, Launch* launch) {
  if (words.size() != 8) {
    return InvalidArgument(
        "a CUDA launch is 8 numbers (grid x, y, z, block x, y, z, bytes of dynamic shared memory, threads of a queue), got " +
        std::to_string(words.size()));
  }
  for (size_t i = 0; i < 3; ++i) {
    launch->grid[i] = words[i];
    launch->block[i] = words[3 + i];
  }
  launch->shared = words[6];
  launch->resident = words[7];
  for (size_t i = 0; i < 3; ++i) {
    if ((launch->block[i] < 1 && !launch->empty()) || launch->shared < 0 || launch->resident < 0) {
      return InvalidArgument("a CUDA launch needs block >= 1, shared memory >= 0 and threads of a queue >= 0, got " +
                             launch->ToString() + ", " + std::to_string(launch->resident) + " threads");
    }
  }
  return ffi::Error::Success();
}

ffi::Error DriverError(const Driver& driver, const char* call, CUresult result, const std::string& more) {
  return ffi::Error(ffi::ErrorCode::kInternal,
                    std::string("jax_cubie: ") + call + " failed: " + driver.Describe(result) + more);
}

ffi::Error GetLimits(const Driver& driver, CUdevice device, DeviceLimits* limits) {
  Table& table = CudaTable();
  std::lock_guard<std::mutex> lock(table.limits_mutex);
  auto found = table.limits.find(device);
  if (found == table.limits.end()) {
    DeviceLimits fresh;
    std::vector<std::pair<int, int*>> wanted = {{kDeviceMaxThreadsPerBlock, &fresh.max_threads},
                                                {kDeviceMaxSharedPerBlockOptin, &fresh.max_shared},
                                                {kDeviceMultiprocessorCount, &fresh.multiprocessors},
                                                {kDeviceMaxThreadsPerMultiprocessor, &fresh.resident_threads}};
    for (int i = 0; i < 3; ++i) {
      wanted.emplace_back(kDeviceMaxBlockDimX + i, &fresh.max_block[i]);
      wanted.emplace_back(kDeviceMaxGridDimX + i, &fresh.max_grid[i]);
    }
    for (auto& [attribute, value] : wanted) {
      CUresult result = driver.DeviceGetAttribute(value, attribute, device);
      if (result != kSuccess) return DriverError(driver, "cuDeviceGetAttribute", result, "");
    }
    CUresult result = driver.DeviceTotalMem(&fresh.memory, device);
    if (result != kSuccess) return DriverError(driver, "cuDeviceTotalMem", result, "");
    fresh.architecture = Architecture(driver, device);
    // GPUs without the opt-in say 0.
    if (fresh.max_shared == 0) {
      driver.DeviceGetAttribute(&fresh.max_shared, kDeviceMaxSharedPerBlock, device);
    }
    found = table.limits.emplace(device, fresh).first;
  }
  *limits = found->second;
  return ffi::Error::Success();
}

// Local memory of a thread (CUDA C++ Programming Guide, table of technical specifications).
constexpr uint64_t kMaxLocal = 512 * 1024;

// A thread's local memory, and that which a driver sets aside: for every thread that may be resident, however few a
// launch has.
uint64_t LocalMemory(const OnDevice& own) { return std::max<uint64_t>(own.local, own.kernel->local); }

uint64_t LocalMemory(const OnDevice& own, const DeviceLimits& limits) {
  return LocalMemory(own) * static_cast<uint64_t>(limits.multiprocessors) *
         static_cast<uint64_t>(limits.resident_threads);
}

ffi::Error CheckLocalMemory(const OnDevice& own, const DeviceLimits& limits) {
  const uint64_t bytes = LocalMemory(own);
  const uint64_t wanted = LocalMemory(own, limits);
  if (bytes <= kMaxLocal && wanted <= limits.memory) return ffi::Error::Success();
  const uint64_t threads = wanted / bytes;
  return ffi::Error(
      ffi::ErrorCode::kResourceExhausted,
      "jax_cubie: a thread of this kernel takes " + std::to_string(bytes) +
          " bytes of local memory (arrays that do not fit into registers), all " + std::to_string(threads) +
          " threads that the device may hold at once take " + std::to_string(wanted) + ", and it has " +
          std::to_string(limits.memory) + ". For " + std::to_string(std::min(kMaxLocal, limits.memory / threads)) +
          " bytes or less: use float32, a method with fewer stages, or fewer and smaller arrays in f; in a kernel of your "
          "own, arrays in global memory.");
}

// Fits the launch to the device, checks it, and lets the kernel have the shared memory that it asks for.
ffi::Error PrepareOnDevice(const Driver& driver, Loaded* loaded, CUdevice device, Launch* fitted, OnDevice* state) {
  DeviceLimits limits;
  if (ffi::Error error = GetLimits(driver, device, &limits); error.failure()) return error;
  fitted->Bound(limits.multiprocessors);
  const Launch& launch = *fitted;
  auto fresh = loaded->devices.find(device);
  if (fresh == loaded->devices.end()) {
    auto found = loaded->by_architecture.find(limits.architecture);
    if (found == loaded->by_architecture.end()) {
      return NoCode(driver, *loaded, "sm_" + std::to_string(limits.architecture) + " among others");
    }
    OnDevice read;
    read.kernel = found->second;
    for (auto [attribute, value] : {std::pair<int, int*>{kFuncSharedSizeBytes, &read.static_shared},
                                    {kFuncLocalSizeBytes, &read.local},
                                    {kFuncMaxThreadsPerBlock, &read.max_threads}}) {
      CUresult result = driver.KernelGetAttribute(value, attribute, read.kernel->kernel, device);
      if (result != kSuccess) {
        std::string advice = Advice(result);
        return DriverError(driver, "cuKernelGetAttribute", result,
                           " (" + read.kernel->what + ")" + (advice.empty() ? "" : "; " + advice));
      }
    }
    read.dynamic_shared_limit = std::max(0, kDefaultSharedLimit - read.static_shared);
    fresh = loaded->devices.emplace(device, read).first;
  }
  OnDevice& own = fresh->second;

  const char* axes[] = {"x", "y", "z"};
  for (int i = 0; i < 3; ++i) {
    if (launch.grid[i] > limits.max_grid[i]) {
      return InvalidArgument("the grid is too large in " + std::string(axes[i]) + ": " +
                             std::to_string(launch.grid[i]) + " blocks are asked for, the device allows " +
                             std::to_string(limits.max_grid[i]) +
                             ". Run fewer lanes in one launch, or use a larger `block`.");
    }
    if (launch.block[i] > limits.max_block[i]) {
      return InvalidArgument("the block is too large in " + std::string(axes[i]) + ": " +
                             std::to_string(launch.block[i]) + " threads are asked for, the device allows " +
                             std::to_string(limits.max_block[i]) + ". Use a smaller `block`.");
    }
  }
  const int64_t threads = launch.block[0] * launch.block[1] * launch.block[2];
  const int allowed = std::min(limits.max_threads, own.max_threads);
  if (threads > allowed) {
    return InvalidArgument("the block is too large: " + std::to_string(threads) + " threads are asked for, " +
                           (allowed < limits.max_threads
                                ? "this kernel's registers or launch bounds allow " + std::to_string(allowed)
                                : "the device allows " + std::to_string(allowed)) +
                           ". Use a smaller `block`.");
  }
  if (ffi::Error error = CheckLocalMemory(own, limits); error.failure()) return error;
  const int64_t shared = launch.shared + own.static_shared;
  if (shared > limits.max_shared) {
    return InvalidArgument("a block needs too much shared memory: " + std::to_string(shared) + " bytes (" +
                           std::to_string(launch.shared) + " dynamic, " + std::to_string(own.static_shared) +
                           " static) are asked for, the device allows " + std::to_string(limits.max_shared) +
                           ". Put fewer buffers in shared memory, or use a smaller `block`.");
  }
  if (launch.shared > own.dynamic_shared_limit) {
    CUresult result = driver.KernelSetAttribute(kFuncMaxDynamicSharedSizeBytes,
                                                static_cast<int>(launch.shared), own.kernel->kernel, device);
    if (result != kSuccess) {
      return DriverError(driver, "cuKernelSetAttribute", result,
                         ": asked for " + std::to_string(launch.shared) +
                             " bytes of dynamic shared memory, the device allows " +
                             std::to_string(limits.max_shared) +
                             ". Put fewer buffers in shared memory, or use a smaller `block`.");
    }
    own.dynamic_shared_limit = static_cast<int>(launch.shared);
  }
  *state = own;
  return ffi::Error::Success();
}

ffi::Error FindDevice(const Driver& driver, int32_t ordinal, CUdevice* device) {
  CUresult result = ordinal >= 0 ? driver.DeviceGet(device, ordinal) : driver.CtxGetDevice(device);
  if (result == kSuccess) return ffi::Error::Success();
  return DriverError(driver, ordinal >= 0 ? "cuDeviceGet" : "cuCtxGetDevice", result, "");
}

ffi::Error FillOnDevice(const Driver& driver, CUstream stream, const ffi::RemainingArgs& operands,
                        const ffi::RemainingRets& results, ffi::Span<const int64_t> filled) {
  return FillResults(operands, results, filled, [&](void* to, const void* from, size_t bytes) {
    CUresult result = driver.MemcpyDtoDAsync(reinterpret_cast<CUdeviceptr>(to), reinterpret_cast<CUdeviceptr>(from), bytes,
                                             stream);
    return result == kSuccess ? ffi::Error::Success() : DriverError(driver, "cuMemcpyDtoDAsync", result, "");
  });
}

ffi::Error Instantiate(std::string_view key, std::string_view image, ffi::Span<const int64_t> /*batch*/,
                       ffi::Span<const int64_t> /*filled*/, ffi::Span<const int64_t> /*words*/,
                       ffi::Span<const int64_t> launch_words) {
  Launch launch;
  if (ffi::Error error = ParseLaunch(launch_words, &launch); error.failure()) return error;
  Loaded* loaded = nullptr;
  return LoadImage(key, image, &loaded);
}

ffi::Error Initialize(CUstream stream, int32_t ordinal, ffi::RemainingArgs operands,
                      ffi::RemainingRets results, std::string_view key, std::string_view image,
                      ffi::Span<const int64_t> batch, ffi::Span<const int64_t> filled, ffi::Span<const int64_t> words,
                      ffi::Span<const int64_t> launch_words) {
  Launch launch;
  if (ffi::Error error = ParseLaunch(launch_words, &launch); error.failure()) return error;
  Lanes lanes;
  if (ffi::Error error = CountLanes(operands, batch, filled, &lanes); error.failure()) return error;
  launch.Resolve(lanes.count);
  if (launch.empty()) return ffi::Error::Success();
  Loaded* loaded = nullptr;
  if (ffi::Error error = LoadImage(key, image, &loaded); error.failure()) return error;
  const Driver& driver = Driver::Get();
  CUdevice device = 0;
  if (ffi::Error error = FindDevice(driver, ordinal, &device); error.failure()) return error;

  std::lock_guard<std::mutex> lock(loaded->mutex);
  OnDevice state;
  ffi::Error error = PrepareOnDevice(driver, loaded, device, &launch, &state);
  if (error.failure()) return error;
  if (state.brought) return ffi::Error::Success();

  const size_t passed =
      operands.size() - lanes.unread - lanes.filling + results.size() + lanes.words.size() + words.size();
  // The driver reads as many parameters as the kernel has: one too many would be read from beyond ours.
  if (passed != loaded->parameters) {
    return InvalidArgument("the kernel has " + std::to_string(loaded->parameters) + " parameters, but " +
                           std::to_string(passed) + " are passed (operands, results and words together)");
  }

  // Code is brought to a device at its first use, which may not fall into a graph's capture.
  CUcontext context = nullptr;
  if (stream != nullptr && driver.StreamGetCtx(stream, &context) == kSuccess &&
      driver.CtxPushCurrent(context) == kSuccess) {
    CUfunction function = nullptr;
    CUresult result = driver.KernelGetFunction(&function, state.kernel->kernel);
    driver.CtxPopCurrent(&context);
    if (result != kSuccess) {
      std::string advice = Advice(result);
      return DriverError(driver, "cuKernelGetFunction", result,
                         " (" + state.kernel->what + ")" + (advice.empty() ? "" : "; " + advice));
    }
    loaded->devices[device].brought = true;
  }
  return ffi::Error::Success();
}

ffi::Error Execute(CUstream stream, int32_t ordinal, ffi::RemainingArgs operands, ffi::RemainingRets results,
                   std::string_view key, std::string_view image, ffi::Span<const int64_t> batch,
                   ffi::Span<const int64_t> filled, ffi::Span<const int64_t> words,
                   ffi::Span<const int64_t> launch_words) {
  Launch launch;
  if (ffi::Error error = ParseLaunch(launch_words, &launch); error.failure()) return error;
  Lanes lanes;
  if (ffi::Error error = CountLanes(operands, batch, filled, &lanes); error.failure()) return error;
  launch.Resolve(lanes.count);
  if (launch.empty()) return ffi::Error::Success();
  Loaded* loaded = nullptr;
  if (ffi::Error error = LoadImage(key, image, &loaded); error.failure()) return error;
  const Driver& driver = Driver::Get();
  CUdevice device = 0;
  if (ffi::Error error = FindDevice(driver, ordinal, &device); error.failure()) return error;
  OnDevice state;
  {
    // Already done by initialize; where a runtime skips that stage, this keeps the launch correct.
    std::lock_guard<std::mutex> lock(loaded->mutex);
    ffi::Error error = PrepareOnDevice(driver, loaded, device, &launch, &state);
    if (error.failure()) return error;
  }

  if (ffi::Error error = FillOnDevice(driver, stream, operands, results, filled); error.failure()) return error;
  std::vector<int64_t> arguments;
  if (ffi::Error error = GatherArguments(operands, results, lanes, words, &arguments); error.failure()) return error;
  std::vector<void*> parameters(arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) parameters[i] = &arguments[i];

  // The driver takes a CUkernel here, too, and finds the context by the stream.
  CUresult result = driver.LaunchKernel(
      reinterpret_cast<CUfunction>(state.kernel->kernel), static_cast<unsigned>(launch.grid[0]),
      static_cast<unsigned>(launch.grid[1]), static_cast<unsigned>(launch.grid[2]),
      static_cast<unsigned>(launch.block[0]), static_cast<unsigned>(launch.block[1]),
      static_cast<unsigned>(launch.block[2]), static_cast<unsigned>(launch.shared), stream, parameters.data(),
      nullptr);
  if (result != kSuccess) {
    std::string more = " (" + state.kernel->what + ", " + launch.ToString() + ")";
    if (result == kErrorLaunchOutOfResources) more += ". Use a smaller `block`.";
    if (DeviceLimits limits; result == kErrorOutOfMemory && !GetLimits(driver, device, &limits).failure()) {
      more += ". The driver may have to set aside up to " + std::to_string(LocalMemory(state, limits)) +
              " bytes for local memory, beside what JAX has taken for its arrays: leave more to it "
              "(XLA_PYTHON_CLIENT_MEM_FRACTION), use float32, a method with fewer stages, or smaller arrays in f.";
    }
    if (std::string advice = Advice(result); !advice.empty()) more += "; " + advice;
    return DriverError(driver, "cuLaunchKernel", result, more);
  }
  return ffi::Error::Success();
}

// An exception (no memory, say) may not leave a handler.
template <auto function, typename... Arguments>
ffi::Error NoThrow(Arguments... arguments) {
  try {
    return function(arguments...);
  } catch (const std::exception& exception) {
    return ffi::Error(ffi::ErrorCode::kInternal, std::string("jax_cubie: ") + exception.what());
  }
}

ffi::Error InstantiateNoThrow(std::string_view key, std::string_view image, ffi::Span<const int64_t> batch,
                              ffi::Span<const int64_t> filled, ffi::Span<const int64_t> words,
                              ffi::Span<const int64_t> launch) {
  return NoThrow<Instantiate>(key, image, batch, filled, words, launch);
}

ffi::Error InitializeNoThrow(CUstream stream, int32_t ordinal, ffi::RemainingArgs operands,
                             ffi::RemainingRets results, std::string_view key, std::string_view image,
                             ffi::Span<const int64_t> batch, ffi::Span<const int64_t> filled,
                             ffi::Span<const int64_t> words, ffi::Span<const int64_t> launch) {
  return NoThrow<Initialize>(stream, ordinal, operands, results, key, image, batch, filled, words, launch);
}

ffi::Error ExecuteNoThrow(CUstream stream, int32_t ordinal, ffi::RemainingArgs operands,
                          ffi::RemainingRets results, std::string_view key, std::string_view image,
                          ffi::Span<const int64_t> batch, ffi::Span<const int64_t> filled,
                          ffi::Span<const int64_t> words, ffi::Span<const int64_t> launch) {
  return NoThrow<Execute>(stream, ordinal, operands, results, key, image, batch, filled, words, launch);
}

}  // namespace
}  // namespace jax_cubie

JAX_CUBIE_EXPORT XLA_FFI_Error* jax_cubie_cuda_instantiate(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_cubie_cuda_instantiate, jax_cubie::InstantiateNoThrow,
                              xla::ffi::Ffi::BindInstantiate()
                                  .Attr<std::string_view>("key")
                                  .Attr<std::string_view>("image")
                                  .Attr<xla::ffi::Span<const int64_t>>("batch")
                                  .Attr<xla::ffi::Span<const int64_t>>("filled")
                                  .Attr<xla::ffi::Span<const int64_t>>("words")
                                  .Attr<xla::ffi::Span<const int64_t>>("launch"),
                              {xla::ffi::Traits::kCmdBufferCompatible});

JAX_CUBIE_EXPORT XLA_FFI_Error* jax_cubie_cuda_initialize(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_cubie_cuda_initialize, jax_cubie::InitializeNoThrow,
                              xla::ffi::Ffi::BindInitialize()
                                  .Ctx<xla::ffi::PlatformStream<jax_cubie::CUstream>>()
                                  .Ctx<xla::ffi::DeviceOrdinal>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("key")
                                  .Attr<std::string_view>("image")
                                  .Attr<xla::ffi::Span<const int64_t>>("batch")
                                  .Attr<xla::ffi::Span<const int64_t>>("filled")
                                  .Attr<xla::ffi::Span<const int64_t>>("words")
                                  .Attr<xla::ffi::Span<const int64_t>>("launch"),
                              {xla::ffi::Traits::kCmdBufferCompatible});

JAX_CUBIE_EXPORT XLA_FFI_Error* jax_cubie_cuda_execute(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_cubie_cuda_execute, jax_cubie::ExecuteNoThrow,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::PlatformStream<jax_cubie::CUstream>>()
                                  .Ctx<xla::ffi::DeviceOrdinal>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("key")
                                  .Attr<std::string_view>("image")
                                  .Attr<xla::ffi::Span<const int64_t>>("batch")
                                  .Attr<xla::ffi::Span<const int64_t>>("filled")
                                  .Attr<xla::ffi::Span<const int64_t>>("words")
                                  .Attr<xla::ffi::Span<const int64_t>>("launch"),
                              {xla::ffi::Traits::kCmdBufferCompatible});
