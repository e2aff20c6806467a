#include <string.h>
#include <ctype.h>

int count_words(const char *text)
{
    int words = 0;
    int inside = 0;

    while (*text) {
        if (isspace((unsigned char)*text)) {
            inside = 0;
        } else if (!inside) {
            inside = 1;
            words++;
        }
        text++;
    }
    return words;
}

char *trim_end(char *line)
{
    size_t width = strlen(line);

    while (width > 0 && line[width - 1] == ' ')
        line[--width] = '\0';
    return line;
}
