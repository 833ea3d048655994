// Measures operations that determine the kernels' speed, each in a separate kernel: exchanges between blocks, barriers,
// clusters, the second-level cache, matrix products, and launches of a CUDA graph.
//
//     nvcc -std=c++17 -O3 -arch=sm_90a microbenchmarks.cu -o microbenchmarks && ./microbenchmarks report.json
//
// It prints one JSON object a line and writes the same lines to the file, each as soon as it is measured. Every wait is
// bounded. For a feature that the GPU lacks, it prints a line with "skipped".
#include <cooperative_groups.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace cg = cooperative_groups;

constexpr int THREADS = 256;
constexpr int WAITS = 1 << 20;

static std::FILE* report = nullptr;

static void print(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    if (report != nullptr) {
        std::fprintf(report, "%s\n", line.c_str());
        std::fflush(report);
    }
}

static void record(const std::string& name, const char* unit, double value) {
    char text[64];
    std::snprintf(text, sizeof text, "%.4g", value);
    print("{\"name\": \"" + name + "\", \"" + unit + "\": " + text + "}");
}

static void skip(const std::string& name, const std::string& reason) {
    print("{\"name\": \"" + name + "\", \"skipped\": \"" + reason + "\"}");
}

// Ends the program: after an error in a kernel every later call fails.
static void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) {
        std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
        std::exit(1);
    }
}

#define CHECK(call) check((call), #call)

// Median of several runs, in microseconds.
static double microseconds(const std::function<void(cudaStream_t)>& work, int runs = 7) {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    std::vector<float> taken;
    for (int i = 0; i < runs + 2; ++i) {
        CHECK(cudaEventRecord(begin, stream));
        work(stream);
        CHECK(cudaEventRecord(end, stream));
        CHECK(cudaEventSynchronize(end));
        float milliseconds = 0.0f;
        CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
        if (i >= 2) {
            taken.push_back(milliseconds);
        }
    }
    CHECK(cudaEventDestroy(begin));
    CHECK(cudaEventDestroy(end));
    CHECK(cudaStreamDestroy(stream));
    std::sort(taken.begin(), taken.end());
    return 1e3 * taken[taken.size() / 2];
}

// Launches a kernel whose blocks wait for each other.
template <typename Kernel, typename... Arguments>
static void launch_cooperative(Kernel kernel, int blocks, cudaStream_t stream, Arguments... arguments) {
    void* pointers[] = {static_cast<void*>(&arguments)...};
    CHECK(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(kernel), blocks, THREADS, pointers, 0, stream));
}

// ---- Stamped words from every block to every block

__device__ __forceinline__ void put(unsigned long long* address, unsigned word, unsigned stamp) {
    const unsigned long long both = static_cast<unsigned long long>(stamp) << 32 | word;
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(address), "l"(both) : "memory");
}

__device__ __forceinline__ void look(const unsigned long long* address, unsigned long long (&two)[2]) {
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(two[0]), "=l"(two[1]) : "l"(address) : "memory");
}

constexpr int VECTORS = 8;  // of 16 bytes, that a thread reads in a step
constexpr int MAIL = 2 * VECTORS * THREADS;  // words of all blocks in a step

// Polls: vectors whose loads are in flight before the first one is checked.
template <int Polls>
__global__ void __launch_bounds__(THREADS) exchange(unsigned long long* mail, int steps, unsigned first, unsigned* lost) {
    const int mine = MAIL / static_cast<int>(gridDim.x);
    unsigned sum = threadIdx.x;
    int waits = WAITS;
    for (int step = 0; step < steps; ++step) {
        unsigned long long* half = mail + (step & 1) * MAIL;
        const unsigned stamp = first + step;
        for (int i = threadIdx.x; i < mine; i += THREADS) {
            put(half + blockIdx.x * mine + i, sum, stamp);
        }
        for (int begin = 0; begin < VECTORS; begin += Polls) {
            unsigned long long found[Polls][2];
            bool here;
            do {
                here = true;
#pragma unroll
                for (int i = 0; i < Polls; ++i) {
                    look(half + 2 * (threadIdx.x + (begin + i) * THREADS), found[i]);
                }
#pragma unroll
                for (int i = 0; i < Polls; ++i) {
                    here = here & (found[i][0] >> 32 == stamp) & (found[i][1] >> 32 == stamp);
                }
            } while (!here && --waits > 0);
#pragma unroll
            for (int i = 0; i < Polls; ++i) {
                sum += static_cast<unsigned>(found[i][0]) ^ static_cast<unsigned>(found[i][1]);
            }
        }
        // The next words depend on the words that all threads of the block have read.
        if (__syncthreads_or(waits <= 0)) {
            *lost = 1;
            return;
        }
    }
    if (sum == 0x12345678u) {
        *lost = 2;  // never happens, but keeps the sums from being removed
    }
}

