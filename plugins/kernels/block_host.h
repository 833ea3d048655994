// Implements block.h on the host: one operating system thread for each thread of each block.
//
// Barriers, counters, stamped words and flags are atomic. All other memory is plain, so that ThreadSanitizer reports
// accesses that no barrier orders. LANES and the number of warps are small here; they change results by rounding only.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#define DEVICE inline

namespace wavernn {

using std::max;
using std::min;

#ifndef WAVERNN_HOST_LANES
#define WAVERNN_HOST_LANES 1
#endif
constexpr int LANES = WAVERNN_HOST_LANES;

struct alignas(16) Words {
    unsigned word[4];
};

inline unsigned long long address_of(const void* address) { return reinterpret_cast<unsigned long long>(address); }

inline Words load_words(const void* address) {
    Words words;
    std::memcpy(&words, address, sizeof(words));
    return words;
}

inline void store_words(void* address, const Words& words) { std::memcpy(address, &words, sizeof(words)); }

inline Words load_constant_words(const void* address) { return load_words(address); }

inline void load_two(const void* address, unsigned (&two)[2]) { std::memcpy(two, address, sizeof(two)); }

inline void store_two(void* address, const unsigned (&two)[2]) { std::memcpy(address, &two, sizeof(two)); }

inline void load_constant_two(const void* address, unsigned (&two)[2]) { load_two(address, two); }

// A thread's copies to shared memory, in sets. Each is delayed until it is waited for, so that a read before the wait
// finds no data.
struct HostCopies {
    using Set = std::vector<std::pair<void*, const void*>>;

    std::deque<Set> closed;
    Set open;

