// The device, contexts, memory, streams, graphs and events.
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "context.h"

namespace pretended {

struct Event {
    Stream* stream = nullptr;
    bool done = false;
    std::chrono::steady_clock::time_point time;
};

namespace {

const std::map<int, int> ATTRIBUTES = {  // by CUdevice_attribute
    {16, MULTIPROCESSORS}, {38, 50 << 20}, {75, SM / 10}, {76, SM % 10}, {81, SHARED_IN_ALL}, {97, SHARED_OPTIN}};
constexpr std::size_t PAGE = 4096, ALIGNMENT = 256;

int retained = 0;

std::size_t up(std::size_t number, std::size_t multiple) { return (number + multiple - 1) / multiple * multiple; }

void* pointer_to(Address address) { return reinterpret_cast<void*>(address); }

template <typename Value>
Result take_back(std::set<Value*>& owner, Value* value) {
    NEED_SUCCESS(usable());
    NEED(owner.erase(value), INVALID_HANDLE);
    delete value;
    return SUCCESS;
}

Result finish(Stream* stream) {
    for (const Work& work : std::exchange(stream->waiting, {})) {
        if (context.broken == SUCCESS) context.broken = work();
    }
    return context.broken;
}

}  // namespace

extern "C" {

// Tests set it: bytes of device memory in all.
std::size_t pretended_memory = 1 << 30;

// Pinned memory that was not given back.
int pretended_pinned() { return int(context.pinned.size()); }

// What was made in the context and not given back.
int pretended_leftovers() {
    const Context& c = context;
    return int(c.allocations.size() + c.streams.size() + c.events.size() + c.graphs.size() + c.executables.size());
}

int cuGetProcAddress_v2(const char* name, void** function, int, Address, int* status) {
    Dl_info here;
    dladdr(reinterpret_cast<void*>(cuGetProcAddress_v2), &here);
    const bool itself = !std::strcmp(name, "cuGetProcAddress");
    *function = dlsym(dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD), itself ? "cuGetProcAddress_v2" : name);
    if (status != nullptr) *status = *function == nullptr;
    return *function == nullptr ? NOT_FOUND : SUCCESS;
}

int cuInit(unsigned flags) {
    NEED(flags == 0, INVALID_VALUE);
    return initialised = true, SUCCESS;
}

int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }

int cuGetErrorString(int, const char** words) { return *words = "only pretended", SUCCESS; }

int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }

int cuDeviceGet(int* device, int ordinal) {
    NEED(ordinal == 0, INVALID_DEVICE);
    return *device = ordinal, SUCCESS;
}

int cuDeviceGetName(char* name, int length, int device) {
    NEED(device == 0, INVALID_DEVICE);
    return std::snprintf(name, std::size_t(length), "Pretended GPU"), SUCCESS;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
    NEED(device == 0, INVALID_DEVICE);
    NEED(ATTRIBUTES.count(attribute), INVALID_VALUE);
    return *value = ATTRIBUTES.at(attribute), SUCCESS;
}

int cuDevicePrimaryCtxRetain(Context** handle, int device) {
    NEED(device == 0, INVALID_DEVICE);
    return *handle = &context, ++retained, SUCCESS;
}

int cuDevicePrimaryCtxRelease(int device) {
    NEED(device == 0 && retained > 0, INVALID_CONTEXT);
    if (--retained == 0) context = Context();
    return SUCCESS;
}

int cuCtxPushCurrent(const Context* handle) {
    NEED(handle == &context && retained > 0, INVALID_CONTEXT);
    return ++depth, SUCCESS;
}

int cuCtxPopCurrent(Context** handle) {
    NEED(depth > 0, INVALID_CONTEXT);
    return *handle = &context, --depth, SUCCESS;
}

int cuCtxGetCurrent(Context** handle) { return *handle = depth > 0 ? &context : nullptr, SUCCESS; }

int cuCtxGetDevice(int* device) {
    NEED(depth > 0, INVALID_CONTEXT);
    return *device = 0, SUCCESS;
}

int cuCtxSynchronize() {
    NEED_SUCCESS(usable_outside_of_captures());
    std::for_each(context.streams.begin(), context.streams.end(), finish);
    return context.broken;
}

