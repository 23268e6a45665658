#include <algorithm>
#include <stdexcept>
#include <type_traits>

#include "cuda/pack.hpp"
#include "cuda/pack_kernel.cuh"

namespace rebasin_fast::cuda {
namespace {

constexpr int kBlocksPerMultiprocessor = 16;

std::int64_t elements_of(const std::vector<PackAxis>& axes) {
    std::int64_t elements = 1;
    for (const PackAxis& axis : axes) elements *= axis.length;
    return elements;
}

bool gathered(const PackAxis& axis) {
    return axis.index != nullptr;
}

// The same with fewer axes: neighbours that are one stretch of memory are one, and those of length 1 none.
std::vector<PackAxis> joined(const std::vector<PackAxis>& axes) {
    std::vector<PackAxis> found;
    for (const PackAxis& axis : axes) {
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
void launch_pack(const PackPlan& plan, bool change, Stream stream) {
    using Wide = std::conditional_t<std::is_same_v<In, double> || std::is_same_v<Out, double>, double, float>;
    const std::uint32_t wanted = (plan.elements + kPackThreads - 1) / kPackThreads;
    const auto most = static_cast<std::uint32_t>(multiprocessors() * kBlocksPerMultiprocessor);
    const Launch how{dim3(std::min(wanted, most)), dim3(kPackThreads)};
    launch(change ? pack_kernel<In, Out, Wide, true> : pack_kernel<In, Out, Wide, false>, how, stream, plan);
}

template <class In>
void launch_from(const PackPlan& plan, PackType panel_type, bool change, Stream stream) {
    switch (panel_type) {
        case PackType::kFloat32:
            return launch_pack<In, float>(plan, change, stream);
        case PackType::kFloat64:
            return launch_pack<In, double>(plan, change, stream);
        case PackType::kBFloat16:
            return launch_pack<In, BFloat16>(plan, change, stream);
        case PackType::kFloat16:
            break;
    }
    throw std::invalid_argument("panel type is float16; expected float32, float64 or bfloat16");
}

void launch_plan(const PackPlan& plan, const PackJob& job, bool change, Stream stream) {
    switch (job.source_type) {
        case PackType::kFloat16:
            return launch_from<Half>(plan, job.panel_type, change, stream);
        case PackType::kBFloat16:
            return launch_from<BFloat16>(plan, job.panel_type, change, stream);
        case PackType::kFloat32:
            return launch_from<float>(plan, job.panel_type, change, stream);
        case PackType::kFloat64:
            return launch_from<double>(plan, job.panel_type, change, stream);
    }
}

const void* moved(const void* at, std::int64_t bytes) {
    return static_cast<const unsigned char*>(at) + bytes;
}

// Both halves of a job that is too large for one launch, divided on its first axis of more than one entry.
void pack_halves(const PackJob& job, Stream stream, std::int64_t most) {
    std::size_t k = 0;
    while (job.axes[k].length == 1) ++k;
    PackJob low = job, high = job;
    const std::int64_t half = job.axes[k].length / 2;
    PackAxis& axis = high.axes[k];
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
    pack(low, stream, most);
    pack(high, stream, most);
}

}  // namespace

std::optional<PackType> pack_type(std::string_view name) {
    if (name == "float16") return PackType::kFloat16;
    if (name == "bfloat16") return PackType::kBFloat16;
    if (name == "float32") return PackType::kFloat32;
    if (name == "float64") return PackType::kFloat64;
    return std::nullopt;
}

std::size_t bytes_of(PackType type) {
    return type == PackType::kFloat64 ? 8 : type == PackType::kFloat32 ? 4 : 2;
}

void pack(const PackJob& job, Stream stream, std::int64_t most) {
    for (const PackAxis& axis : job.axes)
        if (axis.less != nullptr && !gathered(axis))
            throw std::invalid_argument("an axis has less without index");
    const std::int64_t elements = elements_of(job.axes);
    if (elements == 0) return;
    if (elements > most) return pack_halves(job, stream, most);
    const std::vector<PackAxis> axes = joined(job.axes);
    if (axes.size() > kPackAxes) throw std::invalid_argument("too many axes; expected 8 at most");
    PackPlan plan;
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
