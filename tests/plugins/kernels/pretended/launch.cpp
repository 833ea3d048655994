// Libraries, kernels and their launches.
//
// CUDA copies as many bytes as a kernel's argument has, and never learns that there were fewer, or others. Here the
// arguments have to agree with their launch down to the last fields.
#include <dlfcn.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <string>

#include "context.h"
#include "gru_arguments.h"
#include "resident_arguments.h"
#include "stepped_arguments.h"

namespace pretended {

using wavernn::GruArguments;
using wavernn::ResidentArguments;
using wavernn::SequenceArguments;
using wavernn::SteppedArguments;

// Of tests/plugins/harness/host_sequence.cpp; the others are found by their names.
extern "C" {
int wavernn_gru_cell(const GruArguments*, int precision, int tile, int blocks, int warps, int shared_bytes);
int wavernn_sequence(const SequenceArguments*, int precision, int tile, int blocks, int warps, int shared_bytes);
}

// Tests set it: the last block of this many of the next cooperative launches never runs.
extern "C" int pretended_absent;
int pretended_absent = 0;

struct Library {
    std::string file;
    int precision;
};

struct Kernel {
    const Library* library;
    int tile;  // of those that are one function for all tiles
    int (*function)(const void*, int precision, int blocks, int warps, int shared_bytes) = nullptr;  // of the others
    int most_shared = SHARED_UNASKED;
    // Of its function, which is the same handle here; code is loaded lazily, for as long as the context lives.
    int most_shared_of_function = SHARED_UNASKED;
    unsigned long long loaded_in = 0;
};

struct LaunchAttribute {
    int id, padding, value[16];
};

struct LaunchConfig {
    unsigned grid[3], block[3], shared_bytes;
    Stream* stream;
    const LaunchAttribute* attributes;
    unsigned attribute_count;
};

namespace {

constexpr int MOST_THREADS = 256, COUNTER_BYTES = 128;  // of the kernels, their launch bounds and group.h
constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8, COOPERATIVE = 2;  // of CUfunction_attribute, CUlaunchAttributeID

std::set<Library*> libraries;  // these two belong to no context
std::set<Kernel*> kernels;

struct Launch {
    int precision, tile, grid, threads, shared_bytes;
};

bool agree(const GruArguments& a, const Launch& launch) {
    const int warps = launch.threads / 32;
    return a.batch > 0 && a.hidden_size > 0 && a.unit_blocks == (a.hidden_size + warps - 1) / warps &&
           launch.grid == a.unit_blocks * ((a.batch + launch.tile - 1) / launch.tile);
}

bool agree(const SequenceArguments& a, const Launch& launch) {
    const auto fits = [&](int offset) { return 0 <= offset && offset < launch.shared_bytes; };
    return a.batch > 0 && a.steps > 0 && a.window > 0 && a.groups > 0 && a.groups * a.blocks == launch.grid &&
           a.waits > 0 && fits(a.shared_operands) && fits(a.shared_sampler);
}

bool agree(const ResidentArguments& r, const Launch& launch) {
    const SequenceArguments& a = r.s;
    const auto fits = [&](int offset) { return 0 <= offset && offset < launch.shared_bytes; };
    return a.batch > 0 && a.steps > 0 && a.window > 0 && a.groups > 0 && a.groups * a.blocks == launch.grid &&
           a.waits > 0 && fits(a.shared_sampler) && fits(r.shared_meeting) && fits(r.shared_gates) &&
           fits(r.shared_logits) && (r.scales[wavernn::OUTPUT] != nullptr) == (launch.precision == 3);
}

bool agree(const SteppedArguments& p, const Launch& launch) {
    return p.s.batch > 0 && p.s.steps > 0 && p.s.window > 0 && launch.grid > 0 &&
           (p.scales[wavernn::OUTPUT] != nullptr) == (launch.precision == 3);
}

// Whether a kernel can read numbers or vectors of that many bytes there. Not all models have all operands.
Result check(int bytes, std::initializer_list<const void*> pointers) {
    for (const void* pointer : pointers) {
        const auto address = reinterpret_cast<Address>(pointer);
        NEED(address % static_cast<Address>(bytes) == 0, MISALIGNED_ADDRESS);
        NEED(address == 0 || is_allocated(address, static_cast<std::size_t>(bytes)), ILLEGAL_ADDRESS);
    }
    return SUCCESS;
}

Result check(const GruArguments& a, int number) {
    NEED_SUCCESS(check(number, {a.recurrent_weight}));
    return check(4, {a.gates, a.hidden, a.recurrent_bias, a.next_hidden});
}

Result check(const SequenceArguments& a, int) {
    for (const wavernn::Matrix& matrix : a.matrices) {
        NEED_SUCCESS(check(16, {matrix.weight}));
        NEED_SUCCESS(check(4, {matrix.bias}));
    }
    NEED_SUCCESS(check(16, {a.counters, a.states[0], a.states[1], a.features[0], a.features[1]}));
    NEED_SUCCESS(check(16, {a.activations[0], a.activations[1]}));
    NEED_SUCCESS(check(4, {a.conditioning, a.frame_index, a.interpolation, a.uniforms, a.previous, a.hidden}));
    NEED_SUCCESS(check(4, {a.feedback, a.gates_bias_0, a.skip_column, a.skip_bias, a.gates_bias_1, a.samples}));
    NEED_SUCCESS(check(4, {a.previous_out, a.hidden_out, a.skipped, a.logits}));
    for (int group = 0; group < a.groups; ++group) {  // else blocks would wait for each other in vain
        NEED(*reinterpret_cast<const unsigned*>(a.counters + group * COUNTER_BYTES) == 0, LAUNCH_FAILED);
    }
    return SUCCESS;
}

Result check(const SteppedArguments& p, int) {
    NEED_SUCCESS(check(16, {p.operands[0], p.operands[1], p.results, p.features, p.step_logits}));
    for (const float* scales : p.scales) NEED_SUCCESS(check(4, {scales}));
    for (const wavernn::Matrix& matrix : p.s.matrices) NEED_SUCCESS(check(16, {matrix.weight}));
    return check(4, {p.step, p.next_step, p.s.conditioning, p.s.uniforms, p.s.hidden, p.s.hidden_out, p.s.skipped});
}

Result check(const ResidentArguments& r, int number) {
    NEED_SUCCESS(check(16, {r.mail}));
    for (const float* scales : r.scales) NEED_SUCCESS(check(4, {scales}));
    return check(r.s, number);
}

// Runs a kernel in a process of its own, so that what it does wrong ends that one.
template <typename Arguments, typename Run>
Result run_apart(const Arguments& arguments, const Launch& launch, Run run) {
    const pid_t process = fork();
    if (process == 0) {
        signal(SIGSEGV, SIG_DFL);  // pytest's handler would print it
        _exit(run(&arguments, launch));
    }
    int status = 1;
    waitpid(process, &status, 0);
    NEED(!WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV, ILLEGAL_ADDRESS);
    return status == 0 ? SUCCESS : LAUNCH_FAILED;
}

// Copies the arguments now, and looks at what they point to when the stream's turn comes.
template <typename Arguments, typename Run>
Result put_kernel(Stream* stream, const Launch& launch, bool cooperative, const void* given, Run run) {
    Arguments arguments;
    std::memcpy(&arguments, given, sizeof(arguments));
    NEED(agree(arguments, launch), INVALID_VALUE);
    return put(stream, [=]() -> Result {
        Launch whole = launch;
        if (cooperative && pretended_absent > 0) {
            --pretended_absent;
            --whole.grid;
        }
        NEED_SUCCESS(check(arguments, launch.precision == 0 ? 4 : launch.precision == 3 ? 1 : 2));
        return run_apart(arguments, whole, run);
    });
}

}  // namespace

extern "C" {

// Tests set it: blocks that a multiprocessor takes; other programs may limit that on a GPU.
int pretended_room = 1;

// A cubin is what nvcc.py writes.
int cuLibraryLoadData(Library** library, const char* code, void*, void*, unsigned, void*, void*, unsigned) {
    NEED_SUCCESS(usable_outside_of_captures());
    char file[16], number[16];
    int sm;
    NEED(std::sscanf(code, "pretended %15s %15s sm_%d", file, number, &sm) == 3, INVALID_IMAGE);
    NEED(sm == SM, NO_BINARY_FOR_GPU);
    const std::string types = "FHBE";  // the first letters of what WAVERNN_NUMBER can be
    return give(libraries, library, new Library{file, int(types.find(number[0]))});
}

int cuLibraryGetKernel(Kernel** kernel, Library* library, const char* name) {
    NEED(libraries.count(library), INVALID_HANDLE);
    for (const int tile : {1, 4, 8}) {
        if (library->file + "_" + std::to_string(tile) == name) return give(kernels, kernel, new Kernel{library, tile});
    }
    if (std::string(name).rfind(library->file + "_", 0) != 0) return NOT_FOUND;
    Dl_info host_build;
    dladdr(reinterpret_cast<void*>(wavernn_sequence), &host_build);
    void* found = dlsym(dlopen(host_build.dli_fname, RTLD_NOW | RTLD_NOLOAD), ("wavernn_" + std::string(name)).c_str());
    if (found == nullptr) return NOT_FOUND;
    return give(kernels, kernel, new Kernel{library, 0, reinterpret_cast<decltype(Kernel::function)>(found)});
}

int cuKernelSetAttribute(int attribute, int value, Kernel* kernel, int device) {
    NEED(kernels.count(kernel) && device == 0, INVALID_HANDLE);
    NEED(attribute == MAX_DYNAMIC_SHARED_SIZE_BYTES && value <= SHARED_OPTIN, INVALID_VALUE);
    return kernel->most_shared = value, SUCCESS;
}

int cuKernelGetFunction(Kernel** function, Kernel* kernel) {
    NEED(kernels.count(kernel), INVALID_HANDLE);
    return *function = kernel, usable();
}

int cuFuncSetAttribute(Kernel* function, int attribute, int value) {
    NEED(kernels.count(function), INVALID_HANDLE);
    NEED(attribute == MAX_DYNAMIC_SHARED_SIZE_BYTES && value <= SHARED_OPTIN, INVALID_VALUE);
    return function->most_shared_of_function = value, usable();
}

int cuFuncLoad(Kernel* function) {
    NEED(kernels.count(function), INVALID_HANDLE);
    NEED_SUCCESS(usable_outside_of_captures());
    return function->loaded_in = context.number, SUCCESS;
}

int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel* kernel, int threads, std::size_t shared_bytes) {
    NEED(kernels.count(kernel) && 0 < threads && threads <= MOST_THREADS, INVALID_VALUE);
    NEED(int(shared_bytes) <= kernel->most_shared_of_function, INVALID_VALUE);
    return *blocks = std::min(pretended_room, SHARED_IN_ALL / (int(shared_bytes) + SHARED_TAKEN)), usable();
}

int cuLaunchKernelEx(const LaunchConfig* config, Kernel* kernel, void** arguments, void** extra) {
    const auto& [grid, block, shared_bytes, stream, attributes, attribute_count] = *config;
    NEED(kernels.count(kernel), INVALID_HANDLE);
    NEED(grid[1] == 1 && grid[2] == 1 && block[1] == 1 && block[2] == 1 && arguments && !extra, INVALID_VALUE);
    NEED(block[0] % 32 == 0 && int(shared_bytes) <= kernel->most_shared, INVALID_VALUE);
    if (kernel->loaded_in != context.number) NEED_SUCCESS(cuFuncLoad(kernel));
    int room;
    NEED_SUCCESS(cuOccupancyMaxActiveBlocksPerMultiprocessor(&room, kernel, int(block[0]), shared_bytes));
    for (const LaunchAttribute* attribute = attributes; attribute < attributes + attribute_count; ++attribute) {
        NEED(attribute->id == COOPERATIVE && attribute->value[0] == 1, INVALID_VALUE);
        NEED(int(grid[0]) <= room * MULTIPROCESSORS, COOPERATIVE_LAUNCH_TOO_LARGE);
    }
    const Launch launch{kernel->library->precision, kernel->tile, int(grid[0]), int(block[0]), int(shared_bytes)};
    // Every launch keeps its own numbers: a kernel runs when its stream's turn comes.
    const auto tiled = [](auto function) {
        return [function](const auto* given, const Launch& one) {
            return function(given, one.precision, one.tile, one.grid, one.threads / 32, one.shared_bytes);
        };
    };
    const auto run = [function = kernel->function](const void* given, const Launch& one) {
        return function(given, one.precision, one.grid, one.threads / 32, one.shared_bytes);
    };
    if (kernel->library->file == "resident") return put_kernel<ResidentArguments>(stream, launch, attribute_count > 0, arguments[0], run);
    if (kernel->library->file == "stepped") return put_kernel<SteppedArguments>(stream, launch, false, arguments[0], run);
    return kernel->library->file == "gru_cell"
               ? put_kernel<GruArguments>(stream, launch, false, arguments[0], tiled(wavernn_gru_cell))
               : put_kernel<SequenceArguments>(stream, launch, attribute_count > 0, arguments[0], tiled(wavernn_sequence));
}

}  // extern "C"
}  // namespace pretended
