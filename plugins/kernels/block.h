// What kernels are written against: the threads of a block, memory that they share, and counters between blocks.
//
// On a GPU these are CUDA's own. On the host each thread of each block is a thread of the system, so that the same
// kernels run without a GPU and under sanitizers. A block's threads form warps of LANES threads. Block offers:
//
//   rank()                      which block of the grid this is
//   thread(), threads()         which thread of the block, of how many
//   lane(), warp(), warps()     which thread of its warp, which warp of the block, of how many
//   shared()                    the block's memory, aligned to 16 bytes
//   sync()                      waits for all threads of the block; what they wrote is then seen by all
//   sync_warp()                 the same of a warp
//   from_lane_xor(value, mask)  the value of the lane whose number differs in the mask's bits
//   from_lane_below(value, n)   the value of the lane n below; the own one where there is none
//
// on the host also share_in_warp, with which patch.h computes what a GPU's matrix instructions do. Beside it stand
// words that are read sixteen bytes at a time, copies to shared memory that are waited for later, and what blocks
// tell each other by: counters (add_and_publish, read_published), stamped words (put_stamped, look_at), and what threads wait with (put_first, raise_flag).
#pragma once

#ifdef __CUDACC__
#include "block_device.h"
#else
#include "block_host.h"
#endif
