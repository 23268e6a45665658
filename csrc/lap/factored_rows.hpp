// A cost matrix given as the inner products of the rows of a (n, d) and b (m, d), of which only a few rows
// ever exist at a time.
//
// The element c_ij is the float64 number that summing double(a_ik) * double(b_jk) in ascending k gives. Of
// floats every product is exact in float64. To find out which columns of a row matter, sums in float will do:
// they are several times faster, and how far they may be off is known beforehand.
//
// N. J. Higham: Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1. SIAM (2002).
// doi:10.1137/1.9780898718027
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include "lap/crew.hpp"
#include "lap/oriented.hpp"
#include "lap/simd/product_kernels.hpp"

namespace rebasin_fast {

// A matrix whose rows lie one after the other.
template <class F>
struct FactorView {
    const F* data;
    std::int64_t rows, depth;

    const F* row(std::int64_t i) const { return data + i * depth; }
};

template <class F>
class FactoredRows {
  public:
    using Element = double;
    static constexpr bool kInMemory = false;
    static constexpr std::int64_t kBytes = sizeof(Element);

    // Needs a.rows <= b.rows, and depths that are equal.
    FactoredRows(const FactorView<F>& a, const FactorView<F>& b, bool maximize, Crew* crew)
        : rows(a.rows),
          cols(b.rows),
          sign(maximize ? -1.0 : 1.0),
          a_(a),
          b_(b),
          kernels_(simd::product_kernels<F>()),
          blocks_((b.rows + simd::kBlockColumns - 1) / simd::kBlockColumns),
          packed_(static_cast<std::size_t>(blocks_ * simd::kBlockColumns * b.depth)) {
        crew->for_each(blocks_, [&](int, std::int64_t block) { pack(block); });
        for (std::int64_t j = 0; j < cols; ++j) longest_ = std::max(longest_, length(b.row(j)));
    }

    const std::int64_t rows, cols;
    const double sign;

    double at(std::int64_t i, std::int64_t j) const {
        const auto column = static_cast<std::int32_t>(j);
        double product;
        listed(i, &column, 1, &product);
        return sign * product;
    }

    // The elements of row i in the columns listed.
    void listed(std::int64_t i, const std::int32_t* columns, std::int64_t count, double* elements) const {
        kernels_.listed(a_.row(i), b_.data, a_.depth, columns, count, elements);
    }

    // How many rows are best computed together: the columns are read once for all of them, but what they give
    // should stay in cache until it is looked through.
    std::int64_t rows_together() const {
        constexpr std::int64_t bytes = std::int64_t{1} << 22, least = 16, most = 32;
        const std::int64_t fit = bytes / (cols * static_cast<std::int64_t>(sizeof(F)));
        return std::clamp(fit / simd::kTileRows * simd::kTileRows, least, most);
    }

    // The same for rows that are no neighbours.
    std::int64_t scattered_together() const { return rows_together(); }

    // How far sums in F may be from the elements of row i. Rounding every product and every addition once
    // makes an error of at most d u / (1 - d u) times the sum of magnitudes, which is at most |a_i| |b_j|;
    // two more roundings pay for those of the element itself and of this bound.
    double error(std::int64_t i) const {
        if constexpr (std::is_same_v<F, double>) return 0.0;
        constexpr double unit = 0x1p-24, smallest = std::numeric_limits<float>::denorm_min();
        const double depth = static_cast<double>(a_.depth + 2);
        if (depth * unit >= 0.5) return kForbidden;
        return depth * unit / (1.0 - depth * unit) * length(a_.row(i)) * longest_ + 2.0 * depth * smallest;
    }

