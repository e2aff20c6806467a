#include <stdio.h>

#define ROWS 3

typedef struct {
    double cell[ROWS][ROWS];
} matrix;

static double trace(const matrix *m)
{
    double total = 0.0;
    int row;

    for (row = 0; row < ROWS; row++)
        total += m->cell[row][row];
    return total;
}

int main(void)
{
    matrix m = { { { 1, 2, 3 }, { 4, 5, 6 }, { 7, 8, 9 } } };

    printf("%.2f\n", trace(&m));
    return 0;
}
