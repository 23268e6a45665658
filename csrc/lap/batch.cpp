#include "lap/batch.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <type_traits>

#include "lap/crew.hpp"
#include "lap/small.hpp"

namespace rebasin_fast {
namespace {

// A thread takes as long to start as this much work does: some 0.1 ms.
constexpr double kWorkPerThread = 1 << 20;

// What helpers learn of an interruption.
class Flag final : public Interrupt {
  public:
    bool requested() override { return raised_.load(std::memory_order_relaxed); }
    void raise() { raised_.store(true, std::memory_order_relaxed); }

  private:
    std::atomic<bool> raised_{false};
};

// The calling thread asks, and passes the answer on.
class AskAndTell final : public Interrupt {
  public:
    AskAndTell(Interrupt* asked, Flag* flag) : asked_(asked), flag_(flag) {}
    bool requested() override {
        if (asked_ != nullptr && !flag_->requested() && asked_->requested()) flag_->raise();
        return flag_->requested();
    }

  private:
    Interrupt* const asked_;
    Flag* const flag_;
};

// The part of a BatchAnswer that belongs to one problem.
struct Slot {
    std::int64_t* row_ind;
    std::int64_t* col_ind;
    void* cost;
    void* row_duals;
    void* col_duals;
    double* gap;
};

// How many cells the problems before one take up.
struct Offset {
    std::int64_t pairs, rows, cols;
};

std::int64_t pairs_of(const MatrixView& cost) {
    return std::min(cost.rows, cost.cols);
}

double work_of(const MatrixView& cost) {
    const auto shorter = static_cast<double>(pairs_of(cost));
    return shorter * shorter * static_cast<double>(std::max(cost.rows, cost.cols));
}

std::vector<Offset> offsets_of(const std::vector<MatrixView>& costs) {
    std::vector<Offset> offsets;
    offsets.reserve(costs.size());
    Offset next{0, 0, 0};
    for (const MatrixView& cost : costs) {
        offsets.push_back(next);
        next.pairs += pairs_of(cost);
        next.rows += cost.rows;
        next.cols += cost.cols;
    }
    return offsets;
}

// The largest first: one that is begun last would leave the other threads idle.
std::vector<std::size_t> order_of(const std::vector<MatrixView>& costs) {
    std::vector<std::size_t> order(costs.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto earlier = [&](std::size_t a, std::size_t b) {
        const auto of_a = work_of(costs[a]), of_b = work_of(costs[b]);
        return of_a != of_b ? of_a > of_b : a < b;
    };
    if (!std::is_sorted(order.begin(), order.end(), earlier)) std::sort(order.begin(), order.end(), earlier);
    return order;
}

// Cells are untyped memory of 8 bytes each.
void* cell(void* cells, std::int64_t k) {
    static_assert(sizeof(double) == 8 && sizeof(std::int64_t) == 8);
    return static_cast<char*>(cells) + 8 * k;
}

template <class T>
void store(const T& value, void* cells, std::int64_t k = 0) {
    std::memcpy(cell(cells, k), &value, sizeof value);
}

void store_all(const std::vector<std::int64_t>& values, void* cells) {
    if (!values.empty()) std::memcpy(cells, values.data(), 8 * values.size());
}

// Duals of integer costs are integers, in whichever arithmetic they were found.
void store_all(const std::vector<double>& values, bool as_integers, void* cells) {
    if (values.empty()) return;
    std::memcpy(cells, values.data(), 8 * values.size());
    if (!as_integers) return;
    for (std::size_t k = 0; k < values.size(); ++k)
        store(static_cast<std::int64_t>(values[k]), cells, static_cast<std::int64_t>(k));
}

// The sum of the chosen cells, to float64's last bit but for rare ties.
template <class T>
bool store_cost(const TypedView<T>& cost, const Slot& slot) {
    const std::int64_t n = std::min(cost.rows, cost.cols);
    if constexpr (std::is_floating_point_v<Widened<T>>) {
        double sum = 0.0, lost = 0.0;  // what rounding took away from `sum`
        for (std::int64_t k = 0; k < n; ++k) {
            const double x = cost.at(slot.row_ind[k], slot.col_ind[k]);
            const double next = sum + x, taken = next - sum;
            lost += (sum - (next - taken)) + (x - taken);
            sum = next;
        }
        store(std::isfinite(sum) ? sum + lost : sum, slot.cost);
        return true;
    } else {
        int128 sum = 0;
        for (std::int64_t k = 0; k < n; ++k) sum += cost.at(slot.row_ind[k], slot.col_ind[k]);
        store(static_cast<std::int64_t>(sum), slot.cost);
        return static_cast<std::int64_t>(sum) == sum;
    }
}

// Where duals are to be integers, the general way converts them.
bool for_the_small_solver(const MatrixView& cost, const Options& options) {
    return options.method == Method::automatic && small_enough(cost) &&
           !(options.with_duals && has_integer_duals(cost.type));
}

// Nothing when it declines.
std::optional<Status> solve_as_small(const MatrixView& cost, const Options& options, const Slot& slot) {
    SmallAnswer answer{slot.row_ind, slot.col_ind};
    if (options.with_duals) {
        answer.row_duals = static_cast<double*>(slot.row_duals);
        answer.col_duals = static_cast<double*>(slot.col_duals);
    }
    const std::optional<Status> status = solve_small(cost, options.maximize, &answer);
    if (options.with_duals) *slot.gap = answer.gap;
    return status;
}

BatchStatus solve_as_any(const MatrixView& cost, const Options& options, const Slot& slot) {
    const Result result = solve(cost, options);
    BatchStatus found{result.status, false, result.duals.overflow};
    if (result.status != Status::optimal) return found;
    std::copy(result.row_ind.begin(), result.row_ind.end(), slot.row_ind);
    std::copy(result.col_ind.begin(), result.col_ind.end(), slot.col_ind);
    if (!options.with_duals) return found;
    *slot.gap = result.gap;
    if (result.stats.exact_integers) {
        store_all(result.duals.exact_row, slot.row_duals);
        store_all(result.duals.exact_col, slot.col_duals);
    } else {
        store_all(result.duals.row, has_integer_duals(cost.type), slot.row_duals);
        store_all(result.duals.col, has_integer_duals(cost.type), slot.col_duals);
    }
    return found;
}

// The one place where a problem of a batch is solved.
BatchStatus solve_into(const MatrixView& cost, const Options& options, const Slot& slot) {
    BatchStatus found;
    Options general = options;
    general.ask_small = !for_the_small_solver(cost, options);
    std::optional<Status> status;
    if (!general.ask_small) status = solve_as_small(cost, options, slot);
    if (status)
        found.status = *status;
    else
        found = solve_as_any(cost, general, slot);
    if (found.status == Status::optimal)
        found.cost_overflow = !visit(cost, [&](const auto& view) { return store_cost(view, slot); });
    return found;
}

// The threads, and how they are spread: as many as there are problems, and where there are more of them, the
// larger problems get several inside.
struct Plan {
    int crew, spare;

    Plan(const std::vector<MatrixView>& costs, int threads) {
        double work = 0.0;
        for (const MatrixView& cost : costs) work += work_of(cost);
        const double worth = std::min(1.0 + work / kWorkPerThread, static_cast<double>(threads));
        const auto problems = static_cast<double>(std::max<std::size_t>(costs.size(), 1));
        crew = static_cast<int>(std::min(worth, problems));
        spare = static_cast<int>(worth) - crew;
    }

    int threads_inside(std::int64_t rank) const {
        return 1 + (spare + crew - 1 - static_cast<int>(rank)) / crew;
    }
};

Slot slot_of(const BatchAnswer& answer, const Offset& offset, std::int64_t problem, bool with_duals) {
    Slot slot{answer.row_ind + offset.pairs,
              answer.col_ind + offset.pairs,
              cell(answer.cost, problem),
              nullptr,
              nullptr,
              nullptr};
    if (with_duals) {
        slot.row_duals = cell(answer.row_duals, offset.rows);
        slot.col_duals = cell(answer.col_duals, offset.cols);
        slot.gap = answer.gap + problem;
    }
    return slot;
}

}  // namespace

bool has_integer_cost(ElementType type) {
    return type != ElementType::f16 && type != ElementType::f32 && type != ElementType::f64;
}

bool has_integer_duals(ElementType type) {
    return type == ElementType::i64 || type == ElementType::u64;
}

std::vector<BatchStatus> solve_batch(const std::vector<MatrixView>& costs, const Options& options,
                                     const BatchAnswer& answer) {
    std::vector<BatchStatus> found(costs.size());
    const std::vector<Offset> offsets = offsets_of(costs);
    const std::vector<std::size_t> order = order_of(costs);
    const Plan plan(costs, options.threads);
    Flag flag;
    AskAndTell caller(options.interrupt, &flag);
    Crew crew(plan.crew);
    const auto solve_one = [&](int worker, std::int64_t rank) {
        const std::size_t b = order[static_cast<std::size_t>(rank)];
        Options own = options;
        own.col_duals = nullptr;
        own.interrupt = worker == 0 ? static_cast<Interrupt*>(&caller) : &flag;
        own.threads = plan.spare == 0 ? 1 : plan.threads_inside(rank);
        const Slot slot = slot_of(answer, offsets[b], static_cast<std::int64_t>(b), options.with_duals);
        if (own.interrupt->requested())
            found[b].status = Status::interrupted;
        else
            found[b] = solve_into(costs[b], own, slot);
    };
    crew.for_each(static_cast<std::int64_t>(costs.size()), solve_one, [&] { caller.requested(); });
    return found;
}

}  // namespace rebasin_fast
