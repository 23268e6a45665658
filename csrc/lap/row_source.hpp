// Where rows come from. The engine asks for rows; it does not own a matrix, nor need there be one.
//
// A source has rows <= cols, `sign` (the cost of a cell is sign * element), at(i, j) (that cost), and
// readers. A reader belongs to one thread and hands out contiguous rows; what it returns is good until its
// next call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "lap/matrix_view.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {

// A matrix in memory, any strides. Contiguous rows are read where they lie; of others, and of elements that
// have to be widened, a few at a time are copied together, so that a matrix in column order is read along its
// cache lines and never copied whole.
template <class T>
class DenseRows {
  public:
    using Element = Widened<T>;
    static constexpr bool kInMemory = true;            // a row costs no more than reading it
    static constexpr std::int64_t kBytes = sizeof(T);  // an element takes in memory

    // `factor` times the elements are the costs: 1 or -1, or powers of two that keep sums from overflowing.
    // Prices for integers are multiples of `step`, a power of two, so that float64 holds all there is to
    // compute. Below the matrix there may be `blank` rows of zeros, which are nowhere in it.
    DenseRows(const TypedView<T>& view, double factor, double step, std::int64_t blank = 0)
        : rows(view.rows + blank),
          cols(view.cols),
          sign(factor),
          price_step(step),
          view_(view),
          zeros_(static_cast<std::size_t>(blank > 0 ? view.cols : 0)) {}

    // The same with as many blank rows as make it square: they take the columns that are left over, whichever
    // these are, at no cost.
    DenseRows squared() const { return DenseRows(view_, sign, price_step, cols - view_.rows); }
    bool has_blank_rows() const { return !zeros_.empty(); }

    const std::int64_t rows, cols;
    const double sign, price_step;

    double at(std::int64_t i, std::int64_t j) const {
        return i < view_.rows ? sign * static_cast<double>(view_.at(i, j)) : 0.0;
    }

    // How many neighbouring rows are best read together.
    std::int64_t rows_together() const {
        if (view_.col_stride == 1) return 8;
        constexpr std::int64_t bytes = std::int64_t{2} << 20, line = 64;
        const auto in_line = line / static_cast<std::int64_t>(sizeof(T));
        const std::int64_t fit = bytes / (cols * static_cast<std::int64_t>(sizeof(T)));
        return std::clamp<std::int64_t>(fit / in_line * in_line, in_line, 4 * in_line);
    }

    // The same for rows that are no neighbours.
    std::int64_t scattered_together() const { return 4; }

    class Reader {
      public:
        explicit Reader(const DenseRows& source) : source_(source) {}

        const Element* row(std::int64_t i) {
            if (const Element* there = row_in_memory(i)) return there;
            if (i < first_ || i >= first_ + count_) gather(i, 1);
            return panel_.data() + (i - first_) * source_.cols;
        }

        // Where row i lies if it need not be copied, else null.
        const Element* row_in_memory(std::int64_t i) const {
            if (i >= source_.view_.rows) return source_.zeros_.data();
            if constexpr (kAsStored)
                if (source_.view_.col_stride == 1) return source_.view_.row(i);
            return nullptr;
        }

        // Rows first ... first + count - 1, `*stride` elements apart. Blank ones only row() returns.
        const Element* rows(std::int64_t first, std::int64_t count, std::int64_t* stride) {
            const Element* there = row_in_memory(first);
            *stride = there != nullptr ? source_.view_.row_stride : source_.cols;
            if (there != nullptr) return there;
            gather(first, std::min(count, source_.view_.rows - first));
            return panel_.data();
        }

      private:
        static constexpr bool kAsStored = std::is_same_v<T, Element>;

        void gather(std::int64_t first, std::int64_t count) {
            panel_.resize(static_cast<std::size_t>(count * source_.cols));
            first_ = first;
            count_ = count;
            if constexpr (std::is_same_v<T, Half>)
                if (source_.view_.col_stride == 1) return widen_rows();
            turn_all();
        }

        void widen_rows() {
            for (std::int64_t i = 0; i < count_; ++i)
                simd::widen()(&source_.view_.row(first_ + i)->bits, source_.cols,
                              panel_.data() + i * source_.cols);
        }

        // Copies tile by tile. Lines that lie a power of two apart share a place in the cache: a tile is read
        // line by line, turned in a buffer of its own, and written line by line. No processor foresees lines
        // that far apart, so those of later tiles are fetched ahead.
        void turn_all() {
            constexpr std::int64_t ahead = 2 * kTile, line = 64 / static_cast<std::int64_t>(sizeof(T));
            const std::int64_t cols = source_.cols;
            const std::int64_t down = source_.view_.row_stride, across = source_.view_.col_stride;
            const T* data = source_.view_.row(first_);
            T turned[kTile][kTile];
            for (std::int64_t j0 = 0; j0 < cols; j0 += kTile) {
                const std::int64_t width = std::min(kTile, cols - j0);
                if (down == 1)
                    for (std::int64_t j = j0 + ahead; j < std::min(j0 + ahead + kTile, cols); ++j)
                        for (std::int64_t i = 0; i < count_; i += line)
                            __builtin_prefetch(data + j * across + i);
                for (std::int64_t i0 = 0; i0 < count_; i0 += kTile) {
                    const std::int64_t height = std::min(kTile, count_ - i0);
                    turn(data + i0 * down + j0 * across, down, across, height, width, turned);
                    for (std::int64_t i = 0; i < height; ++i)
                        std::copy_n(turned[i], width, panel_.data() + (i0 + i) * cols + j0);
                }
            }
        }

        static constexpr std::int64_t kTile = 16;

        // turned[i][j] = from[i * down + j * across].
        static void turn(const T* from, std::int64_t down, std::int64_t across, std::int64_t height,
                         std::int64_t width, T (*turned)[kTile]) {
            if constexpr (sizeof(T) == 4)
                if (down == 1 && height == kTile && width == kTile) {
                    for (std::int64_t j = 0; j < kTile; j += 4)
                        for (std::int64_t i = 0; i < kTile; i += 4)
                            turn_four(from + i + j * across, across, &turned[i][j]);
                    return;
                }
            for (std::int64_t j = 0; j < width; ++j)
                for (std::int64_t i = 0; i < height; ++i) turned[i][j] = from[i * down + j * across];
        }

        // Four adjacent elements of four lines each, by shuffles that every instruction set has.
        static void turn_four(const T* from, std::int64_t across, T* to) {
            typedef std::uint32_t V __attribute__((vector_size(16)));
            V a[4];
            for (std::int64_t j = 0; j < 4; ++j) std::memcpy(&a[j], from + j * across, sizeof(V));
            const V low01 = __builtin_shufflevector(a[0], a[1], 0, 4, 1, 5);
            const V high01 = __builtin_shufflevector(a[0], a[1], 2, 6, 3, 7);
            const V low23 = __builtin_shufflevector(a[2], a[3], 0, 4, 1, 5);
            const V high23 = __builtin_shufflevector(a[2], a[3], 2, 6, 3, 7);
            a[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
            a[1] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
            a[2] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
            a[3] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
            for (std::int64_t i = 0; i < 4; ++i) std::memcpy(to + i * kTile, &a[i], sizeof(V));
        }

        const DenseRows& source_;
        std::vector<Element> panel_;
        std::int64_t first_ = 0, count_ = 0;
    };

  private:
    TypedView<T> view_;
    std::vector<Element> zeros_;  // a blank row
};

}  // namespace rebasin_fast
