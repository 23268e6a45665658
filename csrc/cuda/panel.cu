#include <algorithm>
#include <stdexcept>
#include <type_traits>

#include "cuda/panel.hpp"
#include "cuda/panel_kernel.cuh"

namespace rebasin_fast::cuda {
namespace {

constexpr int kBlocksPerMultiprocessor = 16;

std::int64_t elements_of(const std::vector<PanelAxis>& axes) {
    std::int64_t elements = 1;
    for (const PanelAxis& axis : axes) elements *= axis.length;
    return elements;
}

bool gathered(const PanelAxis& axis) {
    return axis.index != nullptr;
}

// The same with fewer axes: neighbours that are one stretch of memory are one, and those of length 1 none.
std::vector<PanelAxis> joined(const std::vector<PanelAxis>& axes) {
    std::vector<PanelAxis> found;
    for (const PanelAxis& axis : axes) {
        if (axis.length == 1 && !gathered(axis)) continue;
        const bool joins = !found.empty() && !gathered(found.back()) && !gathered(axis) &&
                           found.back().stride == axis.length * axis.stride;
        if (joins) {
            found.back().length *= axis.length;
            found.back().stride = axis.stride;
        } else {
            found.push_back(axis);
        }
    }
    return found;
}

template <class In, class Out>
void launch_panel(const PanelPlan& plan, bool change, Stream stream) {
    using Wide = std::conditional_t<std::is_same_v<In, double> || std::is_same_v<Out, double>, double, float>;
    const std::uint32_t wanted = (plan.elements + kPanelThreads - 1) / kPanelThreads;
    const auto most = static_cast<std::uint32_t>(multiprocessors() * kBlocksPerMultiprocessor);
    const Launch how{dim3(std::min(wanted, most)), dim3(kPanelThreads)};
    launch(change ? panel_kernel<In, Out, Wide, true> : panel_kernel<In, Out, Wide, false>, how, stream,
           plan);
}

template <class In>
void launch_from(const PanelPlan& plan, Element panel_type, bool change, Stream stream) {
    switch (panel_type) {
        case Element::f32:
            return launch_panel<In, float>(plan, change, stream);
        case Element::f64:
            return launch_panel<In, double>(plan, change, stream);
        case Element::bf16:
            return launch_panel<In, BFloat16>(plan, change, stream);
        default:
            break;
    }
    throw std::invalid_argument("panel type is not float32, float64 or bfloat16");
}

void launch_plan(const PanelPlan& plan, const PanelJob& job, bool change, Stream stream) {
    switch (job.source_type) {
        case Element::f16:
            return launch_from<Half>(plan, job.panel_type, change, stream);
        case Element::bf16:
            return launch_from<BFloat16>(plan, job.panel_type, change, stream);
        case Element::f32:
            return launch_from<float>(plan, job.panel_type, change, stream);
        case Element::f64:
            return launch_from<double>(plan, job.panel_type, change, stream);
        default:
            break;
    }
    throw std::invalid_argument("source type is an integer; expected floating-point");
}

const void* moved(const void* at, std::int64_t bytes) {
    return static_cast<const unsigned char*>(at) + bytes;
}

// Both halves of a job that is too large for one launch, divided on its first axis of more than one entry.
void gather_halves(const PanelJob& job, Stream stream, std::int64_t most) {
    std::size_t k = 0;
    while (job.axes[k].length == 1) ++k;
    PanelJob low = job, high = job;
    const std::int64_t half = job.axes[k].length / 2;
    PanelAxis& axis = high.axes[k];
    low.axes[k].length = half;
    axis.length -= half;
    if (gathered(axis)) {
        axis.index += half;
        if (axis.less != nullptr) axis.less += half;
    } else {
        const auto bytes = static_cast<std::int64_t>(bytes_of(job.source_type));
        high.source = moved(job.source, half * axis.stride * bytes);
    }
    const auto bytes = static_cast<std::int64_t>(bytes_of(job.panel_type));
    high.panel = const_cast<void*>(moved(job.panel, elements_of(low.axes) * bytes));
    gather_panel(low, stream, most);
    gather_panel(high, stream, most);
}

}  // namespace

std::optional<Element> panel_element(std::string_view name) {
    if (name == "float16") return Element::f16;
    if (name == "bfloat16") return Element::bf16;
    if (name == "float32") return Element::f32;
    if (name == "float64") return Element::f64;
    return std::nullopt;
}

void gather_panel(const PanelJob& job, Stream stream, std::int64_t most) {
    for (const PanelAxis& axis : job.axes)
        if (axis.less != nullptr && !gathered(axis))
            throw std::invalid_argument("an axis has less without index");
    const std::int64_t elements = elements_of(job.axes);
    if (elements == 0) return;
    if (elements > most) return gather_halves(job, stream, most);
    const std::vector<PanelAxis> axes = joined(job.axes);
    if (axes.size() > kPanelAxes) throw std::invalid_argument("too many axes; expected 8 at most");
    PanelPlan plan;
    plan.source = job.source;
    plan.panel = job.panel;
    plan.elements = static_cast<std::uint32_t>(elements);
    plan.axes = static_cast<int>(axes.size());
    bool change = false;
    for (std::size_t k = 0; k < axes.size(); ++k) {
        plan.length[k] = Divisor(static_cast<std::uint32_t>(axes[k].length));
        plan.stride[k] = axes[k].stride;
        plan.index[k] = axes[k].index;
        plan.less[k] = axes[k].less;
        change |= axes[k].less != nullptr;
    }
    launch_plan(plan, job, change, stream);
}

}  // namespace rebasin_fast::cuda
