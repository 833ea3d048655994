// Work that measures an instruction set's limits: reads of an array, and products of operands in registers.

constexpr int READS = 8;  // sums of an array: enough that none waits for its previous addition

// Reads `count` floats, a multiple of LANES. The sums [LANES] keep the compiler from leaving out the reads.
static void read_array(const float* x, size_t count, float* sums) {
    vf read[READS];
    UNROLL for (int i = 0; i < READS; ++i) { read[i] = broadcast(0.0f); }
    size_t at = 0;
    for (; at + READS * LANES <= count; at += READS * LANES) {
        UNROLL for (int i = 0; i < READS; ++i) { read[i] = read[i] + load(x + at + i * LANES); }
    }
    for (; at < count; at += LANES) {
        read[0] = read[0] + load(x + at);
    }
    UNROLL for (int i = 1; i < READS; ++i) { read[0] = read[0] + read[i]; }
    store(sums, read[0]);
}

// Lets the compiler assume that a vector changes, so that it does not take its products out of a loop.
template <typename Vector>
static inline void renew(Vector& x) {
    __asm__ __volatile__("" : "+" VECTOR_REGISTER(x));
}

// Multiplies and adds with as many sums as the products of matrices keep in registers; returns the multiply-adds.
static double multiply_floats_in_registers(int rounds, float* sums) {
    constexpr int SUMS = TILE * VECTORS;
    vf total[SUMS];
    vf weights[VECTORS];
    // The sums differ, as the compiler would compute equal ones once.
    UNROLL for (int i = 0; i < SUMS; ++i) { total[i] = broadcast(static_cast<float>(i)); }
    UNROLL for (int v = 0; v < VECTORS; ++v) { weights[v] = broadcast(0.5f); }
    const vf factor = broadcast(0.25f);
    for (int round = 0; round < rounds; ++round) {
        UNROLL for (int i = 0; i < SUMS; ++i) {
            renew(weights[i % VECTORS]);
            total[i] = fma(weights[i % VECTORS], factor, total[i]);
        }
    }
    UNROLL for (int i = 1; i < SUMS; ++i) { total[0] = total[0] + total[i]; }
    store(sums, total[0]);
    return static_cast<double>(rounds) * SUMS * LANES;
}

static double multiply_integers_in_registers(int rounds, float* sums) {
    constexpr int SUMS = INTEGER_TILE * VECTORS;
    const int8_t codes[INTEGER_COLUMNS * LANES] = {1, 2, 3, 4};
    int32_t activations[2 * SUMS];
    const int32_t weight_sums[LANES] = {};
    IntegerSum total[SUMS];
    decltype(load_codes(codes)) weights[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; ++v) { weights[v] = load_codes(codes); }
    for (int i = 0; i < 2 * SUMS; ++i) { activations[i] = i + 1; }
    __asm__ __volatile__("" : "+m"(activations));  // hides the values from the compiler
    UNROLL for (int i = 0; i < SUMS; ++i) {
        total[i] = no_sum();
        add_products(total[i], weights[i % VECTORS], broadcast_codes(activations, i));
    }
    const IntegerFactor factor = broadcast_codes(activations, 0);
    for (int round = 0; round < rounds; ++round) {
        UNROLL for (int i = 0; i < SUMS; ++i) {
            renew(weights[i % VECTORS]);
            add_products(total[i], weights[i % VECTORS], factor);
        }
    }
    vf all = to_float(total[0], weight_sums);
    UNROLL for (int i = 1; i < SUMS; ++i) { all = all + to_float(total[i], weight_sums); }
    store(sums, all);
    return static_cast<double>(rounds) * SUMS * LANES * INTEGER_COLUMNS;
}

static double multiply_in_registers(int integers, int rounds, float* sums) {
    return integers ? multiply_integers_in_registers(rounds, sums) : multiply_floats_in_registers(rounds, sums);
}
