// A libcuda.so.1 that pretends: it checks the names, signatures, arguments, order and lifetimes of the calls that this
// project makes through cuda-bindings and pycuda, and says nothing about a GPU.
//
// driver.cpp has memory, streams, graphs and events, launch.cpp the kernels, pycuda.cpp what pycuda calls besides. Device
// memory is memory of the host, and kernels are their host build. A function that is not there is not found. What CUDA
// refuses is refused with CUDA's own code. Where CUDA leaves something open, the stricter is chosen:
// - work on a stream begins when something waits for that stream, and never if nothing does, so that no test reads a
//   result too early;
// - a copy that is to happen later is from or to pinned memory;
// - an allocation is full of NaN, ends where the next address is invalid, and leaves its addresses invalid for good;
// - a capture refuses every call that CUDA names potentially unsafe there;
// - a kernel's code is loaded by cuFuncLoad or by the first launch, which a capture refuses.
// One thread at a time calls it, and there is one device. What a kernel does wrong stays until the context is released.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

namespace pretended {

enum Result {  // as in CUresult
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    MISALIGNED_ADDRESS = 716,
    LAUNCH_FAILED = 719,
    COOPERATIVE_LAUNCH_TOO_LARGE = 720,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

#define NEED(condition, otherwise) \
    if (!(condition)) return otherwise
#define NEED_SUCCESS(result) \
    if (const auto wrong = (result)) return wrong

// The device. Shared memory of a block: what it has without asking, and what it can ask for; then of a multiprocessor,
// and what the system takes of that for each block.
constexpr int SM = 90, MULTIPROCESSORS = 2;
constexpr int SHARED_UNASKED = 48 << 10, SHARED_OPTIN = 227 << 10, SHARED_IN_ALL = 228 << 10, SHARED_TAKEN = 1 << 10;

using Address = unsigned long long;
using Work = std::function<Result()>;
using Graph = std::vector<Work>;

struct Event;

struct Stream {
    Graph waiting;
    std::unique_ptr<Graph> captured;
};

inline unsigned long long contexts = 0;  // that there were so far

struct Context {
    std::map<Address, std::size_t> allocations, pinned;
    std::set<Stream*> streams;
    std::set<Event*> events;
    std::set<Graph*> graphs, executables;
    Result broken = SUCCESS;
    bool capturing = false, capture_spoilt = false;
    unsigned long long number = ++contexts;
};

inline Context context;
inline bool initialised = false;
inline thread_local int depth = 0;  // of this thread's stack of contexts

inline Result usable() {
    NEED(initialised, NOT_INITIALIZED);
    NEED(depth > 0, INVALID_CONTEXT);
    return context.broken;
}

// For calls that allocate, load or wait: in a capture they fail, and it fails with them.
inline Result usable_outside_of_captures() {
    NEED_SUCCESS(usable());
    NEED(!context.capturing, (context.capture_spoilt = true, CAPTURE_UNSUPPORTED));
    return SUCCESS;
}

inline bool lies_in(const std::map<Address, std::size_t>& pieces, Address address, std::size_t bytes) {
    const auto next = pieces.upper_bound(address);
    NEED(next != pieces.begin(), false);
    const auto& [first, size] = *std::prev(next);
    return address + bytes <= first + size;
}

inline bool is_allocated(Address address, std::size_t bytes) { return lies_in(context.allocations, address, bytes); }

inline bool is_pinned(const void* pointer, std::size_t bytes) {
    return lies_in(context.pinned, reinterpret_cast<Address>(pointer), bytes);
}

// Puts work on a stream, or into the graph that it is captured into.
inline Result put(Stream* stream, Work work) {
    NEED_SUCCESS(usable());
    NEED(context.streams.count(stream), INVALID_HANDLE);
    (stream->captured ? *stream->captured : stream->waiting).push_back(std::move(work));
    return SUCCESS;
}

// Makes an object with an owner.
template <typename Value>
Result give(std::set<Value*>& owner, Value** handle, Value* value) {
    owner.insert(*handle = value);
    return SUCCESS;
}

}  // namespace pretended
