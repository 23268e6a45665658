// Batches of problems at the Python border: arrays of untyped 8-byte cells out, which the Python layer cuts
// and views.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/border.hpp"
#include "bindings/interrupt.hpp"
#include "bindings/register.hpp"
#include "lap/batch.hpp"

namespace py = pybind11;

namespace rebasin_fast {
namespace {

using Cells = py::array_t<std::int64_t>;

// Either one array (problems, rows, cols) or a list of matrices.
std::vector<MatrixView> views_of(const py::object& costs) {
    std::vector<MatrixView> views;
    if (py::isinstance<py::list>(costs)) {
        for (const py::handle cost : costs) views.push_back(view_of(py::cast<py::array>(cost)));
        return views;
    }
    const auto stack = py::cast<py::array>(costs);
    if (stack.shape(0) == 0) return views;
    MatrixView view = view_of(py::cast<py::array>(stack[py::int_(0)]));
    views.reserve(static_cast<std::size_t>(stack.shape(0)));
    for (py::ssize_t b = 0; b < stack.shape(0); ++b) {
        view.data = static_cast<const char*>(stack.data()) + b * stack.strides(0);
        views.push_back(view);
    }
    return views;
}

template <class Length>
Cells cells(const std::vector<MatrixView>& costs, Length length) {
    std::int64_t total = 0;
    for (const MatrixView& cost : costs) total += length(cost);
    return Cells(static_cast<py::ssize_t>(total));
}

[[noreturn]] void throw_overflow(const std::string& problem, const char* what) {
    PyErr_SetString(PyExc_OverflowError, (problem + what).c_str());
    throw py::error_already_set();
}

void raise_for(const BatchStatus& found, ElementType type, const std::string& problem) {
    try {
        raise_for(found.status);
    } catch (const py::value_error& error) {
        throw py::value_error(problem + error.what());
    }
    if (found.cost_overflow) throw_overflow(problem, "the cost of the assignment does not fit int64");
    if (found.duals_overflow)
        throw_overflow(
            problem, has_integer_duals(type)
                         ? "the duals of these integer costs do not fit int64; without duals they are solved"
                         : "the duals of these costs do not fit float64; without duals they are solved");
}

// An interrupted batch has its exception from the signal handler; otherwise the first problem that failed
// names it.
void raise_for(const std::vector<BatchStatus>& found, const std::vector<MatrixView>& costs) {
    const auto interrupted = [](const BatchStatus& one) { return one.status == Status::interrupted; };
    if (std::any_of(found.begin(), found.end(), interrupted)) throw py::error_already_set();
    for (std::size_t b = 0; b < found.size(); ++b) {
        const BatchStatus& one = found[b];
        if (one.status != Status::optimal || one.cost_overflow || one.duals_overflow)
            raise_for(one, costs[b].type, "costs[" + std::to_string(b) + "]: ");
    }
}

py::dict solve_batch_of(const py::object& costs, bool maximize, bool with_duals, int threads) {
    const std::vector<MatrixView> views = views_of(costs);
    const auto pairs = [](const MatrixView& cost) { return std::min(cost.rows, cost.cols); };
    Cells row_ind = cells(views, pairs), col_ind = cells(views, pairs);
    Cells cost(static_cast<py::ssize_t>(views.size()));
    BatchAnswer answer{row_ind.mutable_data(), col_ind.mutable_data(), cost.mutable_data()};
    py::dict out;
    out["row_ind"] = row_ind;
    out["col_ind"] = col_ind;
    out["cost"] = cost;
    if (with_duals) {
        Cells row_duals = cells(views, [](const MatrixView& one) { return one.rows; });
        Cells col_duals = cells(views, [](const MatrixView& one) { return one.cols; });
        py::array_t<double> gap(static_cast<py::ssize_t>(views.size()));
        answer.row_duals = row_duals.mutable_data();
        answer.col_duals = col_duals.mutable_data();
        answer.gap = gap.mutable_data();
        out["row_duals"] = row_duals;
        out["col_duals"] = col_duals;
        out["gap"] = gap;
    }
    PythonSignals signals;
    Options options;
    options.maximize = maximize;
    options.with_duals = with_duals;
    options.threads = threads;
    options.interrupt = &signals;
    std::vector<BatchStatus> found;
    {
        const py::gil_scoped_release release;
        found = solve_batch(views, options, answer);
    }
    raise_for(found, views);
    return out;
}

}  // namespace

void register_batch(py::module_& module) {
    module.def("solve_batch", &solve_batch_of, py::arg("costs").noconvert(), py::arg("maximize"),
               py::arg("with_duals"), py::arg("threads"));
}

}  // namespace rebasin_fast
