// Tests of what ffi/cuda.cc decides for a device, with a driver that is made up here: several architectures in one
// machine, and local memory. Compiled and run by test_cuda_devices.py. Prints what is wrong; nothing where all is well.
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
  ffi::Error error = PrepareOnDevice(driver, &loaded, device, Launch{{1, 1, 1}, {32, 1, 1}, 0}, &state);
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

int main() {
  EachDeviceGetsItsOwn();
  ALaunchIsForItsDevice();
  LocalMemoryThatCannotBe();
}
