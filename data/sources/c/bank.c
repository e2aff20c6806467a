#include <stdio.h>
#include <string.h>

struct account {
    char owner[32];
    long balance;
};

int withdraw(struct account *a, long amount)
{
    if (amount > a->balance) {
        fprintf(stderr, "%s: too low\n", a->owner);
        return 1;
    }
    a->balance -= amount;
    return 0;
}

void set_owner(struct account *a, const char *owner)
{
    strncpy(a->owner, owner, sizeof a->owner - 1);
    a->owner[sizeof a->owner - 1] = '\0';
}
