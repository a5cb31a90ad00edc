// Memory that starts at a cache line and only grows; large arrays use large pages on Linux.
#ifndef SURROGATE_MEMORY_H
#define SURROGATE_MEMORY_H

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace surrogate {

template <class T>
class Buffer {
 public:
  Buffer() : block_(0), data_(0), size_(0) {}
  ~Buffer() { std::free(block_); }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;

  // Room for `size` numbers; the old content is lost if that is more than before.
  T *reserve(size_t size) {
    if (size > size_) {
      std::free(block_);
      block_ = 0;
      data_ = 0;
      size_ = 0;
      const size_t bytes = size * sizeof(T);
      const size_t start = bytes < 2 * kLargePage ? size_t(kLine) : size_t(kLargePage);
      block_ = std::malloc(bytes + start);
      if (!block_) throw std::bad_alloc();
      size_ = size;
      const uintptr_t address = reinterpret_cast<uintptr_t>(block_) + start - 1;
      data_ = reinterpret_cast<T *>(address - address % start);
#if defined(__linux__)
      // Otherwise reading random columns of wide weights waits for address translation.
      if (start == kLargePage) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
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
  static constexpr size_t kLine = 64, kLargePage = size_t(2) << 20;
  void *block_;
  T *data_;
  size_t size_;
};

// Prefetches the memory so many bytes behind `from`; the address may be invalid.
inline void prefetch(const void *from, size_t bytes) {
#if defined(__GNUC__)
  __builtin_prefetch(reinterpret_cast<const void *>(reinterpret_cast<uintptr_t>(from) + bytes));
#else
  (void)from;
  (void)bytes;
#endif
}

}  // namespace surrogate

#endif
