// Implements block.h on a GPU. It includes no header of CUDA, so that NVRTC compiles it without an include folder.
#pragma once

#define DEVICE __device__ __forceinline__
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

namespace wavernn {

constexpr int LANES = 32;
// Threads per block of every kernel; equals wavernn_trt.plugins.arguments.THREADS.
constexpr int BLOCK_THREADS = 256;

struct alignas(16) Words {
    unsigned word[4];
};

DEVICE unsigned long long address_of(const void* address) { return reinterpret_cast<unsigned long long>(address); }

DEVICE Words load_words(const void* address) {
    const uint4 four = *static_cast<const uint4*>(address);
    return Words{{four.x, four.y, four.z, four.w}};
}

DEVICE void store_words(void* address, const Words& words) {
    *static_cast<uint4*>(address) = make_uint4(words.word[0], words.word[1], words.word[2], words.word[3]);
}

// Loads words that are not written while the kernel runs.
DEVICE Words load_constant_words(const void* address) {
    const uint4 four = __ldg(static_cast<const uint4*>(address));
    return Words{{four.x, four.y, four.z, four.w}};
}

DEVICE void load_constant_two(const void* address, unsigned (&two)[2]) {
    const uint2 both = __ldg(static_cast<const uint2*>(address));
    two[0] = both.x;
    two[1] = both.y;
}

DEVICE void load_two(const void* address, unsigned (&two)[2]) {
    const uint2 both = *static_cast<const uint2*>(address);
    two[0] = both.x;
    two[1] = both.y;
}

DEVICE void store_two(void* address, const unsigned (&two)[2]) {
    *static_cast<uint2*>(address) = make_uint2(two[0], two[1]);
}

// Starts a copy of sixteen bytes, aligned to sixteen, from global to shared memory; wait_for_copies completes it.
DEVICE void copy_words_later(void* shared, const void* global) {
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(__cvta_generic_to_global(global))
                 : "memory");
}

// Ends a set of copies.
DEVICE void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's copies, except those of the last `Open` sets. Other threads see them after the next sync().
template <int Open>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Open) : "memory");
}

DEVICE float float_of_bits(unsigned bits) { return __uint_as_float(bits); }

DEVICE unsigned bits_of_float(float value) { return __float_as_uint(value); }

DEVICE float float_of_half(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

DEVICE unsigned short half_of_float(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

extern __shared__ __align__(16) unsigned char block_memory[];

class Block {
public:
    DEVICE int rank() const { return static_cast<int>(blockIdx.x); }
    DEVICE int thread() const { return static_cast<int>(threadIdx.x); }
    // A compile-time constant, so that divisions by it become shifts.
    DEVICE constexpr int threads() const { return BLOCK_THREADS; }
    DEVICE int lane() const { return thread() % LANES; }
    DEVICE int warp() const { return thread() / LANES; }
    DEVICE constexpr int warps() const { return threads() / LANES; }
    DEVICE unsigned char* shared() const { return block_memory; }
    DEVICE void sync() const { __syncthreads(); }
    DEVICE void sync_warp() const { __syncwarp(); }

    template <typename Value>
    DEVICE Value from_lane_xor(Value value, int mask) const {
        return __shfl_xor_sync(0xffffffffu, value, mask);
    }

    template <typename Value>
    DEVICE Value from_lane_below(Value value, int distance) const {
        return __shfl_up_sync(0xffffffffu, value, static_cast<unsigned>(distance));
    }
};

// Adds one. A thread that reads the new count also sees all writes of this block before its last sync().
DEVICE void add_and_publish(unsigned* counter) {
    __threadfence();
    atomicAdd(counter, 1u);
}

DEVICE unsigned read_published(const unsigned* counter) {
    unsigned count;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    return count;
}

// Stores a word and its stamp atomically.
DEVICE void put_stamped(unsigned long long* address, unsigned word, unsigned stamp) {
    const unsigned long long both = static_cast<unsigned long long>(stamp) << 32 | word;
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(address), "l"(both) : "memory");
}

// Loads two neighbouring stamped words, aligned to sixteen bytes. Each load is atomic, the pair is not.
DEVICE void look_at_two(const unsigned long long* address, unsigned long long (&both)[2]) {
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(both[0]), "=l"(both[1])
                 : "l"(address)
                 : "memory");
}

DEVICE unsigned long long look_at(const unsigned long long* address) {
    unsigned long long one;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(one) : "l"(address) : "memory");
    return one;
}

DEVICE void keep_waiting() {}

// Stores a word if the current value is zero.
DEVICE void put_first(unsigned* address, unsigned word) { atomicCAS(address, 0u, word); }

// A flag in shared memory, written and read by threads of a block without a barrier.
DEVICE void raise_flag(unsigned* flag) { *static_cast<volatile unsigned*>(flag) = 1u; }
DEVICE unsigned look_at_flag(const unsigned* flag) { return *static_cast<const volatile unsigned*>(flag); }

}  // namespace wavernn
