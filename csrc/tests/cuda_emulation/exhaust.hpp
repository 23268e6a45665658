// Device memory that runs out at every step in turn.
#pragma once

#include "cuda/runtime.hpp"
#include "tests/check.hpp"
#include "tests/cuda_emulation/machine.hpp"

namespace rebasin_fast::cuda {

// Calls `act` with memory for no allocation, for one, for two, until it is enough. Every call that lacks
// memory must say so, and no call may keep any. Returns how many lacked it.
template <class Act>
int allocations_refused(Act act) {
    int steps = 0;
    for (;; ++steps) {
        emulation::settings().allocations_left = steps;
        bool refused = false;
        try {
            act();
        } catch (const Error& error) {
            refused = error.out_of_memory;
        }
        CHECK(emulation::live_allocations() == 0);
        if (!refused) break;
    }
    emulation::settings().allocations_left = -1;
    return steps;
}

}  // namespace rebasin_fast::cuda
