// Matrix products: packed weights times the activations of one or several streams.
//
// A lane sums one output row, from its bias on, over the columns in ascending order. A row's bits therefore do not
// depend on the vectors' width, on the number of blocks and streams that are computed together, or on the threads.

constexpr int BLOCK = VECTORS * LANES;  // rows of a block

// Memory of one matrix's operands: floats, and for integers their codes and scales.
struct Operand {
    const float* values;  // [B, stride]
    size_t stride;
    const CodePair* codes;  // [B, words], two codes in each; see arrange_codes
    const float* scales;   // [B]
    size_t words;
};

struct Float32Weights {
    typedef float Stored;
    static constexpr int MOST = TILE;
    static constexpr int WIDENED = 0;
    static inline void widen(const float* at, vf (&w)[VECTORS]) {
        UNROLL for (int v = 0; v < VECTORS; ++v) { w[v] = load(at + v * LANES); }
    }
};

// Two vectors share words: the low halves are the first, the high halves the second.
struct BFloat16Weights {
    typedef uint16_t Stored;
    static constexpr int MOST = TILE;
    static constexpr int WIDENED = 2;
    static inline void widen(const uint16_t* at, vf (&w)[VECTORS]) {
        UNROLL for (int v = 0; v < VECTORS; v += 2) { load_bfloat16(at + v * LANES, w[v], w[v + 1]); }
    }
};

// G blocks of rows times S streams.
template <typename Weights, int G, int S>
static void multiply_floats(const Matrix& m, int first, const Operand& x, int stream, float* out, size_t out_stride) {
    typedef typename Weights::Stored Stored;
    const size_t block = m.block_bytes / sizeof(Stored);
    const Stored* weights = static_cast<const Stored*>(m.weights) + first * block;
    const float* bias = m.bias + first * BLOCK;
    const float* values = x.values + stream * x.stride;
    vf sums[G][VECTORS][S];
    UNROLL for (int g = 0; g < G; ++g) {
        UNROLL for (int v = 0; v < VECTORS; ++v) {
            const vf begin = load(bias + g * BLOCK + v * LANES);
            UNROLL for (int s = 0; s < S; ++s) { sums[g][v][s] = begin; }
        }
    }
    for (int k = 0; k < m.columns; ++k) {
        UNROLL for (int g = 0; g < G; ++g) {
            vf w[VECTORS];
            Weights::widen(weights + g * block + static_cast<size_t>(k) * BLOCK, w);
            UNROLL for (int s = 0; s < S; ++s) {
                const vf factor = broadcast(values[s * x.stride + k]);
                UNROLL for (int v = 0; v < VECTORS; ++v) { sums[g][v][s] = fma(w[v], factor, sums[g][v][s]); }
            }
        }
    }
    UNROLL for (int g = 0; g < G; ++g) {
        UNROLL for (int v = 0; v < VECTORS; ++v) {
            UNROLL for (int s = 0; s < S; ++s) {
                store(out + (stream + s) * out_stride + g * BLOCK + v * LANES, sums[g][v][s]);
            }
        }
    }
}

// The same in integers, whose sums are exact; then scaled and added to the bias.
struct IntegerWeights {
    static constexpr int MOST = INTEGER_TILE;
    static constexpr int WIDENED = 0;
};

template <int G, int S>
static void multiply_integers(const Matrix& m, int first, const Operand& x, int stream, float* out, size_t out_stride) {
    const int8_t* weights = static_cast<const int8_t*>(m.weights) + first * m.block_bytes;
    const CodePair* codes = x.codes + stream * x.words;
    IntegerSum sums[G][VECTORS][S];
    UNROLL for (int g = 0; g < G; ++g) {
        UNROLL for (int v = 0; v < VECTORS; ++v) {
            UNROLL for (int s = 0; s < S; ++s) { sums[g][v][s] = no_sum(); }
        }
    }
    const int groups = m.columns / INTEGER_COLUMNS;
    for (int k = 0; k < groups; ++k) {
        UNROLL for (int g = 0; g < G; ++g) {
            const int8_t* at = weights + g * m.block_bytes + static_cast<size_t>(k) * INTEGER_COLUMNS * BLOCK;
            decltype(load_codes(at)) w[VECTORS];
            UNROLL for (int v = 0; v < VECTORS; ++v) { w[v] = load_codes(at + v * INTEGER_COLUMNS * LANES); }
            UNROLL for (int s = 0; s < S; ++s) {
                const IntegerFactor factor = broadcast_codes(codes + s * x.words, k);
                UNROLL for (int v = 0; v < VECTORS; ++v) { add_products(sums[g][v][s], w[v], factor); }
            }
        }
    }
    const size_t row = static_cast<size_t>(first) * BLOCK;
    UNROLL for (int s = 0; s < S; ++s) {
        const vf activation_scale = broadcast(x.scales[stream + s]);
        UNROLL for (int g = 0; g < G; ++g) {
            UNROLL for (int v = 0; v < VECTORS; ++v) {
                const int at = g * BLOCK + v * LANES;
                const vf scale = load(m.scales + row + at) * activation_scale;
                const vf sum = to_float(sums[g][v][s], m.sums + row + at);
                store(out + (stream + s) * out_stride + at, fma(sum, scale, load(m.bias + row + at)));
            }
        }
    }
}

template <typename Weights, int G, int S>
struct Multiply {
    static inline void call(const Matrix& m, int first, const Operand& x, int stream, float* out, size_t out_stride) {
        multiply_floats<Weights, G, S>(m, first, x, stream, out, out_stride);
    }
};

