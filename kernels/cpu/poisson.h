// Random numbers that depend on seed, neuron and step alone, and Poisson spikes drawn with them.
//
// model/philox.py and brian_bridge/poisson.py say the same in NumPy and give the reasons. All is
// integers but for one multiplication, so that the spikes are the same with every compiler and flag.
#ifndef SURROGATE_POISSON_H
#define SURROGATE_POISSON_H

#include <algorithm>
#include <cstdint>

namespace surrogate {

// Philox4x32-10 of the counter `c`, in place.
inline void philox(uint32_t (&c)[4], uint64_t seed) {
  uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t(c[0]) * 0xD2511F53u, second = uint64_t(c[2]) * 0xCD9E8D57u;
    c[0] = uint32_t(second >> 32) ^ c[1] ^ key[0];
    c[1] = uint32_t(second);
    c[2] = uint32_t(first >> 32) ^ c[3] ^ key[1];
    c[3] = uint32_t(first);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
}

// The 64-bit words of one neuron, step and stream, in order.
class Words {
 public:
  Words(uint64_t seed, int neuron, int64_t step, uint32_t stream)
      : seed_(seed), step_(uint64_t(step)), second_(0), neuron_(uint32_t(neuron)), block_(stream << 16),
        odd_(false) {}

  uint64_t next() {
    odd_ = !odd_;
    if (!odd_) return second_;
    uint32_t c[4] = {neuron_, uint32_t(step_), uint32_t(step_ >> 32), block_++};
    philox(c, seed_);
    second_ = uint64_t(c[2]) << 32 | c[3];
    return uint64_t(c[0]) << 32 | c[1];
  }

 private:
  uint64_t seed_, step_, second_;
  uint32_t neuron_, block_;
  bool odd_;
};

// The channels of one group, and the tables of brian_bridge/poisson.py for them.
struct PoissonChannels {
  uint64_t seed;
  uint32_t stream;
  int first, size;  // channels
  double scale;     // spikes in a bin at a rate of 1 Hz, in units of 2^-32
  const int64_t *tables;
};

constexpr int kLargestMean = 6, kPoissonWidth = 160;
constexpr double kMostSpikes = 140737488355328.0;  // 2^15 spikes in a bin, in units of 2^-32

// Bits that number the channels.
inline int channel_bits(int channels) {
  int bits = 0;
  while (int64_t(1) << bits < channels) ++bits;
  return bits;
}

// Numbers in `tables`: those of spikes, the upper ends of the channels' shares, and a guide to them.
inline int64_t poisson_tables_size(int channels) {
  return (kLargestMean + 1) * kPoissonWidth + channels + (int64_t(1) << channel_bits(channels));
}

// Adds the spikes of neurons `begin` to `end` to their counts, [neurons][inputs]; rate is in Hz.
template <class Count>
void add_poisson(const PoissonChannels &channels, int64_t step, int begin, int end, const double *rate,
                 int inputs, Count *counts) {
  const int64_t *upper = channels.tables + (kLargestMean + 1) * kPoissonWidth, *guide = upper + channels.size;
  const int shift = 32 - channel_bits(channels.size);
  for (int n = begin; n < end; ++n) {
    const double mean = rate[n] * channels.scale;
    if (!(mean >= 1)) continue;
    const uint64_t wanted = uint64_t(std::min(mean, kMostSpikes));
    int power = 0;
    while (power < kLargestMean && wanted > uint64_t(1) << (32 + power)) ++power;
    const uint64_t slices = (wanted + (uint64_t(1) << (32 + power)) - 1) >> (32 + power);
    const uint64_t kept = wanted / slices >> power;
    Words words(channels.seed, n, step, channels.stream);
    const int64_t *table = channels.tables + power * kPoissonWidth;
    int candidates = 0;
    for (uint64_t s = 0; s < slices; ++s) {
      const int64_t drawn = int64_t(words.next() >> 1);
      int spikes = 0;
      while (spikes < kPoissonWidth && table[spikes] <= drawn) ++spikes;
      candidates += spikes;
    }
    Count *row = counts + int64_t(n) * inputs + channels.first;
    for (int i = 0; i < candidates; ++i) {
      const uint64_t word = words.next();
      const int64_t place = int64_t(word >> 32);
      int64_t channel = guide[place >> shift];
      while (upper[channel] <= place) ++channel;
      row[channel] += (word & 0xFFFFFFFFu) < kept;
    }
  }
}

}  // namespace surrogate

#endif
