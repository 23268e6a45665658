// Ctrl-C while the solver runs without the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>

#include "lap/lap.hpp"

namespace rebasin_fast {

// Runs Python's signal handlers now and then, in the thread that made it. Once `requested()`, a Python
// exception is set: throw pybind11::error_already_set when the GIL is held again.
class PythonSignals final : public Interrupt {
  public:
    bool requested() override {
        const auto now = Clock::now();
        if (raised_ || now < next_) return raised_;
        next_ = now + kPeriod;
        const pybind11::gil_scoped_acquire gil;
        raised_ = PyErr_CheckSignals() != 0;
        return raised_;
    }

  private:
    using Clock = std::chrono::steady_clock;

    // Short for whoever waits at a terminal, long for a GIL that others may hold.
    static constexpr std::chrono::milliseconds kPeriod{50};

    Clock::time_point next_ = Clock::now() + kPeriod;
    bool raised_ = false;
};

}  // namespace rebasin_fast
