// Compiles the code between BEGIN_TARGET and END_TARGET for an instruction set.
#pragma once

#define PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#define BEGIN_TARGET(features) \
    PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_TARGET PRAGMA(clang attribute pop)
#else
#define UNROLL _Pragma("GCC unroll 24")
#define BEGIN_TARGET(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define END_TARGET PRAGMA(GCC pop_options)
#endif
