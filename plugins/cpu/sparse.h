// Products with matrices of which blocks are zero: only the others are stored and multiplied.
//
// A unit is a part of the rows with its own list of blocks: 16 rows (ROWS16), 4 rows (ROWS4) or one row (COLUMNS4). The
// units of a bundle are multiplied together; their lists are padded with zeros to the same length. With ROWS16 and ROWS4,
// a lane sums one row over the columns in ascending order, with the bits of the dense product. With COLUMNS4, the sum of
// a row has four parts, over the columns k with the same k mod 4: bias + ((part 0 + part 1) + (part 2 + part 3)).

constexpr int ROW_UNIT = 16;
constexpr int UNIT_VECTORS = ROW_UNIT / LANES;
constexpr int QUAD = 4;

static inline int smaller_of(int a, int b) { return a < b ? a : b; }

// U units of 16 rows, the first of which is `unit` of a bundle, times S streams.
template <int U, int S>
static void multiply_row_units(const Matrix& m, int bundle, int unit, const float* bias, const Operand& x, int stream,
                               float* out, size_t out_stride) {
    const uint32_t first = m.lists[bundle], end = m.lists[bundle + 1];
    const float* values = x.values + stream * x.stride;
    vf sums[U][UNIT_VECTORS][S];
    UNROLL for (int u = 0; u < U; ++u) {
        UNROLL for (int v = 0; v < UNIT_VECTORS; ++v) {
            const vf begin = load(bias + u * ROW_UNIT + v * LANES);
            UNROLL for (int s = 0; s < S; ++s) { sums[u][v][s] = begin; }
        }
    }
    for (uint32_t entry = first; entry < end; ++entry) {
        const size_t at = static_cast<size_t>(entry) * m.units + unit;
        UNROLL for (int u = 0; u < U; ++u) {
            const size_t column = m.indices[at + u];
            const float* w = m.values + (at + u) * ROW_UNIT;
            UNROLL for (int s = 0; s < S; ++s) {
                const vf factor = broadcast(values[s * x.stride + column]);
                UNROLL for (int v = 0; v < UNIT_VECTORS; ++v) {
                    sums[u][v][s] = fma(load(w + v * LANES), factor, sums[u][v][s]);
                }
            }
        }
    }
    UNROLL for (int u = 0; u < U; ++u) {
        UNROLL for (int v = 0; v < UNIT_VECTORS; ++v) {
            UNROLL for (int s = 0; s < S; ++s) {
                store(out + (stream + s) * out_stride + u * ROW_UNIT + v * LANES, sums[u][v][s]);
            }
        }
    }
}

template <int S>
struct RowUnits {
    static inline void call(int s, const Matrix& m, int bundle, int unit, const float* bias, const Operand& x, int stream,
                            float* out, size_t out_stride) {
        if (s == S) {
            multiply_row_units<1, S>(m, bundle, unit, bias, x, stream, out, out_stride);
        } else {
            RowUnits<S - 1>::call(s, m, bundle, unit, bias, x, stream, out, out_stride);
        }
    }
};

template <>
struct RowUnits<0> {
    static inline void call(int, const Matrix&, int, int, const float*, const Operand&, int, float*, size_t) {}
};

// Blocks [first, end); a bundle has m.bundle blocks, the last one perhaps fewer.
static void multiply_rows(const Matrix& m, int first, int end, const Operand& x, int batch, float* out, size_t os) {
    constexpr int UNITS = BLOCK / ROW_UNIT;  // of a block
    for (int block = first; block < end;) {
        const int bundle = block / m.bundle;
        const int last = smaller_of(end, (bundle + 1) * m.bundle);
        const int unit = (block - bundle * m.bundle) * UNITS, count = (last - block) * UNITS;
        const float* bias = m.bias + static_cast<size_t>(block) * BLOCK;
        float* to = out + static_cast<size_t>(block - first) * BLOCK;
        block = last;
        if (batch == 1 && count == GATES * UNITS) {
            multiply_row_units<GATES * UNITS, 1>(m, bundle, unit, bias, x, 0, to, os);
            continue;
        }
        if (batch == 1 && count == 4 * UNITS) {
            multiply_row_units<4 * UNITS, 1>(m, bundle, unit, bias, x, 0, to, os);
            continue;
        }
        const int most = share_of(batch, TILE);
        for (int u = 0; u < count; ++u) {
            for (int stream = 0; stream < batch; stream += most) {
                const int streams = smaller_of(most, batch - stream);
                RowUnits<TILE>::call(streams, m, bundle, unit + u, bias + u * ROW_UNIT, x, stream, to + u * ROW_UNIT, os);
            }
        }
    }
}

