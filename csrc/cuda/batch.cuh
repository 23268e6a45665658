// solve_batch(): problems are sorted into groups that one launch serves. solve_stack(): one launch serves
// all.
#pragma once

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "cuda/batch.hpp"
#include "cuda/block_solver.cuh"
#include "cuda/pack.cuh"

namespace rebasin_fast::cuda {

// A problem turned so that rows <= cols.
struct BlockTask {
    DeviceMatrix costs;
    DeviceAnswer answer;
    bool turned;
    int index;  // among all problems
};

// The tasks of a launch: listed in device memory, or a stack, which is not listed: to write thousands of
// tasks down and to send them would take longer than to solve small ones.
struct Tasks {
    const BlockTask* listed = nullptr;
    BlockTask first{};  // of a stack; the others follow at these distances:
    std::int64_t bytes_apart = 0;
    std::int64_t pairs = 0, row_duals = 0, col_duals = 0;

    __host__ __device__ BlockTask of(int k) const {
        if (listed != nullptr) return listed[k];
        BlockTask task = first;
        task.index = k;
        task.costs.data = static_cast<const unsigned char*>(first.costs.data) + k * bytes_apart;
        task.answer.row_ind += k * pairs;
        task.answer.col_ind += k * pairs;
        if (task.answer.row_duals != nullptr) task.answer.row_duals += k * row_duals;
        if (task.answer.col_duals != nullptr) task.answer.col_duals += k * col_duals;
        task.answer.cost += k;
        task.answer.gap += k;
        return task;
    }
};

// Copies the matrix into shared memory, whatever its elements and strides, as contiguous rows.
template <class S>
__device__ inline void stage(const DeviceMatrix& from, S* to) {
    const auto count = static_cast<int>(from.rows * from.cols);
    const auto rows = static_cast<int>(from.rows), cols = static_cast<int>(from.cols);
    const bool by_columns = (from.row_stride < 0 ? -from.row_stride : from.row_stride) <
                            (from.col_stride < 0 ? -from.col_stride : from.col_stride);
    for (int k = static_cast<int>(threadIdx.x); k < count; k += static_cast<int>(blockDim.x)) {
        const int i = by_columns ? k % rows : k / cols, j = by_columns ? k / rows : k % cols;
        to[i * cols + j] = load_as<S>(from.data, from.type, i * from.row_stride + j * from.col_stride);
    }
}

// Threads of a block at most, and such blocks that a multiprocessor has registers for: with more of either a
// thread would have too few, with less a warp alone, which wants none of its neighbours, would take too many.
inline constexpr int kMostSolving = 256, kSolvingTogether = 4;

// One block, one problem. `factor` is 1 or -1, times a power of two where sums could overflow. Matrix and
// matching lie in shared memory (`staged`), or the matching alone, or neither (`workspace`: `apart` bytes a
// problem). The flaws of all go to *any_flaws as well, if that is there.
template <class S>
__global__ void __launch_bounds__(kMostSolving, kSolvingTogether)
    solve_tasks(Tasks tasks, double factor, double largest, bool staged, unsigned char* workspace,
                std::size_t apart, int* status, int* any_flaws) {
    const int which = static_cast<int>(blockIdx.x);
    const DeviceMatrix given = tasks.of(which).costs;
    const auto rows = static_cast<int>(given.rows), cols = static_cast<int>(given.cols);
    unsigned char* memory = workspace != nullptr ? workspace + blockIdx.x * apart : dynamic_shared();
    const std::size_t matching_bytes = (Matching::bytes(rows, cols) + 7) / 8 * 8;
    Costs<S> costs{static_cast<const S*>(given.data), given.row_stride, factor, rows, cols};
    if (staged) {
        S* copy = reinterpret_cast<S*>(memory + matching_bytes);
        stage(given, copy);
        costs.data = copy;
        costs.row_stride = cols;
        __syncthreads();
    }
    const Matching matching = Matching::in(memory, rows, cols);
    BlockSolver<Costs<S>> solver(costs, matching);
    int flaws = solver.start(largest);
    if (flaws == 0) {
        constexpr int bids_per_row = 3;
        solver.reduce_rows(bids_per_row * rows);
        int next = 0;
        if (!solver.augment(&next, rows)) flaws = kInfeasible;
    }
    const BlockTask task = tasks.of(which);  // again: to keep it would take registers all the while
    if (threadIdx.x == 0) status[task.index] = flaws;
    if (flaws != 0) {
        if (threadIdx.x == 0 && any_flaws != nullptr) atomicOr(any_flaws, flaws);
        return;
    }
    const DeviceAnswer& to = task.answer;
    const double back = 1.0 / factor;
    double* const u = task.turned ? to.col_duals : to.row_duals;
    double* const v = task.turned ? to.row_duals : to.col_duals;
    double mine = 0.0;
    const double gap = solver.prove([&](int i, double least, double element) {
        mine += element;
        if (u != nullptr) u[i] = least * back;
    });
    const double total = solver.sum(mine);
    if (v != nullptr)
        for (int j = static_cast<int>(threadIdx.x); j < cols; j += static_cast<int>(blockDim.x))
            v[j] = matching.v[j] * back;
    if (threadIdx.x == 0) {
        *to.cost = total;
        *to.gap = gap * (back < 0.0 ? -back : back);
    }
    write_cells(matching, rows, cols, task.turned, to);
}

// Tasks on their way to the device: they live until the stream has been waited for.
class SentTasks {
  public:
    explicit SentTasks(Stream stream) : stream_(stream) {}
    ~SentTasks() {
        try {
            synchronize(stream_);
        } catch (const Error&) {  // whoever waits next is told
        }
    }
    SentTasks(const SentTasks&) = delete;
    SentTasks& operator=(const SentTasks&) = delete;

