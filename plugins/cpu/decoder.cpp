// Entry points of the native decoder: choice of the instruction set, loading, and decoding of a chunk by threads.
//
// Functions return 0, or -1 with a message in `error`.
#include <stdio.h>

#include <exception>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "arena.h"
#include "barrier.h"
#include "description.h"
#include "pack.h"

namespace wavernn {

extern const Path AVX512, AVX2, NEON, PLAIN;

namespace {

#if defined(__x86_64__) && defined(__GNUC__)
// __builtin_cpu_supports also checks that the system saves the registers (XGETBV).
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

// The paths that this machine can run, the best first.
std::vector<const Path*> usable_paths() {
    std::vector<const Path*> paths;
#if defined(__x86_64__) && defined(__GNUC__)
    if (has_avx512()) {
        paths.push_back(&AVX512);
    }
    if (has_avx2()) {
        paths.push_back(&AVX2);
    }
#elif defined(__aarch64__) && defined(__GNUC__)
    paths.push_back(&NEON);
#endif
    paths.push_back(&PLAIN);
    return paths;
}

}  // namespace

const Path* usable_path(const char* name) {
    for (const Path* path : usable_paths()) {
        if (strcmp(path->name, name) == 0) {
            return path;
        }
    }
    return nullptr;
}

namespace {

// Keeps the caller's floating-point modes out of the results: rounding to nearest, denormal numbers kept.
class FloatingPointModes {
  public:
#if defined(__x86_64__)
    FloatingPointModes() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~FloatingPointModes() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#elif defined(__aarch64__)
    FloatingPointModes() {
        __asm__ __volatile__("mrs %0, fpcr" : "=r"(saved_) : : "memory");
        __asm__ __volatile__("msr fpcr, %0" : : "r"(0ull) : "memory");
    }
    ~FloatingPointModes() { __asm__ __volatile__("msr fpcr, %0" : : "r"(saved_) : "memory"); }

  private:
    unsigned long long saved_;
#endif
};

struct Decoder {
    const Path* path;
    Arena arena;
    Model model;
};

int fail(char* error, size_t size, const char* message) {
    snprintf(error, size, "%s", message);
    return -1;
}

void set_places(const Description& d, Decoder& decoder) {
    Model& m = decoder.model;
    const int rows = decoder.path->block_rows;
    const bool used[PLACES] = {true, d.skip != 0, d.layers == 2, true, d.fc_layers == 2};
    const float* biases[PLACES] = {d.gates_bias_0, d.skip_bias, d.gates_bias_1, nullptr, nullptr};
    for (int place = 0; place < PLACES; ++place) {
        m.place_used[place] = used[place];
        m.place_gates[place] = place == GATES_0 || place == GATES_1 ? GATES : 1;
        m.place_width[place] = place < PLACE_FC_0 ? d.hidden : d.matrices[FC_0 + place - PLACE_FC_0].rows;
        m.place_padded[place] = (m.place_width[place] + rows - 1) / rows * rows;
        for (int group = 0; group < GROUPS; ++group) {
            m.place_first[place][group] = d.place_first[place][group];
        }
        if (used[place]) {
            m.place_bias[place] =
                pad(biases[place], m.place_gates[place], m.place_width[place], m.place_padded[place], decoder.arena);
        }
    }
}

void load(const Description& d, Decoder& decoder) {
    Model& m = decoder.model;
    const size_t padded = static_cast<size_t>(d.hidden + decoder.path->block_rows - 1) / decoder.path->block_rows *
                          decoder.path->block_rows;
    m.hidden = d.hidden;
    m.layers = d.layers;
    m.fc_layers = d.fc_layers;
    m.outputs = d.outputs;
    m.output = d.output;
    m.label_feedback = d.label_feedback;
    m.skip = d.skip;
    m.columns = d.columns;
    m.groups = d.groups;
    m.uniforms = d.uniforms;
    m.unit_blocks = static_cast<int>(padded / decoder.path->block_rows);
    for (int group = 0; group < GROUPS; ++group) {
        m.held[group] = d.held[group];
    }
    for (int i = 0; i < MATRICES; ++i) {
        m.matrices[i] = pack(d.matrices[i], i <= RECURRENT_1, *decoder.path, decoder.arena);
    }
    m.feedback = pad(d.feedback, static_cast<size_t>(d.label_feedback ? d.outputs : 1) * GATES, d.hidden, padded,
                     decoder.arena);
    m.skip_column = d.skip ? pad(d.skip_column, 1, d.hidden, padded, decoder.arena) : nullptr;
    m.fed_back = d.fed_back ? pad(d.fed_back, 1, d.outputs, d.outputs, decoder.arena) : nullptr;
    set_places(d, decoder);
}

void take_buffers(const Chunk& chunk, Run& r, Arena& arena) {
    const Model& m = *r.model;
    const size_t batch = chunk.batch;
    for (int layer = 0; layer < m.layers; ++layer) {
        const size_t padded = m.place_padded[GATES_0];
        for (int parity = 0; parity < 2; ++parity) {
            r.states[layer][parity] = arena.take<float>(batch * padded);
        }
        for (size_t s = 0; s < batch; ++s) {
            memcpy(r.states[layer][0] + s * padded, chunk.hidden + (layer * batch + s) * m.hidden,
                   sizeof(float) * m.hidden);
        }
        r.features[layer] = m.skip ? arena.take<float>(batch * padded) : nullptr;
    }
    for (int i = 0; i < m.fc_layers; ++i) {
        r.activations[i] = arena.take<float>(batch * m.place_padded[PLACE_FC_0 + i]);
    }
    for (int place = 0; place < PLACES; ++place) {
        if (m.place_used[place]) {
            r.rows[place] = arena.take<float>(batch * m.place_gates[place] * m.place_padded[place]);
        }
    }
}

// Runs all threads; with fewer than asked for where the system starts no more. Nothing is thrown while threads run.
void run_threads(const Path& path, Run& r) {
    struct Start {
        std::mutex mutex;
        std::condition_variable changed;
        bool ready = false;
    } start;
    std::vector<std::thread> workers;
    workers.reserve(r.threads);
    for (int i = 1; i < r.threads; ++i) {
        try {
            workers.emplace_back([&path, &r, &start, i] {
                {
                    std::unique_lock<std::mutex> lock(start.mutex);
                    start.changed.wait(lock, [&start] { return start.ready; });
                }
                const FloatingPointModes modes;
                path.run(&r, i);
            });
        } catch (const std::exception&) {  // system_error, bad_alloc
            break;
        }
    }
    r.threads = static_cast<int>(workers.size()) + 1;
    Barrier barrier(r.threads);
    r.barrier = &barrier;
    {
        std::lock_guard<std::mutex> lock(start.mutex);
        start.ready = true;
    }
    start.changed.notify_all();
    path.run(&r, 0);
    for (std::thread& worker : workers) {
        worker.join();
    }
}

}  // namespace
}  // namespace wavernn

