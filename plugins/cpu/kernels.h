// The decoder's code for one instruction set. A file path_NAME.cpp sets the compiler's target, defines the vector
// operations below, and includes this file. Everything here has internal linkage, and neither code nor data of the
// standard library's templates: the linker would keep one copy of those for all instruction sets.
//
// Expected: types vf (floats) and vi (32-bit integers); constants LANES (floats in a vector), VECTORS (vectors in a block
// of rows, even), TILE and INTEGER_TILE (blocks times streams whose sums fit into registers) and INTEGER_COLUMNS; macro
// UNROLL, and VECTOR_REGISTER, the constraint of a vector in inline assembly; functions
//   load, store, broadcast, fma(a, b, c) = a * b + c, absolute, with_sign(magnitude, sign), without_denormals
//   larger(a, b), smaller(a, b): b where either is NaN
//   power_of_two(x): 2^n for x = 1.5 * 2^23 + n
//   load_bfloat16(words, low, high)
// and for products of integers IntegerSum, no_sum, IntegerFactor, load_codes (of weights, INTEGER_COLUMNS for each row),
// arrange_codes (of activations, in place), broadcast_codes (of INTEGER_COLUMNS columns), add_products, and to_float;
//   for four floats, vq: load_quad, store_quad, quad_of (of one number), fma_quad, sum_quads (each one's
//   (0 + 1) + (2 + 3))
#include "functions.h"
#include "limits.h"
#include "products.h"
#include "sparse.h"
#include "sampling.h"
#include "step.h"

static void run(const Run* r, int thread) { decode(*r, thread); }

static void apply(int function, const float* x, float* y, size_t count) {
    for (size_t i = 0; i + LANES <= count; i += LANES) {
        const vf value = load(x + i);
        store(y + i, function == 0 ? exponential(value) : function == 1 ? sigmoid(value) : hyperbolic_tangent(value));
    }
}
