#include <cuda_runtime.h>

#include <cstring>
#include <string>

#include "cuda/runtime.hpp"

namespace rebasin_fast::cuda {
namespace {

void check(cudaError_t status, const char* call) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // answered here: it must not surface in somebody's next check
    throw Error(call, cudaGetErrorString(status), status == cudaErrorMemoryAllocation);
}

int current_device() {
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    return device;
}

int attribute(cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, current_device()), "cudaDeviceGetAttribute");
    return value;
}

}  // namespace

void* allocate(std::size_t bytes, Stream stream) {
    void* memory = nullptr;
    check(cudaMallocAsync(&memory, bytes, stream), "cudaMallocAsync");
    return memory;
}

void release(void* memory, Stream stream) noexcept {
    if (memory != nullptr && cudaFreeAsync(memory, stream) != cudaSuccess) cudaGetLastError();
}

void fill_bytes(void* at, int byte, std::size_t bytes, Stream stream) {
    if (bytes > 0) check(cudaMemsetAsync(at, byte, bytes, stream), "cudaMemsetAsync");
}

void copy_to_device(void* to, const void* from, std::size_t bytes, Stream stream) {
    if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
}

void copy_to_host(void* to, const void* from, std::size_t bytes, Stream stream) {
    if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
    synchronize(stream);
}

void copy_on_device(void* to, const void* from, std::size_t bytes, Stream stream) {
    if (bytes > 0)
        check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
}

void synchronize(Stream stream) {
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

int multiprocessors() {
    return attribute(cudaDevAttrMultiProcessorCount);
}

std::size_t shared_memory_limit() {
    return static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

DeviceScope::DeviceScope(int device) : before_(current_device()) {
    if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
}

DeviceScope::~DeviceScope() {
    if (cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
}

void launch_pointers(const void* kernel, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                     unsigned threads_x, unsigned threads_y, unsigned threads_z, void** arguments,
                     std::size_t shared_bytes, Stream stream) {
    constexpr std::size_t without_asking = std::size_t{48} << 10;
    if (shared_bytes > without_asking)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared_bytes)),
              "cudaFuncSetAttribute");
    check(cudaLaunchKernel(kernel, dim3(blocks_x, blocks_y, blocks_z), dim3(threads_x, threads_y, threads_z),
                           arguments, shared_bytes, stream),
          "cudaLaunchKernel");
}

}  // namespace rebasin_fast::cuda
