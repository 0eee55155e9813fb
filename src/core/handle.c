/*
 * handle.c - callbacks and their handles.                                  (asyncio: events.Handle)
 *
 * Slots live in chunks that stay where they are until the loop is freed, so a handle may outlive its callback: the
 * sequence number in it no longer matches then. Free slots are a stack, so a busy loop goes through few cache lines.
 */
#ifndef AIOL_CORE_HANDLE_C
#define AIOL_CORE_HANDLE_C

#include "core/log.c"

#define AIOL_SLOTS_FIRST 32u
#define AIOL_SLOTS_MOST 1024u
#define AIOL_HANDLE_CANCELLED ((uint64_t)1 << 63) /* in a handle's own copy of the sequence */
#define AIOL_HANDLE_REMOTE ((uint64_t)1 << 62)    /* in the sequence of a slot of the pool that other threads use */

static aiol_slot *aiol_slot_chunk_slots(aiol_slot_chunk *chunk) {
    /* Slots begin at their own size from the start of the chunk. */
    return (aiol_slot *)(void *)chunk + 1;
}

AIOL_STATIC_ASSERT(sizeof(aiol_slot_chunk) <= sizeof(aiol_slot), chunk_header_fits_a_slot);

AIOLOOP_INTERNAL aioloop *aiol_slot_loop(const aiol_slot *slot) {
    return ((const aiol_slot_chunk *)(const void *)(slot - slot->index - 1))->loop;
}

/* A chunk of count slots, all free and linked through node.next; NULL when there is no memory. */
AIOLOOP_INTERNAL aiol_slot_chunk *aiol_slot_chunk_new(aioloop *loop, size_t count, uint8_t flags) {
    aiol_slot_chunk *chunk = (aiol_slot_chunk *)aiol_alloc(&loop->allocator, (count + 1) * sizeof(aiol_slot));
    aiol_slot *slots;
    size_t i;
    if (chunk == NULL)
        return NULL;
    chunk->next = NULL;
    chunk->loop = loop;
    chunk->count = count;
    slots = aiol_slot_chunk_slots(chunk);
    for (i = 0; i < count; i++) {
        memset(&slots[i], 0, sizeof(slots[0]));
        slots[i].index = (uint16_t)i;
        slots[i].flags = flags;
        slots[i].at.node.run = aiol_run_call;
        slots[i].at.node.next = i + 1 < count ? &slots[i + 1].at.node : NULL;
    }
    return chunk;
}

AIOLOOP_INTERNAL void aiol_slot_chunk_free(aioloop *loop, aiol_slot_chunk *chunk) {
    aiol_free(&loop->allocator, chunk, (chunk->count + 1) * sizeof(aiol_slot));
}

static AIOL_NOINLINE bool aiol_slot_more(aioloop *loop) {
    size_t count = loop->chunks == NULL ? AIOL_SLOTS_FIRST : loop->chunks->count * 2;
    aiol_slot_chunk *chunk = aiol_slot_chunk_new(loop, count < AIOL_SLOTS_MOST ? count : AIOL_SLOTS_MOST, 0);
    if (chunk == NULL)
        return false;
    chunk->next = loop->chunks;
    loop->chunks = chunk;
    loop->free_slots = aiol_slot_chunk_slots(chunk);
    return true;
}

/* A slot with nothing in it but its place; NULL when there is no memory. */
AIOLOOP_INTERNAL aiol_slot *aiol_slot_new(aioloop *loop) {
    aiol_slot *slot = loop->free_slots;
    if (AIOL_UNLIKELY(slot == NULL)) {
        if (!aiol_slot_more(loop))
            return NULL;
        slot = loop->free_slots;
    }
    loop->free_slots = (aiol_slot *)(void *)slot->at.node.next;
    return slot;
}

/* The slot is free when this lets go of what it had captured, which may call user code. */
AIOLOOP_INTERNAL void aiol_slot_free(aioloop *loop, aiol_slot *slot) {
    aiol_map *map = slot->context.map;
    aioloop_context *explicit_one = NULL;
    if (AIOL_UNLIKELY((slot->flags & AIOL_SLOT_EXPLICIT) != 0)) {
        explicit_one = slot->context.explicit_one;
        map = NULL;
    }
    slot->context.map = NULL;
    slot->sequence = 0;
    slot->state = AIOL_SLOT_READY;
    slot->at.node.run = aiol_run_call;
    slot->flags &= AIOL_SLOT_REMOTE;
    if (AIOL_UNLIKELY(slot->flags != 0)) {
        slot->at.node.next = (aiol_node *)(void *)loop->remote_done;
        loop->remote_done = slot;
    } else {
        slot->site = 0; /* of the others it is a link that threads read */
        slot->at.node.next = (aiol_node *)(void *)loop->free_slots;
        loop->free_slots = slot;
    }
    aiol_map_unref(map);
    aioloop_context_unref(explicit_one);
}