int cuMemGetInfo(std::size_t* left, std::size_t* total) {
    *left = *total = pretended_memory;
    for (const auto& [address, bytes] : context.allocations) *left -= bytes;
    return usable();
}

int cuMemAlloc(Address* address, std::size_t bytes) {
    NEED_SUCCESS(usable_outside_of_captures());
    NEED(bytes > 0, INVALID_VALUE);
    std::size_t left, total;
    NEED_SUCCESS(cuMemGetInfo(&left, &total));
    NEED(bytes <= left, OUT_OF_MEMORY);
    // It ends with a page, behind which is one that cannot be touched.
    const std::size_t size = up(up(bytes, ALIGNMENT), PAGE);
    void* first = mmap(nullptr, size + PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    std::memset(first, 0xff, size);
    *address = reinterpret_cast<Address>(first) + size - up(bytes, ALIGNMENT);
    mprotect(static_cast<char*>(first) + size, PAGE, PROT_NONE);
    return context.allocations[*address] = bytes, SUCCESS;
}

int cuMemFree(Address address) {
    NEED_SUCCESS(usable_outside_of_captures());
    NEED(context.allocations.count(address), INVALID_VALUE);
    const Address first = address / PAGE * PAGE, end = up(address + context.allocations[address], PAGE);
    mmap(pointer_to(first), end - first, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return context.allocations.erase(address), SUCCESS;
}

int cuMemcpyHtoD(Address to, const void* from, std::size_t bytes) {
    NEED_SUCCESS(usable_outside_of_captures());
    NEED(is_allocated(to, bytes), INVALID_VALUE);
    return std::memcpy(pointer_to(to), from, bytes), SUCCESS;
}

int cuMemcpyDtoH(void* to, Address from, std::size_t bytes) {
    NEED_SUCCESS(usable_outside_of_captures());
    NEED(is_allocated(from, bytes), INVALID_VALUE);
    return std::memcpy(to, pointer_to(from), bytes), SUCCESS;
}

// The trace build's clocks: each place is ten cycles behind the one before.
int cuLibraryGetGlobal(Address* address, std::size_t* bytes, void* library, const char* name) {
    NEED(library != nullptr, INVALID_HANDLE);
    NEED(std::strcmp(name, "wavernn_trace") == 0, NOT_FOUND);
    constexpr std::size_t count = 64 * 256 * 16;
    *bytes = count * sizeof(long long);
    NEED_SUCCESS(cuMemAlloc(address, *bytes));
    for (std::size_t i = 0; i < count; ++i) static_cast<long long*>(pointer_to(*address))[i] = 10LL * (long(i) + 1);
    return SUCCESS;
}

int cuMemHostAlloc(void** pointer, std::size_t bytes, unsigned) {
    NEED_SUCCESS(usable_outside_of_captures());
    NEED(bytes > 0, INVALID_VALUE);
    *pointer = std::malloc(bytes);
    std::memset(*pointer, 0xff, bytes);
    return context.pinned[reinterpret_cast<Address>(*pointer)] = bytes, SUCCESS;
}

int cuMemFreeHost(void* pointer) {
    NEED_SUCCESS(usable_outside_of_captures());
    NEED(context.pinned.erase(reinterpret_cast<Address>(pointer)), INVALID_VALUE);
    return std::free(pointer), SUCCESS;
}

int cuMemcpyHtoDAsync(Address to, const void* from, std::size_t bytes, Stream* stream) {
    const auto there = [=] { return is_allocated(to, bytes) && is_pinned(from, bytes); };
    NEED(there(), INVALID_VALUE);
    return put(stream, [=] {
        NEED(there(), ILLEGAL_ADDRESS);
        return std::memcpy(pointer_to(to), from, bytes), SUCCESS;
    });
}

int cuMemcpyDtoHAsync(void* to, Address from, std::size_t bytes, Stream* stream) {
    const auto there = [=] { return is_allocated(from, bytes) && is_pinned(to, bytes); };
    NEED(there(), INVALID_VALUE);
    return put(stream, [=] {
        NEED(there(), ILLEGAL_ADDRESS);
        return std::memcpy(to, pointer_to(from), bytes), SUCCESS;
    });
}

int cuMemcpyDtoDAsync(Address to, Address from, std::size_t bytes, Stream* stream) {
    const auto allocated = [=] { return is_allocated(to, bytes) && is_allocated(from, bytes); };
    NEED(allocated(), INVALID_VALUE);
    return put(stream, [=] {
        NEED(allocated(), ILLEGAL_ADDRESS);
        return std::memcpy(pointer_to(to), pointer_to(from), bytes), SUCCESS;
    });
}

int cuMemsetD32Async(Address address, unsigned value, std::size_t count, Stream* stream) {
    NEED(address % 4 == 0 && is_allocated(address, 4 * count), INVALID_VALUE);
    return put(stream, [=] {
        NEED(is_allocated(address, 4 * count), ILLEGAL_ADDRESS);
        return std::fill_n(static_cast<unsigned*>(pointer_to(address)), count, value), SUCCESS;
    });
}

int cuStreamCreate(Stream** stream, unsigned flags) {
    NEED_SUCCESS(usable());
    NEED(flags <= 1, INVALID_VALUE);
    return give(context.streams, stream, new Stream());
}

int cuStreamSynchronize(Stream* stream) {
    NEED_SUCCESS(usable_outside_of_captures());
    NEED(context.streams.count(stream), INVALID_HANDLE);
    return finish(stream);
}

int cuStreamDestroy(Stream* stream) { return take_back(context.streams, stream); }

int cuStreamBeginCapture(Stream* stream, int) {
    NEED_SUCCESS(usable_outside_of_captures());
    NEED(context.streams.count(stream), INVALID_HANDLE);
    stream->captured = std::make_unique<Graph>();
    return context.capturing = true, SUCCESS;
}

int cuStreamIsCapturing(Stream* stream, int* status) {
    NEED_SUCCESS(usable());
    NEED(context.streams.count(stream), INVALID_HANDLE);
    return *status = stream->captured != nullptr, SUCCESS;
}

int cuStreamEndCapture(Stream* stream, Graph** graph) {
    NEED_SUCCESS(usable());
    NEED(context.streams.count(stream) && stream->captured, INVALID_VALUE);
    const auto captured = std::exchange(stream->captured, nullptr);
    context.capturing = false;
    NEED(!std::exchange(context.capture_spoilt, false), CAPTURE_INVALIDATED);
    return give(context.graphs, graph, new Graph(*captured));
}

int cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, Address flags) {
    NEED_SUCCESS(usable());
    NEED(context.graphs.count(graph) && flags == 0, INVALID_VALUE);
    return give(context.executables, executable, new Graph(*graph));
}

int cuGraphLaunch(Graph* executable, Stream* stream) {
    NEED(context.executables.count(executable), INVALID_HANDLE);
    return put(stream, [nodes = *executable] {
        for (const Work& node : nodes) NEED_SUCCESS(node());
        return SUCCESS;
    });
}

int cuGraphDestroy(Graph* graph) { return take_back(context.graphs, graph); }

int cuGraphExecDestroy(Graph* executable) { return take_back(context.executables, executable); }

int cuEventCreate(Event** event, unsigned) {
    NEED_SUCCESS(usable());
    return give(context.events, event, new Event());
}

int cuEventRecord(Event* event, Stream* stream) {
    NEED(context.events.count(event), INVALID_HANDLE);
    event->stream = stream;
    event->done = false;
    return put(stream, [event] { return event->time = std::chrono::steady_clock::now(), event->done = true, SUCCESS; });
}

int cuEventSynchronize(Event* event) {
    NEED_SUCCESS(usable_outside_of_captures());
    NEED(context.events.count(event) && context.streams.count(event->stream), INVALID_HANDLE);
    return finish(event->stream);
}

int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    NEED(context.events.count(event), INVALID_HANDLE);
    return put(stream, [event] { return Result(cuEventSynchronize(event)); });
}

int cuEventElapsedTime(float* milliseconds, Event* begin, Event* end) {
    NEED(context.events.count(begin) && context.events.count(end), INVALID_HANDLE);
    NEED(begin->done && end->done, NOT_READY);
    return *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count(), usable();
}

int cuEventDestroy(Event* event) { return take_back(context.events, event); }

}  // extern "C"
}  // namespace pretended
