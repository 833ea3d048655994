// All steps of a chunk. Each thread computes its slice of the rows of every matrix; threads wait for each other after
// each product, as the next one reads all of its results.

struct Slice {
    int first, end;
};

static inline Slice slice_of(int total, int part, int parts) {
    return Slice{static_cast<int>(static_cast<long long>(total) * part / parts),
                 static_cast<int>(static_cast<long long>(total) * (part + 1) / parts)};
}

// Blocks of a matrix without gates; whole bundles.
static inline Slice slice_of_matrix(const Matrix& m, int part, int parts) {
    if (!m.blocks) {
        return Slice{0, 0};
    }
    const Slice bundles = slice_of((m.blocks + m.bundle - 1) / m.bundle, part, parts);
    return Slice{smaller_of(m.blocks, bundles.first * m.bundle), smaller_of(m.blocks, bundles.end * m.bundle)};
}

// A thread's own memory.
struct Memory {
    float* products[2];  // [B, unit group, GATES, BLOCK]
    int16_t* codes[2];   // [B, padded K]
    float* scales[2];    // [B]
    float* shares;       // [padded outputs]
    uint64_t* likelihoods;
    int32_t* frames;     // [B], frame of the rows in Run.rows; -1 at first
};

static inline size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static inline int larger_of(int a, int b) { return a > b ? a : b; }

// Units whose gates are computed together, in blocks: as many as keep the registers busy.
static inline int unit_group(int batch) { return batch == 1 ? 2 : 1; }

static size_t lay_out(const Model& m, int batch, unsigned char* base, Memory* memory) {
    int widest = 0;
    for (int i = 0; i < MATRICES; ++i) {
        widest = m.matrices[i].blocks ? larger_of(widest, m.matrices[i].columns) : widest;
    }
    const size_t padded = static_cast<size_t>(widest + 2 * BLOCK) / BLOCK * BLOCK;
    const size_t outputs = static_cast<size_t>(m.matrices[OUTPUT].blocks) * BLOCK;
    const size_t product = sizeof(float) * batch * unit_group(batch) * GATES * BLOCK;
    const size_t sizes[] = {product,
                            product,
                            sizeof(int16_t) * batch * padded,
                            sizeof(int16_t) * batch * padded,
                            sizeof(float) * batch,
                            sizeof(float) * batch,
                            sizeof(float) * outputs,
                            sizeof(uint64_t) * outputs,
                            sizeof(int32_t) * batch};
    void* parts[9];
    size_t used = 0;
    for (int i = 0; i < 9; ++i) {
        parts[i] = base + used;
        used += aligned(sizes[i]);
    }
    if (memory) {
        *memory = Memory{{static_cast<float*>(parts[0]), static_cast<float*>(parts[1])},
                         {static_cast<int16_t*>(parts[2]), static_cast<int16_t*>(parts[3])},
                         {static_cast<float*>(parts[4]), static_cast<float*>(parts[5])},
                         static_cast<float*>(parts[6]),
                         static_cast<uint64_t*>(parts[7]),
                         static_cast<int32_t*>(parts[8])};
    }
    return used;
}

static size_t thread_bytes(const Model* model, int batch) { return lay_out(*model, batch, nullptr, nullptr); }

// The operands of a product: activations [B, stride], and their codes where the weights are integers.
static Operand operand(const Matrix& m, const float* values, size_t stride, int batch, const Memory& memory, int which) {
    Operand x = {values, stride, nullptr, nullptr, 0};
    if (m.arithmetic == FLOAT32 || m.arithmetic == BFLOAT16) {
        return x;
    }
    const size_t padded = static_cast<size_t>(m.columns + BLOCK - 1) / BLOCK * BLOCK;
    for (int s = 0; s < batch; ++s) {
        memory.scales[which][s] = encode(m, values + s * stride, memory.codes[which] + s * padded);
    }
    x.codes = reinterpret_cast<const CodePair*>(memory.codes[which]);
    x.words = padded / 2;
    x.scales = memory.scales[which];
    return x;
}

