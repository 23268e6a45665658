// The topics of the module _cuda.
#pragma once

#include <pybind11/pybind11.h>

namespace rebasin_fast {

void register_panel(pybind11::module_& module);

}  // namespace rebasin_fast
