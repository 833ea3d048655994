// Elementary functions by polynomials. Each has the same bits on every instruction set, as it consists of correctly
// rounded operations in a fixed order. Largest errors in units of the last place: exp 1, sigmoid 2 (2.5 below -16.6),
// tanh 2.5 (1.5 from 0.3 on).

// exp(x) = power * (1 + fraction), with fraction = exp(r) - 1, |r| <= ln(2) / 2 and a power of two.
struct Exponential {
    vf power;
    vf fraction;
};

// x is at least -87 and at most 88, or NaN.
static inline Exponential split_exponential(vf x) {
    const vf shift = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const vf shifted = fma(x, broadcast(1.44269504088896341f), shift);
    const vf n = shifted - shift;
    const vf minus_low = broadcast(-1.42860682030941723212e-6f);
    const vf high = fma(n, broadcast(-0.693145751953125f), x);  // ln(2) in two parts; the first times n is exact
    const vf r = fma(n, minus_low, high);
    const vf rest = fma(n, minus_low, high - r);  // what rounding took from r
    vf p = broadcast(1.0f / 5040);  // Taylor's series; its remainder is below 2^-27
    p = fma(p, r, broadcast(1.0f / 720));
    p = fma(p, r, broadcast(1.0f / 120));
    p = fma(p, r, broadcast(1.0f / 24));
    p = fma(p, r, broadcast(1.0f / 6));
    p = fma(p, r, broadcast(0.5f));
    p = r + fma(p * r, r, rest);
    return Exponential{power_of_two(shifted), p};
}

// NaN stays NaN: `larger` and `smaller` return their second argument then.
static inline vf clamped(vf x, float low, float high) { return smaller(broadcast(high), larger(broadcast(low), x)); }

static inline vf exponential(vf x) {
    const Exponential e = split_exponential(clamped(x, -87.0f, 88.0f));
    return fma(e.power, e.fraction, e.power);
}

static inline vf sigmoid(vf x) {
    const vf one = broadcast(1.0f);
    return one / (one + exponential(broadcast(0.0f) - x));
}

static inline vf hyperbolic_tangent(vf x) {
    // From 9.02 on the result is 1 in float.
    const vf magnitude = smaller(broadcast(9.02f), absolute(x));
    const Exponential e = split_exponential(magnitude + magnitude);
    const vf minus_one = fma(e.power, e.fraction, e.power - broadcast(1.0f));  // exp(2 |x|) - 1
    return with_sign(minus_one / (minus_one + broadcast(2.0f)), x);
}