// Writes a stream's conditioning of a step, with the bias, for columns [first, first + count) of each part of a place.
static void expand(const Run& r, int stream, int step, int place, int first, int count, float* rows) {
    const Model& m = *r.model;
    const size_t at = static_cast<size_t>(stream) * r.steps + step;
    const float* window = r.conditioning + static_cast<size_t>(stream) * r.window * m.columns;
    const int valid = m.place_width[place] - first < count ? m.place_width[place] - first : count;
    for (int part = 0; part < m.place_gates[place]; ++part) {
        const size_t offset = static_cast<size_t>(part) * m.place_padded[place] + first;
        float* out = rows + offset;
        memcpy(out, m.place_bias[place] + offset, sizeof(float) * count);
        int interpolated = 0;
        for (int group = 0; group < m.groups; ++group) {
            const int held = m.held[group];
            const int column = m.place_first[place][group];
            const int index = interpolated;
            interpolated += !held;
            if (column < 0) {
                continue;
            }
            const float* values = window + column + static_cast<size_t>(part) * m.place_width[place] + first;
            if (held) {
                const float* row = values + static_cast<size_t>(r.frame_index[at]) * m.columns;
                for (int i = 0; i < valid; ++i) {
                    out[i] += row[i];
                }
                continue;
            }
            const size_t groups = static_cast<size_t>(stream) * (m.groups - m.held[0] - (m.groups > 1 ? m.held[1] : 0));
            const float* weights = r.interpolation + ((groups + index) * r.steps + step) * r.window;
            for (int w = 0; w < r.window; ++w) {
                const float weight = weights[w];
                if (weight == 0.0f) {
                    continue;
                }
                const float* row = values + static_cast<size_t>(w) * m.columns;
                for (int i = 0; i < valid; ++i) {
                    out[i] = __builtin_fmaf(weight, row[i], out[i]);
                }
            }
        }
    }
}

// Updates this thread's columns of every place. Held rows change only with the frame.
static void expand_all(const Run& r, int step, const Slice* slices, const Memory& memory) {
    const Model& m = *r.model;
    bool held = true;
    for (int group = 0; group < m.groups; ++group) {
        held = held && m.held[group];
    }
    for (int s = 0; s < r.batch; ++s) {
        if (held) {
            const int32_t frame = r.frame_index[static_cast<size_t>(s) * r.steps + step];
            if (memory.frames[s] == frame) {
                continue;
            }
            memory.frames[s] = frame;
        }
        for (int place = 0; place < PLACES; ++place) {
            if (m.place_used[place]) {
                const size_t size = static_cast<size_t>(m.place_gates[place]) * m.place_padded[place];
                const int first = slices[place].first * BLOCK;
                const int count = (slices[place].end - slices[place].first) * BLOCK;
                expand(r, s, step, place, first, count, r.rows[place] + s * size);
            }
        }
    }
}

// One vector of a GRU cell (Cho et al., 2014, in the form of PyTorch and cuDNN). A state that underflows becomes zero:
// arithmetic on denormal numbers takes many times as long.
static inline vf gru_update(vf input_reset, vf input_update, vf input_new, vf reset, vf update, vf candidate, vf hidden) {
    const vf r = sigmoid(input_reset + reset);
    const vf z = sigmoid(input_update + update);
    const vf n = hyperbolic_tangent(fma(r, candidate, input_new));
    return without_denormals(fma(z, hidden - n, n));
}

// The first layer: this thread's units, and the features that the next layer reads where there is a skip connection.
static void first_layer(const Run& r, const Slice& units, int parity, const Memory& memory) {
    const Model& m = *r.model;
    const int padded = m.unit_blocks * BLOCK;
    const Operand x = operand(m.matrices[RECURRENT_0], r.states[0][parity], padded, r.batch, memory, 0);
    const int group = unit_group(r.batch);
    const size_t stride = static_cast<size_t>(group) * GATES * BLOCK;
    for (int block = units.first; block < units.end; block += group) {
        const int end = units.end - block < group ? units.end : block + group;
        multiply(m.matrices[RECURRENT_0], block * GATES, end * GATES, x, r.batch, memory.products[0], stride);
        for (int s = 0; s < r.batch; ++s) {
            const size_t row = static_cast<size_t>(s) * padded;
            const float* rows = r.rows[GATES_0] + row * GATES;
            const uint32_t previous = r.previous[s];
            const float* fed = m.feedback + (m.label_feedback ? static_cast<size_t>(previous) * GATES * padded : 0);
            const vf value = broadcast(m.label_feedback ? 1.0f : float_of(previous));
            for (int u = block * BLOCK; u < end * BLOCK; u += LANES) {
                const float* p = memory.products[0] + s * stride + (u / BLOCK - block) * GATES * BLOCK + u % BLOCK;
                vf input[GATES];
                for (int gate = 0; gate < GATES; ++gate) {
                    const size_t at = static_cast<size_t>(gate) * padded + u;
                    input[gate] = fma(value, load(fed + at), load(rows + at));
                }
                const vf hidden = gru_update(input[0], input[1], input[2], load(p), load(p + BLOCK), load(p + 2 * BLOCK),
                                             load(r.states[0][parity] + row + u));
                store(r.states[0][1 - parity] + row + u, hidden);
                if (m.skip) {
                    const vf skipped = fma(value, load(m.skip_column + u), load(r.rows[SKIP] + row + u));
                    store(r.features[0] + row + u, hidden + skipped);
                }
            }
        }
    }
}

