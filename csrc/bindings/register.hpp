#pragma once

#include <pybind11/pybind11.h>

namespace rebasin_fast {

void register_batch(pybind11::module_& module);
void register_build_info(pybind11::module_& module);
void register_direct_call(pybind11::module_& module);
void register_factored(pybind11::module_& module);
void register_lap(pybind11::module_& module);

}  // namespace rebasin_fast
