// What the bindings of the solver share: how a numpy array becomes a view, and a status an exception.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>

#include "bindings/raise.hpp"
#include "lap/lap.hpp"

namespace rebasin_fast {

// Nothing for a dtype the core does not read. Says nothing of byte order.
std::optional<ElementType> element_type(const pybind11::dtype& dtype);

// `cost` is native-endian and aligned: the caller sees to that.
MatrixView view_of(const pybind11::array& cost);

// What Python's Assignment is made of, or the exception the status asks for.
pybind11::dict answer_of(Result&& result);

// (row_ind, col_ind) of a matrix of any size, solved without the GIL.
pybind11::tuple assign(const pybind11::array& cost, bool maximize, bool ask_small);

}  // namespace rebasin_fast
