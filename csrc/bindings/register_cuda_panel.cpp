// Gather and pack on the device, as _packing.py calls it: addresses, types by torch's names, and a stream.
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/register_cuda.hpp"
#include "cuda/panel.hpp"

namespace py = pybind11;

namespace rebasin_fast {
namespace {

using Address = std::uintptr_t;

cuda::Element type_named(const char* whose, const std::string& name) {
    if (const auto type = cuda::panel_element(name)) return *type;
    throw py::value_error(std::string(whose) + " is " + name +
                          "; expected float16, bfloat16, float32 or float64");
}

const std::int64_t* indices_at(Address address) {
    return reinterpret_cast<const std::int64_t*>(address);
}

void gather_panel(Address source, const std::string& dtype, const std::vector<std::int64_t>& strides,
                  const std::vector<std::optional<Address>>& indices,
                  const std::optional<std::pair<std::size_t, Address>>& before, Address panel,
                  const std::string& panel_dtype, const std::vector<std::int64_t>& shape, int device,
                  Address stream) {
    if (strides.size() != shape.size() || indices.size() != shape.size())
        throw py::value_error("strides, indices and shape differ in length");
    if (before && before->first >= shape.size())
        throw py::value_error("before names an axis that is not there");
    cuda::PanelJob job;
    job.source = reinterpret_cast<const void*>(source);
    job.source_type = type_named("dtype", dtype);
    job.panel = reinterpret_cast<void*>(panel);
    job.panel_type = type_named("panel_dtype", panel_dtype);
    for (std::size_t k = 0; k < shape.size(); ++k)
        job.axes.push_back({shape[k], strides[k], indices_at(indices[k].value_or(0)), nullptr});
    if (before) job.axes[before->first].less = indices_at(before->second);
    const py::gil_scoped_release unlocked;
    const cuda::DeviceScope scope(device);
    cuda::gather_panel(job, reinterpret_cast<cuda::Stream>(stream));
}

}  // namespace

void register_panel(py::module_& module) {
    module.def("gather_panel", &gather_panel, py::arg("source"), py::arg("dtype"), py::arg("strides"),
               py::arg("indices"), py::arg("before"), py::arg("panel"), py::arg("panel_dtype"),
               py::arg("shape"), py::arg("device"), py::arg("stream"));
}

}  // namespace rebasin_fast
