// The native decoder as a program, so that it runs where Python does not: under an emulator.
//
//   native_driver paths
//   native_driver decode PATH MODEL CHUNK
//   native_driver apply PATH FUNCTION FLOATS
//   native_driver de_emphasis COEFFICIENT DOUBLES
//
// MODEL has a Description and the arrays that it points to, CHUNK a Chunk and its arrays; a pointer is the distance from
// the file's begin. Results replace the content of the last file.
#include <fenv.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "description.h"

using namespace wavernn;

extern "C" {
const char* wavernn_native_path(int index);
void* wavernn_native_open(const Description* description, const char* path, char* error, size_t size);
void wavernn_native_close(void* decoder);
int wavernn_native_decode(const void* decoder, const Chunk* chunk, char* error, size_t size);
int wavernn_native_apply(const char* path, int function, const float* x, float* y, size_t count);
double wavernn_native_de_emphasis(const double* x, double* y, size_t count, double coefficient, double previous);
}

namespace {

std::vector<char> read(const char* name) {
    std::ifstream file(name, std::ios::binary);
    return std::vector<char>(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

int write(const char* name, const std::vector<char>& content) {
    std::ofstream file(name, std::ios::binary);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    return file.good() ? 0 : 1;
}

template <typename T>
void locate(T*& pointer, std::vector<char>& content) {
    if (pointer) {
        pointer = reinterpret_cast<T*>(content.data() + reinterpret_cast<uintptr_t>(pointer));
    }
}

Description model_of(std::vector<char>& content) {
    Description d;
    memcpy(&d, content.data(), sizeof d);
    for (MatrixDescription& matrix : d.matrices) {
        locate(matrix.weight, content);
        locate(matrix.bias, content);
    }
    for (const float** pointer :
         {&d.feedback, &d.gates_bias_0, &d.gates_bias_1, &d.skip_column, &d.skip_bias, &d.fed_back}) {
        locate(*pointer, content);
    }
    return d;
}

Chunk chunk_of(std::vector<char>& content) {
    Chunk c;
    memcpy(&c, content.data(), sizeof c);
    locate(c.conditioning, content);
    locate(c.frame_index, content);
    locate(c.interpolation, content);
    locate(c.uniforms, content);
    locate(c.forced, content);
    locate(c.previous, content);
    locate(c.hidden, content);
    locate(c.samples, content);
    locate(c.logits, content);
    return c;
}

int decode(const char* path, const char* model_file, const char* chunk_file) {
    std::vector<char> model = read(model_file), chunk = read(chunk_file);
    char error[200] = "";
    const Description description = model_of(model);
    const Chunk arguments = chunk_of(chunk);
    fesetround(FE_UPWARD);  // a caller's rounding mode, which changes no results and is still set afterwards
    void* decoder = wavernn_native_open(&description, path, error, sizeof error);
    if (!decoder || wavernn_native_decode(decoder, &arguments, error, sizeof error)) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    wavernn_native_close(decoder);
    if (fegetround() != FE_UPWARD) {
        fprintf(stderr, "the caller's rounding mode is lost\n");
        return 1;
    }
    return write(chunk_file, chunk);
}

int apply(const char* path, int function, const char* name) {
    std::vector<char> content = read(name);
    float* values = reinterpret_cast<float*>(content.data());
    if (wavernn_native_apply(path, function, values, values, content.size() / sizeof(float))) {
        return 1;
    }
    return write(name, content);
}

int de_emphasis(double coefficient, const char* name) {
    std::vector<char> content = read(name);
    double* values = reinterpret_cast<double*>(content.data());
    wavernn_native_de_emphasis(values, values, content.size() / sizeof(double), coefficient, 0.0);
    return write(name, content);
}

}  // namespace

int main(int count, char** arguments) {
    const std::string command = count > 1 ? arguments[1] : "";
    if (command == "paths" && count == 2) {
        for (int i = 0; wavernn_native_path(i); ++i) {
            puts(wavernn_native_path(i));
        }
        return 0;
    }
    if (command == "decode" && count == 5) {
        return decode(arguments[2], arguments[3], arguments[4]);
    }
    if (command == "apply" && count == 5) {
        return apply(arguments[2], atoi(arguments[3]), arguments[4]);
    }
    if (command == "de_emphasis" && count == 4) {
        return de_emphasis(atof(arguments[2]), arguments[3]);
    }
    fprintf(stderr, "unknown arguments\n");
    return 2;
}