    // Whether all factors are numbers, and sums of products, in F too, stay clear of overflow.
    bool is_valid() const {
        double longest = 0.0;
        for (std::int64_t i = 0; i < rows; ++i) longest = std::max(longest, length(a_.row(i)));
        constexpr double most = std::is_same_v<F, float> ? 1e37 : std::numeric_limits<double>::max();
        const double sums = std::is_same_v<F, float> ? 1.0 : 8.0 * static_cast<double>(rows);
        return longest < kForbidden && longest_ < kForbidden && sums * longest * longest_ < most;
    }

    // Rows as sums in Out, computed a few at a time and kept until others are asked for.
    template <class Out>
    class Panel {
      public:
        explicit Panel(const FactoredRows& source) : source_(source) {}

        void compute(const std::int32_t* wanted, std::int64_t count) {
            const std::int64_t depth = source_.a_.depth;
            const std::int64_t room = (count + simd::kTileRows - 1) / simd::kTileRows * simd::kTileRows;
            rows_.assign(wanted, wanted + count);
            tiles_.resize(static_cast<std::size_t>(room * depth));
            const auto needed = static_cast<std::size_t>(room * stride());
            if (products_.size() < needed) products_.resize(needed);
            for (std::int64_t k = 0; k < room; ++k) {
                const F* row = source_.a_.row(wanted[std::min(k, count - 1)]);
                Out* tile =
                    tiles_.data() + k / simd::kTileRows * simd::kTileRows * depth + k % simd::kTileRows;
                for (std::int64_t d = 0; d < depth; ++d) tile[d * simd::kTileRows] = static_cast<Out>(row[d]);
            }
            multiply()(tiles_.data(), count, source_.packed_.data(), source_.blocks_, depth, products_.data(),
                       stride());
        }

        // Null unless row i was among those computed last.
        const Out* find(std::int64_t i) const {
            const auto place = std::find(rows_.begin(), rows_.end(), static_cast<std::int32_t>(i));
            return place == rows_.end() ? nullptr : products_.data() + (place - rows_.begin()) * stride();
        }

        const Out* row(std::int64_t i) {
            if (const Out* found = find(i)) return found;
            const auto wanted = static_cast<std::int32_t>(i);
            compute(&wanted, 1);
            return products_.data();
        }

        const Out* rows(std::int64_t first, std::int64_t count, std::int64_t* apart) {
            std::vector<std::int32_t> wanted(static_cast<std::size_t>(count));
            std::iota(wanted.begin(), wanted.end(), static_cast<std::int32_t>(first));
            compute(wanted.data(), count);
            *apart = stride();
            return products_.data();
        }

      private:
        std::int64_t stride() const { return source_.blocks_ * simd::kBlockColumns; }

        simd::Multiply<F, Out> multiply() const {
            if constexpr (std::is_same_v<F, Out>)
                return source_.kernels_.quick;
            else
                return source_.kernels_.exact;
        }

        const FactoredRows& source_;
        std::vector<std::int32_t> rows_;
        std::vector<Out> tiles_, products_;
    };

    using Reader = Panel<double>;

  private:
    // Infinity also for what is no number.
    double length(const F* row) const {
        double sum = 0.0;
        for (std::int64_t k = 0; k < a_.depth; ++k)
            sum += static_cast<double>(row[k]) * static_cast<double>(row[k]);
        return sum < kForbidden ? std::sqrt(sum) : kForbidden;
    }

    void pack(std::int64_t block) {
        F* packed = packed_.data() + block * simd::kBlockColumns * b_.depth;
        const std::int64_t first = block * simd::kBlockColumns;
        const std::int64_t count = std::min(simd::kBlockColumns, cols - first);
        for (std::int64_t c = 0; c < count; ++c)
            for (std::int64_t k = 0; k < b_.depth; ++k)
                packed[k * simd::kBlockColumns + c] = b_.row(first + c)[k];
    }

    const FactorView<F> a_, b_;
    const simd::ProductKernels<F>& kernels_;
    const std::int64_t blocks_;
    std::vector<F> packed_;
    double longest_ = 0.0;  // row of b
};

}  // namespace rebasin_fast
