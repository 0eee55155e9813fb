/*
 * heap.h - a 4-ary heap ordered by (key, tie).
 *
 * Entries hold the key beside the pointer, so a comparison touches the heap alone; only equal keys look at the items.
 * Each item knows its place (aiol_heap_item.index), so removal needs no search.
 */
#ifndef AIOL_BASE_HEAP_H
#define AIOL_BASE_HEAP_H

#include "base/mem.c"

#define AIOL_NOT_IN_HEAP UINT32_MAX

typedef struct aiol_heap_item {
    uint32_t index; /* its place, or AIOL_NOT_IN_HEAP */
} aiol_heap_item;

typedef struct aiol_heap_entry {
    int64_t key;
    aiol_heap_item *item;
} aiol_heap_entry;

typedef struct aiol_heap {
    aiol_heap_entry *entries;
    size_t count;
    size_t capacity;
} aiol_heap;

/* Which of two items with equal keys comes first. The user of the heap defines it (core.h): a function pointer would
 * cost what the comparison itself does. */
AIOL_INLINE bool aiol_heap_before(const aiol_heap_item *a, const aiol_heap_item *b);

/* Keys are rarely equal, so most comparisons end after one. */
AIOL_INLINE bool aiol_heap_less(const aiol_heap_entry *a, const aiol_heap_entry *b) {
    return a->key <= b->key && (a->key < b->key || aiol_heap_before(a->item, b->item));
}

AIOL_INLINE void aiol_heap_put(aiol_heap_entry *entries, size_t i, const aiol_heap_entry *entry) {
    entries[i] = *entry;
    entry->item->index = (uint32_t)i;
}

/* Puts entry at i or above it, but not above top. */
AIOL_INLINE void aiol_heap_up(aiol_heap_entry *entries, size_t i, size_t top, aiol_heap_entry entry) {
    while (i > top) {
        size_t parent = (i - 1) / 4;
        if (!aiol_heap_less(&entry, &entries[parent]))
            break;
        aiol_heap_put(entries, i, &entries[parent]);
        i = parent;
    }
    aiol_heap_put(entries, i, &entry);
}

/* Puts entry at i or below it. The hole goes all the way down, where an entry that was the last mostly belongs, and the
 * entry up from there: that spares a comparison at each level. */
static void aiol_heap_down(aiol_heap *h, size_t i, aiol_heap_entry entry) {
    aiol_heap_entry *entries = h->entries;
    size_t count = h->count;
    size_t top = i;
    size_t child;
    while ((child = 4 * i + 1) < count) {
        const aiol_heap_entry *best = &entries[child];
        const aiol_heap_entry *other = best + 1;
        const aiol_heap_entry *end = child + 4 <= count ? best + 4 : entries + count;
        for (; other < end; other++)
            if (aiol_heap_less(other, best))
                best = other;
        aiol_heap_put(entries, i, best);
        i = (size_t)(best - entries);
    }
    aiol_heap_up(entries, i, top, entry);
}

/* 0 or AIOLOOP_ENOMEM. */
AIOL_INLINE int aiol_heap_push(const aioloop_allocator *a, aiol_heap *h, int64_t key, aiol_heap_item *item) {
    aiol_heap_entry entry;
    if (h->count == h->capacity) {
        int err;
        if (h->count >= UINT32_MAX - 1)
            return AIOLOOP_ENOMEM;
        err = aiol_grow(a, &h->entries, &h->capacity, sizeof(h->entries[0]), h->count + 1);
        if (err < 0)
            return err;
    }
    entry.key = key;
    entry.item = item;
    aiol_heap_up(h->entries, h->count++, 0, entry);
    return 0;
}

AIOLOOP_INTERNAL void aiol_heap_remove(aiol_heap *h, aiol_heap_item *item) {
    size_t i = item->index;
    aiol_heap_entry last;
    AIOL_ASSERT(i < h->count && h->entries[i].item == item);
    item->index = AIOL_NOT_IN_HEAP;
    last = h->entries[--h->count];
    if (i == h->count)
        return;
    if (i > 0 && aiol_heap_less(&last, &h->entries[(i - 1) / 4]))
        aiol_heap_up(h->entries, i, 0, last);
    else
        aiol_heap_down(h, i, last);
}

/* Gives the item another key. */
AIOLOOP_INTERNAL void aiol_heap_move(aiol_heap *h, aiol_heap_item *item, int64_t key) {
    size_t i = item->index;
    aiol_heap_entry entry;
    bool earlier = key < h->entries[i].key;
    entry.key = key;
    entry.item = item;
    if (earlier)
        aiol_heap_up(h->entries, i, 0, entry);
    else
        aiol_heap_down(h, i, entry);
}

AIOLOOP_INTERNAL void aiol_heap_verify(const aiol_heap *h) {
    size_t i;
    for (i = 0; i < h->count; i++) {
        AIOL_VERIFY(h->entries[i].item->index == i);
        AIOL_VERIFY(i == 0 || !aiol_heap_less(&h->entries[i], &h->entries[(i - 1) / 4]));
    }
}

#endif
