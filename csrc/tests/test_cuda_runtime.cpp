// csrc/cuda/runtime.cu itself, on a runtime that only takes notes: which calls are made, on which device, and
// what becomes of those that fail.
#include <algorithm>
#include <string>

#include "cuda/device_query.cu"
#include "cuda/runtime.cu"
#include "tests/check.hpp"

namespace rebasin_fast::cuda {
namespace {

using fake::machine;

// How often it was called since the last reset.
std::ptrdiff_t called(const std::string& name) {
    return std::count(machine.calls.begin(), machine.calls.end(), name);
}

void reset(int device) {
    machine = {};
    machine.current = device;
}

TEST_CASE(pooled, "memory comes from a pool made once for a device, and goes back in stream order") {
    reset(0);
    {
        const Buffer<int> one(10, nullptr), two(20, nullptr);
    }
    CHECK(called("cudaMemPoolCreate") == 1 && called("cudaMemPoolSetAttribute") == 2);
    CHECK(called("cudaMallocFromPoolAsync") == 2 && called("cudaFreeAsync") == 2);
    CHECK(called("cudaStreamSynchronize") == 0);
    reset(1);
    {
        const Buffer<int> one(10, nullptr);
    }
    {
        const Buffer<int> none(0, nullptr);
    }
    CHECK(called("cudaMemPoolCreate") == 1 && called("cudaMallocFromPoolAsync") == 1);
}

TEST_CASE(without_pools, "a device without pools: plain memory, given back when the stream is done with it") {
    reset(5);
    machine.pools = 0;
    {
        const Buffer<int> one(10, nullptr), two(20, nullptr);
    }
    CHECK(called("cudaMemPoolCreate") == 0 && called("cudaMallocFromPoolAsync") == 0);
    CHECK(called("cudaMalloc") == 2 && called("cudaFree") == 2 && called("cudaStreamSynchronize") == 2);
}

TEST_CASE(errors,
          "an error names the call and CUDA's text, is told apart where memory ran out, and is over") {
    reset(0);
    for (const bool memory : {true, false}) {
        machine.failing = "cudaMallocFromPoolAsync";
        machine.error = memory ? cudaErrorMemoryAllocation : cudaErrorLaunchFailure;
        std::string said;
        try {
            const Buffer<int> one(10, nullptr);
        } catch (const Error& error) {
            said = error.what();
            CHECK(error.out_of_memory == memory);
        }
        CHECK(said == std::string("cudaMallocFromPoolAsync: ") + cudaGetErrorString(machine.error));
        CHECK(machine.last == cudaSuccess);  // nobody else's next check finds it
    }
}

TEST_CASE(scope, "the device is the caller's again, whatever happens") {
    reset(1);
    {
        const DeviceScope there(0);
        CHECK(machine.current == 0);
    }
    CHECK(machine.current == 1 && called("cudaSetDevice") == 2);
    {
        const DeviceScope same(1);
    }
    CHECK(called("cudaSetDevice") == 2);
}

TEST_CASE(launches, "shared memory is asked for once for a kernel on a device, and only where it is needed") {
    reset(0);
    const int kernel = 0, other = 0;
    const auto launch_it = [](const int* which, std::size_t shared) {
        launch_pointers(which, 1, 1, 1, 32, 1, 1, nullptr, shared, nullptr);
    };
    launch_it(&kernel, 0);
    CHECK(called("cudaFuncSetAttribute") == 0);
    for (int k = 0; k < 3; ++k) launch_it(&kernel, 100 << 10);
    CHECK(called("cudaLaunchKernel") == 4 && called("cudaFuncSetAttribute") == 2);
    CHECK(machine.attributes_set[cudaFuncAttributeMaxDynamicSharedMemorySize] == 232448 - 3456);
    CHECK(machine.attributes_set[cudaFuncAttributePreferredSharedMemoryCarveout] == 100);
    launch_it(&other, 1);
    machine.current = 1;
    launch_it(&kernel, 1);
    CHECK(called("cudaFuncSetAttribute") == 6);
}

TEST_CASE(query, "devices are listed; without a fitting driver it says which versions met") {
    reset(0);
    std::string why;
    CHECK(devices(&why).size() == 2 && why.empty() && devices(&why)[1].name == "GPU1");
    machine.failing = "cudaGetDeviceCount";
    machine.error = cudaErrorInsufficientDriver;
    machine.driver = 12040;
    CHECK(devices(&why).empty());
    CHECK(
        why ==
        "cudaGetDeviceCount: CUDA driver version is insufficient (rebasin_fast was built with CUDA 13.0, the "
        "driver knows CUDA 12.4)");
    machine.driver = 0;
    devices(&why);
    CHECK(why.find("there is no driver)") != std::string::npos);
    CHECK(machine.last == cudaSuccess);
    machine.failing = "";
    machine.devices = 0;
    CHECK(devices(&why).empty() && why == "cudaGetDeviceCount: no device");
}

}  // namespace
}  // namespace rebasin_fast::cuda

int main() {
    return rebasin_fast::testing::run_all();
}
