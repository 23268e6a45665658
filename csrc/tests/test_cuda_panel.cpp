// Gather and pack on the emulated device, against loops written plainly: every pair of types, any strides,
// any axes gathered, differences, jobs in parts.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda/panel.cu"
#include "tests/check.hpp"

namespace rebasin_fast::cuda {
namespace {

using Index = std::vector<std::int64_t>;

const Element kTypes[] = {Element::f16, Element::bf16, Element::f32, Element::f64};
const Element kPanelTypes[] = {Element::bf16, Element::f32, Element::f64};

std::string name_of(Element type) {
    for (const char* name : {"float16", "bfloat16", "float32", "float64"})
        if (panel_element(name) == type) return name;
    return "?";
}

// The value of 16 bits by the definition of the formats: sign, exponent, fraction.
double decoded(std::uint16_t bits, int exponent_bits) {
    const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
    const double fraction = std::ldexp(bits & ((1 << fraction_bits) - 1), -fraction_bits);
    const double sign = bits >> 15 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1)
        return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                             : sign * std::numeric_limits<double>::infinity();
    return sign *
           (exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias));
}

bool equal(double a, double b) {
    return a == b ? std::signbit(a) == std::signbit(b) : std::isnan(a) && std::isnan(b);
}

TEST_CASE(halves_are_widened, "every float16 and bfloat16 is widened exactly") {
    int wrong = 0;
    for (std::uint32_t bits = 0; bits <= 0xffffu; ++bits) {
        const auto half = static_cast<std::uint16_t>(bits);
        wrong += !equal(widened(Half{half}), decoded(half, 5));
        wrong += !equal(widened(BFloat16{half}), decoded(half, 8));
    }
    CHECK(wrong == 0);
}

