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
            return panel_row(i - first_);
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
            *stride = there != nullptr ? source_.view_.row_stride : pitch();
            if (there != nullptr) return there;
            gather(first, std::min(count, source_.view_.rows - first));
            return panel_row(0);
        }

      private:
        static constexpr bool kAsStored = std::is_same_v<T, Element>;
        static constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(Element));

        // From one row of the panel to the next: whole cache lines, an odd number of them, for lines a power
        // of two apart share a place in the cache.
        std::int64_t pitch() const { return ((source_.cols + kLine - 1) / kLine | 1) * kLine; }

        Element* panel_row(std::int64_t i) {
            const auto misplaced = reinterpret_cast<std::uintptr_t>(panel_.data()) / sizeof(Element) % kLine;
            return panel_.data() + (kLine - static_cast<std::int64_t>(misplaced)) % kLine + i * pitch();
        }

        void gather(std::int64_t first, std::int64_t count) {
            panel_.resize(static_cast<std::size_t>(count * pitch() + kLine));
            first_ = first;
            count_ = count;
            if constexpr (std::is_same_v<T, Half>)
                if (source_.view_.col_stride == 1) return widen_rows();
            turn_all();
        }

        void widen_rows() {
            for (std::int64_t i = 0; i < count_; ++i)
                simd::widen()(&source_.view_.row(first_ + i)->bits, source_.cols, panel_row(i));
        }

        // Copies square by square. No processor foresees lines that lie so far apart, so those of later
        // squares are fetched ahead.
        void turn_all() {
            constexpr std::int64_t ahead = 2 * kTile, line = 64 / static_cast<std::int64_t>(sizeof(T));
            const std::int64_t cols = source_.cols;
            const std::int64_t down = source_.view_.row_stride, across = source_.view_.col_stride;
            const T* data = source_.view_.row(first_);
            for (std::int64_t j0 = 0; j0 < cols; j0 += kTile) {
                const std::int64_t width = std::min(kTile, cols - j0);
                if (down == 1)
                    for (std::int64_t j = j0 + ahead; j < std::min(j0 + ahead + kTile, cols); ++j)
                        for (std::int64_t i = 0; i < count_; i += line)
                            __builtin_prefetch(data + j * across + i);
                for (std::int64_t i0 = 0; i0 < count_; i0 += kTile)
                    turn(data + i0 * down + j0 * across, std::min(kTile, count_ - i0), width,
                         panel_row(i0) + j0);
            }
        }

        static constexpr std::int64_t kTile = simd::kTurned;

        void turn(const T* from, std::int64_t height, std::int64_t width, Element* to) const {
            const std::int64_t down = source_.view_.row_stride, across = source_.view_.col_stride;
            if constexpr (kAsStored)
                if (down == 1 && height == kTile && width == kTile)
                    return simd::kernels<T>().turn(from, across, to, pitch());
            for (std::int64_t j = 0; j < width; ++j)
                for (std::int64_t i = 0; i < height; ++i) to[i * pitch() + j] = from[i * down + j * across];
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
