/*
 * queue.c - queues between tasks.                                                  (asyncio: queues.py)
 *
 * An item goes onto the shelf and from there to the first who waits for one, at once. It can come back, when the task
 * it was given to was cancelled before it went on; its number, counted when it was put, says where it belongs. Room for
 * what can come back, and for the items of those who wait to put one, is kept free (`promised`): only putting needs
 * memory.
 */
#ifndef AIOL_HIGH_QUEUE_C
#define AIOL_HIGH_QUEUE_C

#include "api/queue.h"
#include "high/sync.c"

typedef struct aiol_item {
    void *pointer;
    void (*dispose)(void *pointer);
    uint64_t number;
} aiol_item;

/* The items, in a ring; a LIFO queue and a heap begin at its start. */
typedef struct aiol_shelf {
    aiol_item *items;
    size_t capacity;
    size_t head;
    size_t count;
} aiol_shelf;

struct aioloop_queue {
    aiol_resource resource;
    aioloop_queue_kind kind;
    int64_t maxsize;
    int (*compare)(const void *a, const void *b);
    aiol_shelf shelf;
    size_t promised; /* places for those who wait to put something, and for what was given and may come back */
    uint64_t number; /* of the item put last */
    size_t unfinished;
    aiol_link getters;
    aiol_link putters;
    aiol_link joiners;
    aiol_link granted; /* who were given an item that they may not have read */
    bool serving;
    bool is_shutdown;
    bool drops; /* what comes back: it was shut down at once */
    bool closing;
};

/* ---- the shelf ---- */

AIOL_INLINE aiol_item *aiol_shelf_at(const aiol_shelf *s, size_t i) {
    i += s->head;
    return &s->items[i < s->capacity ? i : i - s->capacity];
}

/* Room for one item more, and for those promised. 0 or AIOLOOP_ENOMEM. */
static int aiol_shelf_reserve(const aioloop_allocator *a, aiol_shelf *s, size_t promised) {
    size_t wanted = s->count + promised + 1;
    aiol_shelf grown;
    size_t i;
    int err;
    if (wanted <= s->capacity)
        return 0;
    memset(&grown, 0, sizeof(grown));
    err = aiol_grow(a, &grown.items, &grown.capacity, sizeof(grown.items[0]), wanted + s->capacity / 2);
    if (err < 0)
        return err;
    for (i = 0; i < s->count; i++)
        grown.items[i] = *aiol_shelf_at(s, i);
    grown.count = s->count;
    aiol_free(a, s->items, s->capacity * sizeof(s->items[0]));
    *s = grown;
    return 0;
}

/* Puts an item where its number says, counted from the end: mostly it is the last. */
static void aiol_shelf_insert_last(aiol_shelf *s, const aiol_item *item) {
    size_t i = s->count++;
    while (i > 0 && aiol_shelf_at(s, i - 1)->number > item->number) {
        *aiol_shelf_at(s, i) = *aiol_shelf_at(s, i - 1);
        i--;
    }
    *aiol_shelf_at(s, i) = *item;
}

/* The same from the front, for one that comes back. */
static void aiol_shelf_insert_first(aiol_shelf *s, const aiol_item *item) {
    size_t i = 0;
    s->head = (s->head == 0 ? s->capacity : s->head) - 1;
    s->count++;
    while (i + 1 < s->count && aiol_shelf_at(s, i + 1)->number < item->number) {
        *aiol_shelf_at(s, i) = *aiol_shelf_at(s, i + 1);
        i++;
    }
    *aiol_shelf_at(s, i) = *item;
}

static bool aiol_item_before(const aioloop_queue *q, const aiol_item *a, const aiol_item *b) {
    int order = q->compare(a->pointer, b->pointer);
    return order < 0 || (order == 0 && a->number < b->number);
}

