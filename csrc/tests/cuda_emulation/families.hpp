// Costs of every kind for the emulated solvers, and the check of an answer against the CPU's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cuda/device_matrix.hpp"
#include "lap/lap.hpp"
#include "tests/check.hpp"

namespace rebasin_fast::testing {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
using Random = std::mt19937_64;

inline double unit(Random& random) {
    return std::uniform_real_distribution<double>()(random);
}

// One entry of an (n, m) matrix of some family.
using Entry = std::function<double(int i, int j)>;
struct Family {
    const char* name;
    std::function<Entry(Random&, int n, int m)> make;
};

inline std::vector<double> draws(Random& random, int count) {
    std::vector<double> x(static_cast<std::size_t>(count));
    for (double& value : x) value = std::normal_distribution<double>()(random);
    return x;
}

inline const std::vector<Family>& families() {
    static const std::vector<Family> all = {
        {"uniform", [](Random& r, int, int) { return [&r](int, int) { return unit(r); }; }},
        {"integers",
         [](Random& r, int, int) { return [&r](int, int) { return std::floor(100 * unit(r)) - 20; }; }},
        {"ties", [](Random& r, int, int) { return [&r](int, int) { return std::round(unit(r)); }; }},
        {"constant", [](Random&, int, int) { return [](int, int) { return 3.0; }; }},
        {"block ties",
         [](Random& r, int n, int) {
             std::vector<double> x = draws(r, n * n);
             return
                 [x](int i, int j) { return std::floor(3 * std::abs(x[std::size_t(i / 8 * 13 + j / 8)])); };
         }},
        {"Machol-Wien", [](Random&, int, int) { return [](int i, int j) { return (i + 1.0) * (j + 1.0); }; }},
        {"low rank",
         [](Random& r, int n, int m) {
             std::vector<double> a = draws(r, 3 * n), b = draws(r, 3 * m);
             return [a, b](int i, int j) {
                 const auto x = std::size_t(3 * i), y = std::size_t(3 * j);
                 return -(a[x] * b[y] + a[x + 1] * b[y + 1] + a[x + 2] * b[y + 2]);
             };
         }},
        {"equal rows",
         [](Random& r, int, int m) {
             std::vector<double> x = draws(r, m);
             return [x](int, int j) { return x[std::size_t(j)]; };
         }},
        {"planted", [](Random& r, int n,
                       int) { return [&r, n](int i, int j) { return j == (7 * i + 3) % n ? 0 : unit(r); }; }},
        {"heavy tails",
         [](Random& r, int, int) { return [&r](int, int) { return std::tan(3.1 * (unit(r) - 0.5)); }; }},
        {"half forbidden",
         [](Random& r, int, int) {
             return [&r](int i, int j) { return i == j ? 5.0 : unit(r) < 0.5 ? kInf : unit(r); };
         }},
        {"one permutation",
         [](Random&, int n, int) { return [n](int i, int j) { return j == n - 1 - i ? i + 1.0 : kInf; }; }}};
    return all;
}

// A matrix in some element type and layout, as a device holds it. The memory ends where the matrix ends.
struct Stored {
    cuda::Element type;
    int rows, cols;
    std::vector<double> values;  // row by row, after rounding to the type
    std::vector<unsigned char> bytes;
    cuda::DeviceMatrix view;

    MatrixView on_cpu() const { return {values.data(), ElementType::f64, rows, cols, cols, 1}; }
};

inline std::size_t size_of(cuda::Element type) {
    switch (type) {
        case cuda::Element::f64:
            return 8;
        case cuda::Element::f32:
        case cuda::Element::i32:
            return 4;
        case cuda::Element::i8:
        case cuda::Element::u8:
            return 1;
        default:
            return 2;
    }
}

inline bool integral(cuda::Element type) {
    return cuda::is_integral(type);
}

// float to bfloat16 and float16 by cutting off: any value of the type will do.
inline std::uint16_t cut(float x, cuda::Element type) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (type == cuda::Element::bf16) return static_cast<std::uint16_t>(bits >> 16);
    const std::uint32_t sign = bits >> 16 & 0x8000u;
    const int exponent = static_cast<int>(bits >> 23 & 0xffu) - 112;
    if ((bits & 0x7fffffffu) == 0x7f800000u || exponent >= 31)
        return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (exponent <= 0) {  // denormal: a multiple of 2^-24
        const double units = std::floor(std::abs(static_cast<double>(x)) * 0x1p24);
        return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(units));
    }
    return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(exponent) << 10 |
                                      (bits >> 13 & 0x3ffu));
}

