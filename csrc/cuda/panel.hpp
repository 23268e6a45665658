// Gather and pack on the device: the factors of the products that make cost matrices. One pass reads a
// parameter where it lies, whatever its strides, with the units of other groups reordered, and writes a
// dense panel; or the difference of two such panels, for what a few moved units change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "cuda/device_matrix.hpp"
#include "cuda/runtime.hpp"

namespace rebasin_fast::cuda {

// By torch's name; nothing for a type that is not gathered.
std::optional<Element> panel_element(std::string_view name);

// An axis of the panel, outermost first.
struct PanelAxis {
    std::int64_t length = 0;
    std::int64_t stride = 0;              // of the parameter, in elements
    const std::int64_t* index = nullptr;  // on the device, `length` long: which entries; null: all, in order
    const std::int64_t* less = nullptr;   // beside an index: that of what is subtracted; of one axis at most
};

struct PanelJob {
    const void* source = nullptr;  // on the device; floating-point of any width
    Element source_type = Element::f32;
    void* panel = nullptr;  // dense, row-major; not float16
    Element panel_type = Element::f32;
    std::vector<PanelAxis> axes;
};

// panel[i, j, ...] = source[index(i), index(j), ...], less source[less(i), index(j), ...] where an axis has
// `less`. Computed in double if either side is double, else in float; rounded to nearest, ties to even.
// Queued on the stream: nothing is waited for. Indices are not checked. `most` elements go into one launch,
// no more than 2^30.
void gather_panel(const PanelJob& job, Stream stream, std::int64_t most = std::int64_t{1} << 30);

}  // namespace rebasin_fast::cuda
