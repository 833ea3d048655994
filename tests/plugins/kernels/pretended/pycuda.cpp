// What pycuda calls besides: it links the names that CUDA's header gives the functions, and copies from pinned memory.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "context.h"

using namespace pretended;

namespace {

std::atomic<int> pinned{0};

}  // namespace

extern "C" {

int cuMemAlloc(Address*, std::size_t);
int cuMemFree(Address);
int cuMemGetInfo(std::size_t*, std::size_t*);
int cuMemcpyDtoDAsync(Address, Address, std::size_t, Stream*);
int cuCtxPushCurrent(const Context*);
int cuCtxPopCurrent(Context**);
int cuDevicePrimaryCtxRelease(int);
int cuStreamDestroy(Stream*);
int cuEventDestroy(Event*);
int cuEventSynchronize(Event*);

int cuMemAlloc_v2(Address* address, std::size_t bytes) { return cuMemAlloc(address, bytes); }
int cuMemFree_v2(Address address) { return cuMemFree(address); }
int cuMemGetInfo_v2(std::size_t* left, std::size_t* total) { return cuMemGetInfo(left, total); }
int cuMemcpyDtoDAsync_v2(Address to, Address from, std::size_t bytes, Stream* stream) {
    return cuMemcpyDtoDAsync(to, from, bytes, stream);
}
int cuCtxPushCurrent_v2(const Context* handle) { return cuCtxPushCurrent(handle); }
int cuCtxPopCurrent_v2(Context** handle) { return cuCtxPopCurrent(handle); }
int cuDevicePrimaryCtxRelease_v2(int device) { return cuDevicePrimaryCtxRelease(device); }
int cuStreamDestroy_v2(Stream* stream) { return cuStreamDestroy(stream); }
int cuEventDestroy_v2(Event* event) { return cuEventDestroy(event); }

// Pinned memory that was not given back.
int pretended_pinned() { return pinned; }

int cuMemHostAlloc(void** pointer, std::size_t bytes, unsigned) {
    NEED_SUCCESS(usable_outside_of_captures());
    return *pointer = std::malloc(bytes), ++pinned, SUCCESS;
}

int cuMemFreeHost(void* pointer) {
    NEED_SUCCESS(usable_outside_of_captures());
    return std::free(pointer), --pinned, SUCCESS;
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t bytes, Stream* stream) {
    NEED(is_allocated(to, bytes), INVALID_VALUE);
    return put(stream, [=] {
        NEED(is_allocated(to, bytes), ILLEGAL_ADDRESS);
        return std::memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS;
    });
}

int cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t bytes, Stream* stream) {
    NEED(is_allocated(from, bytes), INVALID_VALUE);
    return put(stream, [=] {
        NEED(is_allocated(from, bytes), ILLEGAL_ADDRESS);
        return std::memcpy(to, reinterpret_cast<const void*>(from), bytes), SUCCESS;
    });
}

int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    NEED(context.events.count(event), INVALID_HANDLE);
    return put(stream, [event] { return Result(cuEventSynchronize(event)); });
}

}  // extern "C"
