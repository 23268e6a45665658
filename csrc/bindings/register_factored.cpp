// Assignment over inner products at the Python border.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "bindings/border.hpp"
#include "bindings/interrupt.hpp"
#include "bindings/register.hpp"
#include "lap/factored.hpp"

namespace py = pybind11;

namespace rebasin_fast {
namespace {

template <class F>
using Factor = py::array_t<F, py::array::c_style>;

// The Python layer has checked the shapes, the numbers, and that the products fit float64.
template <class F>
py::dict solve_factors(const Factor<F>& a, const Factor<F>& b, bool maximize, int threads, double max_gap,
                       const std::optional<Factor<double>>& duals) {
    PythonSignals signals;
    Options options;
    options.maximize = maximize;
    options.with_duals = true;
    options.threads = threads;
    options.max_gap = max_gap;
    options.interrupt = &signals;
    if (duals) options.col_duals = duals->data();
    const FactorView<F> left{a.data(), a.shape(0), a.shape(1)}, right{b.data(), b.shape(0), b.shape(1)};
    FactoredResult found;
    {
        const py::gil_scoped_release release;
        found = solve_factored(left, right, options);
    }
    py::dict out = answer_of(std::move(found.result));
    out["products"] = std::move(found.products);
    return out;
}

}  // namespace

void register_factored(py::module_& module) {
    module.def("solve_factored", &solve_factors<float>, py::arg("a").noconvert(), py::arg("b").noconvert(),
               py::arg("maximize"), py::arg("threads"), py::arg("max_gap"), py::arg("duals"));
    module.def("solve_factored", &solve_factors<double>, py::arg("a").noconvert(), py::arg("b").noconvert(),
               py::arg("maximize"), py::arg("threads"), py::arg("max_gap"), py::arg("duals"));
}

}  // namespace rebasin_fast
