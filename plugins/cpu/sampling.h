// Draws a stream's sample from its logits; see wavernn_trt.export.families.samplers.

constexpr int MIXTURES = 10;
constexpr float LOG_SCALE_FLOOR = -32.236191301916641f;  // the logarithm of 1e-14
constexpr float LOG_DEVIATION_FLOOR = -7.0f;

static inline void wait_for_all(const Run& r) {
    if (r.threads > 1) {
        wavernn_native_wait(r.barrier);
    }
}

static inline float exponential_of(float x) {
    float lanes[LANES];
    store(lanes, exponential(broadcast(x)));
    return lanes[0];
}

// The smallest class whose cumulative likelihood exceeds uniform * total; class 0 if there is none, as with NaN logits.
// Likelihoods are multiples of 2^-32, whose sums are exact: a class of likelihood zero is never drawn.
static int pick(const float* logits, int classes, float uniform, float* shares, uint64_t* likelihoods) {
    vf most = broadcast(logits[0]);
    int k = 0;
    for (; k + LANES <= classes; k += LANES) {
        most = larger(load(logits + k), most);  // passes over NaN
    }
    float lanes[LANES];
    store(lanes, most);
    float largest = lanes[0];
    for (int i = 1; i < LANES; ++i) {
        largest = lanes[i] > largest ? lanes[i] : largest;
    }
    for (; k < classes; ++k) {
        largest = logits[k] > largest ? logits[k] : largest;
    }
    for (int i = 0; i < classes; i += LANES) {  // logits are padded to whole vectors
        store(shares + i, exponential(load(logits + i) - broadcast(largest)));
    }
    uint64_t total = 0;
    for (int i = 0; i < classes; ++i) {
        // exp(-87) is not zero, but less than half of 2^-32. NaN fails the comparison.
        likelihoods[i] = shares[i] > 0.0f ? static_cast<uint64_t>(static_cast<int64_t>(shares[i] * 4294967296.0f)) : 0;
        total += likelihoods[i];
    }
    // At most the number below 1: a class behind the last does not exist.
    const float inside = !(uniform > 0.0f) ? 0.0f : uniform < 0.99999994f ? uniform : 0.99999994f;
    const uint64_t factor = static_cast<uint64_t>(static_cast<int64_t>(inside * 4294967296.0f));
    const uint64_t threshold = (total >> 32) * factor + ((total & 0xffffffffu) * factor >> 32);
    uint64_t cumulative = 0;
    for (int i = 0; i < classes; ++i) {
        cumulative += likelihoods[i];
        if (cumulative > threshold) {
            return i;
        }
    }
    return 0;
}

static inline float draw_around(float mean, float log_scale, float deviate) {
    const float value = __builtin_fmaf(exponential_of(log_scale), deviate, mean);
    return value < -1.0f ? -1.0f : value > 1.0f ? 1.0f : value;  // NaN stays NaN
}

static void draw(const Run& r, int stream, int step, float* shares, uint64_t* likelihoods) {
    const Model& m = *r.model;
    const size_t at = static_cast<size_t>(stream) * r.steps + step;
    const float* logits = r.logits + static_cast<size_t>(stream) * m.matrices[OUTPUT].blocks * BLOCK;
    if (r.logits_out) {
        memcpy(r.logits_out + at * m.outputs, logits, sizeof(float) * m.outputs);
    }
    if (!r.uniforms) {
        return;  // teacher forcing
    }
    const float* uniforms = r.uniforms + at * m.uniforms;
    if (m.output == CATEGORICAL) {
        const int label = pick(logits, m.outputs, uniforms[0], shares, likelihoods);
        r.samples[at] = static_cast<uint32_t>(label);
        r.previous[stream] = m.label_feedback ? static_cast<uint32_t>(label) : bits_of(m.fed_back[label]);
        return;
    }
    float mean = logits[0];
    float log_scale = logits[1] < LOG_DEVIATION_FLOOR ? LOG_DEVIATION_FLOOR : logits[1];
    if (m.output == LOGISTIC_MIXTURE) {
        const int component = pick(logits, MIXTURES, uniforms[0], shares, likelihoods);
        mean = logits[MIXTURES + component];
        log_scale = logits[2 * MIXTURES + component];
        log_scale = log_scale < LOG_SCALE_FLOOR ? LOG_SCALE_FLOOR : log_scale;
    }
    r.samples[at] = r.previous[stream] = bits_of(draw_around(mean, log_scale, uniforms[1]));
}