    const std::vector<BlockTask>& keep(std::vector<BlockTask> tasks) {
        kept_.push_back(std::move(tasks));
        return kept_.back();
    }

  private:
    const Stream stream_;
    std::deque<std::vector<BlockTask>> kept_;
};

template <class S>
class TaskGroup {
  public:
    TaskGroup(std::vector<BlockTask> tasks, unsigned threads, bool staged)
        : tasks_(std::move(tasks)), threads_(threads), staged_(staged) {}

    void run(double factor, bool guarded, int* status, SentTasks* sent, Stream stream) {
        std::vector<Buffer<S>> packed;
        std::size_t matching = 0, whole = 0;
        std::int64_t rows = 1;
        for (BlockTask& task : tasks_) {
            if (!staged_ && !lies_ready<S>(task.costs)) {
                packed.emplace_back(task.costs.rows * task.costs.cols, stream);
                pack(task.costs, packed.back().get(), stream);
                task.costs = {packed.back().get(), task.costs.type, task.costs.rows,
                              task.costs.cols,     task.costs.cols, 1};
            }
            const std::size_t bytes = (Matching::bytes(task.costs.rows, task.costs.cols) + 7) / 8 * 8;
            matching = std::max(matching, bytes);
            whole = std::max(whole,
                             bytes + static_cast<std::size_t>(task.costs.rows * task.costs.cols) * sizeof(S));
            rows = std::max(rows, task.costs.rows);
        }
        const std::size_t shared = staged_ ? whole : matching;
        const bool apart = shared > usable_shared_memory();
        const auto count = static_cast<std::int64_t>(tasks_.size());
        Buffer<unsigned char> workspace(apart ? count * static_cast<std::int64_t>(matching) : 0, stream);
        Buffer<BlockTask> on_device(count, stream);
        on_device.upload(sent->keep(std::move(tasks_)).data());
        Tasks tasks;
        tasks.listed = on_device.get();
        launch(solve_tasks<S>,
               {dim3(static_cast<unsigned>(count)), dim3(threads_), apart ? std::size_t{0} : shared}, stream,
               tasks, factor, overflow_limit(rows, guarded), staged_, workspace.get(), matching, status,
               static_cast<int*>(nullptr));
    }

    // Some is needed for what the reductions exchange.
    static std::size_t usable_shared_memory() { return shared_memory_limit() - (std::size_t{4} << 10); }

