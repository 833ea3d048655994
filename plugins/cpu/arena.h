// Memory that is taken piece by piece and freed together.
#pragma once

#include <stdlib.h>
#include <string.h>

#include <new>
#include <vector>

#include "model.h"

namespace wavernn {

class Arena {
  public:
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() {
        for (void* piece : pieces_) {
            free(piece);
        }
    }

    // Zeros, aligned to ALIGNMENT, with a readable vector behind the end. Throws bad_alloc.
    template <typename T>
    T* take(size_t count) {
        const size_t bytes = (count * sizeof(T) / ALIGNMENT + 2) * ALIGNMENT;
        pieces_.reserve(pieces_.size() + 1);
        void* piece = aligned_alloc(ALIGNMENT, bytes);
        if (!piece) {
            throw std::bad_alloc();
        }
        pieces_.push_back(piece);
        memset(piece, 0, bytes);
        return static_cast<T*>(piece);
    }

  private:
    std::vector<void*> pieces_;
};

}  // namespace wavernn
