// What pycuda calls besides: it links the names that CUDA's header gives the functions.
#include "context.h"

using namespace pretended;

extern "C" {

int cuMemAlloc(Address*, std::size_t);
int cuMemFree(Address);
int cuMemGetInfo(std::size_t*, std::size_t*);
int cuMemcpyDtoDAsync(Address, Address, std::size_t, Stream*);
int cuMemcpyHtoDAsync(Address, const void*, std::size_t, Stream*);
int cuMemcpyDtoHAsync(void*, Address, std::size_t, Stream*);
int cuCtxPushCurrent(const Context*);
int cuCtxPopCurrent(Context**);
int cuDevicePrimaryCtxRelease(int);
int cuStreamDestroy(Stream*);
int cuEventDestroy(Event*);

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

int cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t bytes, Stream* stream) {
    return cuMemcpyHtoDAsync(to, from, bytes, stream);
}
int cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t bytes, Stream* stream) {
    return cuMemcpyDtoHAsync(to, from, bytes, stream);
}

}  // extern "C"
