#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

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

// A pool of our own on each device: what is given back is kept for the next solve, up to a limit, for to map
// memory anew takes longer than to solve a small problem. The default pool is the process's, and is not ours
// to change. Streams do not wait for each other's memory: what one has not given back yet another does not
// get. Never destroyed: at exit the driver may be gone before us. Null where the device has none (some
// virtual GPUs, old drivers).
cudaMemPool_t pool() {
    static std::mutex guard;
    static std::map<int, cudaMemPool_t> pools;
    const int device = current_device();
    const std::lock_guard lock(guard);
    const auto known = pools.find(device);
    if (known != pools.end()) return known->second;
    if (attribute(cudaDevAttrMemoryPoolsSupported) == 0) return pools[device] = nullptr;
    cudaMemPoolProps wanted = {};
    wanted.allocType = cudaMemAllocationTypePinned;
    wanted.location.type = cudaMemLocationTypeDevice;
    wanted.location.id = device;
    cudaMemPool_t made;
    check(cudaMemPoolCreate(&made, &wanted), "cudaMemPoolCreate");
    std::uint64_t keep = std::uint64_t{64} << 20;
    int no = 0;
    check(cudaMemPoolSetAttribute(made, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
    check(cudaMemPoolSetAttribute(made, cudaMemPoolReuseAllowInternalDependencies, &no),
          "cudaMemPoolSetAttribute");
    return pools[device] = made;
}

// Lets a kernel have as much dynamic shared memory as there is on the current device, and many of its blocks
// together. Asked for once: the limit is the kernel's, not the launch's, and another host thread may be about
// to launch it with more.
void allow_shared_memory(const void* kernel) {
    static std::mutex guard;
    static std::set<std::pair<int, const void*>> allowed;
    const int device = current_device();
    const std::lock_guard lock(guard);
    if (allowed.count({device, kernel}) != 0) return;
    cudaFuncAttributes now;
    check(cudaFuncGetAttributes(&now, kernel), "cudaFuncGetAttributes");
    const int most =
        attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - static_cast<int>(now.sharedSizeBytes);
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
          "cudaFuncSetAttribute");
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "cudaFuncSetAttribute");
    allowed.insert({device, kernel});
}

}  // namespace

void* allocate(std::size_t bytes, Stream stream) {
    void* memory = nullptr;
    if (const cudaMemPool_t from = pool())
        check(cudaMallocFromPoolAsync(&memory, bytes, from, stream), "cudaMallocFromPoolAsync");
    else
        check(cudaMalloc(&memory, bytes), "cudaMalloc");
    return memory;
}

void release(void* memory, Stream stream) noexcept {
    if (memory == nullptr) return;
    bool pooled = true;
    try {
        pooled = pool() != nullptr;
    } catch (const Error&) {  // then nothing was allocated on this device
    }
    if (!pooled && cudaStreamSynchronize(stream) != cudaSuccess) cudaGetLastError();
    if ((pooled ? cudaFreeAsync(memory, stream) : cudaFree(memory)) != cudaSuccess) cudaGetLastError();
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

DeviceScope::DeviceScope(int device) : before_(current_device()), changed_(device != before_) {
    if (changed_) check(cudaSetDevice(device), "cudaSetDevice");
}

DeviceScope::~DeviceScope() {
    if (changed_ && cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
}

void launch_pointers(const void* kernel, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                     unsigned threads_x, unsigned threads_y, unsigned threads_z, void** arguments,
                     std::size_t shared_bytes, Stream stream) {
    if (shared_bytes > 0) allow_shared_memory(kernel);
    check(cudaLaunchKernel(kernel, dim3(blocks_x, blocks_y, blocks_z), dim3(threads_x, threads_y, threads_z),
                           arguments, shared_bytes, stream),
          "cudaLaunchKernel");
}

}  // namespace rebasin_fast::cuda
