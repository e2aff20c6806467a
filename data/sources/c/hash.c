#include <stdint.h>
#include <stddef.h>

uint32_t hash_bytes(const unsigned char *bytes, size_t width)
{
    uint32_t state = 2166136261u;
    size_t i;

    for (i = 0; i < width; i++) {
        state ^= bytes[i];
        state *= 16777619u;
    }
    return state;
}

int same_bytes(const char *left, const char *right)
{
    while (*left && *left == *right) {
        left++;
        right++;
    }
    return *left == *right;
}