/* A slot that will not run any more leaves its place. A task's stays the task's. */
AIOLOOP_INTERNAL void aiol_slot_drop(aioloop *loop, aiol_slot *slot) {
    if ((slot->flags & AIOL_SLOT_TASK) != 0)
        slot->state = AIOL_SLOT_READY;
    else
        aiol_slot_free(loop, slot);
}

/* Captures the context that a callback will run in. */
AIOLOOP_INTERNAL void aiol_slot_capture(aiol_slot *slot, aioloop_context *context) {
    if (AIOL_UNLIKELY(context != NULL)) {
        aioloop_context_ref(context);
        slot->context.explicit_one = context;
        slot->flags |= AIOL_SLOT_EXPLICIT;
    } else {
        slot->context.map = aiol_map_ref(aiol_thread.map);
    }
}

/* Where the values are that a slot's callback runs with. */
AIOL_INLINE aiol_map **aiol_slot_place(aiol_slot *slot) {
    return (slot->flags & AIOL_SLOT_EXPLICIT) != 0 ? &slot->context.explicit_one->map : &slot->context.map;
}

/* Called while the context of what failed is current: the handler runs in it. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_slot_report(aioloop *loop, aiol_slot *slot, aioloop_future *future, int code) {
    aioloop_exception_context context;
    memset(&context, 0, sizeof(context));
    context.message = future != NULL ? "Error in done-callback" : "Error in callback";
    context.future = future;
    context.handle.slot = slot;
    context.handle.sequence = slot->sequence;
    aiol_report(loop, code, slot->site, &context);
}

AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_slot_slow(aioloop *loop, const aiol_slot *slot, aioloop_time since) {
    aioloop_time took = aiol_loop_now(loop) - since;
    if (took >= loop->slow)
        aiol_warn(loop, slot->site, "callback %llu took %lld ms", (unsigned long long)slot->sequence,
                  (long long)(took / 1000000));
}

/* After a callback: what it raised is reported, what it wrote goes out. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_slot_attend(aioloop *loop, aiol_slot *slot, aioloop_future *future) {
    int raised = loop->raised;
    loop->raised = 0;
    if (raised != 0)
        aiol_slot_report(loop, slot, future, raised);
    aiol_callback_end(loop);
}

/* Runs a slot with captured values, when nothing else is to be done about it: the path of nearly every callback. The
 * values become the thread's own, until the next one or aiol_run_queue lets them go. What the callback left to be done
 * shows in loop->attention. */
AIOLOOP_INTERNAL void aiol_run_call(aioloop *loop, aiol_node *node) {
    aiol_slot *slot = (aiol_slot *)(void *)node;
    aiol_map *last = aiol_thread.map;
    aiol_thread.map = slot->context.map;
    slot->context.map = NULL;
    if (AIOL_UNLIKELY(last != NULL))
        aiol_map_release(last); /* may call user code, so not before this one's are the current ones */
    loop->turn++;
    slot->fn.call(loop, slot->arg);
    if (AIOL_UNLIKELY(loop->attention))
        aiol_slot_attend(loop, slot, NULL);
    slot->sequence = 0;
    node->run = aiol_run_call; /* it may have cancelled its own handle */
    node->next = (aiol_node *)(void *)loop->free_slots;
    loop->free_slots = slot;
}

/* The same for debug mode, explicit contexts and slots of the pool of other threads. */
AIOLOOP_INTERNAL void aiol_run_call_carefully(aioloop *loop, aiol_node *node) {
    aiol_slot *slot = (aiol_slot *)(void *)node;
    aiol_frame frame = aiol_enter(loop, aiol_slot_place(slot));
    aioloop_time since = loop->debug ? aiol_loop_now(loop) : 0;
    slot->fn.call(loop, slot->arg);
    if (since != 0)
        aiol_slot_slow(loop, slot, since);
    aiol_slot_attend(loop, slot, NULL);
    aiol_leave(loop, &frame);
    aiol_slot_free(loop, slot);
}

/* Runs in the place of a slot that was cancelled while it was queued. */
AIOLOOP_INTERNAL void aiol_run_nothing(aioloop *loop, aiol_node *node) {
    aiol_slot_free(loop, (aiol_slot *)(void *)node);
}

/* ---- scheduling ---- */

AIOL_INLINE aioloop_handle aiol_handle_of(aiol_slot *slot) {
    aioloop_handle handle;
    handle.slot = slot;
    handle.sequence = slot->sequence;
    return handle;
}

AIOL_INLINE aioloop_handle aiol_handle_null(void) {
    aioloop_handle handle;
    handle.slot = NULL;
    handle.sequence = 0;
    return handle;
}

/* Fills a fresh slot. */
AIOL_INLINE void aiol_slot_fill(aioloop *loop, aiol_slot *slot, aioloop_callback fn, void *arg) {
    slot->sequence = ++loop->sequence;
    slot->fn.call = fn;
    slot->arg = arg;
}

