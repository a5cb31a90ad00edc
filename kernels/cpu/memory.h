// Memory that starts at a cache line and only grows.
#ifndef SURROGATE_MEMORY_H
#define SURROGATE_MEMORY_H

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace surrogate {

template <class T>
class Buffer {
 public:
  Buffer() : block_(0), data_(0), size_(0) {}
  ~Buffer() { std::free(block_); }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;

  // Room for `size` numbers; what was there is lost if that is more than before.
  T *reserve(size_t size) {
    if (size > size_) {
      std::free(block_);
      size_ = 0;
      block_ = std::malloc(size * sizeof(T) + kLine);
      if (!block_) throw std::bad_alloc();
      size_ = size;
      const uintptr_t address = reinterpret_cast<uintptr_t>(block_) + kLine - 1;
      data_ = reinterpret_cast<T *>(address - address % kLine);
    }
    return data_;
  }
  // The same, all zero.
  T *zeros(size_t size) {
    reserve(size);
    if (size) std::memset(data_, 0, size * sizeof(T));
    return data_;
  }
  T *data() const { return data_; }

 private:
  static constexpr size_t kLine = 64;
  void *block_;
  T *data_;
  size_t size_;
};

}  // namespace surrogate

#endif