template <int Polls>
static void measure_exchange(int blocks) {
    constexpr int steps = 2000;
    unsigned long long* mail;
    unsigned* lost;
    CHECK(cudaMalloc(&mail, 2 * MAIL * sizeof *mail));
    CHECK(cudaMalloc(&lost, sizeof *lost));
    CHECK(cudaMemset(mail, 0, 2 * MAIL * sizeof *mail));
    CHECK(cudaMemset(lost, 0, sizeof *lost));
    unsigned first = 1;
    const double taken = microseconds([&](cudaStream_t stream) {
        launch_cooperative(exchange<Polls>, blocks, stream, mail, steps, first, lost);
        first += steps;
    });
    unsigned failed = 0;
    CHECK(cudaMemcpy(&failed, lost, sizeof failed, cudaMemcpyDeviceToHost));
    const std::string name =
        "stamped all-to-all, " + std::to_string(blocks) + " blocks, " + std::to_string(Polls) + " polls in flight";
    if (failed == 1) {
        skip(name, "a block waited in vain");
    } else {
        record(name, "us", taken / steps);
    }
    CHECK(cudaFree(mail));
    CHECK(cudaFree(lost));
}

// ---- Barriers of all blocks

enum class Barrier { SequentiallyConsistent, Release, Flags };

template <Barrier kind>
__device__ __forceinline__ bool wait_for_all(unsigned* counters, unsigned turn) {
    int waits = WAITS;
    unsigned found;
    __syncthreads();
    if constexpr (kind == Barrier::Flags) {
        // Each block has its own flag in its own cache line; one warp reads all flags.
        if (threadIdx.x == 0) {
            asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(counters + 32 * blockIdx.x), "r"(turn) : "memory");
        }
        if (threadIdx.x < 32) {
            for (unsigned block = threadIdx.x; block < gridDim.x; block += 32) {
                do {
                    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
                                 : "=r"(found)
                                 : "l"(counters + 32 * block)
                                 : "memory");
                } while (found < turn && --waits > 0);
            }
            asm volatile("fence.acq_rel.gpu;" ::: "memory");
        }
    } else if (threadIdx.x == 0) {
        const unsigned wanted = turn * gridDim.x;
        if constexpr (kind == Barrier::SequentiallyConsistent) {
            __threadfence();
            atomicAdd(counters, 1u);
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(found) : "l"(counters) : "memory");
            } while (found < wanted && --waits > 0);
        } else {
            asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counters) : "memory");
            do {
                asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(found) : "l"(counters) : "memory");
            } while (found < wanted && --waits > 0);
            asm volatile("fence.acq_rel.gpu;" ::: "memory");
        }
    }
    return __syncthreads_or(waits <= 0);
}

template <Barrier kind>
__global__ void __launch_bounds__(THREADS) barriers(unsigned* counters, int turns, unsigned* lost) {
    for (int turn = 1; turn <= turns; ++turn) {
        if (wait_for_all<kind>(counters, turn)) {
            *lost = 1;
            return;
        }
    }
}