/* A slot for fn with everything that may be special about it; NULL with the reason stored. */
AIOLOOP_INTERNAL AIOL_NOINLINE aiol_slot *aiol_slot_carefully(aioloop *loop, aioloop_callback fn, void *arg,
                                                              aioloop_context *context) {
    aiol_slot *slot;
    if (loop == NULL || (loop->careful && aiol_check(loop) < 0))
        return NULL;
    if (fn == NULL) {
        aiol_fail(loop, AIOLOOP_EINVAL, "a callback is needed, not NULL");
        return NULL;
    }
    slot = aiol_slot_new(loop);
    if (slot == NULL) {
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    aiol_slot_fill(loop, slot, fn, arg);
    slot->site = loop->debug ? aiol_site_take(loop) : 0;
    aiol_slot_capture(slot, context);
    if (loop->debug || context != NULL)
        slot->at.node.run = aiol_run_call_carefully;
    return slot;
}

/* True if the short way will do: nothing to check, and a slot at hand. */
AIOL_INLINE bool aiol_slot_easily(const aioloop *loop, aioloop_callback fn) {
    return AIOL_LIKELY(loop != NULL && fn != NULL && loop->free_slots != NULL && !loop->careful);
}

/* The slot at hand. */
AIOL_INLINE aiol_slot *aiol_slot_take(aioloop *loop, aioloop_callback fn, void *arg) {
    aiol_slot *slot = loop->free_slots;
    loop->free_slots = (aiol_slot *)(void *)slot->at.node.next;
    aiol_slot_fill(loop, slot, fn, arg);
    if (AIOL_UNLIKELY(aiol_thread.map != NULL)) /* else it is NULL already */
        slot->context.map = aiol_map_ref(aiol_thread.map);
    return slot;
}

AIOL_INLINE aioloop_handle aiol_slot_ready(aioloop *loop, aiol_slot *slot) {
    aiol_queue_push(&loop->ready, &slot->at.node);
    return aiol_handle_of(slot);
}

static AIOL_NOINLINE aioloop_handle aiol_call_soon_carefully(aioloop *loop, aioloop_callback fn, void *arg,
                                                             aioloop_context *context) {
    aiol_slot *slot = aiol_slot_carefully(loop, fn, arg, context);
    return slot == NULL ? aiol_handle_null() : aiol_slot_ready(loop, slot);
}

AIOLOOP_API aioloop_handle(aioloop_call_soon)(aioloop *loop, aioloop_callback fn, void *arg) {
    if (aiol_slot_easily(loop, fn))
        return aiol_slot_ready(loop, aiol_slot_take(loop, fn, arg));
    return aiol_call_soon_carefully(loop, fn, arg, NULL);
}

AIOLOOP_API aioloop_handle(aioloop_call_soon_context)(aioloop *loop, aioloop_callback fn, void *arg,
                                                      aioloop_context *context) {
    return aiol_call_soon_carefully(loop, fn, arg, context);
}

/* ---- handles ---- */

/* The slot, if the handle's callback has not run and was not cancelled. */
static aiol_slot *aiol_handle_slot(const aioloop_handle *handle) {
    aiol_slot *slot;
    if (handle == NULL || handle->slot == NULL)
        return NULL;
    slot = (aiol_slot *)handle->slot;
#if AIOLOOP_USE_THREADS
    if (AIOL_UNLIKELY((handle->sequence & AIOL_HANDLE_REMOTE) != 0))
        aiol_inbox_drain(aiol_slot_loop(slot)); /* gives it its sequence */
#endif
    return slot->sequence != 0 && slot->sequence == handle->sequence ? slot : NULL;
}

AIOLOOP_API void aioloop_handle_cancel(aioloop_handle *handle) {
    aiol_slot *slot = aiol_handle_slot(handle);
    if (handle == NULL || handle->slot == NULL)
        return;
    handle->sequence |= AIOL_HANDLE_CANCELLED;
    if (slot == NULL)
        return;
    if (slot->state == AIOL_SLOT_TIMER) {
        aiol_timer_cancel(aiol_slot_loop(slot), slot);
    } else { /* leaves the queue when its turn comes; one that runs already is not touched by this */
        slot->at.node.run = aiol_run_nothing;
        slot->sequence = 0;
    }
}

AIOLOOP_API void aioloop_timer_handle_cancel(aioloop_timer_handle *handle) {
    if (handle != NULL)
        aioloop_handle_cancel(&handle->handle);
}

AIOLOOP_API bool aioloop_handle_cancelled(const aioloop_handle *handle) {
    return handle != NULL && handle->slot != NULL && (handle->sequence & AIOL_HANDLE_CANCELLED) != 0;
}

AIOLOOP_API bool aioloop_handle_is_null(const aioloop_handle *handle) {
    return handle == NULL || handle->slot == NULL;
}

#endif
