// The linear assignment solver at the Python border: numpy arrays in, statuses out as exceptions.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/border.hpp"
#include "bindings/interrupt.hpp"
#include "bindings/register.hpp"
#include "lap/lap.hpp"

namespace py = pybind11;

namespace rebasin_fast {

std::optional<ElementType> element_type(const py::dtype& dtype) {
    const char kind = dtype.kind();
    const auto size = dtype.itemsize();
    if (kind == 'f' && size == 2) return ElementType::f16;
    if (kind == 'f' && size == 4) return ElementType::f32;
    if (kind == 'f' && size == 8) return ElementType::f64;
    if (kind == 'b') return ElementType::u8;
    if (kind == 'i') {
        if (size == 1) return ElementType::i8;
        if (size == 2) return ElementType::i16;
        if (size == 4) return ElementType::i32;
        if (size == 8) return ElementType::i64;
    }
    if (kind == 'u') {
        if (size == 1) return ElementType::u8;
        if (size == 2) return ElementType::u16;
        if (size == 4) return ElementType::u32;
        if (size == 8) return ElementType::u64;
    }
    return std::nullopt;
}

// `cost` is native-endian, aligned and two-dimensional: the Python layer sees to that.
MatrixView view_of(const py::array& cost) {
    if (cost.ndim() != 2) throw py::value_error("cost must be two-dimensional");
    const std::optional<ElementType> type = element_type(cost.dtype());
    if (!type)
        throw py::type_error("cost has dtype " + std::string(py::str(cost.dtype())) +
                             "; expected bool, integers, float16, float32 or float64");
    MatrixView view;
    view.data = cost.data();
    view.type = *type;
    view.rows = cost.shape(0);
    view.cols = cost.shape(1);
    view.row_stride = cost.strides(0) / cost.itemsize();
    view.col_stride = cost.strides(1) / cost.itemsize();
    constexpr std::int64_t limit = std::int64_t{1} << 31;
    if (view.rows >= limit || view.cols >= limit)
        throw py::value_error("cost must have fewer than 2**31 rows and columns");
    return view;
}

namespace {

// Hands a vector to numpy without copying it.
template <class T>
py::array_t<T> to_numpy(std::vector<T>&& values) {
    auto* owned = new std::vector<T>(std::move(values));
    const py::capsule owner(owned, [](void* p) { delete static_cast<std::vector<T>*>(p); });
    return py::array_t<T>(static_cast<py::ssize_t>(owned->size()), owned->data(), owner);
}

// From this many elements on Ctrl-C is answered: a solve takes milliseconds.
constexpr std::int64_t kInterruptibleFrom = std::int64_t{1} << 18;

Result solve_without_gil(const py::array& cost, Options options) {
    const MatrixView view = view_of(cost);
    PythonSignals signals;
    if (view.rows * view.cols >= kInterruptibleFrom) options.interrupt = &signals;
    const py::gil_scoped_release release;
    return solve(view, options);
}

}  // namespace

py::tuple assign(const py::array& cost, bool maximize, bool ask_small) {
    Options options;
    options.maximize = maximize;
    options.ask_small = ask_small;
    Result result = solve_without_gil(cost, options);
    raise_for(result.status);
    return py::make_tuple(to_numpy(std::move(result.row_ind)), to_numpy(std::move(result.col_ind)));
}

namespace {

constexpr std::pair<Method, const char*> kMethods[] = {{Method::automatic, "auto"},
                                                       {Method::jv, "jv"},
                                                       {Method::auction, "auction"},
                                                       {Method::dense, "dense"},
                                                       {Method::shortest_path, "shortest_path"}};

const char* name(Method wanted) {
    for (const auto& [method, text] : kMethods)
        if (method == wanted) return text;
    return "";
}

Method method_named(const std::string& wanted) {
    for (const auto& [method, text] : kMethods)
        if (wanted == text) return method;
    throw py::value_error("method is '" + wanted +
                          "'; expected 'auto', 'jv', 'auction', 'dense' or 'shortest_path'");
}

}  // namespace

py::dict answer_of(Result&& result) {
    raise_for(result.status);
    if (result.duals.overflow) {
        PyErr_SetString(
            PyExc_OverflowError,
            result.stats.exact_integers
                ? "the duals of these integer costs do not fit int64; linear_sum_assignment solves them"
                : "the duals of these costs do not fit float64; linear_sum_assignment solves them");
        throw py::error_already_set();
    }
    py::dict out;
    out["row_ind"] = to_numpy(std::move(result.row_ind));
    out["col_ind"] = to_numpy(std::move(result.col_ind));
    const bool exact = result.stats.exact_integers;
    out["row_duals"] = exact ? py::array(to_numpy(std::move(result.duals.exact_row)))
                             : py::array(to_numpy(std::move(result.duals.row)));
    out["col_duals"] = exact ? py::array(to_numpy(std::move(result.duals.exact_col)))
                             : py::array(to_numpy(std::move(result.duals.col)));
    out["gap"] = result.gap;
    out["method"] = name(result.stats.method);
    out["exact_integers"] = exact;
    out["row_scans"] = result.stats.row_scans;
    out["augmentations"] = result.stats.augmentations;
    return out;
}

namespace {

// The Python layer has checked the numbers, and that `duals` fits the shape.
py::dict solve_with_duals(const py::array& cost, bool maximize, const std::string& method, int threads,
                          double max_gap,
                          const std::optional<py::array_t<double, py::array::c_style>>& duals) {
    Options options;
    options.maximize = maximize;
    options.with_duals = true;
    options.method = method_named(method);
    options.threads = threads;
    options.max_gap = max_gap;
    if (duals) options.col_duals = duals->data();
    Result result = solve_without_gil(cost, options);
    return answer_of(std::move(result));
}

// The Python layer has checked that (row_ind, col_ind) is a complete matching and that the duals fit the
// shape.
template <class Dual>
py::tuple prove_with(const py::array& cost, bool maximize, const std::vector<std::int64_t>& row_ind,
                     const std::vector<std::int64_t>& col_ind, const py::array_t<Dual, py::array::c_style>& u,
                     const py::array_t<Dual, py::array::c_style>& v) {
    const MatrixView view = view_of(cost);
    const Dual* row_duals = u.data();
    const Dual* col_duals = v.data();
    Proof proof;
    {
        const py::gil_scoped_release release;
        proof = prove(view, maximize, row_ind, col_ind, row_duals, col_duals);
    }
    return py::make_tuple(proof.gap, proof.violation);
}

}  // namespace

void register_lap(py::module_& module) {
    module.def("assign", &assign, py::arg("cost").noconvert(), py::arg("maximize"),
               py::arg("ask_small") = true);
    module.def("solve", &solve_with_duals, py::arg("cost").noconvert(), py::arg("maximize"),
               py::arg("method"), py::arg("threads"), py::arg("max_gap"), py::arg("duals"));
    module.def("prove", &prove_with<double>, py::arg("cost").noconvert(), py::arg("maximize"),
               py::arg("row_ind"), py::arg("col_ind"), py::arg("row_duals"), py::arg("col_duals"));
    module.def("prove_exact", &prove_with<std::int64_t>, py::arg("cost").noconvert(), py::arg("maximize"),
               py::arg("row_ind"), py::arg("col_ind"), py::arg("row_duals"), py::arg("col_duals"));
}

}  // namespace rebasin_fast
