#include <cuda_runtime.h>

#include "cuda/device_query.hpp"

namespace rebasin_fast::cuda {

std::vector<Device> devices(std::string* why_none) {
    std::vector<Device> found;
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) {
        cudaGetLastError();  // the error is answered here; it must not surface in somebody's next launch
                             // check
        *why_none = std::string("cudaGetDeviceCount: ") + cudaGetErrorString(status);
        return found;
    }
    if (count == 0) *why_none = "cudaGetDeviceCount: no device";
    for (int index = 0; index < count; ++index) {
        cudaDeviceProp properties;
        if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) {
            cudaGetLastError();
            continue;
        }
        Device device;
        device.name = properties.name;
        device.major = properties.major;
        device.minor = properties.minor;
        device.memory_bytes = properties.totalGlobalMem;
        device.multiprocessors = properties.multiProcessorCount;
        found.push_back(device);
    }
    return found;
}

int runtime_version() {
    return CUDART_VERSION;
}

}  // namespace rebasin_fast::cuda
