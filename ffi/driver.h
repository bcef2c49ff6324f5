// The few entry points of the CUDA driver that are needed, declared by hand and looked up at first use, so
// that the library builds with no CUDA headers and loads where there is no driver.
#ifndef JAX_CUBIE_FFI_DRIVER_H_
#define JAX_CUBIE_FFI_DRIVER_H_

#include <dlfcn.h>

#include <cstddef>
#include <string>

namespace jax_cubie {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct OpaqueContext*;
using CUstream = struct OpaqueStream*;
using CUlibrary = struct OpaqueLibrary*;
using CUkernel = struct OpaqueKernel*;
using CUfunction = struct OpaqueFunction*;

constexpr CUresult kSuccess = 0;
constexpr CUresult kErrorOutOfMemory = 2;
constexpr CUresult kErrorInvalidImage = 200;
constexpr CUresult kErrorNoBinaryForGpu = 209;
constexpr CUresult kErrorInvalidPtx = 218;
constexpr CUresult kErrorJitCompilerNotFound = 221;
constexpr CUresult kErrorUnsupportedPtxVersion = 222;
constexpr CUresult kErrorNotFound = 500;
constexpr CUresult kErrorLaunchOutOfResources = 701;

constexpr int kJitErrorLogBuffer = 5;
constexpr int kJitErrorLogBufferSizeBytes = 6;

constexpr int kFuncMaxThreadsPerBlock = 0;
constexpr int kFuncSharedSizeBytes = 1;
constexpr int kFuncLocalSizeBytes = 3;
constexpr int kFuncMaxDynamicSharedSizeBytes = 8;

constexpr int kDeviceMaxThreadsPerBlock = 1;
constexpr int kDeviceMaxBlockDimX = 2;  // y and z follow
constexpr int kDeviceMaxGridDimX = 5;   // y and z follow
constexpr int kDeviceMaxSharedPerBlock = 8;
constexpr int kDeviceMultiprocessorCount = 16;
constexpr int kDeviceMaxThreadsPerMultiprocessor = 39;
constexpr int kDeviceComputeCapabilityMajor = 75;
constexpr int kDeviceComputeCapabilityMinor = 76;
constexpr int kDeviceMaxSharedPerBlockOptin = 97;

struct Driver {
  std::string missing;  // why there is none; empty where all is well

  CUresult (*Init)(unsigned flags) = nullptr;
  CUresult (*DriverGetVersion)(int* version) = nullptr;
  CUresult (*GetErrorName)(CUresult error, const char** name) = nullptr;
  CUresult (*GetErrorString)(CUresult error, const char** text) = nullptr;
  CUresult (*DeviceGet)(CUdevice* device, int ordinal) = nullptr;
  CUresult (*DeviceGetAttribute)(int* value, int attribute, CUdevice device) = nullptr;
  CUresult (*DeviceTotalMem)(size_t* bytes, CUdevice device) = nullptr;
  CUresult (*CtxGetDevice)(CUdevice* device) = nullptr;
  CUresult (*CtxPushCurrent)(CUcontext context) = nullptr;
  CUresult (*CtxPopCurrent)(CUcontext* context) = nullptr;
  CUresult (*StreamGetCtx)(CUstream stream, CUcontext* context) = nullptr;
  CUresult (*LibraryLoadData)(CUlibrary* library, const void* code, int* jit_options, void** jit_values,
                              unsigned jit_count, int* options, void** values, unsigned count) = nullptr;
  CUresult (*LibraryGetKernel)(CUkernel* kernel, CUlibrary library, const char* name) = nullptr;
  CUresult (*LibraryUnload)(CUlibrary library) = nullptr;
  CUresult (*KernelGetFunction)(CUfunction* function, CUkernel kernel) = nullptr;
  CUresult (*KernelGetAttribute)(int* value, int attribute, CUkernel kernel, CUdevice device) = nullptr;
  CUresult (*KernelSetAttribute)(int attribute, int value, CUkernel kernel, CUdevice device) = nullptr;
  CUresult (*MemcpyDtoDAsync)(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) = nullptr;
  // CUDA 12.4; null before.
  CUresult (*LaunchKernel)(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                           unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                           CUstream stream, void** parameters, void** extra) = nullptr;

  Driver() {
    void* handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const char* why = dlerror();
      missing = std::string("no NVIDIA driver: ") + (why != nullptr ? why : "libcuda.so.1 cannot be opened");
      return;
    }
    Find(handle, "cuInit", &Init);
    Find(handle, "cuDriverGetVersion", &DriverGetVersion);
    Find(handle, "cuGetErrorName", &GetErrorName);
    Find(handle, "cuGetErrorString", &GetErrorString);
    Find(handle, "cuDeviceGet", &DeviceGet);
    Find(handle, "cuDeviceGetAttribute", &DeviceGetAttribute);
    Find(handle, "cuDeviceTotalMem_v2", &DeviceTotalMem);
    Find(handle, "cuCtxGetDevice", &CtxGetDevice);
    Find(handle, "cuCtxPushCurrent_v2", &CtxPushCurrent);
    Find(handle, "cuCtxPopCurrent_v2", &CtxPopCurrent);
    Find(handle, "cuStreamGetCtx", &StreamGetCtx);
    Find(handle, "cuLibraryLoadData", &LibraryLoadData);
    Find(handle, "cuLibraryGetKernel", &LibraryGetKernel);
    Find(handle, "cuLibraryUnload", &LibraryUnload);
    Find(handle, "cuKernelGetFunction", &KernelGetFunction);
    Find(handle, "cuKernelGetAttribute", &KernelGetAttribute);
    Find(handle, "cuKernelSetAttribute", &KernelSetAttribute);
    Find(handle, "cuMemcpyDtoDAsync_v2", &MemcpyDtoDAsync);
    Find(handle, "cuLaunchKernel", &LaunchKernel);
    if (!missing.empty()) {
      missing = "the NVIDIA driver is too old (CUDA 12.0 or newer is needed): it lacks " + missing;
      return;
    }
    CUresult result = Init(0);
    if (result != kSuccess) missing = "cuInit failed: " + Describe(result);
  }

  // "CUDA_ERROR_NO_BINARY_FOR_GPU (209): no kernel image is available for ..."
  std::string Describe(CUresult result) const {
    const char* name = nullptr;
    const char* text = nullptr;
    if (GetErrorName(result, &name) != kSuccess || name == nullptr) name = "unknown CUDA error";
    if (GetErrorString(result, &text) != kSuccess || text == nullptr) text = "no description";
    return std::string(name) + " (" + std::to_string(result) + "): " + text;
  }

  // "13.0"
  std::string Version() const {
    int version = 0;
    if (DriverGetVersion(&version) != kSuccess) return "unknown";
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  }

  static const Driver& Get() {
    static const Driver* driver = new Driver;  // never destroyed: see HostTable
    return *driver;
  }

 private:
  template <typename F>
  void Find(void* handle, const char* name, F* function) {
    *function = reinterpret_cast<F>(dlsym(handle, name));
    if (*function == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(name);
  }
};

}  // namespace jax_cubie

#endif  // JAX_CUBIE_FFI_DRIVER_H_
