// Tests of what ffi/cuda.cc decides for a device, with a driver that is made up here: several architectures in one
// machine, local memory, results that are filled before a launch, and the grid of a queue. Compiled and run by test_cuda_devices.py. Prints what is wrong; nothing where all is well.
#include <cstdio>

#include "cuda.cc"

using namespace jax_cubie;

#define CHECK(condition) \
  if (!(condition)) std::printf("line %d: %s\n", __LINE__, #condition)

// Devices of these compute capabilities, each with 100 multiprocessors of 2000 threads and 1 GB.
std::vector<int> devices;
std::vector<std::string> loaded_codes;
int local_bytes = 0;
size_t memory = 1000000000;
size_t copied = 0;

Driver FakeDriver() {
  Driver driver;
  driver.missing.clear();
  driver.GetErrorName = [](CUresult, const char** name) { return *name = "AN_ERROR", kSuccess; };
  driver.GetErrorString = [](CUresult, const char** text) { return *text = "the driver's words", kSuccess; };
  driver.DriverGetVersion = [](int* version) { return *version = 13000, kSuccess; };
  driver.DeviceGet = [](CUdevice* device, int ordinal) {
    *device = ordinal;
    return ordinal < static_cast<int>(devices.size()) ? kSuccess : 101;
  };
  driver.DeviceGetAttribute = [](int* value, int attribute, CUdevice device) {
    *value = attribute == kDeviceComputeCapabilityMajor        ? devices[device] / 10
             : attribute == kDeviceComputeCapabilityMinor      ? devices[device] % 10
             : attribute == kDeviceMultiprocessorCount         ? 100
             : attribute == kDeviceMaxThreadsPerMultiprocessor ? 2000
                                                               : 1024;
    return kSuccess;
  };
  driver.DeviceTotalMem = [](size_t* bytes, CUdevice) { return *bytes = memory, kSuccess; };
  driver.LibraryLoadData = [](CUlibrary* library, const void* code, int*, void**, unsigned, int*, void**, unsigned) {
    loaded_codes.push_back(static_cast<const char*>(code));
    *library = reinterpret_cast<CUlibrary>(loaded_codes.size());
    return loaded_codes.back() == "bad" ? kErrorInvalidImage : kSuccess;
  };
  driver.LibraryGetKernel = [](CUkernel* kernel, CUlibrary library, const char*) {
    *kernel = reinterpret_cast<CUkernel>(library);
    return kSuccess;
  };
  driver.KernelGetAttribute = [](int* value, int attribute, CUkernel, CUdevice) {
    *value = attribute == kFuncLocalSizeBytes ? local_bytes : attribute == kFuncSharedSizeBytes ? 0 : 1024;
    return kSuccess;
  };
  driver.MemcpyDtoDAsync = [](CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    if (stream == nullptr) return 400;
    std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    copied += bytes;
    return kSuccess;
  };
  return driver;
}

Blob Make(uint32_t kind, uint32_t arch, const char* text, uint64_t local = 0) { return {kind, arch, local, text}; }

// What is loaded for each architecture: "90: cubin for sm_90; ".
std::string Chosen(const std::vector<Blob>& blobs, const std::vector<int>& present) {
  Driver driver = FakeDriver();
  devices = present;
  loaded_codes.clear();
  Loaded loaded;
  LoadBlobs(driver, blobs, PresentArchitectures(driver), &loaded);
  std::string text;
  for (auto& [architecture, code] : loaded.by_architecture) text += std::to_string(architecture) + ": " + code->what + "; ";
  return text;
}

void EachDeviceGetsItsOwn() {
  const std::vector<Blob> both = {Make(kCubin, 80, "a"), Make(kPtx, 80, "b"), Make(kCubin, 90, "c"), Make(kPtx, 90, "d")};
  CHECK(Chosen(both, {90}) == "90: cubin for sm_90; ");
  CHECK(loaded_codes.size() == 1);
  CHECK(Chosen(both, {90, 90, 80}) == "80: cubin for sm_80; 90: cubin for sm_90; ");
  CHECK(loaded_codes.size() == 2);
  CHECK(Chosen(both, {86, 80, 89}) == "80: cubin for sm_80; 86: cubin for sm_80; 89: cubin for sm_80; ");
  CHECK(loaded_codes.size() == 1);
  CHECK(Chosen(both, {100, 75}) == "100: PTX for sm_90; ");
  CHECK(Chosen({Make(kCubin, 86, "a"), Make(kCubin, 80, "b")}, {89, 80}) == "80: cubin for sm_80; 89: cubin for sm_86; ");
  CHECK(Chosen({Make(kCubin, 90, "bad"), Make(kPtx, 80, "b")}, {90}) == "90: PTX for sm_80; ");
  CHECK(Chosen({Make(kCubin, 90, "bad"), Make(kCubin, 80, "b")}, {90, 80}) == "80: cubin for sm_80; ");
  CHECK(Chosen(both, {}).empty());
}

ffi::Error Prepare(const std::vector<Blob>& blobs, CUdevice device, std::string* what = nullptr) {
  Driver driver = FakeDriver();
  CudaTable().limits.clear();
  Loaded loaded;
  loaded.name = "0123";
  LoadBlobs(driver, blobs, PresentArchitectures(driver), &loaded);
  OnDevice state;
  Launch launch{{1, 1, 1}, {32, 1, 1}, 0};
  ffi::Error error = PrepareOnDevice(driver, &loaded, device, &launch, &state);
  if (what != nullptr && state.kernel != nullptr) *what = state.kernel->what;
  return error;
}

bool Has(const ffi::Error& error, const char* text) {
  if (error.failure() && error.message().find(text) != std::string::npos) return true;
  std::printf("not said: %s\nbut: %s\n", text, error.failure() ? error.message().c_str() : "nothing");
  return false;
}

void ALaunchIsForItsDevice() {
  const std::vector<Blob> both = {Make(kCubin, 80, "a"), Make(kCubin, 90, "c")};
  devices = {90, 80, 75};
  std::string what;
  CHECK(Prepare(both, 0, &what).success() && what == "cubin for sm_90");
  CHECK(Prepare(both, 1, &what).success() && what == "cubin for sm_80");
  ffi::Error error = Prepare(both, 2);
  CHECK(Has(error, "sm_75") && Has(error, "it holds nothing for sm_75, only: cubin for sm_80, cubin for sm_90"));
  CHECK(Has(error, "JAX_CUBIE_CUDA_TARGET"));
}

// 200,000 threads may be resident, and 1 GB is there: 5,000 bytes for each.
void LocalMemoryThatCannotBe() {
  devices = {90};
  local_bytes = 5000;
  CHECK(Prepare({Make(kCubin, 90, "a", 4000)}, 0).success());
  CHECK(Prepare({Make(kCubin, 90, "a", 5000)}, 0).success());
  ffi::Error of_functions = Prepare({Make(kCubin, 90, "a", 5008)}, 0);
  CHECK(Has(of_functions, "takes 5008 bytes of local memory"));
  CHECK(Has(of_functions, "all 200000 threads that the device may hold at once take 1001600000, and it has 1000000000"));
  CHECK(Has(of_functions, "For 5000 bytes or less: use float32"));
  local_bytes = 100000;
  CHECK(Has(Prepare({Make(kCubin, 90, "a")}, 0), "takes 100000 bytes"));
  // Nor can a thread address more than 512 KiB, however much there is.
  memory = size_t{1} << 40;
  local_bytes = 512 * 1024;
  CHECK(Prepare({Make(kCubin, 90, "a")}, 0).success());
  local_bytes += 8;
  CHECK(Has(Prepare({Make(kCubin, 90, "a")}, 0), "For 524288 bytes or less"));
}

// The second operand is the first result's contents; XLA has made one buffer of the third operand and the second result.
void ResultsAreFilled() {
  int32_t data[4][3] = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {0, 0, 0}};
  int64_t size = 3;
  XLA_FFI_Buffer buffers[4];
  for (int i = 0; i < 4; ++i) buffers[i] = {sizeof(XLA_FFI_Buffer), nullptr, XLA_FFI_DataType_S32, data[i], 1, &size};
  XLA_FFI_ArgType types[3] = {XLA_FFI_ArgType_BUFFER, XLA_FFI_ArgType_BUFFER, XLA_FFI_ArgType_BUFFER};
  XLA_FFI_RetType kinds[2] = {XLA_FFI_RetType_BUFFER, XLA_FFI_RetType_BUFFER};
  void* in[3] = {&buffers[0], &buffers[1], &buffers[2]};
  void* out[2] = {&buffers[3], &buffers[2]};
  XLA_FFI_Args arguments = {sizeof(XLA_FFI_Args), nullptr, 3, types, in};
  XLA_FFI_Rets returns = {sizeof(XLA_FFI_Rets), nullptr, 2, kinds, out};
  ffi::RemainingArgs operands(&arguments, 0);
  ffi::RemainingRets results(&returns, 0);
  const int64_t filled[2] = {0, 1};
  auto stream = reinterpret_cast<CUstream>(8);
  CHECK(FillOnDevice(FakeDriver(), stream, operands, results, {filled, 2}).success());
  CHECK(copied == 12 && data[3][0] == 4 && data[3][2] == 6 && data[2][1] == 8);
  CHECK(Has(FillOnDevice(FakeDriver(), nullptr, operands, results, {filled, 2}), "cuMemcpyDtoDAsync failed: AN_ERROR (400)"));
  Lanes lanes;
  std::vector<int64_t> words;
  CHECK(CountLanes(operands, {filled, 0}, {filled, 2}, &lanes).success());
  CHECK(GatherArguments(operands, results, lanes, {filled, 0}, &words).success());
  CHECK(words.size() == 3 && words[0] == reinterpret_cast<intptr_t>(data[0]));
}