TEST_CASE(bfloat16_is_nearest, "rounding to bfloat16 takes the nearest, of two the even one") {
    std::mt19937 random(1);
    int wrong = 0;
    for (int trial = 0; trial < 200000; ++trial) {
        auto bits = static_cast<std::uint32_t>(random());
        if (trial % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u;  // half-way
        float value;
        std::memcpy(&value, &bits, sizeof value);
        const BFloat16 found = rounded<BFloat16>(value);
        if (std::isnan(value)) {
            wrong += !std::isnan(widened(found));
            continue;
        }
        const auto below = static_cast<std::uint16_t>(bits >> 16),
                   above = static_cast<std::uint16_t>(below + 1);
        const double down = std::fabs(value - decoded(below, 8));
        // What lies beyond the largest is as far away as the next one would be.
        const double next =
            (above & 0x7fffu) == 0x7f80u ? std::ldexp(value < 0 ? -1.0 : 1.0, 128) : decoded(above, 8);
        const double up = std::fabs(value - next);
        const std::uint16_t right = down < up || (down == up && below % 2 == 0) ? below : above;
        wrong += found.bits != right;
    }
    CHECK(wrong == 0);
    CHECK(std::isinf(widened(rounded<BFloat16>(std::numeric_limits<float>::infinity()))));
}

TEST_CASE(divisors_divide, "division by multiplication is division, below 2^31") {
    std::mt19937 random(2);
    const std::uint32_t largest = (1u << 31) - 1;
    int wrong = 0;
    for (int trial = 0; trial < 20000; ++trial) {
        const std::uint32_t by =
            trial < 1000 ? static_cast<std::uint32_t>(trial + 1) : random() % (1u << 30) + 1;
        const Divisor divisor(by);
        for (std::uint32_t n : {0u, by - 1, by, by + 1, static_cast<std::uint32_t>(random()) & largest,
                                largest, largest / by * by, std::max(1u, largest / by * by) - 1})
            wrong += divisor.quotient(n) != n / by;
    }
    CHECK(wrong == 0);
}

// Memory of any type, and what its elements are worth.
class Elements {
  public:
    Elements(Element type, std::size_t count, std::mt19937& random)
        : type_(type), bytes_(count * bytes_of(type)) {
        std::normal_distribution<double> normal;
        for (std::size_t k = 0; k < count; ++k) {
            if (bytes_of(type) == 2) {
                std::uint16_t bits = static_cast<std::uint16_t>(random());
                while (!std::isfinite(worth(bits))) bits = static_cast<std::uint16_t>(random());
                std::memcpy(&bytes_[2 * k], &bits, 2);
            } else if (type == Element::f32) {
                const auto value = static_cast<float>(normal(random));
                std::memcpy(&bytes_[4 * k], &value, 4);
            } else {
                const double value = normal(random);
                std::memcpy(&bytes_[8 * k], &value, 8);
            }
        }
    }

    double at(std::size_t k) const {
        const unsigned char* const where = &bytes_[k * bytes_of(type_)];
        if (bytes_of(type_) == 2) {
            std::uint16_t bits;
            std::memcpy(&bits, where, 2);
            return worth(bits);
        }
        if (type_ == Element::f32) {
            float value;
            std::memcpy(&value, where, 4);
            return value;
        }
        double value;
        std::memcpy(&value, where, 8);
        return value;
    }

    void* data() { return bytes_.data(); }

  private:
    double worth(std::uint16_t bits) const { return decoded(bits, type_ == Element::f16 ? 5 : 8); }

    Element type_;
    std::vector<unsigned char> bytes_;
};

// One random job, checked element by element.
void try_one(Element from, Element to, std::mt19937& random) {
    const int axes = static_cast<int>(random() % 6);
    std::vector<std::int64_t> extents(static_cast<std::size_t>(axes));
    for (auto& extent : extents) extent = static_cast<std::int64_t>(random() % 7 + (random() % 40 != 0));
    // Strides of the axes in any order, with gaps now and then.
    std::vector<std::size_t> order(extents.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    if (random() % 2) std::shuffle(order.begin(), order.end(), random);
    std::vector<std::int64_t> strides(extents.size());
    std::int64_t size = 1;
    for (std::size_t k = order.size(); k-- > 0;) {
        strides[order[k]] = size;
        size *= std::max<std::int64_t>(1, extents[order[k]]) + (random() % 5 == 0);
    }
    Elements source(from, static_cast<std::size_t>(size), random);

    std::vector<Index> index(extents.size()), less(extents.size());
    const auto drawn = [&](std::int64_t extent, std::size_t length) {
        Index found(length);
        for (auto& entry : found)
            entry = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(extent));
        return found;
    };
    PanelJob job;
    for (std::size_t k = 0; k < extents.size(); ++k) {
        PanelAxis axis{extents[k], strides[k]};
        if (random() % 2 && extents[k] > 0) {
            index[k] = drawn(extents[k], random() % 8 + 1);
            axis.length = static_cast<std::int64_t>(index[k].size());
            axis.index = index[k].data();
        }
        job.axes.push_back(axis);
    }
    const std::size_t changed = axes == 0 || random() % 2 ? extents.size() : random() % extents.size();
    if (changed < extents.size() && job.axes[changed].index != nullptr) {
        less[changed] = drawn(extents[changed], static_cast<std::size_t>(job.axes[changed].length));
        job.axes[changed].less = less[changed].data();
    }
    const std::int64_t count = elements_of(job.axes);
    Elements panel(to, static_cast<std::size_t>(count), random);
    job.source = source.data();
    job.source_type = from;
    job.panel = panel.data();
    job.panel_type = to;
    gather_panel(job, nullptr,
                 random() % 3 ? std::int64_t{1} << 30 : static_cast<std::int64_t>(random() % 50 + 1));

    int wrong = 0;
    for (std::int64_t k = 0; k < count; ++k) {
        std::int64_t left = k, at = 0, less_at = 0;
        bool differs = false;
        for (std::size_t axis = extents.size(); axis-- > 0;) {
            const PanelAxis& a = job.axes[axis];
            const auto entry = static_cast<std::size_t>(left % a.length);
            const std::int64_t new_entry = a.index ? index[axis][entry] : static_cast<std::int64_t>(entry);
            at += new_entry * a.stride;
            less_at += (a.less ? less[axis][entry] : new_entry) * a.stride;
            differs |= a.less != nullptr;
            left /= a.length;
        }
        double value = source.at(static_cast<std::size_t>(at));
        if (differs) value -= source.at(static_cast<std::size_t>(less_at));
        const bool wide = from == Element::f64 || to == Element::f64;
        if (!wide) value = static_cast<float>(value);
        if (to == Element::f32) value = static_cast<float>(value);
        if (to == Element::bf16) value = decoded(rounded<BFloat16>(static_cast<float>(value)).bits, 8);
        wrong += !equal(panel.at(static_cast<std::size_t>(k)), value);
    }
    CHECK_WITH(wrong == 0, name_of(from) + " to " + name_of(to) + ": " + std::to_string(wrong) + " of " +
                               std::to_string(count) + " elements");
}

TEST_CASE(panels_are_right, "panels of any types, strides, gathers and differences are as loops make them") {
    std::mt19937 random(3);
    for (int trial = 0; trial < 40; ++trial)
        for (Element from : kTypes)
            for (Element to : kPanelTypes) try_one(from, to, random);
}

TEST_CASE(many_blocks, "a panel of more elements than threads") {
    std::mt19937 random(4);
    const std::int64_t rows = 300, columns = 400;
    Elements source(Element::f32, static_cast<std::size_t>(rows * columns), random);
    std::vector<float> panel(static_cast<std::size_t>(rows * columns));
    Index index(static_cast<std::size_t>(columns));
    std::iota(index.begin(), index.end(), 0);
    std::shuffle(index.begin(), index.end(), random);
    PanelJob job;
    job.source = source.data();
    job.panel = panel.data();
    job.axes = {{rows, columns}, {columns, 1, index.data()}};
    gather_panel(job, nullptr);
    int wrong = 0;
    for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j)
            wrong += panel[static_cast<std::size_t>(i * columns + j)] !=
                     source.at(static_cast<std::size_t>(i * columns + index[static_cast<std::size_t>(j)]));
    CHECK(wrong == 0);
}

bool refused(const PanelJob& job) {
    try {
        gather_panel(job, nullptr);
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

TEST_CASE(refusals, "what cannot be packed is refused") {
    CHECK(!panel_element("int64"));
    float value = 0;
    const std::int64_t entry = 0;
    PanelJob job;
    job.source = job.panel = &value;
    job.axes = {{1, 1}};
    CHECK(!refused(job));
    PanelJob narrow = job;
    narrow.panel_type = Element::f16;
    CHECK(refused(narrow));
    PanelJob half = job;
    half.axes[0].less = &entry;
    CHECK(refused(half));
    PanelJob deep = job;
    deep.axes.assign(9, {1, 1, &entry});
    CHECK(refused(deep));
}

}  // namespace
}  // namespace rebasin_fast::cuda

int main() {
    return rebasin_fast::testing::run_all();
}
