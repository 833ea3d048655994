// Entry points that measure limits of this machine: how fast threads read an array, and how fast they multiply and add.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "arena.h"
#include "model.h"

namespace wavernn {
namespace {

constexpr int SUMS = 16;           // floats of the widest vector
constexpr int LINE = 64;           // bytes; parts of an array begin at whole cache lines
constexpr size_t READ_AT_LEAST = 1 << 20;  // bytes between two looks at the clock
constexpr int ROUNDS = 10000;

// Calls `work` in several threads at the same time, again and again; returns what it returns a second, all threads
// together, or 0 if the system does not start the threads.
double rate_of(int threads, double seconds, const std::function<double(int)>& work) {
    std::atomic<int> ready{0};
    std::vector<double> rates(threads);
    const auto run = [&](int thread) {
        work(thread);  // loads its part of the array into its cache
        ready.fetch_add(1);
        while (ready.load() < threads) {
            std::this_thread::yield();
        }
        const auto start = std::chrono::steady_clock::now();
        double done = 0.0, elapsed = 0.0;
        while (elapsed < seconds || elapsed == 0.0) {
            done += work(thread);
            elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        }
        rates[thread] = done / elapsed;
    };
    std::vector<std::thread> workers;
    workers.reserve(threads);
    bool started = true;
    for (int i = 1; started && i < threads; ++i) {
        try {
            workers.emplace_back(run, i);
        } catch (const std::exception&) {
            started = false;
            ready.fetch_add(threads);
        }
    }
    if (started) {
        run(0);
    }
    double sum = 0.0;
    for (std::thread& worker : workers) {
        worker.join();
    }
    for (const double rate : rates) {
        sum += rate;
    }
    return started ? sum : 0.0;
}

}  // namespace
}  // namespace wavernn

using namespace wavernn;

#define EXPORT extern "C" __attribute__((visibility("default")))

// Bytes a second that threads read of an array, each its own part again and again; 0 if that cannot be measured.
// `bytes` is at least LINE for each thread.
EXPORT double wavernn_native_read_bandwidth(const char* path, size_t bytes, int threads, double seconds) {
    try {
        const Path* usable = usable_path(path);
        Arena arena;
        const float* array = arena.take<float>(bytes / sizeof(float));
        const auto first_of = [&](int thread) { return bytes / LINE * thread / threads * (LINE / sizeof(float)); };
        return !usable ? 0.0 : rate_of(threads, seconds, [&](int thread) {
            const size_t first = first_of(thread), count = first_of(thread + 1) - first;
            const size_t passes = std::max<size_t>(1, READ_AT_LEAST / (count * sizeof(float)));
            float sums[SUMS];
            for (size_t pass = 0; pass < passes; ++pass) {
                usable->read_array(array + first, count, sums);
            }
            return static_cast<double>(passes * count * sizeof(float));
        });
    } catch (const std::exception&) {
        return 0.0;
    }
}

// Multiply-adds a second of threads with operands in registers: of floats, or of integers as in products with int8
// weights; 0 if that cannot be measured.
EXPORT double wavernn_native_peak(const char* path, int integers, int threads, double seconds) {
    try {
        const Path* usable = usable_path(path);
        return !usable ? 0.0 : rate_of(threads, seconds, [&](int) {
            float sums[SUMS];
            return usable->multiply_in_registers(integers, ROUNDS, sums);
        });
    } catch (const std::exception&) {
        return 0.0;
    }
}
