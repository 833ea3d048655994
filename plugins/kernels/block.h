// The layer between kernels and the machine: threads of a block, shared memory, and communication between blocks.
//
// block_device.h implements it with CUDA. block_host.h implements it with one operating system thread for each thread
// of each block, so that the same kernels run without a GPU and under sanitizers. A warp has LANES threads. Block has:
//
//   rank()                      index of the block in the grid
//   thread(), threads()         index of the thread in the block, number of threads
//   lane(), warp(), warps()     index of the thread in its warp, index of the warp in the block, number of warps
//   shared()                    shared memory of the block, aligned to 16 bytes
//   sync()                      barrier of the block; all writes before it are visible to all threads after it
//   sync_warp()                 the same for a warp
//   from_lane_xor(value, mask)  the value of lane (lane() ^ mask)
//   from_lane_below(value, n)   the value of lane (lane() - n); the own value if there is no such lane
//   share_in_warp(entries)      host only: patch.h uses it to emulate the matrix instructions of a GPU
//
// Outside of Block: loads and stores of sixteen bytes; asynchronous copies to shared memory; counters between blocks
// (add_and_publish, read_published); stamped words (put_stamped, look_at); and for waits put_first and raise_flag.
#pragma once

#ifdef __CUDACC__
#include "block_device.h"
#else
#include "block_host.h"
#endif