static void second_layer(const Run& r, const Slice& units, int parity, const Memory& memory) {
    const Model& m = *r.model;
    const int padded = m.unit_blocks * BLOCK;
    const float* below = m.skip ? r.features[0] : r.states[0][1 - parity];
    const Operand x = operand(m.matrices[INPUT_1], below, padded, r.batch, memory, 0);
    const Operand h = operand(m.matrices[RECURRENT_1], r.states[1][parity], padded, r.batch, memory, 1);
    const int group = unit_group(r.batch);
    const size_t stride = static_cast<size_t>(group) * GATES * BLOCK;
    for (int block = units.first; block < units.end; block += group) {
        const int end = units.end - block < group ? units.end : block + group;
        multiply(m.matrices[INPUT_1], block * GATES, end * GATES, x, r.batch, memory.products[0], stride);
        multiply(m.matrices[RECURRENT_1], block * GATES, end * GATES, h, r.batch, memory.products[1], stride);
        for (int s = 0; s < r.batch; ++s) {
            const size_t row = static_cast<size_t>(s) * padded;
            const float* rows = r.rows[GATES_1] + row * GATES;
            for (int u = block * BLOCK; u < end * BLOCK; u += LANES) {
                const size_t at = s * stride + (u / BLOCK - block) * GATES * BLOCK + u % BLOCK;
                const float* q = memory.products[0] + at;
                const float* p = memory.products[1] + at;
                vf input[GATES];
                for (int gate = 0; gate < GATES; ++gate) {
                    input[gate] = load(q + gate * BLOCK) + load(rows + static_cast<size_t>(gate) * padded + u);
                }
                const vf hidden = gru_update(input[0], input[1], input[2], load(p), load(p + BLOCK), load(p + 2 * BLOCK),
                                             load(r.states[1][parity] + row + u));
                store(r.states[1][1 - parity] + row + u, hidden);
                if (m.skip) {
                    store(r.features[1] + row + u, hidden + load(r.features[0] + row + u));
                }
            }
        }
    }
}

// A fully connected layer with its conditioning and ReLU, or the output layer.
static void dense_layer(const Run& r, int name, const Slice& blocks, const float* x, size_t stride, float* out,
                        const Memory& memory) {
    const Model& m = *r.model;
    const Matrix& matrix = m.matrices[name];
    const size_t padded = static_cast<size_t>(matrix.blocks) * BLOCK;
    const Operand values = operand(matrix, x, stride, r.batch, memory, 0);
    multiply(matrix, blocks.first, blocks.end, values, r.batch, out + blocks.first * BLOCK, padded);
    if (name == OUTPUT) {
        return;
    }
    const float* rows = r.rows[PLACE_FC_0 + name - FC_0];
    for (int s = 0; s < r.batch; ++s) {
        for (size_t i = blocks.first * BLOCK; i < static_cast<size_t>(blocks.end) * BLOCK; i += LANES) {
            const vf sum = load(out + s * padded + i) + load(rows + s * padded + i);
            store(out + s * padded + i, larger(broadcast(0.0f), sum) + broadcast(0.0f));  // no negative zero
        }
    }
}

static void decode(const Run& r, int thread) {
    const Model& m = *r.model;
    Memory memory;
    lay_out(m, r.batch, r.thread_memory + static_cast<size_t>(thread) * r.thread_bytes, &memory);
    for (int s = 0; s < r.batch; ++s) {
        memory.frames[s] = -1;
    }
    const Slice units = slice_of(m.unit_blocks, thread, r.threads);
    const Slice streams = slice_of(r.batch, thread, r.threads);
    Slice dense[3];  // of FC_0, FC_1 and OUTPUT
    for (int i = 0; i < 3; ++i) {
        dense[i] = slice_of_matrix(m.matrices[FC_0 + i], thread, r.threads);
    }
    const Slice places[PLACES] = {units, units, units, dense[0], dense[1]};
    const int last = m.layers - 1;
    const size_t padded = static_cast<size_t>(m.unit_blocks) * BLOCK;
    for (int step = 0; step < r.steps; ++step) {
        const int parity = step & 1;
        if (r.forced) {
            for (int s = streams.first; s < streams.end; ++s) {
                r.previous[s] = r.forced[static_cast<size_t>(s) * r.steps + step];
            }
            wait_for_all(r);
        }
        expand_all(r, step, places, memory);
        first_layer(r, units, parity, memory);
        wait_for_all(r);
        if (m.layers == 2) {
            second_layer(r, units, parity, memory);
            wait_for_all(r);
        }
        const float* x = m.skip ? r.features[last] : r.states[last][1 - parity];
        size_t stride = padded;
        for (int i = 0; i < m.fc_layers; ++i) {
            dense_layer(r, FC_0 + i, dense[i], x, stride, r.activations[i], memory);
            wait_for_all(r);
            x = r.activations[i];
            stride = static_cast<size_t>(m.matrices[FC_0 + i].blocks) * BLOCK;
        }
        dense_layer(r, OUTPUT, dense[2], x, stride, r.logits, memory);
        wait_for_all(r);
        for (int s = streams.first; s < streams.end; ++s) {
            draw(r, s, step, memory.shares, memory.likelihoods);
        }
        wait_for_all(r);
    }
}