inline double widened(std::uint16_t bits, cuda::Element type) {
    if (type == cuda::Element::bf16) {
        const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
        float x;
        std::memcpy(&x, &wide, 4);
        return x;
    }
    const double sign = bits & 0x8000 ? -1 : 1;
    const int exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
    if (exponent == 31) return fraction ? std::nan("") : sign * kInf;
    return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

// Writes `x` in the type; returns what it has become.
inline double put(double x, cuda::Element type, unsigned char* to) {
    const auto as = [to](auto value) {
        std::memcpy(to, &value, sizeof(value));
        return static_cast<double>(value);
    };
    switch (type) {
        case cuda::Element::f64:
            return as(x);
        case cuda::Element::i32:
            return as(static_cast<std::int32_t>(x));
        case cuda::Element::i8:
            return as(static_cast<std::int8_t>(x));
        case cuda::Element::u8:
            return as(static_cast<std::uint8_t>(x));
        case cuda::Element::i16:
            return as(static_cast<std::int16_t>(x));
        case cuda::Element::f32:
            return as(static_cast<float>(x));
        default: {
            const std::uint16_t bits = cut(static_cast<float>(x), type);
            std::memcpy(to, &bits, 2);
            return widened(bits, type);
        }
    }
}

enum class Layout { rows, columns, backwards };

inline Stored stored(const Entry& entry, cuda::Element type, int rows, int cols, Layout layout) {
    Stored s{type, rows, cols, {}, {}, {}};
    const std::size_t size = size_of(type), count = std::size_t(rows) * std::size_t(cols);
    s.values.resize(count);
    s.bytes.resize(count * size);
    std::int64_t row_stride = layout == Layout::columns ? 1 : cols, start = 0;
    std::int64_t col_stride = layout == Layout::columns ? rows : 1;
    if (layout == Layout::backwards) {
        row_stride = -row_stride;
        col_stride = -col_stride;
        start = static_cast<std::int64_t>(count) - 1;
    }
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < cols; ++j) {
            const auto at = static_cast<std::size_t>(start + i * row_stride + j * col_stride);
            s.values[std::size_t(i) * std::size_t(cols) + std::size_t(j)] =
                put(entry(i, j), type, s.bytes.data() + at * size);
        }
    s.view = {
        s.bytes.data() + static_cast<std::size_t>(start) * size, type, rows, cols, row_stride, col_stride};
    return s;
}

// Room for an answer.
struct Room {
    std::vector<std::int64_t> row_ind, col_ind;
    std::vector<double> u, v;
    double cost = std::nan(""), gap = std::nan("");

    Room(int rows, int cols)
        : row_ind(std::size_t(std::min(rows, cols)), -1),
          col_ind(row_ind),
          u(std::size_t(rows), std::nan("")),
          v(std::size_t(cols), std::nan("")) {}
    cuda::DeviceAnswer view() { return {row_ind.data(), col_ind.data(), u.data(), v.data(), &cost, &gap}; }
};

// The answer against the CPU's and against its own proof, which reads the whole matrix.
inline void check_answer(const Stored& s, bool maximize, const Room& got, const std::string& context) {
    Options options;
    options.maximize = maximize;
    const Result want = solve(s.on_cpu(), options);
    CHECK_WITH(want.status == Status::optimal, context);
    long double best = 0.0, total = 0.0;
    std::vector<char> used(std::size_t(s.cols), 0);
    for (std::size_t k = 0; k < got.row_ind.size(); ++k) {
        const std::int64_t i = got.row_ind[k], j = got.col_ind[k];
        const bool valid = i >= 0 && i < s.rows && j >= 0 && j < s.cols && !used[std::size_t(j)] &&
                           (k == 0 || got.row_ind[k - 1] < i);
        CHECK_WITH(valid, context);
        if (!valid) return;
        used[std::size_t(j)] = 1;
        total += s.values[std::size_t(i * s.cols + j)];
        best += s.values[std::size_t(want.row_ind[k] * s.cols + want.col_ind[k])];
    }
    const Proof proof = prove(s.on_cpu(), maximize, got.row_ind, got.col_ind, got.u.data(), got.v.data());
    const double tolerance = 1e-14 * proof.scale;
    CHECK_WITH(
        proof.gap <= tolerance && proof.violation <= tolerance,
        context + " gap " + std::to_string(proof.gap) + " violation " + std::to_string(proof.violation));
    CHECK_WITH(got.gap >= 0.0 && got.gap <= tolerance, context + " says gap " + std::to_string(got.gap));
    CHECK_WITH(std::abs(total - best) <= tolerance, context);
    CHECK_WITH(std::abs(got.cost - total) <= tolerance || got.cost == static_cast<double>(total), context);
    if (integral(s.type)) CHECK_WITH(got.cost == total, context);
}

}  // namespace rebasin_fast::testing
