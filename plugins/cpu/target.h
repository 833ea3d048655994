// Compiles the code between BEGIN_TARGET and END_TARGET for an instruction set.
#pragma once

#if defined(__FAST_MATH__)
#error "-ffast-math and -Ofast change results from one instruction set to the next: remove them from CXXFLAGS"
#endif

#define PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#define BEGIN_TARGET(features) \
    PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_TARGET PRAGMA(clang attribute pop)
#else
// GCC's own header of AVX-512 reads variables that it leaves uninitialised on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define UNROLL _Pragma("GCC unroll 24")
#define BEGIN_TARGET(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define END_TARGET PRAGMA(GCC pop_options)
#endif