template <Barrier kind>
static void measure_barrier(const char* name, int blocks) {
    constexpr int turns = 2000;
    unsigned* counters;  // the last word is set if a block's wait reached its bound
    const size_t words = 32 * blocks + 1;
    CHECK(cudaMalloc(&counters, words * sizeof *counters));
    CHECK(cudaMemset(counters, 0, words * sizeof *counters));
    const double taken = microseconds([&](cudaStream_t stream) {
        CHECK(cudaMemsetAsync(counters, 0, (words - 1) * sizeof *counters, stream));
        launch_cooperative(barriers<kind>, blocks, stream, counters, turns, counters + words - 1);
    });
    unsigned failed = 0;
    CHECK(cudaMemcpy(&failed, counters + words - 1, sizeof failed, cudaMemcpyDeviceToHost));
    const std::string text = std::string("barrier by ") + name + ", " + std::to_string(blocks) + " blocks";
    if (failed) {
        skip(text, "a block waited in vain");
    } else {
        record(text, "us", taken / turns);
    }
    CHECK(cudaFree(counters));
}

// ---- Clusters: each block writes 4 KiB into the next block's shared memory, between two barriers of the cluster

__global__ void __launch_bounds__(THREADS) cluster_exchange(int turns, uint4* out) {
#if __CUDA_ARCH__ >= 900
    extern __shared__ uint4 words[];
    cg::cluster_group cluster = cg::this_cluster();
    uint4* next = cluster.map_shared_rank(words, (cluster.block_rank() + 1) % cluster.num_blocks());
    uint4 mine = make_uint4(threadIdx.x, blockIdx.x, 1, 2);
    cluster.sync();
    for (int turn = 0; turn < turns; ++turn) {
        next[(turn & 1) * THREADS + threadIdx.x] = mine;
        cluster.sync();
        const uint4 found = words[(turn & 1) * THREADS + (threadIdx.x ^ 1)];
        mine.x += found.x;
        mine.y ^= found.y;
    }
    out[blockIdx.x * THREADS + threadIdx.x] = mine;
    cluster.sync();  // no block may end while another one writes into its memory
#endif
}

static void measure_clusters(const cudaDeviceProp& device, int size) {
    const std::string text = "clusters of " + std::to_string(size);
    if (device.major < 9) {
        skip(text, "the GPU has no clusters");
        return;
    }
    constexpr int turns = 2000;
    const int blocks = device.multiProcessorCount / size * size;
    auto* kernel = cluster_exchange;
    const size_t large = std::min<size_t>(device.sharedMemPerBlockOptin, 200 << 10);
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(large)));
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(size), 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = blocks;
    config.blockDim = THREADS;
    config.dynamicSmemBytes = large;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int active = 0;
    const cudaError_t status = cudaOccupancyMaxActiveClusters(&active, kernel, &config);
    if (status != cudaSuccess || active == 0) {
        cudaGetLastError();
        skip(text, cudaGetErrorString(status));
        return;
    }
    record("active " + text + " with " + std::to_string(large >> 10) + " KiB a block", "clusters", active);
    uint4* out;
    CHECK(cudaMalloc(&out, sizeof(uint4) * blocks * THREADS));
    config.gridDim = std::min(blocks / size, active) * size;
    config.dynamicSmemBytes = 2 * THREADS * sizeof(uint4);
    const double taken = microseconds([&](cudaStream_t stream) {
        config.stream = stream;
        CHECK(cudaLaunchKernelEx(&config, kernel, turns, out));
    });
    record("exchange of 4 KiB a block in " + text, "us", taken / turns);
    CHECK(cudaFree(out));
}

// ---- The second-level cache: every block reads the same bytes

__global__ void __launch_bounds__(THREADS) broadcast(const uint4* from, int vectors, int turns, uint4* out) {
    uint4 sum = make_uint4(0, 0, 0, 0);
    for (int turn = 0; turn < turns; ++turn) {
#pragma unroll 8
        for (int i = threadIdx.x; i < vectors; i += THREADS) {
            const uint4 found = __ldcg(from + i);
            sum.x ^= found.x;
            sum.y ^= found.y;
            sum.z ^= found.z;
            sum.w ^= found.w;
        }
    }
    out[blockIdx.x * THREADS + threadIdx.x] = sum;
}

