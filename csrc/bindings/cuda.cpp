// The CUDA extension as Python sees it. Imported lazily, and only where a build found nvcc.
//
// Arrays cross as addresses, shapes and strides: which library they belong to is the Python layer's affair,
// which also makes the arrays that answers are written to. Everything runs on the stream it names.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "bindings/interrupt.hpp"
#include "bindings/raise.hpp"
#include "bindings/register_cuda.hpp"
#include "cuda/batch.hpp"
#include "cuda/device_query.hpp"
#include "cuda/factored_solver.hpp"
#include "cuda/solver.hpp"

namespace py = pybind11;

namespace {

py::tuple device_query() {
    std::string why_none;
    py::list found;
    for (const auto& device : rebasin_fast::cuda::devices(&why_none)) {
        py::dict entry;
        entry["name"] = device.name;
        entry["compute_capability"] = py::make_tuple(device.major, device.minor);
        entry["memory_bytes"] = device.memory_bytes;
        entry["multiprocessors"] = device.multiprocessors;
        found.append(entry);
    }
    return py::make_tuple(found, why_none);
}

using rebasin_fast::Status;
using namespace rebasin_fast::cuda;
using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

Element element_named(const std::string& dtype) {
    static const std::pair<const char*, Element> all[] = {
        {"float32", Element::f32},   {"float64", Element::f64}, {"float16", Element::f16},
        {"bfloat16", Element::bf16}, {"int8", Element::i8},     {"uint8", Element::u8},
        {"bool", Element::u8},       {"int16", Element::i16},   {"int32", Element::i32}};
    for (const auto& [name, element] : all)
        if (dtype == name) return element;
    throw py::type_error("costs have dtype " + dtype + "; expected one that is solved on the device");
}

// (address, dtype, shape, strides in elements), the last two of one length.
struct Given {
    Address address;
    std::string dtype;
    std::vector<std::int64_t> shape, strides;
};

DeviceMatrix matrix_of(const Given& given, std::size_t first_axis) {
    constexpr std::int64_t limit = std::int64_t{1} << 30;  // columns share a word with a flag
    const std::int64_t rows = given.shape.at(first_axis), cols = given.shape.at(first_axis + 1);
    if (rows >= limit || cols >= limit)
        throw py::value_error("cost must have fewer than 2**30 rows and columns on a device");
    return {pointer<const void>(given.address), element_named(given.dtype),      rows, cols,
            given.strides.at(first_axis),       given.strides.at(first_axis + 1)};
}

Given given_of(const py::tuple& tuple) {
    return {tuple[0].cast<Address>(), tuple[1].cast<std::string>(),
            tuple[2].cast<std::vector<std::int64_t>>(), tuple[3].cast<std::vector<std::int64_t>>()};
}

// Addresses of row_ind, col_ind, row_duals, col_duals, cost, gap; 0 for duals that are not wanted.
using Places = std::array<Address, 6>;

DeviceAnswer answer_at(const Places& at) {
    return {pointer<std::int64_t>(at[0]), pointer<std::int64_t>(at[1]), pointer<double>(at[2]),
            pointer<double>(at[3]),       pointer<double>(at[4]),       pointer<double>(at[5])};
}

// What Python is told of a solve, or the exception its status asks for.
py::dict stats_of(const SolveOutcome& outcome) {
    rebasin_fast::raise_for(outcome.status);
    py::dict stats;
    stats["method"] = outcome.stats.by_a_block ? "dense" : "auction";
    stats["row_scans"] = outcome.stats.row_scans;
    stats["augmentations"] = outcome.stats.augmentations;
    return stats;
}

// Calls `solve` without the GIL, that device being the current one.
template <class Solve>
py::dict solve_there(bool maximize, Address col_duals, int device, Solve solve) {
    rebasin_fast::PythonSignals signals;
    SolveOptions options;
    options.maximize = maximize;
    options.col_duals = pointer<const double>(col_duals);
    options.interrupt = &signals;
    SolveOutcome outcome;
    {
        const py::gil_scoped_release release;
        const DeviceScope scope(device);
        outcome = solve(options);
    }
    return stats_of(outcome);
}

py::dict solve_one(const py::tuple& costs, bool maximize, Address col_duals, const Places& answer, int device,
                   Address stream) {
    const DeviceMatrix matrix = matrix_of(given_of(costs), 0);
    return solve_there(maximize, col_duals, device, [&](const SolveOptions& options) {
        return solve(matrix, answer_at(answer), options, pointer<CUstream_st>(stream));
    });
}

bool is_wide(const std::string& dtype) {
    if (dtype != "float32" && dtype != "float64")
        throw py::type_error("factors have dtype " + dtype + "; expected float32 or float64");
    return dtype == "float64";
}

// The Python layer has checked numbers, and that factors are contiguous and of one dtype.
py::dict solve_factors(const py::tuple& a, const py::tuple& b, bool maximize, Address col_duals,
                       const Places& answer, int device, Address stream) {
    const Given left = given_of(a), right = given_of(b);
    constexpr std::int64_t limit = std::int64_t{1} << 30;
    if (left.shape.at(0) >= limit || right.shape.at(0) >= limit)
        throw py::value_error("a and b must have fewer than 2**30 rows on a device");
    const Factors factors{pointer<const void>(left.address),
                          pointer<const void>(right.address),
                          left.shape.at(1),
                          is_wide(left.dtype),
                          static_cast<int>(left.shape.at(0)),
                          static_cast<int>(right.shape.at(0))};
    return solve_there(maximize, col_duals, device, [&](const SolveOptions& options) {
        return solve_factored(factors, answer_at(answer), options, {}, pointer<CUstream_st>(stream));
    });
}

// Of a contiguous array; infinity or NaN where it holds one.
double find_largest_magnitude(const py::tuple& numbers, int device, Address stream) {
    const Given given = given_of(numbers);
    std::int64_t count = 1;
    for (const std::int64_t length : given.shape) count *= length;
    const bool wide = is_wide(given.dtype);
    const py::gil_scoped_release release;
    const DeviceScope scope(device);
    return largest_magnitude(pointer<const void>(given.address), count, wide, pointer<CUstream_st>(stream));
}

void raise_for_problems(const std::vector<Outcome>& outcomes) {
    for (std::size_t b = 0; b < outcomes.size(); ++b) {
        try {
            if (outcomes[b] == Outcome::infeasible) rebasin_fast::raise_for(Status::infeasible);
            if (outcomes[b] == Outcome::invalid_entry) rebasin_fast::raise_for(Status::invalid_entry);
        } catch (const py::value_error& error) {
            throw py::value_error("costs[" + std::to_string(b) + "]: " + error.what());
        }
    }
}

// Calls `solve` for outcomes without the GIL, that device being the current one.
template <class Solve>
void solve_all(int device, Solve solve) {
    std::vector<Outcome> outcomes;
    {
        const py::gil_scoped_release release;
        const DeviceScope scope(device);
        outcomes = solve();
    }
    raise_for_problems(outcomes);
}

// Problems of one shape: the answers lie one after the other in arrays without gaps.
void solve_one_stack(const py::tuple& costs, bool maximize, const Places& answers, int device,
                     Address stream) {
    const Given given = given_of(costs);
    const BatchStack stack{{matrix_of(given, 1), answer_at(answers)}, given.shape.at(0), given.strides.at(0)};
    solve_all(device, [&] { return solve_stack(stack, maximize, pointer<CUstream_st>(stream)); });
}

void solve_list(const std::vector<py::tuple>& costs, bool maximize, const std::vector<Places>& answers,
                int device, Address stream) {
    std::vector<BatchProblem> problems;
    for (std::size_t b = 0; b < costs.size(); ++b)
        problems.push_back({matrix_of(given_of(costs[b]), 0), answer_at(answers.at(b))});
    if (problems.empty()) return;
    solve_all(device, [&] { return solve_batch(problems, maximize, pointer<CUstream_st>(stream)); });
}

// The call that failed and CUDA's own text; MemoryError where there was no memory.
void translate(std::exception_ptr thrown) {
    try {
        if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
        PyErr_SetString(error.out_of_memory ? PyExc_MemoryError : PyExc_RuntimeError, error.what());
    }
}

}  // namespace

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
    module.doc() = "CUDA side of rebasin_fast. Private: use rebasin_fast.cuda.";
    module.attr("RUNTIME_VERSION") = rebasin_fast::cuda::runtime_version();
    module.def("device_query", &device_query);
    rebasin_fast::register_panel(module);
    py::register_local_exception_translator(&translate);
    module.def("solve", &solve_one, py::arg("costs"), py::arg("maximize"), py::arg("col_duals"),
               py::arg("answer"), py::arg("device"), py::arg("stream"));
    module.def("solve_factored", &solve_factors, py::arg("a"), py::arg("b"), py::arg("maximize"),
               py::arg("col_duals"), py::arg("answer"), py::arg("device"), py::arg("stream"));
    module.def("largest_magnitude", &find_largest_magnitude, py::arg("numbers"), py::arg("device"),
               py::arg("stream"));
    module.def("solve_stack", &solve_one_stack, py::arg("costs"), py::arg("maximize"), py::arg("answers"),
               py::arg("device"), py::arg("stream"));
    module.def("solve_list", &solve_list, py::arg("costs"), py::arg("maximize"), py::arg("answers"),
               py::arg("device"), py::arg("stream"));
}
