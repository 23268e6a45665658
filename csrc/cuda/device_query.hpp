// Which CUDA devices this process can use. The first brick of the GPU solver: it proves the build path.
#pragma once

#include <string>
#include <vector>

namespace rebasin_fast::cuda {

struct Device {
    std::string name;
    int major = 0;
    int minor = 0;
    unsigned long long memory_bytes = 0;
    int multiprocessors = 0;
};

// Never throws for a missing driver or device: the list is then empty and `why_none` says what CUDA answered.
std::vector<Device> devices(std::string* why_none);

int runtime_version();

}  // namespace rebasin_fast::cuda