static void measure_broadcast(const cudaDeviceProp& device, int kilobytes) {
    const int blocks = 2 * device.multiProcessorCount, turns = std::max(1, (16 << 10) / kilobytes);
    uint4 *from, *out;
    const size_t bytes = static_cast<size_t>(kilobytes) << 10;
    CHECK(cudaMalloc(&from, bytes));
    CHECK(cudaMalloc(&out, sizeof(uint4) * blocks * THREADS));
    std::vector<unsigned> values(bytes / sizeof(unsigned));
    for (unsigned& value : values) {
        value = static_cast<unsigned>(std::rand());
    }
    CHECK(cudaMemcpy(from, values.data(), bytes, cudaMemcpyHostToDevice));
    const double taken = microseconds([&](cudaStream_t stream) {
        broadcast<<<blocks, THREADS, 0, stream>>>(from, static_cast<int>(bytes / sizeof(uint4)), turns, out);
        CHECK(cudaGetLastError());
    });
    record(
        "second-level cache, all blocks read the same " + std::to_string(kilobytes) + " KiB", "GB/s",
        1e-3 * bytes * turns * blocks / taken);
    CHECK(cudaFree(from));
    CHECK(cudaFree(out));
}

// ---- mma.sync from shared memory: fragments in the instruction's order, or rows moved into that order

__device__ __forceinline__ void multiply_add(float (&sums)[4], unsigned a, unsigned b, unsigned c, unsigned d, uint2 e) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a), "r"(b), "r"(c), "r"(d), "r"(e.x), "r"(e.y));
}

constexpr int FRAGMENTS = 2048;  // of 16 bytes, in shared memory
constexpr int PRODUCTS = 16;     // of m16n8k16, that a warp makes in a turn

template <bool Ordered>
__global__ void __launch_bounds__(THREADS) products(const uint4* from, int turns, float* out) {
    __shared__ uint4 fragments[FRAGMENTS];
    for (int i = threadIdx.x; i < FRAGMENTS; i += THREADS) {
        fragments[i] = from[i];
    }
    __syncthreads();
    const uint2 operand = make_uint2(fragments[threadIdx.x].x, fragments[threadIdx.x].y);
    float sums[4][4] = {};
    for (int turn = 0; turn < turns; ++turn) {
        const uint4* here = fragments + (turn * 32 & (FRAGMENTS / 2 - 1)) + threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < PRODUCTS / 2; ++i) {
            const uint4 one = here[64 * i], other = here[64 * i + 32];
            if constexpr (Ordered) {
                multiply_add(sums[2 * i % 4], one.x, one.y, one.z, one.w, operand);
                multiply_add(sums[(2 * i + 1) % 4], other.x, other.y, other.z, other.w, operand);
            } else {
                multiply_add(sums[2 * i % 4], one.x, other.x, one.y, other.y, operand);
                multiply_add(sums[(2 * i + 1) % 4], one.z, other.z, one.w, other.w, operand);
            }
        }
    }
    float sum = 0.0f;
    for (auto& four : sums) {
        sum += four[0] + four[1] + four[2] + four[3];
    }
    out[blockIdx.x * THREADS + threadIdx.x] = sum;
}

// Numbers around zero: products of zeros take less power and run faster than products of weights.
static std::vector<__half> random_halves(size_t count) {
    std::vector<__half> values(count);
    for (__half& value : values) {
        value = __float2half(static_cast<float>(std::rand()) / static_cast<float>(RAND_MAX) - 0.5f);
    }
    return values;
}

template <bool Ordered>
static void measure_products(const cudaDeviceProp& device) {
    constexpr int turns = 2000;
    const int blocks = 2 * device.multiProcessorCount;
    uint4* from;
    float* out;
    const std::vector<__half> values = random_halves(FRAGMENTS * sizeof(uint4) / sizeof(__half));
    CHECK(cudaMalloc(&from, FRAGMENTS * sizeof(uint4)));
    CHECK(cudaMalloc(&out, sizeof(float) * blocks * THREADS));
    CHECK(cudaMemcpy(from, values.data(), FRAGMENTS * sizeof(uint4), cudaMemcpyHostToDevice));
    const double taken = microseconds([&](cudaStream_t stream) {
        products<Ordered><<<blocks, THREADS, 0, stream>>>(from, turns, out);
        CHECK(cudaGetLastError());
    });
    const double operations = 2.0 * 16 * 8 * 16 * PRODUCTS * turns * (THREADS / 32) * blocks;
    record(
        Ordered ? "mma.sync, fragments in the instruction's order" : "mma.sync, registers moved into order", "TFLOP/s",
        1e-6 * operations / taken);
    CHECK(cudaFree(from));
    CHECK(cudaFree(out));
}

