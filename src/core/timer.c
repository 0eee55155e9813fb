/*
 * timer.c - callbacks that run at a time.            (asyncio: events.TimerHandle, base_events._scheduled)
 *
 * A 4-ary heap ordered by (deadline, sequence): equal deadlines run in the order they were made.
 *
 * Re-arming to a later time only stores the new deadline in the slot; the heap's key, which is then too early, is put
 * right when the entry comes up. A server that pushes an idle time-out back on every byte pays a store, not a sift.
 */
#ifndef AIOL_CORE_TIMER_C
#define AIOL_CORE_TIMER_C

#include "core/handle.c"

/* The earliest deadline, AIOLOOP_FOREVER if there is none. Puts the keys right that stand first and are too early. */
AIOLOOP_INTERNAL aioloop_time aiol_timer_next(aioloop *loop) {
    aiol_heap *heap = &loop->timers;
    while (heap->count != 0) {
        aiol_slot *slot = (aiol_slot *)(void *)heap->entries[0].item;
        if (slot->u.when <= heap->entries[0].key)
            return slot->u.when;
        aiol_heap_move(heap, &slot->at.heap, slot->u.when);
    }
    return AIOLOOP_FOREVER;
}

/* Runs a timer that was due, unless an earlier callback of this iteration has moved it: a byte that arrives together
 * with the deadline of an idle time-out still counts. */
AIOLOOP_INTERNAL void aiol_run_due(aioloop *loop, aiol_node *node) {
    aiol_slot *slot = (aiol_slot *)(void *)node;
    bool moved = slot->u.when == AIOLOOP_FOREVER || slot->u.when > loop->due_at;
    slot->state = AIOL_SLOT_READY;
    node->run = aiol_run_call;
    if (AIOL_UNLIKELY(moved)) {
        /* There is room in the heap, since it was taken out of it, unless others have filled it; then it is due all the
         * same. */
        slot->state = AIOL_SLOT_TIMER;
        if (aiol_heap_push(&loop->allocator, &loop->timers, slot->u.when, &slot->at.heap) == 0)
            return;
        slot->state = AIOL_SLOT_READY;
    }
    if ((slot->flags & AIOL_SLOT_EXPLICIT) != 0 || loop->debug)
        aiol_run_call_carefully(loop, node);
    else
        aiol_run_call(loop, node);
}

/* Queues what is due, in order, to run at the end of this iteration. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_timer_move_due(aioloop *loop) {
    aioloop_time now = aiol_loop_now(loop);
    loop->due_at = now;
    while (aiol_timer_next(loop) <= now && loop->timers.count != 0) {
        aiol_slot *slot = (aiol_slot *)(void *)loop->timers.entries[0].item;
        if (slot->u.when == AIOLOOP_FOREVER)
            break;
        aiol_heap_remove(&loop->timers, &slot->at.heap);
        slot->state = AIOL_SLOT_DUE;
        if ((slot->flags & AIOL_SLOT_TASK) == 0) /* a task's says so itself */
            slot->at.node.run = aiol_run_due;
        aiol_queue_push(&loop->due, &slot->at.node);
    }
}

AIOLOOP_INTERNAL void aiol_timer_cancel(aioloop *loop, aiol_slot *slot) {
    aiol_heap_remove(&loop->timers, &slot->at.heap);
    aiol_slot_drop(loop, slot);
}

static AIOL_NOINLINE aioloop_timer_handle aiol_timer_null(aioloop_time when) {
    aioloop_timer_handle handle;
    handle.handle = aiol_handle_null();
    handle.when = when;
    return handle;
}

AIOL_INLINE aioloop_timer_handle aiol_timer_start(aioloop *loop, aiol_slot *slot, aioloop_time when) {
    aioloop_timer_handle handle;
    slot->state = AIOL_SLOT_TIMER;
    slot->u.when = when;
    if (AIOL_UNLIKELY(aiol_heap_push(&loop->allocator, &loop->timers, when, &slot->at.heap) < 0)) {
        aiol_slot_free(loop, slot);
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return aiol_timer_null(when);
    }
    handle.handle = aiol_handle_of(slot);
    handle.when = when;
    return handle;
}

static AIOL_NOINLINE aioloop_timer_handle aiol_call_at_carefully(aioloop *loop, aioloop_time when, aioloop_callback fn,
                                                                 void *arg, aioloop_context *context) {
    aiol_slot *slot;
    if (loop != NULL && when == AIOLOOP_NOT_A_TIME) {
        aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
        return aiol_timer_null(when);
    }
    slot = aiol_slot_carefully(loop, fn, arg, context);
    return slot == NULL ? aiol_timer_null(when) : aiol_timer_start(loop, slot, when);
}

AIOL_INLINE aioloop_timer_handle aiol_call_at(aioloop *loop, aioloop_time when, aioloop_callback fn, void *arg) {
    if (aiol_slot_easily(loop, fn) && when != AIOLOOP_NOT_A_TIME)
        return aiol_timer_start(loop, aiol_slot_take(loop, fn, arg), when);
    return aiol_call_at_carefully(loop, when, fn, arg, NULL);
}

AIOLOOP_API aioloop_timer_handle(aioloop_call_at)(aioloop *loop, aioloop_time when, aioloop_callback fn, void *arg) {
    return aiol_call_at(loop, when, fn, arg);
}

AIOLOOP_API aioloop_timer_handle(aioloop_call_at_context)(aioloop *loop, aioloop_time when, aioloop_callback fn,
                                                          void *arg, aioloop_context *context) {
    return aiol_call_at_carefully(loop, when, fn, arg, context);
}

AIOLOOP_API aioloop_timer_handle(aioloop_call_later)(aioloop *loop, aioloop_time delay, aioloop_callback fn, void *arg) {
    aioloop_time when = delay;
    if (AIOL_LIKELY(loop != NULL && delay != AIOLOOP_NOT_A_TIME))
        when = aiol_time_add(aiol_loop_now(loop), delay);
    return aiol_call_at(loop, when, fn, arg);
}

AIOLOOP_API int aioloop_timer_handle_reschedule(aioloop_timer_handle *handle, aioloop_time when) {
    aiol_slot *slot;
    if (handle == NULL || when == AIOLOOP_NOT_A_TIME)
        return AIOLOOP_EINVAL;
    slot = aiol_handle_slot(&handle->handle);
    if (slot == NULL || (slot->state != AIOL_SLOT_TIMER && slot->state != AIOL_SLOT_DUE))
        return AIOLOOP_EINVALIDSTATE;
    if (slot->state == AIOL_SLOT_TIMER && when < slot->u.when) {
        aioloop *loop = aiol_slot_loop(slot);
        aiol_heap_move(&loop->timers, &slot->at.heap, when);
    }
    slot->u.when = when;
    handle->when = when;
    return 0;
}

#endif