// Blocks of a launch with `block` threads each, for so many lanes and `resident` threads of a multiprocessor.
int64_t Blocks(int64_t lanes, int64_t block, int64_t resident) {
  Driver driver = FakeDriver();
  devices = {90};
  Loaded loaded;
  LoadBlobs(driver, {Make(kCubin, 90, "a")}, PresentArchitectures(driver), &loaded);
  const int64_t words[8] = {-block, 1, 1, block, 1, 1, 0, resident};
  Launch launch;
  OnDevice state;
  CHECK(ParseLaunch({words, 8}, &launch).success());
  launch.Resolve(lanes);
  CHECK(PrepareOnDevice(driver, &loaded, 0, &launch, &state).success());
  CHECK(launch.grid[1] == 1 && launch.grid[2] == 1);
  return launch.grid[0];
}

// There are 100 multiprocessors, and at most 1024 blocks in a grid.
void TheGridOfAQueue() {
  local_bytes = 0;
  CudaTable().limits.clear();
  CHECK(Blocks(1000, 128, 0) == 8);
  CHECK(Blocks(1000, 128, 1024) == 8);
  CHECK(Blocks(102400, 128, 1024) == 800);
  CHECK(Blocks(102400, 128, 1023) == 700);
  CHECK(Blocks(102400, 128, 1) == 100);
  CHECK(Blocks(int64_t{1} << 40, 256, 2048) == 800);
}

int main() {
  TheGridOfAQueue();
  ResultsAreFilled();
  EachDeviceGetsItsOwn();
  ALaunchIsForItsDevice();
  LocalMemoryThatCannotBe();
}
