// The CUDA extension as Python sees it. Imported lazily, and only where a build found nvcc.
#include <pybind11/pybind11.h>

#include "bindings/register_cuda.hpp"
#include "cuda/device_query.hpp"

namespace py = pybind11;

namespace {

py::tuple device_query() {
    std::string why_none;
    py::list found;
    for (const auto& device : rebasin_fast::cuda::devices(&why_none)) {
        py::dict entry;
        entry["name"] = device.name;
        entry["compute_capability"] = py::make_tuple(device.major, device.minor);
        entry["memory_bytes"] = device.memory_bytes;
        entry["multiprocessors"] = device.multiprocessors;
        found.append(entry);
    }
    return py::make_tuple(found, why_none);
}

}  // namespace

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
    module.doc() = "CUDA side of rebasin_fast. Private: use rebasin_fast.cuda.";
    module.attr("RUNTIME_VERSION") = rebasin_fast::cuda::runtime_version();
    module.def("device_query", &device_query);
    rebasin_fast::register_panel(module);
}
