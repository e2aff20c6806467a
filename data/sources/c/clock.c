#include <stdio.h>

static int is_leap(int year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

int days_in_month(int month, int year)
{
    static const int days[] = { 31, 28, 31, 30, 31, 30,
                                31, 31, 30, 31, 30, 31 };
    int offset = month - 1;

    if (month == 2 && is_leap(year))
        return 29;
    return days[offset];
}

void print_month(int month, int year)
{
    int length = days_in_month(month, year);

    printf("%d: %d\n", month, length);
}