static void aiol_items_up(aioloop_queue *q, const aiol_item *item) {
    aiol_item *items = q->shelf.items;
    size_t i = q->shelf.count++;
    while (i > 0 && aiol_item_before(q, item, &items[(i - 1) / 2])) {
        items[i] = items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    items[i] = *item;
}

/* The last item takes the place of the first, and goes down from there. */
static void aiol_items_down(aioloop_queue *q) {
    aiol_item *items = q->shelf.items;
    size_t count = --q->shelf.count;
    const aiol_item last = items[count];
    size_t i = 0;
    size_t child;
    while ((child = 2 * i + 1) < count) {
        if (child + 1 < count && aiol_item_before(q, &items[child + 1], &items[child]))
            child++;
        if (!aiol_item_before(q, &items[child], &last))
            break;
        items[i] = items[child];
        i = child;
    }
    items[i] = last;
}

/* There is room. */
static void aiol_items_insert(aioloop_queue *q, const aiol_item *item) {
    aiol_shelf *s = &q->shelf;
    if (q->kind == AIOLOOP_QUEUE_PRIORITY)
        aiol_items_up(q, item);
    else if (q->kind == AIOLOOP_QUEUE_FIFO && s->count != 0 && item->number < aiol_shelf_at(s, s->count - 1)->number)
        aiol_shelf_insert_first(s, item);
    else
        aiol_shelf_insert_last(s, item);
}

/* The next item out; there is one. */
static aiol_item aiol_items_take(aioloop_queue *q) {
    aiol_shelf *s = &q->shelf;
    aiol_item item;
    if (q->kind == AIOLOOP_QUEUE_LIFO)
        return *aiol_shelf_at(s, --s->count);
    item = *aiol_shelf_at(s, 0);
    if (q->kind == AIOLOOP_QUEUE_PRIORITY) {
        aiol_items_down(q);
    } else {
        s->head = s->head + 1 == s->capacity ? 0 : s->head + 1;
        s->count--;
    }
    return item;
}

/* Takes all items out, and the memory with them. */
static aiol_shelf aiol_items_detach(aioloop_queue *q) {
    aiol_shelf shelf = q->shelf;
    memset(&q->shelf, 0, sizeof(q->shelf));
    return shelf;
}

static void aiol_item_end(void *pointer, void (*dispose)(void *)) {
    if (dispose != NULL)
        dispose(pointer);
}

/* Disposes of items that are no queue's any more. */
static void aiol_shelf_end(aioloop *loop, aiol_shelf *s) {
    size_t i;
    for (i = 0; i < s->count; i++) {
        const aiol_item *item = aiol_shelf_at(s, i);
        aiol_item_end(item->pointer, item->dispose);
    }
    aiol_free(&loop->allocator, s->items, s->capacity * sizeof(s->items[0]));
}

/* ---- who waits ---- */

static bool aiol_queue_is_full(const aioloop_queue *q) {
    return q->maxsize > 0 && q->shelf.count >= (uint64_t)q->maxsize;
}

static void aiol_queue_serve(aioloop_queue *q);

/* That many items are done with. Those who wait for all of them are taken off the queue. */
static void aiol_queue_count_done(aioloop_queue *q, size_t done, aiol_link *joiners) {
    aiol_list_init(joiners);
    q->unfinished -= aiol_min_size(done, q->unfinished);
    if (q->unfinished == 0 && !q->resource.loop->closed)
        aiol_line_detach(joiners, &q->joiners);
}

/* A getter's future goes. An item that it was given and nobody has read comes back, if the queue still takes it. */
static void aiol_getter_gone(aiol_waiter *w, bool unread) {
    aioloop_queue *q = (aioloop_queue *)w->object;
    aiol_item item;
    aiol_link joiners;
    if (q != NULL)
        q->promised--;
    if (!unread)
        return;
    item.pointer = w->future.of.pointer;
    item.dispose = w->dispose;
    item.number = w->mark;
    if (q != NULL && !q->drops) {
        aiol_items_insert(q, &item);
        aiol_queue_serve(q);
        return;
    }
    if (q != NULL) {
        aiol_queue_count_done(q, 1, &joiners);
        aiol_line_end(&joiners, 0);
    }
    aiol_item_end(item.pointer, item.dispose);
}

/* Hands the next item to a getter that is in no line. */
static void aiol_getter_give(aioloop_queue *q, aiol_waiter *w) {
    aiol_item item = aiol_items_take(q);
    q->promised++;
    w->dispose = item.dispose;
    w->mark = item.number;
    w->gone = aiol_getter_gone;
    w->future.flags |= AIOL_FUTURE_GRANT;
    aiol_list_append(&q->granted, &w->link);
    aiol_future_finish(&w->future, 0, item.pointer, NULL);
    aiol_future_release(&w->future);
}

/* A putter's future goes, and its item was not put: that waits in the future, as its owner. */
static void aiol_putter_gone(aiol_waiter *w, bool unread) {
    (void)unread;
    aiol_item_end(w->future.of.owner, w->dispose);
}

static bool aiol_putter_cancel(aioloop_future *f, void *owner) {
    aioloop_queue *q = (aioloop_queue *)((aiol_waiter *)(void *)f)->object;
    if (q != NULL)
        q->promised--;
    return aiol_waiter_leave(f, owner);
}

/* There is room for it and all that is promised. */
static void aiol_queue_put_item(aioloop_queue *q, void *pointer, void (*dispose)(void *)) {
    aiol_item item;
    item.pointer = pointer;
    item.dispose = dispose;
    item.number = ++q->number;
    q->unfinished++;
    aiol_items_insert(q, &item);
}

/* Lets in a putter that is in no line. */
static void aiol_putter_admit(aioloop_queue *q, aiol_waiter *w) {
    q->promised--;
    w->gone = NULL;
    aiol_queue_put_item(q, w->future.of.owner, w->dispose);
    aiol_future_finish(&w->future, 0, NULL, NULL);
    aiol_future_release(&w->future);
}

/* Items to those who wait for them, and room to those who wait for that. */
static void aiol_queue_serve(aioloop_queue *q) {
    aiol_waiter *w;
    if (q->serving || q->resource.loop->closed)
        return;
    q->serving = true;
    for (;;) {
        if (q->shelf.count != 0 && (w = aiol_line_pop(&q->getters)) != NULL)
            aiol_getter_give(q, w);
        else if (!aiol_queue_is_full(q) && (w = aiol_line_pop(&q->putters)) != NULL)
            aiol_putter_admit(q, w);
        else
            break;
    }
    q->serving = false;
}

/* ---- making and ending ---- */

/* The loop closes: the items go now, while everything that they may refer to is there. */
static void aiol_queue_closed(aiol_resource *resource) {
    aioloop_queue *q = AIOL_CONTAINER(resource, aioloop_queue, resource);
    aiol_shelf shelf = aiol_items_detach(q);
    q->is_shutdown = true;
    q->drops = true;
    q->closing = true;
    aiol_shelf_end(resource->loop, &shelf);
    q->closing = false;
}

static void aiol_queue_destroy(aiol_resource *resource) {
    aioloop_queue *q = AIOL_CONTAINER(resource, aioloop_queue, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, q, sizeof(*q));
}

static const aiol_resource_calls aiol_queue_resource = {"queue", aiol_queue_closed, aiol_queue_destroy,
                                                        aiol_combine_is_open};

AIOLOOP_API aioloop_queue *aioloop_queue_new(aioloop *loop, const aioloop_queue_options *options) {
    aioloop_queue *q;
    if (loop != NULL && options != NULL &&
        ((unsigned)options->kind > AIOLOOP_QUEUE_PRIORITY ||
         (options->kind == AIOLOOP_QUEUE_PRIORITY && options->compare == NULL))) {
        aiol_fail(loop, AIOLOOP_EINVAL, "a queue of an unknown kind, or without its compare");
        return NULL;
    }
    q = (aioloop_queue *)aiol_sync_new(loop, sizeof(*q));
    if (q == NULL)
        return NULL;
    if (options != NULL) {
        q->kind = options->kind;
        q->maxsize = options->maxsize < 0 ? 0 : options->maxsize;
        q->compare = options->compare;
    }
    aiol_list_init(&q->getters);
    aiol_list_init(&q->putters);
    aiol_list_init(&q->joiners);
    aiol_list_init(&q->granted);
    aiol_resource_add(loop, &q->resource, &aiol_queue_resource);
    return q;
}

AIOLOOP_API void aioloop_queue_free(aioloop_queue *queue) {
    aiol_link getters, putters, joiners;
    aiol_shelf shelf;
    aioloop *loop;
    aiol_waiter *w;
    if (queue == NULL || queue->resource.loop->freeing || queue->closing)
        return; /* it goes with the loop */
    loop = queue->resource.loop;
    while ((w = aiol_line_pop(&queue->granted)) != NULL)
        w->object = NULL; /* an item that is not read is disposed of */
    aiol_line_detach(&getters, &queue->getters);
    aiol_line_detach(&putters, &queue->putters);
    aiol_line_detach(&joiners, &queue->joiners);
    shelf = aiol_items_detach(queue);
    aiol_queue_destroy(&queue->resource);
    aiol_line_end(&getters, AIOLOOP_ECANCELED);
    aiol_line_end(&putters, AIOLOOP_ECANCELED);
    aiol_line_end(&joiners, AIOLOOP_ECANCELED);
    aiol_shelf_end(loop, &shelf);
}

/* ---- putting ---- */

/* The future of a put that fails; its item goes. */
static aioloop_future *aiol_put_failed(aioloop_future *f, void *item, void (*dispose)(void *)) {
    aiol_item_end(item, dispose);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_queue_put)(aioloop_queue *queue, void *item, void (*dispose)(void *item)) {
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check(queue->resource.loop);
    aioloop_future *f;
    aiol_waiter *w;
    aioloop *loop;
    if (err < 0)
        return aiol_put_failed(aiol_future_failed(err), item, dispose);
    loop = queue->resource.loop;
    if (queue->is_shutdown)
        return aiol_put_failed(aiol_combine_failed(loop, aiol_fail(loop, AIOLOOP_EQUEUESHUTDOWN, NULL)), item, dispose);
    if (aiol_shelf_reserve(&loop->allocator, &queue->shelf, queue->promised) < 0)
        return aiol_put_failed(aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL)), item, dispose);
    if (!aiol_queue_is_full(queue)) {
        f = aiol_future_nothing(loop);
        if (aiol_future_is_static(f))
            return aiol_put_failed(f, item, dispose);
        aiol_queue_put_item(queue, item, dispose);
        aiol_queue_serve(queue);
        return f;
    }
    w = aiol_line_join(loop, &queue->putters, queue);
    if (w == NULL)
        return aiol_put_failed(aiol_future_failed(AIOLOOP_ENOMEM), item, dispose);
    w->future.end.cancel = aiol_putter_cancel;
    w->future.of.owner = item;
    w->dispose = dispose;
    w->gone = aiol_putter_gone;
    queue->promised++;
    return &w->future;
}

