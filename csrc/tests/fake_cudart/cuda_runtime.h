// As much of CUDA's runtime as csrc/cuda/runtime.cu calls, made of notes for test_cuda_runtime.cpp: every
// call is written down, and the one that is to fail fails.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#define CUDART_VERSION 13000

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorLaunchFailure = 719
};
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrMemoryPoolsSupported
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaMemAllocationType { cudaMemAllocationTypePinned };
enum cudaMemLocationType { cudaMemLocationTypeDevice };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold, cudaMemPoolReuseAllowInternalDependencies };
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize,
    cudaFuncAttributePreferredSharedMemoryCarveout
};
inline constexpr int cudaSharedmemCarveoutMaxShared = 100;

struct CUstream_st;
using cudaStream_t = CUstream_st*;
struct FakePool {};
using cudaMemPool_t = FakePool*;
struct cudaMemPoolProps {
    cudaMemAllocationType allocType;
    struct {
        cudaMemLocationType type;
        int id;
    } location;
};
struct cudaFuncAttributes {
    std::size_t sharedSizeBytes;
};
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    std::size_t totalGlobalMem;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace fake {

struct Machine {
    int devices = 2, current = 0, driver = 13000, pools = 1;
    std::string failing;  // this call fails, with `error`
    cudaError_t error = cudaErrorLaunchFailure, last = cudaSuccess;
    std::vector<std::string> calls;
    std::map<int, int> attributes_set;
    FakePool pool;
};
inline Machine machine;

inline cudaError_t note(const char* call) {
    machine.calls.push_back(call);
    return machine.last = machine.failing == call ? machine.error : cudaSuccess;
}

}  // namespace fake

inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation     ? "out of memory"
           : error == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient"
                                                  : "unspecified launch failure";
}
inline cudaError_t cudaGetLastError() {
    const cudaError_t error = fake::machine.last;
    fake::machine.last = cudaSuccess;
    return error;
}
inline cudaError_t cudaGetDevice(int* device) {
    *device = fake::machine.current;
    return fake::note("cudaGetDevice");
}
inline cudaError_t cudaSetDevice(int device) {
    fake::machine.current = device;
    return fake::note("cudaSetDevice");
}
inline cudaError_t cudaGetDeviceCount(int* count) {
    *count = fake::machine.devices;
    return fake::note("cudaGetDeviceCount");
}
inline cudaError_t cudaDriverGetVersion(int* version) {
    *version = fake::machine.driver;
    return fake::note("cudaDriverGetVersion");
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index) {
    *properties = {{'G', 'P', 'U', static_cast<char>('0' + index), 0}, 9, 0, 132, std::size_t{80} << 30};
    return fake::note("cudaGetDeviceProperties");
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    *value = which == cudaDevAttrMemoryPoolsSupported           ? fake::machine.pools
             : which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 232448
                                                                : 132;
    return fake::note("cudaDeviceGetAttribute");
}
inline cudaError_t cudaMemPoolCreate(cudaMemPool_t* made, const cudaMemPoolProps*) {
    *made = &fake::machine.pool;
    return fake::note("cudaMemPoolCreate");
}
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
    return fake::note("cudaMemPoolSetAttribute");
}
inline cudaError_t cudaMallocFromPoolAsync(void** memory, std::size_t bytes, cudaMemPool_t, cudaStream_t) {
    const cudaError_t status = fake::note("cudaMallocFromPoolAsync");
    *memory = status == cudaSuccess ? std::malloc(bytes) : nullptr;
    return status;
}
inline cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
    const cudaError_t status = fake::note("cudaMalloc");
    *memory = status == cudaSuccess ? std::malloc(bytes) : nullptr;
    return status;
}
inline cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
    std::free(memory);
    return fake::note("cudaFreeAsync");
}
inline cudaError_t cudaFree(void* memory) {
    std::free(memory);
    return fake::note("cudaFree");
}
inline cudaError_t cudaMemsetAsync(void*, int, std::size_t, cudaStream_t) {
    return fake::note("cudaMemsetAsync");
}
inline cudaError_t cudaMemcpyAsync(void*, const void*, std::size_t, cudaMemcpyKind, cudaStream_t) {
    return fake::note("cudaMemcpyAsync");
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return fake::note("cudaStreamSynchronize");
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
    found->sharedSizeBytes = 3456;
    return fake::note("cudaFuncGetAttributes");
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute which, int value) {
    fake::machine.attributes_set[which] = value;
    return fake::note("cudaFuncSetAttribute");
}
inline cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, std::size_t, cudaStream_t) {
    return fake::note("cudaLaunchKernel");
}
