#include <stdio.h>

enum mode { MODE_OFF, MODE_SLOW, MODE_FAST };

const char *mode_name(enum mode m)
{
    switch (m) {
    case MODE_OFF:
        return "off";
    case MODE_SLOW:
        return "slow";
    case MODE_FAST:
        return "fast";
    }
    return "unknown";
}

int average(const int *reading, int limit)
{
    int total = 0;

    if (limit == 0)
        return 0;
    for (int i = 0; i < limit; i++)
        total += reading[i];
    return total / limit;
}
