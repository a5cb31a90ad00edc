// From spike counts to lists of active channels.
//
// No processor can predict which channel has a spike, so there is hardly a branch on it. The passes go
// from groups of counts to words of 64 bits; each writes every index and keeps those with spikes.
#ifndef SURROGATE_COUNTS_H
#define SURROGATE_COUNTS_H

#include "memory.h"
#include "simd.h"

namespace surrogate {

// Words of counts that are tested together, and how many bytes ahead they are prefetched.
constexpr int kGroupWords = 4;
constexpr size_t kAhead = 4096;

// The active channels of one neuron.
struct Active {
  int16_t *channel;  // `found` of them, ascending
  int32_t found;
  int64_t repeats;  // spikes beyond the first of each
};

// Working memory.
struct Places {
  Buffer<int16_t> groups, words;
};

template <class Count>
SURROGATE_INLINE uint64_t word_of(const Count *counts) {
  uint64_t word;
  std::memcpy(&word, counts, sizeof word);
  return word;
}

template <class Count>
SURROGATE_INLINE void take_count(Count *counts, int i, Active &active) {
  const int32_t count = counts[i], spikes = count > 0;
  active.channel[active.found] = int16_t(i);  // stays if it has spikes
  active.found += spikes;
  active.repeats += spikes ? count - 1 : 0;
  counts[i] = 0;
}

template <class Count>
SURROGATE_INLINE void take_word(Count *counts, int from, Active &active) {
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  // Most words with a spike have one, so this loop is predicted well, unlike the index of the spike.
  constexpr int bits = 8 * int(sizeof(Count));
  for (uint64_t left = word_of(counts + from); left;) {
    const int i = __builtin_ctzll(left) / bits;
    left &= ~(((uint64_t(1) << bits) - 1) << (i * bits));
    take_count(counts, from + i, active);
  }
#else
  for (int i = 0; i < 8 / int(sizeof(Count)); ++i) take_count(counts, from + i, active);
#endif
}

// Lists the channels of one neuron that have spikes in `channel`, which has room for all, and clears their
// counts, signed integers of 16 or 32 bits.
template <class Count>
Active take_active(Count *counts, int inputs, int16_t *channel, Places &places) {
  constexpr int in_word = 8 / int(sizeof(Count)), in_group = kGroupWords * in_word;
  int16_t *group = places.groups.reserve(size_t(inputs) / in_group + 1);
  int16_t *word = places.words.reserve(size_t(inputs) / in_word + 1);
  int groups = 0, words = 0, from = 0;
  for (; from + in_group <= inputs; from += in_group) {
    prefetch(counts + from, kAhead);
    uint64_t any = 0;
    for (int i = 0; i < in_group; i += in_word) any |= word_of(counts + from + i);
    group[groups] = int16_t(from);
    groups += any != 0;
  }
  for (int g = 0; g < groups; ++g)
    for (int i = group[g]; i < group[g] + in_group; i += in_word) {
      word[words] = int16_t(i);
      words += word_of(counts + i) != 0;
    }
  Active active = {channel, 0, 0};
  for (int w = 0; w < words; ++w) take_word(counts, word[w], active);
  for (; from < inputs; ++from) take_count(counts, from, active);
  return active;
}

}  // namespace surrogate

#endif