using namespace wavernn;

#define EXPORT extern "C" __attribute__((visibility("default")))

extern "C" void wavernn_native_wait(void* barrier) { static_cast<Barrier*>(barrier)->wait(); }

EXPORT int wavernn_native_version() { return VERSION; }

// Name of the path at an index, the best first; null behind the last that this machine can run.
EXPORT const char* wavernn_native_path(int index) {
    const std::vector<const Path*> paths = usable_paths();
    return index >= 0 && index < static_cast<int>(paths.size()) ? paths[index]->name : nullptr;
}

// Opens a decoder with the path of a name; null with a message in `error` if there is not enough memory.
EXPORT void* wavernn_native_open(const Description* description, const char* path, char* error, size_t size) {
    const FloatingPointModes modes;
    try {
        if (const Path* usable = usable_path(path)) {
            std::unique_ptr<Decoder> decoder(new Decoder{usable, {}, {}});
            load(*description, *decoder);
            return decoder.release();
        }
        fail(error, size, "this machine cannot run the path");
    } catch (const std::exception&) {
        fail(error, size, "not enough memory for the weights");
    }
    return nullptr;
}

EXPORT void wavernn_native_close(void* decoder) { delete static_cast<Decoder*>(decoder); }

// Work of a step of one stream: bytes of weights, multiply-adds of floats, multiply-adds of integers.
EXPORT void wavernn_native_work(const void* decoder, int64_t* work) {
    work[0] = work[1] = work[2] = 0;
    for (const Matrix& m : static_cast<const Decoder*>(decoder)->model.matrices) {
        work[0] += m.stored_bytes;
        work[m.arithmetic == INT8_INT16 || m.arithmetic == INT8_INT8 ? 2 : 1] += m.stored;
    }
}

// Decodes a chunk. Any number of calls may run at the same time.
EXPORT int wavernn_native_decode(const void* opened, const Chunk* chunk, char* error, size_t size) {
    try {
        const Decoder& decoder = *static_cast<const Decoder*>(opened);
        const Model& m = decoder.model;
        Arena arena;
        Run r = {};
        r.model = &m;
        r.conditioning = chunk->conditioning;
        r.frame_index = chunk->frame_index;
        r.interpolation = chunk->interpolation;
        r.uniforms = chunk->uniforms;
        r.forced = chunk->forced;
        r.previous = chunk->previous;
        r.samples = chunk->samples;
        r.logits_out = chunk->logits;
        r.batch = chunk->batch;
        r.steps = chunk->steps;
        r.window = chunk->window;
        r.threads = chunk->threads;
        take_buffers(*chunk, r, arena);
        r.logits = arena.take<float>(static_cast<size_t>(r.batch) * m.matrices[OUTPUT].blocks * decoder.path->block_rows);
        r.thread_bytes = decoder.path->thread_bytes(&m, r.batch);
        r.thread_memory = arena.take<unsigned char>(r.thread_bytes * r.threads);
        {
            const FloatingPointModes modes;
            run_threads(*decoder.path, r);
        }
        const size_t padded = m.place_padded[GATES_0];
        for (int layer = 0; layer < m.layers; ++layer) {
            const float* states = r.states[layer][r.steps & 1];
            for (int s = 0; s < r.batch; ++s) {
                memcpy(chunk->hidden + (static_cast<size_t>(layer) * r.batch + s) * m.hidden, states + s * padded,
                       sizeof(float) * m.hidden);
            }
        }
        return 0;
    } catch (const std::exception&) {
        return fail(error, size, "not enough memory for the chunk");
    }
}

// Applies exp (0), sigmoid (1) or tanh (2) of a path to numbers whose count is a multiple of 16; for tests.
EXPORT int wavernn_native_apply(const char* path, int function, const float* x, float* y, size_t count) {
    const Path* usable = usable_path(path);
    if (!usable) {
        return -1;
    }
    const FloatingPointModes modes;
    usable->functions(function, x, y, count);
    return 0;
}

// De-emphasis of a waveform: y[i] = x[i] + coefficient * y[i - 1], each operation rounded. `previous` is y[-1].
EXPORT void wavernn_native_de_emphasis(const double* x, double* y, size_t count, double coefficient, double previous) {
    const FloatingPointModes modes;
    for (size_t i = 0; i < count; ++i) {
        previous = x[i] + coefficient * previous;
        y[i] = previous;
    }
}
