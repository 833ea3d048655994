// The trace build, WAVERNN_TRACE=1: the first thread of a block stores the clock of its multiprocessor at points of a
// step. Clocks of different multiprocessors cannot be compared. In other builds TRACE does nothing.
#pragma once

#if defined(__CUDACC__) && defined(WAVERNN_TRACE)

// Sizes of the trace, which holds the last chunk; wavernn_trt.scripts.gpu.trace has the same numbers.
constexpr int TRACED_STEPS = 64, TRACED_BLOCKS = 256, TRACED_PLACES = 16;

extern "C" {
__device__ long long wavernn_trace[TRACED_STEPS * TRACED_BLOCKS * TRACED_PLACES];
}

#define TRACE(place, step)                                                                                     \
    do {                                                                                                       \
        if (threadIdx.x == 0 && blockIdx.x < TRACED_BLOCKS && (step) >= 0 && (step) < TRACED_STEPS) {          \
            wavernn_trace[((step) * TRACED_BLOCKS + blockIdx.x) * TRACED_PLACES + (place)] = clock64();        \
        }                                                                                                      \
    } while (false)

#else

#define TRACE(place, step) static_cast<void>(0)

#endif