// ---- wgmma, only with Hopper's own instructions

constexpr int WIDE = 128;  // columns of B
constexpr int DEEP = 4;    // products of depth 16 in a group

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// A matrix in shared memory in core matrices of 8 rows x 16 bytes, without swizzling; the two core matrices of a depth
// of 16 are adjacent, and the next 8 rows follow after 256 bytes.
__device__ __forceinline__ unsigned long long describe(const void* shared) {
    const auto address = static_cast<unsigned long long>(__cvta_generic_to_shared(shared));
    return (address & 0x3FFFF) >> 4 | (128ull >> 4) << 16 | (256ull >> 4) << 32;
}
#endif

__global__ void __launch_bounds__(THREADS) warpgroup_products(const uint4* from, int turns, float* out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    constexpr int bytes = DEEP * (64 + WIDE) * 16 * 2;
    __shared__ alignas(128) unsigned char matrices[bytes];
    for (int i = threadIdx.x; i < bytes / 16; i += THREADS) {
        reinterpret_cast<uint4*>(matrices)[i] = from[i];
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    float sums[WIDE / 2] = {};
    for (int turn = 0; turn < turns; ++turn) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < DEEP; ++i) {
            const unsigned long long a = describe(matrices + i * 64 * 32);
            const unsigned long long b = describe(matrices + DEEP * 64 * 32 + i * WIDE * 32);
            asm volatile(
                "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
                "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
                "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
                "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
                "%56, %57, %58, %59, %60, %61, %62, %63}, "
                "%64, %65, 1, 1, 1, 0, 0;"
                : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
                  "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11]),
                  "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]), "+f"(sums[16]), "+f"(sums[17]),
                  "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]), "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]),
                  "+f"(sums[24]), "+f"(sums[25]), "+f"(sums[26]), "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]),
                  "+f"(sums[30]), "+f"(sums[31]), "+f"(sums[32]), "+f"(sums[33]), "+f"(sums[34]), "+f"(sums[35]),
                  "+f"(sums[36]), "+f"(sums[37]), "+f"(sums[38]), "+f"(sums[39]), "+f"(sums[40]), "+f"(sums[41]),
                  "+f"(sums[42]), "+f"(sums[43]), "+f"(sums[44]), "+f"(sums[45]), "+f"(sums[46]), "+f"(sums[47]),
                  "+f"(sums[48]), "+f"(sums[49]), "+f"(sums[50]), "+f"(sums[51]), "+f"(sums[52]), "+f"(sums[53]),
                  "+f"(sums[54]), "+f"(sums[55]), "+f"(sums[56]), "+f"(sums[57]), "+f"(sums[58]), "+f"(sums[59]),
                  "+f"(sums[60]), "+f"(sums[61]), "+f"(sums[62]), "+f"(sums[63])
                : "l"(a), "l"(b));
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    float sum = 0.0f;
    for (float value : sums) {
        sum += value;
    }
    out[blockIdx.x * THREADS + threadIdx.x] = sum;
#endif
}