// U units of 4 numbers times S streams: 4 rows of one column (ROWS4), or one row of 4 columns (COLUMNS4).
template <bool COLUMNS, int U, int S>
static void multiply_quads(const Matrix& m, int bundle, int unit, const float* bias, const uint8_t* order, const Operand& x,
                           int stream, float* out, size_t out_stride) {
    const uint32_t first = m.lists[bundle], end = m.lists[bundle + 1];
    const float* values = x.values + stream * x.stride;
    vq sums[U][S];
    UNROLL for (int u = 0; u < U; ++u) {
        UNROLL for (int s = 0; s < S; ++s) { sums[u][s] = COLUMNS ? quad_of(0.0f) : load_quad(bias + u * QUAD); }
    }
    for (uint32_t entry = first; entry < end; ++entry) {
        const size_t at = static_cast<size_t>(entry) * m.units + unit;
        UNROLL for (int u = 0; u < U; ++u) {
            const size_t column = m.indices[at + u];
            const vq w = load_quad(m.values + (at + u) * QUAD);
            UNROLL for (int s = 0; s < S; ++s) {
                const float* from = values + s * x.stride + column;
                sums[u][s] = fma_quad(w, COLUMNS ? load_quad(from) : quad_of(*from), sums[u][s]);
            }
        }
    }
    UNROLL for (int s = 0; s < S; ++s) {
        float* to = out + (stream + s) * out_stride;
        if (!COLUMNS) {
            UNROLL for (int u = 0; u < U; ++u) { store_quad(to + u * QUAD, sums[u][s]); }
            continue;
        }
        UNROLL for (int u = 0; u < U; u += QUAD) {
            float rows[QUAD];
            store_quad(rows, sum_quads(sums[u][s], sums[u + 1][s], sums[u + 2][s], sums[u + 3][s]));
            for (int i = 0; i < QUAD; ++i) {
                to[order[u + i]] = bias[order[u + i]] + rows[i];
            }
        }
    }
}

// Blocks [first, end), each of which has several bundles.
template <bool COLUMNS>
static void multiply_quad_units(const Matrix& m, int first, int end, const Operand& x, int batch, float* out, size_t os) {
    constexpr int UNITS = COLUMNS ? 8 : 4;  // of a bundle
    constexpr int ROWS = COLUMNS ? UNITS : UNITS * QUAD;
    constexpr int BUNDLES = BLOCK / ROWS;  // of a block
    for (int block = first; block < end; ++block) {
        for (int i = 0; i < BUNDLES; ++i) {
            const int bundle = block * BUNDLES + i;
            // Rows of COLUMNS4 are sorted inside a block, by the length of their lists.
            const size_t row = static_cast<size_t>(block) * BLOCK + (COLUMNS ? 0 : i * ROWS);
            const uint8_t* order = COLUMNS ? m.order + static_cast<size_t>(block) * BLOCK + i * ROWS : nullptr;
            float* to = out + static_cast<size_t>(block - first) * BLOCK + (COLUMNS ? 0 : i * ROWS);
            int stream = 0;
            for (; stream + 2 <= batch; stream += 2) {
                UNROLL for (int u = 0; u < UNITS; u += QUAD) {
                    multiply_quads<COLUMNS, QUAD, 2>(m, bundle, u, m.bias + row + (COLUMNS ? 0 : u * QUAD), order + (COLUMNS ? u : 0), x,
                                                     stream, to + (COLUMNS ? 0 : u * QUAD), os);
                }
            }
            if (stream < batch) {
                multiply_quads<COLUMNS, UNITS, 1>(m, bundle, 0, m.bias + row, order, x, stream, to, os);
            }
        }
    }
}

// Writes rows [first, end) * BLOCK of the product of every stream to out [B, out_stride], from out[0] on.
static void multiply(const Matrix& m, int first, int end, const Operand& x, int batch, float* out, size_t out_stride) {
    if (first == end) {
        return;
    }
    if (m.zeros == ROWS16) {
        multiply_rows(m, first, end, x, batch, out, out_stride);
    } else if (m.zeros == ROWS4) {
        multiply_quad_units<false>(m, first, end, x, batch, out, out_stride);
    } else if (m.zeros == COLUMNS4) {
        multiply_quad_units<true>(m, first, end, x, batch, out, out_stride);
    } else if (m.arithmetic == FLOAT32) {
        multiply_streams<Float32Weights>(m, first, end, x, batch, out, out_stride);
    } else if (m.arithmetic == BFLOAT16) {
        multiply_streams<BFloat16Weights>(m, first, end, x, batch, out, out_stride);
    } else {
        multiply_streams<IntegerWeights>(m, first, end, x, batch, out, out_stride);
    }
}
