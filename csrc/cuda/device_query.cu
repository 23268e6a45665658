#include <cuda_runtime.h>

#include "cuda/device_query.hpp"

namespace rebasin_fast::cuda {

namespace {

std::string dotted(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// What the driver can do and what was built for; the driver knows without a device. 0: there is none.
std::string versions() {
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess) cudaGetLastError();
    const std::string built = " (rebasin_fast was built with CUDA " + dotted(CUDART_VERSION);
    return built + (driver > 0 ? ", the driver knows CUDA " + dotted(driver) + ")" : ", there is no driver)");
}

}  // namespace

std::vector<Device> devices(std::string* why_none) {
    std::vector<Device> found;
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) {
        cudaGetLastError();  // the error is answered here; it must not surface in somebody's next launch
                             // check
        *why_none = std::string("cudaGetDeviceCount: ") + cudaGetErrorString(status);
        if (status == cudaErrorInsufficientDriver) *why_none += versions();
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
