/*
 * list.h - a doubly linked list through its members.
 *
 * A head is a link too; an empty list points to itself. A link that is in no list has next == NULL.
 */
#ifndef AIOL_BASE_LIST_H
#define AIOL_BASE_LIST_H

#include "base/util.h"

typedef struct aiol_link {
    struct aiol_link *next;
    struct aiol_link *prev;
} aiol_link;

AIOL_INLINE void aiol_list_init(aiol_link *head) {
    head->next = head;
    head->prev = head;
}

AIOL_INLINE bool aiol_list_empty(const aiol_link *head) {
    return head->next == head;
}

AIOL_INLINE void aiol_list_append(aiol_link *head, aiol_link *link) {
    AIOL_ASSERT(link->next == NULL);
    link->next = head;
    link->prev = head->prev;
    head->prev->next = link;
    head->prev = link;
}

/* Does nothing for a link that is in no list. */
AIOL_INLINE void aiol_list_remove(aiol_link *link) {
    if (link->next == NULL)
        return;
    link->next->prev = link->prev;
    link->prev->next = link->next;
    link->next = NULL;
    link->prev = NULL;
}

/* Moves all of from, which becomes empty, to an empty list. */
AIOL_INLINE void aiol_list_move(aiol_link *to, aiol_link *from) {
    if (aiol_list_empty(from))
        return;
    *to = *from;
    to->next->prev = to;
    to->prev->next = to;
    aiol_list_init(from);
}

#endif
