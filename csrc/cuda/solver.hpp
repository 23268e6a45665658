// One large problem on the device.
#pragma once

#include <cstdint>

#include "cuda/batch.hpp"
#include "cuda/device_matrix.hpp"
#include "cuda/runtime.hpp"
#include "lap/lap.hpp"

namespace rebasin_fast::cuda {

struct SolveOptions {
    bool maximize = false;
    const double* col_duals = nullptr;  // (cols,) on the device, finite: prices to start from
    Interrupt* interrupt = nullptr;
    // Up to this many rows, and 16 times as many columns, one block solves a problem. Tests set it to 0.
    std::int64_t for_a_block = 256;
    // So many bidders at most are left to one block.
    int few_bidders = 256;
    // Whether the last free rows are matched on the host, by paths on the lists. Tests try both ways.
    bool paths_on_host = true;
    // For these the host may ask for so many rows before it gets fresh lists, then twice as many, and so on;
    // 0: a share of all. A matrix of more bytes than that is never brought over as a whole.
    std::int64_t first_reads = 0, most_host_bytes = std::int64_t{2} << 30;
};

struct SolveStats {
    std::int64_t row_scans = 0;      // how often a whole row was read
    std::int64_t rounds = 0;         // of bidding
    std::int64_t augmentations = 0;  // rows matched by paths
    bool by_a_block = false;
};

struct SolveOutcome {
    Status status = Status::optimal;
    SolveStats stats;
};

// Solves the problem exactly, on `stream`, and waits for it; the answer stays on the device. Of a problem
// that is not optimal nothing is written. Nothing is empty. Throws Error.
SolveOutcome solve(const DeviceMatrix& costs, const DeviceAnswer& answer, const SolveOptions& options,
                   Stream stream);

}  // namespace rebasin_fast::cuda
