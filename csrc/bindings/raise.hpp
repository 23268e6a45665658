// The one place where a status becomes an exception, for all extension modules.
#pragma once

#include <pybind11/pybind11.h>

#include "lap/lap.hpp"

namespace rebasin_fast {

// The texts are SciPy's: callers match on them.
inline void raise_for(Status status) {
    namespace py = pybind11;
    if (status == Status::interrupted) throw py::error_already_set();  // what the signal handler raised
    if (status == Status::infeasible) throw py::value_error("cost matrix is infeasible");
    if (status == Status::invalid_entry) throw py::value_error("matrix contains invalid numeric entries");
}

}  // namespace rebasin_fast
