// The compiled core as Python sees it: a table of contents. Each register_* is one topic.
#include <pybind11/pybind11.h>

#include "bindings/register.hpp"

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    module.doc() = "Compiled core of rebasin_fast. Private: use the functions of rebasin_fast itself.";
    rebasin_fast::register_build_info(module);
    rebasin_fast::register_lap(module);
    rebasin_fast::register_direct_call(module);
    rebasin_fast::register_batch(module);
    rebasin_fast::register_factored(module);
}
