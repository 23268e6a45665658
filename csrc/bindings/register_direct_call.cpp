// The short way into the solver. A problem of a few rows is solved in less time than argument conversion, a
// copy of the answer and a round trip through Python's dispatch take, so this one function is written against
// the CPython interface itself.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <new>
#include <optional>

#include "bindings/border.hpp"
#include "bindings/register.hpp"
#include "lap/small.hpp"

namespace py = pybind11;

namespace rebasin_fast {
namespace {

// From this many elements on the GIL is released; below, that costs more than another thread could gain.
constexpr std::int64_t kReleaseFrom = 2500;

// The view of an object that is exactly a numpy array, and one the core reads where it lies whatever its
// size; small ones of float16 are better widened first.
std::optional<MatrixView> plain_view(PyObject* object) {
    using npy = py::detail::npy_api;
    if (Py_TYPE(object) != npy::get().PyArray_Type_) return std::nullopt;
    const auto array = py::reinterpret_borrow<py::array>(object);
    const py::dtype dtype = array.dtype();
    const std::optional<ElementType> type = element_type(dtype);
    const bool native = dtype.byteorder() == '=' || dtype.byteorder() == '|';
    if (!type || *type == ElementType::f16 || !native || array.ndim() != 2 ||
        (array.flags() & npy::NPY_ARRAY_ALIGNED_) == 0)
        return std::nullopt;
    const py::ssize_t size = dtype.itemsize();
    const py::ssize_t* strides = array.strides();
    if (strides[0] % size != 0 || strides[1] % size != 0) return std::nullopt;
    return MatrixView{array.data(),     *type, array.shape()[0], array.shape()[1], strides[0] / size,
                      strides[1] / size};
}

py::object new_index_array(std::int64_t length) {
    const auto& npy = py::detail::npy_api::get();
    const Py_intptr_t shape[] = {static_cast<Py_intptr_t>(length)};
    PyObject* dtype =
        npy.PyArray_DescrFromType_(py::detail::npy_api::NPY_INT64_);  // taken over by the next call
    PyObject* array =
        npy.PyArray_NewFromDescr_(npy.PyArray_Type_, dtype, 1, shape, nullptr, nullptr, 0, nullptr);
    if (array == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(array);
}

std::int64_t* entries_of(const py::object& index_array) {
    return reinterpret_cast<std::int64_t*>(py::detail::array_proxy(index_array.ptr())->data);
}

// Null when the entries ask for the general way.
py::object assign_small(const MatrixView& cost, bool maximize) {
    const std::int64_t n = cost.rows < cost.cols ? cost.rows : cost.cols;
    const py::object row_ind = new_index_array(n), col_ind = new_index_array(n);
    SmallAnswer answer{entries_of(row_ind), entries_of(col_ind)};
    std::optional<Status> status;
    if (cost.rows * cost.cols < kReleaseFrom) {
        status = solve_small(cost, maximize, &answer);
    } else {
        const py::gil_scoped_release release;
        status = solve_small(cost, maximize, &answer);
    }
    if (!status) return {};
    raise_for(*status);
    PyObject* pair = PyTuple_Pack(2, row_ind.ptr(), col_ind.ptr());
    if (pair == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(pair);
}

py::object assign_directly(PyObject* cost, PyObject* maximize) {
    const std::optional<MatrixView> view = plain_view(cost);
    if (!view) return py::none();
    const int largest_wanted = PyObject_IsTrue(maximize);
    if (largest_wanted < 0) throw py::error_already_set();
    const bool small = small_enough(*view);
    if (small)
        if (py::object pair = assign_small(*view, largest_wanted != 0)) return pair;
    return assign(py::reinterpret_borrow<py::array>(cost), largest_wanted != 0, !small);
}

extern "C" PyObject* rebasin_fast_assign_directly(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "assign_directly() takes 2 arguments (%zd given)", count);
        return nullptr;
    }
    try {
        return assign_directly(arguments[0], arguments[1]).release().ptr();
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const py::builtin_exception& error) {
        error.set_error();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    }
    return nullptr;
}

PyMethodDef kMethods[] = {
    {"assign_directly",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(rebasin_fast_assign_directly)), METH_FASTCALL,
     "(row_ind, col_ind) of an array the core reads as it is; None for anything else."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

void register_direct_call(py::module_& module) {
    if (PyModule_AddFunctions(module.ptr(), kMethods) != 0) throw py::error_already_set();
}

}  // namespace rebasin_fast
