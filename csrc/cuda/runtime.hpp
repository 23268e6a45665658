// The little of the CUDA runtime that the solver needs: memory in stream order, copies, errors as exceptions.
// Implemented twice: runtime.cu, and tests/cuda_emulation/runtime.cpp. Nothing here waits for, or is seen by,
// any stream but the caller's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct CUstream_st;

namespace rebasin_fast::cuda {

// What cudaStream_t is, for code that does not see CUDA's headers.
using Stream = CUstream_st*;

// A call of the runtime that failed: its name, and CUDA's own text.
class Error : public std::runtime_error {
  public:
    Error(const std::string& call, const std::string& text, bool memory)
        : std::runtime_error(call + ": " + text), out_of_memory(memory) {}
    const bool out_of_memory;
};

void* allocate(std::size_t bytes, Stream stream);
void release(void* memory, Stream stream) noexcept;
void fill_bytes(void* at, int byte, std::size_t bytes, Stream stream);
// `from` may be read until the stream is next waited for: where CUDA reads pageable memory itself it need not
// have been when this returns.
void copy_to_device(void* to, const void* from, std::size_t bytes, Stream stream);
void copy_to_host(void* to, const void* from, std::size_t bytes, Stream stream);  // waits for the stream
void copy_on_device(void* to, const void* from, std::size_t bytes, Stream stream);
void synchronize(Stream stream);

int multiprocessors();              // of the current device
std::size_t shared_memory_limit();  // of a block, in bytes, on the current device

// The device that pointers and stream belong to is the current one as long as this lives.
class DeviceScope {
  public:
    explicit DeviceScope(int device);
    ~DeviceScope();
    DeviceScope(const DeviceScope&) = delete;
    DeviceScope& operator=(const DeviceScope&) = delete;

  private:
    [[maybe_unused]] int before_ = 0;
    [[maybe_unused]] bool changed_ = false;
};

void launch_pointers(const void* kernel, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                     unsigned threads_x, unsigned threads_y, unsigned threads_z, void** arguments,
                     std::size_t shared_bytes, Stream stream);

// Device memory, given back in stream order.
template <class T>
class Buffer {
  public:
    Buffer() = default;
    Buffer(std::int64_t count, Stream stream)
        : stream_(stream),
          count_(count),
          data_(count > 0 ? static_cast<T*>(allocate(static_cast<std::size_t>(count) * sizeof(T), stream))
                          : nullptr) {}
    ~Buffer() { release(data_, stream_); }
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(stream_, other.stream_);
        std::swap(count_, other.count_);
        std::swap(data_, other.data_);
        return *this;
    }

    T* get() const { return data_; }
    std::int64_t size() const { return count_; }
    std::size_t bytes() const { return static_cast<std::size_t>(count_) * sizeof(T); }

    void fill_with_byte(int byte) { fill_bytes(data_, byte, bytes(), stream_); }
    void upload(const T* from) { copy_to_device(data_, from, bytes(), stream_); }
    void download(T* to) const { copy_to_host(to, data_, bytes(), stream_); }
    std::vector<T> on_host() const {
        std::vector<T> copy(static_cast<std::size_t>(count_));
        download(copy.data());
        return copy;
    }

  private:
    Stream stream_ = nullptr;
    std::int64_t count_ = 0;
    T* data_ = nullptr;
};

}  // namespace rebasin_fast::cuda
