#include <pybind11/stl.h>

#include "bindings/register.hpp"
#include "lap/simd/kernels.hpp"

namespace py = pybind11;

namespace rebasin_fast {

void register_build_info(py::module_& module) {
    module.attr("COMPILER") = REBASIN_FAST_COMPILER;
    module.def("active_isa", &simd::active_isa);
    module.def("available_isas", &simd::available_isas);
    module.def("force_isa", &simd::force_isa, py::arg("name"));
}

}  // namespace rebasin_fast