AIOLOOP_API int aioloop_queue_put_nowait(aioloop_queue *queue, void *item, void (*dispose)(void *item)) {
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check(queue->resource.loop);
    if (err < 0)
        return err;
    if (queue->is_shutdown)
        return AIOLOOP_EQUEUESHUTDOWN;
    if (aiol_queue_is_full(queue))
        return AIOLOOP_EQUEUEFULL;
    if (aiol_shelf_reserve(&queue->resource.loop->allocator, &queue->shelf, queue->promised) < 0)
        return aiol_fail(queue->resource.loop, AIOLOOP_ENOMEM, NULL);
    aiol_queue_put_item(queue, item, dispose);
    aiol_queue_serve(queue);
    return 0;
}

/* ---- getting ---- */

AIOLOOP_API aioloop_future *(aioloop_queue_get)(aioloop_queue *queue) {
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check(queue->resource.loop);
    aioloop *loop;
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    loop = queue->resource.loop;
    if (queue->is_shutdown && queue->shelf.count == 0)
        return aiol_combine_failed(loop, aiol_fail(loop, AIOLOOP_EQUEUESHUTDOWN, NULL));
    w = aiol_line_join(loop, &queue->getters, queue);
    if (w == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    aiol_queue_serve(queue);
    return &w->future;
}

AIOLOOP_API int aioloop_queue_get_nowait(aioloop_queue *queue, void *out) {
    int err = queue == NULL || out == NULL ? AIOLOOP_EINVAL : aiol_sync_check(queue->resource.loop);
    aiol_item item;
    if (err < 0)
        return err;
    if (queue->shelf.count == 0)
        return queue->is_shutdown ? AIOLOOP_EQUEUESHUTDOWN : AIOLOOP_EQUEUEEMPTY;
    item = aiol_items_take(queue);
    aiol_queue_serve(queue);
    aiol_store_pointer(out, item.pointer);
    return 0;
}

/* ---- the rest ---- */

AIOLOOP_API int aioloop_queue_task_done(aioloop_queue *queue) {
    aiol_link joiners;
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(queue->resource.loop);
    if (err < 0)
        return err;
    if (queue->unfinished == 0)
        return aiol_fail(queue->resource.loop, AIOLOOP_EINVAL, "task_done was called too often");
    aiol_queue_count_done(queue, 1, &joiners);
    aiol_line_end(&joiners, 0);
    return 0;
}

AIOLOOP_API aioloop_future *(aioloop_queue_join)(aioloop_queue *queue) {
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check(queue->resource.loop);
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    if (queue->unfinished == 0)
        return aiol_future_nothing(queue->resource.loop);
    w = aiol_line_join(queue->resource.loop, &queue->joiners, queue);
    return w == NULL ? aiol_future_failed(AIOLOOP_ENOMEM) : &w->future;
}

/* First all that is the queue's; then what may run user code, which may free it. */
AIOLOOP_API int aioloop_queue_shutdown(aioloop_queue *queue, bool immediate) {
    aiol_link getters, putters, joiners;
    aiol_shelf shelf;
    aioloop *loop;
    aiol_link *link;
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(queue->resource.loop);
    if (err < 0)
        return err;
    loop = queue->resource.loop;
    memset(&shelf, 0, sizeof(shelf));
    queue->is_shutdown = true;
    if (immediate) {
        queue->drops = true;
        shelf = aiol_items_detach(queue);
    }
    aiol_queue_count_done(queue, shelf.count, &joiners);
    aiol_list_init(&getters);
    aiol_list_init(&putters);
    if (!loop->closed) {
        aiol_line_detach(&getters, &queue->getters);
        for (link = queue->putters.next; link != &queue->putters; link = link->next)
            queue->promised--;
        aiol_line_detach(&putters, &queue->putters);
    }
    aiol_line_end(&joiners, 0);
    aiol_line_end(&getters, AIOLOOP_EQUEUESHUTDOWN);
    aiol_line_end(&putters, AIOLOOP_EQUEUESHUTDOWN);
    aiol_shelf_end(loop, &shelf);
    return 0;
}

AIOLOOP_API size_t aioloop_queue_qsize(const aioloop_queue *queue) {
    return queue == NULL ? 0 : queue->shelf.count;
}

AIOLOOP_API int64_t aioloop_queue_maxsize(const aioloop_queue *queue) {
    return queue == NULL ? 0 : queue->maxsize;
}

AIOLOOP_API bool aioloop_queue_empty(const aioloop_queue *queue) {
    return queue == NULL || queue->shelf.count == 0;
}

AIOLOOP_API bool aioloop_queue_full(const aioloop_queue *queue) {
    return queue != NULL && aiol_queue_is_full(queue);
}

#endif