template <int G, int S>
struct Multiply<IntegerWeights, G, S> {
    static inline void call(const Matrix& m, int first, const Operand& x, int stream, float* out, size_t out_stride) {
        multiply_integers<G, S>(m, first, x, stream, out, out_stride);
    }
};

// Calls the product of `g` blocks, at most G, and S streams.
template <typename Weights, int G, int S>
struct ByBlocks {
    static inline void call(int g, const Matrix& m, int first, const Operand& x, int stream, float* out, size_t os) {
        if (g == G) {
            Multiply<Weights, G, S>::call(m, first, x, stream, out, os);
        } else {
            ByBlocks<Weights, G - 1, S>::call(g, m, first, x, stream, out, os);
        }
    }
};

template <typename Weights, int S>
struct ByBlocks<Weights, 0, S> {
    static inline void call(int, const Matrix&, int, const Operand&, int, float*, size_t) {}
};

static inline int share_of(int total, int most) {
    const int parts = (total + most - 1) / most;
    return (total + parts - 1) / parts;
}

// Blocks that are multiplied together with a number of streams, at most Weights::MOST. Widening takes registers as well;
// and more than six arrays of weights that are read at the same time are slower than six.
template <typename Weights>
constexpr int blocks_with(int streams) {
    const int most = (Weights::MOST - (streams > 1 ? Weights::WIDENED : 0)) / streams;
    return most < 1 ? 1 : most > 6 ? 6 : most;
}

// Multiplies blocks [first, end) for S streams, in groups of nearly equal size.
template <typename Weights, int S>
static void multiply_blocks(const Matrix& m, int first, int end, const Operand& x, int stream, float* out, size_t os) {
    const int most = share_of(end - first, blocks_with<Weights>(S));
    for (int block = first; block < end; block += most) {
        const int count = end - block < most ? end - block : most;
        ByBlocks<Weights, blocks_with<Weights>(S), S>::call(count, m, block, x, stream, out + (block - first) * BLOCK, os);
    }
}

template <typename Weights, int S>
struct ByStreams {
    static inline void call(int s, const Matrix& m, int first, int end, const Operand& x, int stream, float* out, size_t os) {
        if (s == S) {
            multiply_blocks<Weights, S>(m, first, end, x, stream, out, os);
        } else {
            ByStreams<Weights, S - 1>::call(s, m, first, end, x, stream, out, os);
        }
    }
};

template <typename Weights>
struct ByStreams<Weights, 0> {
    static inline void call(int, const Matrix&, int, int, const Operand&, int, float*, size_t) {}
};

template <typename Weights>
static void multiply_streams(const Matrix& m, int first, int end, const Operand& x, int batch, float* out, size_t os) {
    const int most = share_of(batch, Weights::MOST);
    // With several groups of streams, a block's weights stay in the cache for all of them.
    const int step = batch > most ? blocks_with<Weights>(most) : end - first;
    for (int block = first; block < end; block += step) {
        const int last = end - block < step ? end : block + step;
        for (int stream = 0; stream < batch; stream += most) {
            const int count = batch - stream < most ? batch - stream : most;
            ByStreams<Weights, Weights::MOST>::call(count, m, block, last, x, stream, out + (block - first) * BLOCK, os);
        }
    }
}

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

struct Magnitude {
    float largest;  // of the numbers that are not NaN
    float zero;     // NaN if a number is NaN or infinite
};

// `count` is a multiple of LANES.
static Magnitude magnitude_of(const float* x, int count) {
    vf most = broadcast(0.0f);
    vf zero = broadcast(0.0f);
    for (int i = 0; i < count; i += LANES) {
        const vf value = load(x + i);
        most = larger(absolute(value), most);
        zero = fma(value, broadcast(0.0f), zero);
    }
    float lanes[LANES], zeros[LANES];
    store(lanes, most);
    store(zeros, zero);
    Magnitude found = {0.0f, 0.0f};
    for (int i = 0; i < LANES; ++i) {
        found.largest = lanes[i] > found.largest ? lanes[i] : found.largest;
        found.zero += zeros[i];
    }
    return found;
}

// Writes the codes of a stream's activations, and returns their scale: NaN, as there is no code for it, if one of them is
// NaN or infinite. `x` is padded with zeros to whole vectors.
static float encode(const Matrix& m, const float* x, int16_t* codes) {
    const int padded = (m.columns + LANES - 1) / LANES * LANES;
    // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
    const vf shift = broadcast(12582912.0f);
    float word[LANES];
    const Magnitude magnitude = magnitude_of(x, padded);
    if (m.arithmetic == INT8_INT8) {
        const vf scale = broadcast(m.activation_scale);
        for (int i = 0; i < padded; i += LANES) {
            store(word, clamped(load(x + i) / scale, -128.0f, 127.0f) + shift);
            for (int lane = 0; lane < LANES; ++lane) {
                codes[i + lane] = static_cast<int16_t>(bits_of(word[lane]));
            }
        }
        arrange_codes(codes, padded);
        return m.activation_scale + magnitude.zero;
    }
    // The next power of two; a scale inside the range of normal numbers, whatever the activations are.
    uint32_t exponent = (bits_of(magnitude.largest) + 0x7fffffu) >> 23;
    exponent = exponent < 64 ? 64 : exponent > 190 ? 190 : exponent;
    const float power = float_of(exponent << 23);
    const vf factor = broadcast(m.activation_scale / power);
    for (int i = 0; i < padded; i += LANES) {
        store(word, clamped(load(x + i) * factor, -m.activation_scale, m.activation_scale) + shift);
        for (int lane = 0; lane < LANES; ++lane) {
            codes[i + lane] = static_cast<int16_t>(bits_of(word[lane]));
        }
    }
    arrange_codes(codes, padded);
    return power / m.activation_scale + magnitude.zero;
}
