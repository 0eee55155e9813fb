/*
 * handle.c - callbacks and their handles.                                  (asyncio: events.Handle)
 *
 * Slots live in chunks that stay where they are until the loop is freed, so a handle may outlive its callback: the sequence number
 * in it no longer matches then. Free slots are a stack, so a busy loop goes through few cache lines.
 */
#ifndef AIOL_CORE_HANDLE_C
#define AIOL_CORE_HANDLE_C

#include "core/log.c"

#define AIOL_SLOTS_FIRST 32u
#define AIOL_SLOTS_MOST 1024u
#define AIOL_HANDLE_CANCELLED ((uint64_t)1 << 63) /* in a handle's own copy of the sequence */

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
    memset(slots, 0, count * sizeof(slots[0]));
    for (i = 0; i < count; i++) {
        slots[i].index = (uint16_t)i;
        slots[i].flags = flags;
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

static void aiol_slot_drop_context(aiol_slot *slot) {
    if (AIOL_UNLIKELY((slot->flags & AIOL_SLOT_EXPLICIT) != 0)) {
        slot->flags &= (uint8_t)~AIOL_SLOT_EXPLICIT;
        aioloop_context_unref(slot->context.explicit_one);
    } else {
        aiol_map_unref(slot->context.map);
    }
    slot->context.map = NULL;
}

AIOLOOP_INTERNAL void aiol_slot_free(aioloop *loop, aiol_slot *slot) {
    if (AIOL_UNLIKELY(slot->context.map != NULL))
        aiol_slot_drop_context(slot);
    slot->sequence = 0;
    slot->state = AIOL_SLOT_FREE;
    slot->flags &= AIOL_SLOT_REMOTE;
    if (AIOL_UNLIKELY(slot->flags != 0)) {
        slot->at.node.next = &loop->remote_done->at.node;
        loop->remote_done = slot;
        return;
    }
    slot->at.node.next = (aiol_node *)(void *)loop->free_slots;
    loop->free_slots = slot;
}

/* Captures the context that a callback will run in. */
AIOLOOP_INTERNAL void aiol_slot_capture(aiol_slot *slot, aioloop_context *context) {
    if (AIOL_UNLIKELY(context != NULL)) {
        aioloop_context_ref(context);
        slot->context.explicit_one = context;
        slot->flags |= AIOL_SLOT_EXPLICIT;
    } else {
        slot->context.map = aiol_map_ref(*aiol_context_home());
    }
}

AIOL_INLINE aiol_map **aiol_slot_home(aiol_slot *slot) {
    return AIOL_UNLIKELY((slot->flags & AIOL_SLOT_EXPLICIT) != 0) ? &slot->context.explicit_one->map : &slot->context.map;
}

/* ---- running ---- */

AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_slot_report(aioloop *loop, aiol_slot *slot, aioloop_future *future, int code) {
    aioloop_exception_context context;
    aiol_map **saved = aiol_thread.home;
    memset(&context, 0, sizeof(context));
    context.message = future != NULL ? "Error in done-callback" : "Error in callback";
    context.future = future;
    context.handle.slot = slot;
    context.handle.sequence = slot->sequence;
    aiol_thread.home = aiol_slot_home(slot); /* the handler runs in the context of what failed */
    aiol_report(loop, code, slot->site, &context);
    aiol_thread.home = saved;
}

AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_slot_slow(aioloop *loop, const aiol_slot *slot, aioloop_time since) {
    aioloop_time took = aiol_loop_now(loop) - since;
    if (took >= loop->slow)
        aiol_warn(loop, slot->site, "callback %llu took %lld ms", (unsigned long long)slot->sequence,
                  (long long)(took / 1000000));
}

/* Runs a slot that call_soon or a timer queued. */
AIOLOOP_INTERNAL void aiol_run_call(aioloop *loop, aiol_node *node) {
    aiol_slot *slot = (aiol_slot *)(void *)node;
    if (slot->state != AIOL_SLOT_CANCELLED) {
        aiol_frame frame = aiol_enter(loop, aiol_slot_home(slot));
        aioloop_time since = AIOL_UNLIKELY(loop->debug) ? aiol_loop_now(loop) : 0;
        int raised;
        slot->state = AIOL_SLOT_RUNNING;
        slot->fn.call(loop, slot->arg);
        raised = aiol_leave(loop, &frame);
        if (AIOL_UNLIKELY(raised != 0))
            aiol_slot_report(loop, slot, NULL, raised);
        if (AIOL_UNLIKELY(since != 0))
            aiol_slot_slow(loop, slot, since);
        aiol_callback_end(loop);
    }
    aiol_slot_free(loop, slot);
}

/* ---- scheduling ---- */

AIOL_INLINE aioloop_handle aiol_handle_of(const aiol_slot *slot) {
    aioloop_handle handle;
    memset(&handle, 0, sizeof(handle));
    if (slot != NULL) {
        memcpy(&handle.slot, &slot, sizeof(slot));
        handle.sequence = slot->sequence;
    }
    return handle;
}

/* A slot for fn, or NULL with the reason stored. */
AIOL_INLINE aiol_slot *aiol_slot_for(aioloop *loop, aioloop_callback fn, void *arg, aioloop_context *context) {
    aiol_slot *slot;
    if (AIOL_UNLIKELY(loop == NULL))
        return NULL;
    if (AIOL_UNLIKELY(loop->careful) && aiol_check(loop) < 0)
        return NULL;
    if (AIOL_UNLIKELY(fn == NULL)) {
        aiol_fail(loop, AIOLOOP_EINVAL, "a callback is needed, not NULL");
        return NULL;
    }
    slot = aiol_slot_new(loop);
    if (AIOL_UNLIKELY(slot == NULL)) {
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    slot->sequence = ++loop->sequence;
    slot->fn.call = fn;
    slot->arg = arg;
    slot->site = AIOL_UNLIKELY(loop->debug) ? aiol_site_take(loop) : 0;
    aiol_slot_capture(slot, context);
    return slot;
}

AIOL_INLINE aiol_slot *aiol_call_soon(aioloop *loop, aioloop_callback fn, void *arg, aioloop_context *context) {
    aiol_slot *slot = aiol_slot_for(loop, fn, arg, context);
    if (AIOL_UNLIKELY(slot == NULL))
        return NULL;
    slot->state = AIOL_SLOT_READY;
    slot->at.node.run = aiol_run_call;
    aiol_queue_push(&loop->ready, &slot->at.node);
    return slot;
}

AIOLOOP_API aioloop_handle(aioloop_call_soon)(aioloop *loop, aioloop_callback fn, void *arg) {
    return aiol_handle_of(aiol_call_soon(loop, fn, arg, NULL));
}

AIOLOOP_API aioloop_handle(aioloop_call_soon_context)(aioloop *loop, aioloop_callback fn, void *arg,
                                                      aioloop_context *context) {
    return aiol_handle_of(aiol_call_soon(loop, fn, arg, context));
}

/* ---- handles ---- */

/* The slot, if the handle's callback has not run and was not cancelled. */
static aiol_slot *aiol_handle_slot(const aioloop_handle *handle) {
    aiol_slot *slot;
    if (handle == NULL || handle->slot == NULL)
        return NULL;
    slot = (aiol_slot *)handle->slot;
    return slot->sequence != 0 && slot->sequence == handle->sequence ? slot : NULL;
}

AIOLOOP_API void aioloop_handle_cancel(aioloop_handle *handle) {
    aiol_slot *slot = aiol_handle_slot(handle);
    if (handle == NULL || handle->slot == NULL)
        return;
    handle->sequence |= AIOL_HANDLE_CANCELLED;
    if (slot == NULL)
        return;
    switch ((aiol_slot_state)slot->state) {
    case AIOL_SLOT_TIMER:
        aiol_timer_cancel(aiol_slot_loop(slot), slot);
        break;
    case AIOL_SLOT_READY: /* leaves the queue when its turn comes */
        slot->state = AIOL_SLOT_CANCELLED;
        slot->sequence = 0;
        break;
    default:
        break;
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
