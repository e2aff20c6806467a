#include <stdio.h>
#include <stdlib.h>

struct stack {
    int *slots;
    int depth;
    int limit;
};

int stack_push(struct stack *s, int value)
{
    if (s->depth >= s->limit)
        return -1;
    s->slots[s->depth] = value;
    s->depth++;
    return 0;
}

void stack_print(const struct stack *s)
{
    for (int i = 0; i < s->depth; i++)
        printf("%d\n", s->slots[i]);
}

void stack_free(struct stack *s)
{
    free(s->slots);
    s->slots = NULL;
}