    static HostCopies& of_this_thread() {
        thread_local HostCopies copies;
        return copies;
    }
};

inline void copy_words_later(void* shared, const void* global) {
    HostCopies::of_this_thread().open.emplace_back(shared, global);
}

inline void close_copies() {
    HostCopies& copies = HostCopies::of_this_thread();
    copies.closed.push_back(std::move(copies.open));
    copies.open.clear();
}

template <int Open>
void wait_for_copies() {
    std::deque<HostCopies::Set>& closed = HostCopies::of_this_thread().closed;
    for (; closed.size() > Open; closed.pop_front()) {
        for (const auto& [shared, global] : closed.front()) {
            store_words(shared, load_words(global));
        }
    }
}

inline float float_of_bits(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

inline unsigned bits_of_float(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline float float_of_half(unsigned short half) {
    const unsigned sign = (half & 0x8000u) << 16;
    const unsigned magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) {
        return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    }
    // Also correct for subnormal numbers: the exponent is too small by 112, and the product with 2^112 is exact.
    return float_of_bits(sign | bits_of_float(float_of_bits(magnitude << 13) * 0x1p112f));
}

// Rounds to the nearest, ties to even.
inline unsigned short half_of_float(float value) {
    const unsigned bits = bits_of_float(value);
    const unsigned sign = bits >> 16 & 0x8000u;
    const float magnitude = float_of_bits(bits & 0x7fffffffu);
    if (value != value) {
        return static_cast<unsigned short>(sign | 0x7fffu);
    }
    if (magnitude >= 65520.0f) {
        return static_cast<unsigned short>(sign | 0x7c00u);
    }
    if (magnitude < 0x1p-14f) {  // the last bit of the sum is 2^-24, as that of a subnormal half
        return static_cast<unsigned short>(sign | (bits_of_float(magnitude + 0.5f) - bits_of_float(0.5f)));
    }
    const unsigned positive = bits & 0x7fffffffu;
    const unsigned rounded = positive + 0xfffu + (positive >> 13 & 1u);
    return static_cast<unsigned short>(sign | ((rounded - (112u << 23)) >> 13));
}

// A reusable barrier for a fixed number of threads.
class HostBarrier {
public:
    explicit HostBarrier(int threads) : threads_(threads) {}

    void wait() {
        const int round = round_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        while (round_.load(std::memory_order_acquire) == round) {
            std::this_thread::yield();
        }
    }

private:
    const int threads_;
    std::atomic<int> arrived_{0};
    std::atomic<int> round_{0};
};

// State that the threads of a block share.
struct HostBlock {
    HostBlock(int warps, std::size_t shared_bytes)
        : shared(static_cast<unsigned char*>(std::aligned_alloc(16, (shared_bytes + 15) / 16 * 16)), std::free),
          barrier(warps * LANES),
          exchanged(static_cast<std::size_t>(warps) * LANES),
          shared_in_warps(static_cast<std::size_t>(warps)) {
        std::memset(shared.get(), 0xff, shared_bytes);  // NaN in every type, so that a read before a write shows
        for (int warp = 0; warp < warps; ++warp) {
            warp_barriers.push_back(std::make_unique<HostBarrier>(LANES));
        }
    }

    std::unique_ptr<unsigned char, decltype(&std::free)> shared;
    HostBarrier barrier;
    std::vector<std::unique_ptr<HostBarrier>> warp_barriers;
    std::vector<unsigned long long> exchanged;
    std::vector<std::vector<unsigned char>> shared_in_warps;
};

class Block {
public:
    Block(HostBlock& block, int rank, int thread, int warps)
        : block_(&block), rank_(rank), thread_(thread), warps_(warps) {}

    int rank() const { return rank_; }
    int thread() const { return thread_; }
    int threads() const { return warps_ * LANES; }
    int lane() const { return thread_ % LANES; }
    int warp() const { return thread_ / LANES; }
    int warps() const { return warps_; }
    unsigned char* shared() const { return block_->shared.get(); }
    void sync() const { block_->barrier.wait(); }
    void sync_warp() const { block_->warp_barriers[static_cast<std::size_t>(warp())]->wait(); }

    template <typename Value>
    Value from_lane_xor(Value value, int mask) const {
        return exchange(value, lane() ^ mask);
    }

    template <typename Value>
    Value from_lane_below(Value value, int distance) const {
        return exchange(value, lane() >= distance ? lane() - distance : lane());
    }

    // Exchanges entries in a warp: lane i fills in the i-th of LANES equal parts, and every lane gets all of them.
    template <typename Entry, std::size_t Count>
    void share_in_warp(Entry (&entries)[Count]) const {
        if constexpr (LANES > 1) {
            constexpr std::size_t own = Count / LANES;
            std::vector<unsigned char>& room = block_->shared_in_warps[static_cast<std::size_t>(warp())];
            HostBarrier& barrier = *block_->warp_barriers[static_cast<std::size_t>(warp())];
            if (lane() == 0) {
                room.resize(sizeof(entries));
            }
            barrier.wait();
            const std::size_t first = own * static_cast<std::size_t>(lane()) * sizeof(Entry);
            std::memcpy(room.data() + first, entries + own * static_cast<std::size_t>(lane()), own * sizeof(Entry));
            barrier.wait();
            std::memcpy(entries, room.data(), sizeof(entries));
            barrier.wait();
        }
    }

private:
    template <typename Value>
    Value exchange(Value value, int lane_to_read) const {
        unsigned long long* warp_values = block_->exchanged.data() + warp() * LANES;
        std::memcpy(warp_values + lane(), &value, sizeof(value));
        block_->warp_barriers[static_cast<std::size_t>(warp())]->wait();
        Value found;
        std::memcpy(&found, warp_values + lane_to_read, sizeof(found));
        block_->warp_barriers[static_cast<std::size_t>(warp())]->wait();
        return found;
    }

    HostBlock* block_;
    int rank_, thread_, warps_;
};

inline void add_and_publish(unsigned* counter) { __atomic_fetch_add(counter, 1u, __ATOMIC_RELEASE); }

inline unsigned read_published(const unsigned* counter) { return __atomic_load_n(counter, __ATOMIC_ACQUIRE); }

// Relaxed, as on a GPU: the word itself carries the data, so no other memory has to be ordered.
inline void put_stamped(unsigned long long* address, unsigned word, unsigned stamp) {
    __atomic_store_n(address, static_cast<unsigned long long>(stamp) << 32 | word, __ATOMIC_RELAXED);
}

inline unsigned long long look_at(const unsigned long long* address) {
    return __atomic_load_n(address, __ATOMIC_RELAXED);
}

inline void look_at_two(const unsigned long long* address, unsigned long long (&both)[2]) {
    both[0] = look_at(address);
    both[1] = look_at(address + 1);
}

inline void keep_waiting() { std::this_thread::yield(); }

inline void put_first(unsigned* address, unsigned word) {
    unsigned zero = 0;
    __atomic_compare_exchange_n(address, &zero, word, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

inline void raise_flag(unsigned* flag) { __atomic_store_n(flag, 1u, __ATOMIC_RELAXED); }

inline unsigned look_at_flag(const unsigned* flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }

// Runs a kernel with all threads of all blocks at once, and returns when all have finished.
inline void run_grid(int blocks, int warps, std::size_t shared_bytes, const std::function<void(const Block&)>& kernel) {
    std::vector<std::unique_ptr<HostBlock>> all;
    std::vector<std::thread> threads;
    for (int rank = 0; rank < blocks; ++rank) {
        all.push_back(std::make_unique<HostBlock>(warps, shared_bytes));
        for (int thread = 0; thread < warps * LANES; ++thread) {
            threads.emplace_back([&kernel, block = all.back().get(), rank, thread, warps] {
                kernel(Block(*block, rank, thread, warps));
            });
        }
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
}

}  // namespace wavernn
