// The device memory of a ListState.
#pragma once

#include "cuda/list_state.cuh"
#include "cuda/row_source.cuh"

namespace rebasin_fast::cuda {

template <class S>
class ListMemory {
  public:
    ListMemory(const RowSource<S>& source, Stream stream)
        : ListMemory(source, source.costs().rows, source.costs().cols, stream) {}

    ListState<S> state{};

  private:
    ListMemory(const RowSource<S>& source, std::int64_t rows, std::int64_t cols, Stream stream)
        : matching_(static_cast<std::int64_t>(Matching::bytes(rows, cols)), stream),
          list_columns_(rows * kListed, stream),
          list_costs_(rows * kListed, stream),
          list_size_(rows, stream),
          list_bound_(rows, stream),
          fresh_(rows, stream),
          queues_(3 * rows, stream),
          bid_column_(rows, stream),
          winner_(cols, stream),
          bid_key_(rows, stream),
          best_bid_(cols, stream),
          control_(1, stream) {
        control_.fill_with_byte(0);
        state.costs = source.costs();
        state.factors = source.factors();
        state.matching = Matching::in(matching_.get(), static_cast<int>(rows), static_cast<int>(cols));
        state.list_columns = list_columns_.get();
        state.list_costs = list_costs_.get();
        state.list_size = list_size_.get();
        state.list_bound = list_bound_.get();
        state.fresh = fresh_.get();
        state.queues = queues_.get();
        state.stale = queues_.get() + 2 * rows;
        state.bid_column = bid_column_.get();
        state.bid_key = bid_key_.get();
        state.best_bid = best_bid_.get();
        state.winner = winner_.get();
        state.control = control_.get();
    }

    Buffer<unsigned char> matching_;
    Buffer<int> list_columns_;
    Buffer<S> list_costs_;
    Buffer<int> list_size_;
    Buffer<double> list_bound_;
    Buffer<unsigned char> fresh_;
    Buffer<int> queues_, bid_column_, winner_;
    Buffer<unsigned long long> bid_key_, best_bid_;
    Buffer<Control> control_;
};

}  // namespace rebasin_fast::cuda
