// A barrier for a fixed number of threads: spins for a short time, then sleeps, so that a busy machine can run the
// thread that the others wait for.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

namespace wavernn {

class Barrier {
  public:
    explicit Barrier(int threads) : threads_(threads) {}

    void wait() {
        const unsigned generation = generation_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            {
                // The lock keeps a waiter from falling asleep between its last look and the notification.
                std::lock_guard<std::mutex> lock(mutex_);
                generation_.store(generation + 1, std::memory_order_release);
            }
            if (asleep_.load(std::memory_order_acquire) > 0) {
                woken_.notify_all();
            }
            return;
        }
        const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(SPIN_MICROSECONDS);
        do {
            for (int i = 0; i < 64; ++i) {
                if (generation_.load(std::memory_order_acquire) != generation) {
                    return;
                }
                pause();
            }
        } while (std::chrono::steady_clock::now() < end);
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.fetch_add(1, std::memory_order_acq_rel);
        woken_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != generation; });
        asleep_.fetch_sub(1, std::memory_order_acq_rel);
    }

  private:
    static constexpr int SPIN_MICROSECONDS = 20;

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ __volatile__("yield");
#endif
    }

    const int threads_;
    alignas(128) std::atomic<int> arrived_{0};
    alignas(128) std::atomic<unsigned> generation_{0};
    alignas(128) std::atomic<int> asleep_{0};
    std::mutex mutex_;
    std::condition_variable woken_;
};

}  // namespace wavernn