  private:
    std::vector<BlockTask> tasks_;
    const unsigned threads_;
    const bool staged_;
};

// Enough threads for a few columns each: a warp for the smallest, which needs no barrier.
inline unsigned threads_for(std::int64_t cols) {
    if (cols <= 64) return 32;
    return cols <= 512 ? 128 : kMostSolving;
}

template <class S>
bool fits_staged(const DeviceMatrix& costs, std::size_t usable) {
    return Matching::bytes(costs.rows, costs.cols) + 8 +
               static_cast<std::size_t>(costs.rows) * static_cast<std::size_t>(costs.cols) * sizeof(S) <=
           usable;
}

template <class S>
void run_tasks(const std::vector<BlockTask>& tasks, double factor, bool guarded, int* status, SentTasks* sent,
               Stream stream) {
    if (tasks.empty()) return;
    std::map<std::pair<unsigned, bool>, std::vector<BlockTask>> groups;
    const std::size_t usable = TaskGroup<S>::usable_shared_memory();  // asked once: there may be thousands
    for (const BlockTask& task : tasks)
        groups[{threads_for(task.costs.cols), fits_staged<S>(task.costs, usable)}].push_back(task);
    for (auto& [key, members] : groups)
        TaskGroup<S>(std::move(members), key.first, key.second).run(factor, guarded, status, sent, stream);
}

inline std::vector<Outcome> outcomes_of(const std::vector<int>& flaws) {
    std::vector<Outcome> outcomes;
    for (const int flaw : flaws)
        outcomes.push_back(flaw & kInvalid      ? Outcome::invalid_entry
                           : flaw & kInfeasible ? Outcome::infeasible
                                                : Outcome::optimal);
    return outcomes;
}

inline Tasks stacked(const BatchStack& stack) {
    const DeviceMatrix& costs = stack.first.costs;
    Tasks tasks;
    tasks.first = {costs, stack.first.answer, false, 0};
    tasks.bytes_apart = stack.elements_apart * static_cast<std::int64_t>(bytes_of(costs.type));
    tasks.pairs = std::min(costs.rows, costs.cols);
    tasks.row_duals = costs.rows;
    tasks.col_duals = costs.cols;
    return tasks;
}

inline std::vector<Outcome> solve_batch_on(const std::vector<BatchProblem>& problems, bool maximize,
                                           Stream stream) {
    std::vector<BlockTask> floats, doubles, ints;
    for (std::size_t k = 0; k < problems.size(); ++k) {
        const DeviceMatrix& costs = problems[k].costs;
        const bool turned = costs.rows > costs.cols;
        auto& list = is_double(costs.type) ? doubles : is_int32(costs.type) ? ints : floats;
        list.push_back(
            {turned ? costs.transposed() : costs, problems[k].answer, turned, static_cast<int>(k)});
    }
    const double sign = maximize ? -1.0 : 1.0;
    Buffer<int> status(static_cast<std::int64_t>(problems.size()), stream);
    SentTasks sent(stream);
    run_tasks<float>(floats, sign, false, status.get(), &sent, stream);
    run_tasks<std::int32_t>(ints, sign, false, status.get(), &sent, stream);
    run_tasks<double>(doubles, sign, false, status.get(), &sent, stream);
    std::vector<int> flaws = status.on_host();
    std::vector<BlockTask> again;
    for (const BlockTask& task : doubles)
        if (flaws[static_cast<std::size_t>(task.index)] == kOverflows) again.push_back(task);
    if (!again.empty()) {
        constexpr double guard = 0x1p-64;
        run_tasks<double>(again, sign * guard, true, status.get(), &sent, stream);
        flaws = status.on_host();
    }
    return outcomes_of(flaws);
}

inline std::vector<BatchProblem> unstacked(const BatchStack& stack) {
    std::vector<BatchProblem> problems;
    const Tasks tasks = stacked(stack);
    for (std::int64_t k = 0; k < stack.count; ++k) {
        const BlockTask task = tasks.of(static_cast<int>(k));
        problems.push_back({task.costs, task.answer});
    }
    return problems;
}

// Nothing where a launch cannot serve all as they lie, or costs are so large that they must be scaled.
template <class S>
std::optional<std::vector<Outcome>> solve_at_once(const BatchStack& stack, double sign, Stream stream) {
    const bool turned = stack.first.costs.rows > stack.first.costs.cols;
    Tasks tasks = stacked(stack);
    tasks.first.turned = turned;
    if (turned) tasks.first.costs = tasks.first.costs.transposed();
    const DeviceMatrix& costs = tasks.first.costs;
    const std::size_t usable = TaskGroup<S>::usable_shared_memory();
    const bool staged = fits_staged<S>(costs, usable);
    const std::size_t matching = (Matching::bytes(costs.rows, costs.cols) + 7) / 8 * 8;
    if (!staged && (!lies_ready<S>(costs) || matching > usable)) return std::nullopt;
    Buffer<int> status(stack.count + 1, stream);  // of each, and of all
    int* const any = status.get() + stack.count;
    fill_bytes(any, 0, sizeof *any, stream);
    const std::size_t matrix = static_cast<std::size_t>(costs.rows * costs.cols) * sizeof(S);
    launch(solve_tasks<S>,
           {dim3(static_cast<unsigned>(stack.count)), dim3(threads_for(costs.cols)),
            matching + (staged ? matrix : 0)},
           stream, tasks, sign, overflow_limit(costs.rows, false), staged,
           static_cast<unsigned char*>(nullptr), std::size_t{0}, status.get(), any);
    int flaws = 0;
    copy_to_host(&flaws, any, sizeof flaws, stream);
    if (flaws == 0) return std::vector<Outcome>(static_cast<std::size_t>(stack.count), Outcome::optimal);
    if (flaws & kOverflows) return std::nullopt;
    std::vector<int> each = status.on_host();
    each.pop_back();
    return outcomes_of(each);
}

inline std::vector<Outcome> solve_stack_on(const BatchStack& stack, bool maximize, Stream stream) {
    const double sign = maximize ? -1.0 : 1.0;
    const Element type = stack.first.costs.type;
    std::optional<std::vector<Outcome>> found;
    if (stack.count < std::int64_t{1} << 31)
        found = is_double(type)  ? solve_at_once<double>(stack, sign, stream)
                : is_int32(type) ? solve_at_once<std::int32_t>(stack, sign, stream)
                                 : solve_at_once<float>(stack, sign, stream);
    return found ? *found : solve_batch_on(unstacked(stack), maximize, stream);
}

}  // namespace rebasin_fast::cuda