static void measure_warpgroup_products(const cudaDeviceProp& device) {
    const char* name = "wgmma.m64n128k16 from shared memory";
    if (device.major != 9) {
        skip(name, "needs compute capability 9.0");
        return;
    }
    constexpr int turns = 4000;
    const int blocks = 2 * device.multiProcessorCount;
    uint4* from;
    float* out;
    const std::vector<__half> values = random_halves(DEEP * (64 + WIDE) * 16);
    CHECK(cudaMalloc(&from, values.size() * sizeof(__half)));
    CHECK(cudaMalloc(&out, sizeof(float) * blocks * THREADS));
    CHECK(cudaMemcpy(from, values.data(), values.size() * sizeof(__half), cudaMemcpyHostToDevice));
    CHECK(cudaMemset(out, 0xFF, sizeof(float)));  // not a number, unless the kernel writes one
    const double taken = microseconds([&](cudaStream_t stream) {
        warpgroup_products<<<blocks, THREADS, 0, stream>>>(from, turns, out);
        CHECK(cudaGetLastError());
    });
    float written = 0.0f;
    CHECK(cudaMemcpy(&written, out, sizeof written, cudaMemcpyDeviceToHost));
    const double operations = 2.0 * 64 * WIDE * 16 * DEEP * turns * (THREADS / 128) * blocks;
    if (written == written) {
        record(name, "TFLOP/s", 1e-6 * operations / taken);
    } else {
        skip(name, "the program was compiled for another architecture than sm_90a");
    }
    CHECK(cudaFree(from));
    CHECK(cudaFree(out));
}

// ---- From one launch of a CUDA graph to the next

template <bool Dependent>
__global__ void __launch_bounds__(THREADS) link(unsigned* word) {
#if __CUDA_ARCH__ >= 900
    if constexpr (Dependent) {
        asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
        asm volatile("griddepcontrol.wait;" ::: "memory");
    }
#endif
    if (threadIdx.x == 0) {
        word[blockIdx.x] += 1;
    }
}

template <bool Dependent>
static void measure_gap(const cudaDeviceProp& device) {
    const char* name = Dependent ? "graph launch, programmatic dependence" : "graph launch";
    if (Dependent && device.major < 9) {
        skip(name, "needs compute capability 9.0");
        return;
    }
    constexpr int links = 400;
    const int blocks = device.multiProcessorCount;
    unsigned* word;
    CHECK(cudaMalloc(&word, sizeof *word * blocks));
    CHECK(cudaMemset(word, 0, sizeof *word * blocks));
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaStream_t capturing;
    CHECK(cudaStreamCreate(&capturing));
    cudaLaunchConfig_t config{};
    config.gridDim = blocks;
    config.blockDim = THREADS;
    config.stream = capturing;
    config.attrs = &attribute;
    config.numAttrs = Dependent ? 1 : 0;
    CHECK(cudaStreamBeginCapture(capturing, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < links; ++i) {
        CHECK(cudaLaunchKernelEx(&config, link<Dependent>, word));
    }
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CHECK(cudaStreamEndCapture(capturing, &graph));
    CHECK(cudaGraphInstantiate(&executable, graph, 0));
    const double taken = microseconds([&](cudaStream_t stream) { CHECK(cudaGraphLaunch(executable, stream)); }, 15);
    record(name, "us", taken / links);
    CHECK(cudaGraphExecDestroy(executable));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(capturing));
    CHECK(cudaFree(word));
}

int main(int count, char** arguments) {
    if (count > 1 && (report = std::fopen(arguments[1], "w")) == nullptr) {
        std::perror(arguments[1]);
        return 2;
    }
    cudaDeviceProp device{};
    CHECK(cudaGetDeviceProperties(&device, 0));
    const int all = device.multiProcessorCount;
    for (int blocks : {8, 32, 64, 128}) {
        if (blocks <= all) {
            measure_exchange<1>(blocks);
            measure_exchange<4>(blocks);
            measure_exchange<8>(blocks);
        }
    }
    for (int blocks : {32, 64, all}) {
        measure_barrier<Barrier::SequentiallyConsistent>("a sequentially consistent fence", blocks);
        measure_barrier<Barrier::Release>("red.release and relaxed polls", blocks);
        measure_barrier<Barrier::Flags>("a flag of each block", blocks);
    }
    measure_gap<false>(device);
    measure_gap<true>(device);
    measure_products<true>(device);
    measure_products<false>(device);
    for (int kilobytes : {256, 2048, 8192}) {
        measure_broadcast(device, kilobytes);
    }
    for (int size : {2, 4, 8, 16}) {
        measure_clusters(device, size);
    }
    measure_warpgroup_products(device);
    return 0;
}
