#include <stdlib.h>

struct node {
    int value;
    struct node *next;
};

struct node *list_add(struct node *head, int value)
{
    struct node *fresh = malloc(sizeof *fresh);

    if (!fresh)
        return NULL;
    fresh->value = value;
    fresh->next = head;
    return fresh;
}

int list_sum(const struct node *head)
{
    int total = 0;

    while (head) {
        total += head->value;
        head = head->next;
    }
    return total;
}
