/*
 * future.c - results that are not there yet.                                   (asyncio: futures.py)
 *
 * Done-callbacks are slots, allocated when they are registered, so completing needs no memory: it moves them to the
 * ready queue. A queued one holds a reference.
 *
 * An unclaimed future has one reference that belongs to whoever uses it first; claiming makes it the caller's.
 */
#ifndef AIOL_CORE_FUTURE_C
#define AIOL_CORE_FUTURE_C

#include "core/inbox.c"

#define AIOL_FUTURE_FAILED_STATICALLY(code)                                                        \
    {                                                                                              \
        {NULL, NULL}, NULL, 1, AIOL_FUTURE_FAILED, AIOL_FUTURE_STATIC, code, 0, 0, {NULL}, {NULL}, {NULL}, NULL \
    }

static aioloop_future aiol_future_no_memory = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_ENOMEM);
static aioloop_future aiol_future_invalid = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_EINVAL);
static aioloop_future aiol_future_closed = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_ECLOSED);
static aioloop_future aiol_future_misuse = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_EMISUSE);
static aioloop_future aiol_future_not_available = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_ENOTAVAILABLE);
static aioloop_future aiol_future_was_cancelled = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_ECANCELED);

/* The future for calls that cannot make one. */
AIOLOOP_INTERNAL aioloop_future *aiol_future_failed(int code) {
    switch (code) {
    case AIOLOOP_ENOMEM:
        return &aiol_future_no_memory;
    case AIOLOOP_ECLOSED:
        return &aiol_future_closed;
    case AIOLOOP_EMISUSE:
        return &aiol_future_misuse;
    case AIOLOOP_ENOTAVAILABLE:
        return &aiol_future_not_available;
    case AIOLOOP_ECANCELED:
        return &aiol_future_was_cancelled;
    default:
        return &aiol_future_invalid;
    }
}

/* Debug mode keeps ended futures for a while, as static ones that failed with AIOLOOP_EMISUSE, to notice their use. */
#define AIOL_FUTURE_QUARANTINE 256u

static AIOL_NOINLINE void aiol_future_used_after_end(const aioloop_future *f) {
    if (f->loop != NULL)
        aiol_warn(f->loop, f->site, "a future was used after its last owner had let it go");
}

AIOL_INLINE bool aiol_future_is_static(const aioloop_future *f) {
    if (AIOL_LIKELY((f->flags & AIOL_FUTURE_STATIC) == 0))
        return false;
    aiol_future_used_after_end(f);
    return true;
}

/* ---- the ring of callbacks ----
 *
 * The future has the last one registered, whose next is the first. */

static void aiol_ring_push(aiol_slot **ring, aiol_slot *slot) {
    aiol_slot *last = *ring;
    if (last == NULL) {
        slot->at.node.next = &slot->at.node;
    } else {
        slot->at.node.next = last->at.node.next;
        last->at.node.next = &slot->at.node;
    }
    *ring = slot;
}

/* The first one, or NULL. */
static aiol_slot *aiol_ring_pop(aiol_slot **ring) {
    aiol_slot *last = *ring;
    aiol_slot *first;
    if (last == NULL)
        return NULL;
    first = (aiol_slot *)(void *)last->at.node.next;
    if (first == last)
        *ring = NULL;
    else
        last->at.node.next = first->at.node.next;
    return first;
}

AIOLOOP_INTERNAL void aiol_future_push_callback(aioloop_future *f, aiol_slot *slot) {
    slot->state = AIOL_SLOT_WAITING;
    aiol_ring_push(&f->next.callbacks, slot);
}

/* Takes one out that is there. */
AIOLOOP_INTERNAL void aiol_future_remove_slot(aioloop_future *f, aiol_slot *slot) {
    aiol_slot *before = f->next.callbacks;
    while (before->at.node.next != &slot->at.node)
        before = (aiol_slot *)(void *)before->at.node.next;
    before->at.node.next = slot->at.node.next;
    if (before == slot)
        f->next.callbacks = NULL;
    else if (f->next.callbacks == slot)
        f->next.callbacks = before;
    slot->state = AIOL_SLOT_READY;
}

static void aiol_future_drop_callbacks(aioloop_future *f) {
    aiol_slot *slot;
    while ((slot = aiol_ring_pop(&f->next.callbacks)) != NULL)
        aiol_slot_drop(f->loop, slot);
}

/* ---- making and ending ---- */

AIOLOOP_INTERNAL void aiol_future_init(aioloop *loop, aioloop_future *f) {
    memset(f, 0, sizeof(*f));
    f->loop = loop;
    f->refs = 1;
    f->site = AIOL_UNLIKELY(loop->debug) ? aiol_site_take(loop) : 0;
    aiol_list_append(&loop->futures, &f->link);
}

static aioloop_future *aiol_future_make(aioloop *loop) {
    aioloop_future *f = (aioloop_future *)aiol_alloc(&loop->allocator, sizeof(*f));
    if (f != NULL)
        aiol_future_init(loop, f);
    return f;
}

/* The future of an operation: unclaimed, and with a second reference for the operation, which it gives up with
 * aiol_future_release when it has completed the future. NULL when there is no memory. */
AIOLOOP_INTERNAL aioloop_future *aiol_future_new(aioloop *loop, bool (*cancel)(aioloop_future *, void *), void *owner) {
    aioloop_future *f = aiol_future_make(loop);
    if (f == NULL)
        return NULL;
    f->end.cancel = cancel;
    f->of.owner = owner;
    f->refs = 2;
    f->flags = AIOL_FUTURE_UNCLAIMED | AIOL_FUTURE_OWN;
    return f;
}

/* The same with a place in a line, in none yet. */
AIOLOOP_INTERNAL aiol_waiter *aiol_waiter_new(aioloop *loop, bool (*cancel)(aioloop_future *, void *), void *object) {
    aiol_waiter *w = (aiol_waiter *)aiol_alloc_zero(&loop->allocator, sizeof(*w));
    if (w == NULL)
        return NULL;
    aiol_future_init(loop, &w->future);
    w->future.end.cancel = cancel;
    w->future.of.owner = object;
    w->future.refs = 2;
    w->future.flags = AIOL_FUTURE_UNCLAIMED | AIOL_FUTURE_OWN | AIOL_FUTURE_WAITER;
    w->object = object;
    return w;
}

/* For calls that have nothing to wait for and nothing to give: a future that is done, with 0, the same for all of
 * them. */
AIOLOOP_INTERNAL aioloop_future *aiol_future_nothing(aioloop *loop) {
    if (AIOL_UNLIKELY(loop->nothing == NULL)) {
        loop->nothing = aiol_future_make(loop);
        if (loop->nothing == NULL)
            return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
        loop->nothing->state = AIOL_FUTURE_FINISHED;
        loop->nothing->flags = AIOL_FUTURE_COMMON | AIOL_FUTURE_OWN;
    }
    return loop->nothing;
}

AIOLOOP_API aioloop_future *(aioloop_create_operation)(aioloop *loop, bool (*cancel)(aioloop_future *future, void *owner),
                                                       void *owner) {
    aioloop_future *f;
    if (loop == NULL)
        return &aiol_future_invalid;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return &aiol_future_misuse;
    f = aiol_future_new(loop, cancel, owner);
    if (f == NULL)
        return &aiol_future_no_memory;
    f->flags = AIOL_FUTURE_UNCLAIMED;
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_create_future)(aioloop *loop) {
    aioloop_future *f;
    if (loop == NULL)
        return &aiol_future_invalid;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return &aiol_future_misuse;
    f = aiol_future_make(loop);
    return f == NULL ? &aiol_future_no_memory : f;
}

static size_t aiol_future_size(const aioloop_future *f) {
    if ((f->flags & AIOL_FUTURE_TASK) != 0)
        return aiol_task_size((const aiol_task *)(const void *)f);
    return (f->flags & AIOL_FUTURE_WAITER) != 0 ? sizeof(aiol_waiter) : sizeof(*f);
}

/* Frees the oldest futures of the quarantine until at most `left` are there. */
AIOLOOP_INTERNAL void aiol_future_free_ended(aioloop *loop, unsigned left) {
    while (loop->ended_count > left) {
        aioloop_future *f = AIOL_CONTAINER(loop->ended.next, aioloop_future, link);
        aiol_list_remove(&f->link);
        loop->ended_count--;
        aiol_free(&loop->allocator, f, aiol_future_size(f));
    }
}

static AIOL_NOINLINE void aiol_future_quarantine(aioloop_future *f) {
    aioloop *loop = f->loop;
    f->flags = AIOL_FUTURE_STATIC | (f->flags & (AIOL_FUTURE_TASK | AIOL_FUTURE_WAITER)); /* its size */
    f->state = AIOL_FUTURE_FAILED;
    f->code = AIOLOOP_EMISUSE;
    f->error = NULL;
    aiol_list_append(&loop->ended, &f->link);
    loop->ended_count++;
    aiol_future_free_ended(loop, AIOL_FUTURE_QUARANTINE);
}

static AIOL_NOINLINE void aiol_waiter_strip(aiol_waiter *w, bool unread) {
    void (*gone)(aiol_waiter *, bool) = w->gone;
    w->gone = NULL;
    aiol_list_remove(&w->link);
    if (gone != NULL)
        gone(w, unread);
}

/* Lets go of everything that runs user code; the future itself stays. */
AIOLOOP_INTERNAL void aiol_future_strip(aioloop_future *f) {
    void (*dispose)(void *) = NULL;
    bool unread = f->state == AIOL_FUTURE_FINISHED && (f->flags & AIOL_FUTURE_TAKEN) == 0;
    if (unread)
        dispose = f->end.dispose;
    f->flags |= AIOL_FUTURE_TAKEN;
    if ((f->flags & AIOL_FUTURE_BORROWS) != 0) {
        aioloop_future *source = f->next.source;
        f->flags &= (uint16_t)~AIOL_FUTURE_BORROWS;
        f->next.source = NULL;
        aiol_future_release(source);
    }
    aiol_future_drop_callbacks(f);
    if ((f->flags & AIOL_FUTURE_TASK) != 0)
        aiol_task_strip((aiol_task *)(void *)f);
    if ((f->flags & AIOL_FUTURE_WAITER) != 0)
        aiol_waiter_strip((aiol_waiter *)(void *)f, unread);
    if (dispose != NULL)
        dispose(f->of.pointer);
}

/* Frees it, whoever still refers to it. Nobody does, or the loop is being freed. */
AIOLOOP_INTERNAL void aiol_future_destroy(aioloop_future *f) {
    aioloop *loop = f->loop;
    f->refs = 1; /* what strip calls may take it up and let it go again */
    aiol_future_strip(f);
    aiol_list_remove(&f->link);
    aiol_error_free(&loop->allocator, f->error);
    if (AIOL_UNLIKELY(loop->debug && !loop->freeing))
        aiol_future_quarantine(f);
    else
        aiol_free(&loop->allocator, f, aiol_future_size(f));
}

static AIOL_NOINLINE void aiol_future_report(aioloop_future *f) {
    const aiol_site *at = aiol_site_at(f->loop, f->site);
    aioloop_exception_context context;
    memset(&context, 0, sizeof(context));
    context.message = "Future error was never retrieved";
    if ((f->flags & AIOL_FUTURE_TASK) != 0) {
        context.message = "Task error was never retrieved";
        context.task = f;
    }
    context.future = f;
    context.detail = aioloop_error_message(f->error);
    if (f->error == NULL)
        context.detail = NULL;
    context.error = f->code;
    if (at != NULL) {
        context.source_file = at->file;
        context.source_line = at->line;
    }
    f->flags |= AIOL_FUTURE_LOOKED_AT;
    aioloop_call_exception_handler(f->loop, &context); /* not as if it were raised now: no code of it ends the run */
}

AIOLOOP_INTERNAL void aiol_future_hold(aioloop_future *f) {
    f->refs++;
}

AIOLOOP_INTERNAL void aiol_future_release(aioloop_future *f) {
    AIOL_ASSERT(f->refs != 0);
    if (AIOL_UNLIKELY(f->loop->freeing))
        return; /* all of them go at once */
    if (f->refs == 1 && f->state == AIOL_FUTURE_FAILED && (f->flags & AIOL_FUTURE_LOOKED_AT) == 0)
        aiol_future_report(f); /* the handler may claim it */
    if (--f->refs == 0)
        aiol_future_destroy(f);
}

/* Begins a use. The user has a reference from then on, the one that was nobody's or one more, and releases it when the
 * use ends. AIOLOOP_EMISUSE, and no reference, for a second use of what was not claimed; the code of a static one. */
AIOLOOP_INTERNAL int aiol_future_use(aioloop_future *f) {
    if (aiol_future_is_static(f))
        return f->code;
    if ((f->flags & AIOL_FUTURE_UNCLAIMED) != 0) {
        f->flags = (uint16_t)((f->flags & ~AIOL_FUTURE_UNCLAIMED) | AIOL_FUTURE_USED);
        return 0;
    }
    if (AIOL_UNLIKELY((f->flags & AIOL_FUTURE_USED) != 0))
        return aiol_fail(f->loop, AIOLOOP_EMISUSE, "a future that is not claimed (aioloop_future_ref) can be used once");
    f->refs++;
    return 0;
}

AIOLOOP_API aioloop_future *aioloop_future_ref(aioloop_future *future) {
    if (future == NULL || aiol_future_is_static(future) || (future->flags & AIOL_FUTURE_COMMON) != 0)
        return future;
    future->flags &= (uint16_t)~AIOL_FUTURE_USED;
    if ((future->flags & AIOL_FUTURE_UNCLAIMED) == 0) {
        future->refs++;
        return future;
    }
    future->flags &= (uint16_t)~AIOL_FUTURE_UNCLAIMED; /* its reference is the caller's now, */
    if (future->loop->task != NULL && &future->loop->task->future == future)
        future->refs++; /* but a task that claims itself is not who created it, and may still use it */
    return future;
}

AIOLOOP_API void aioloop_future_unref(aioloop_future *future) {
    if (future == NULL || aiol_future_is_static(future) || (future->flags & AIOL_FUTURE_COMMON) != 0)
        return;
    if ((future->flags & AIOL_FUTURE_OWN) != 0) /* else it may be the operation that lets go, not the caller */
        future->flags &= (uint16_t)~AIOL_FUTURE_UNCLAIMED;
    aiol_future_release(future);
}

/* ---- completing ---- */

/* Queues the callbacks. AIOLOOP_ECLOSED if there are some and the loop is closed. */
static int aiol_future_done(aioloop_future *f, aiol_future_state state) {
    aioloop *loop = f->loop;
    aiol_slot *slot;
    AIOL_ASSERT(f->state == AIOL_FUTURE_PENDING);
    f->state = (uint8_t)state;
    if (AIOL_UNLIKELY(state == AIOL_FUTURE_FAILED))
        f->flags &= (uint16_t)~AIOL_FUTURE_LOOKED_AT; /* a cancel before hushes what it causes, not this */
    if (f->next.callbacks == NULL)
        return 0;
    if (loop->closed) {
        aiol_future_drop_callbacks(f);
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    }
    while ((slot = aiol_ring_pop(&f->next.callbacks)) != NULL) {
        slot->state = AIOL_SLOT_READY;
        if ((slot->flags & AIOL_SLOT_HOLDS) == 0) {
            slot->flags |= AIOL_SLOT_HOLDS;
            f->refs++;
        }
        aiol_queue_push(&loop->ready, &slot->at.node);
    }
    return 0;
}

AIOLOOP_INTERNAL int aiol_future_finish(aioloop_future *f, int64_t number, void *pointer, void (*dispose)(void *)) {
    f->number = number;
    f->of.pointer = pointer;
    f->end.dispose = dispose;
    return aiol_future_done(f, AIOL_FUTURE_FINISHED);
}

/* With error (may be NULL; taken over). */
AIOLOOP_INTERNAL void aiol_future_fail_with(aioloop_future *f, int code, struct aioloop_error *error) {
    aiol_error_free(&f->loop->allocator, f->error); /* the message of a cancel */
    f->code = code;
    f->error = error;
    aiol_future_done(f, code == AIOLOOP_ECANCELED ? AIOL_FUTURE_CANCELLED : AIOL_FUTURE_FAILED);
}

/* With a message (may be NULL). Without memory for it the code alone has to do. */
AIOLOOP_INTERNAL int aiol_future_fail(aioloop_future *f, int code, const char *text) {
    struct aioloop_error *last = f->error; /* the message of a cancel; text may be in it */
    f->code = code;
    f->error = text == NULL ? NULL : aiol_error_new(&f->loop->allocator, code, text, 0);
    aiol_error_free(&f->loop->allocator, last);
    return aiol_future_done(f, AIOL_FUTURE_FAILED);
}

AIOLOOP_INTERNAL int aiol_future_end_cancelled(aioloop_future *f, const char *text) {
    f->code = AIOLOOP_ECANCELED;
    if (text != NULL && f->error == NULL)
        f->error = aiol_error_new(&f->loop->allocator, AIOLOOP_ECANCELED, text, 0);
    return aiol_future_done(f, AIOL_FUTURE_CANCELLED);
}

/* It is done, and goes before a cancellation: of a task that waits for it, or its own. */
AIOL_INLINE bool aiol_future_outranks(const aioloop_future *f) {
    return f->state != AIOL_FUTURE_PENDING && (f->flags & AIOL_FUTURE_OUTRANKS) != 0;
}

/* The same as aiol_future_finish, for what has happened and cannot be undone: bytes that were taken from a socket. */
AIOLOOP_INTERNAL int aiol_future_finish_first(aioloop_future *f, int64_t number, void *pointer,
                                              void (*dispose)(void *)) {
    f->flags |= AIOL_FUTURE_OUTRANKS;
    return aiol_future_finish(f, number, pointer, dispose);
}

/* Completes f as source is. A result that has to be ended stays the source's, whoever reads it first. */
AIOLOOP_INTERNAL int aiol_future_take_over(aioloop_future *f, aioloop_future *source) {
    if ((source->flags & AIOL_FUTURE_STATIC) == 0) /* those are all threads' */
        source->flags |= AIOL_FUTURE_LOOKED_AT;
    f->flags |= source->flags & AIOL_FUTURE_OUTRANKS;
    if (source->state == AIOL_FUTURE_FINISHED) {
        int err = aiol_future_finish(f, source->number, source->of.pointer, NULL);
        if ((source->flags & AIOL_FUTURE_BORROWS) != 0)
            source = source->next.source; /* so that there are no chains, however deep shields and time-outs are nested */
        if (source->end.dispose != NULL || (source->flags & AIOL_FUTURE_WAITER) != 0) {
            aiol_future_hold(source);
            f->flags |= AIOL_FUTURE_BORROWS;
            f->next.source = source;
        }
        return err;
    }
    f->code = source->code;
    if (source->error != NULL || source->state == AIOL_FUTURE_FAILED) { /* else the message of its own cancel stays */
        aiol_error_free(&f->loop->allocator, f->error);
        f->error = aiol_error_ref(source->error);
    }
    return aiol_future_done(f, (aiol_future_state)source->state);
}

/* 0 if the user may complete it. */
static int aiol_future_settable(const aioloop_future *f) {
    if (f == NULL)
        return AIOLOOP_EINVAL;
    if (f->loop != NULL && AIOL_UNLIKELY(f->loop->debug) && aiol_wrong_thread(f->loop))
        return AIOLOOP_EMISUSE;
    if (f->state != AIOL_FUTURE_PENDING)
        return AIOLOOP_EINVALIDSTATE;
    return (f->flags & AIOL_FUTURE_OWN) != 0 ? AIOLOOP_EMISUSE : 0;
}

AIOLOOP_API int aioloop_future_set_result(aioloop_future *future, int64_t number, void *pointer, void (*dispose)(void *pointer)) {
    int err = aiol_future_settable(future);
    if (err == 0 && number < 0)
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_future_finish(future, number, pointer, dispose);
}

AIOLOOP_API int aioloop_future_set_grant(aioloop_future *future, int64_t number, void *pointer, void (*dispose)(void *pointer)) {
    int err = aiol_future_settable(future);
    if (err == 0 && number < 0)
        err = AIOLOOP_EINVAL;
    if (err < 0)
        return err;
    future->flags |= AIOL_FUTURE_GRANT;
    return aiol_future_finish(future, number, pointer, dispose);
}

AIOLOOP_API int aioloop_future_set_cancelled(aioloop_future *future) {
    int err = aiol_future_settable(future);
    return err < 0 ? err : aiol_future_end_cancelled(future, NULL);
}

AIOLOOP_API int aioloop_future_copy(aioloop_future *target, aioloop_future *source) {
    int err = aiol_future_settable(target);
    if (err == 0 && source == NULL)
        err = AIOLOOP_EINVAL;
    if (err == 0 && source->state == AIOL_FUTURE_PENDING)
        err = AIOLOOP_EINVALIDSTATE;
    if (err == 0 && !aiol_future_is_static(source) && source->loop != target->loop)
        err = aiol_fail(target->loop, AIOLOOP_EINVAL, "the future belongs to another loop");
    return err < 0 ? err : aiol_future_take_over(target, source);
}

AIOLOOP_API int aioloop_future_set_exception(aioloop_future *future, int code, const char *format, ...) {
    char text[AIOL_ERROR_TEXT_SIZE];
    va_list arguments;
    int err = aiol_future_settable(future);
    if (err == 0 && (code >= 0 || code == AIOLOOP_ECANCELED))
        err = AIOLOOP_EINVAL;
    if (err < 0)
        return err;
    if (format == NULL)
        return aiol_future_fail(future, code, NULL);
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    return aiol_future_fail(future, code, text);
}

AIOLOOP_API bool aioloop_future_cancel(aioloop_future *future, const char *message) {
    aiol_task *waiter = NULL;
    if (future == NULL || aiol_future_is_static(future))
        return false;
    if (AIOL_UNLIKELY(future->loop->debug) && aiol_wrong_thread(future->loop))
        return false;
    if (future->state != AIOL_FUTURE_PENDING) {
        future->flags |= AIOL_FUTURE_LOOKED_AT;
        return false;
    }
    future = aiol_task_cancel(future, message, &waiter);
    if (future == NULL)
        return true;
    if (future->end.cancel != NULL) {
        bool outranked;
        bool now;
        aiol_future_hold(future); /* the operation may let go of it */
        now = future->end.cancel(future, future->of.owner);
        if (now && future->state == AIOL_FUTURE_PENDING)
            aiol_future_end_cancelled(future, message);
        else if (message != NULL && future->error == NULL &&
                 (future->state == AIOL_FUTURE_PENDING || future->state == AIOL_FUTURE_CANCELLED))
            future->error = aiol_error_new(&future->loop->allocator, AIOLOOP_ECANCELED, message, 0);
        outranked = aiol_future_outranks(future); /* it follows one that is done */
        if (outranked && waiter != NULL) { /* it is told behind the outcome */
            aiol_task_must_cancel(waiter, message);
            waiter->flags |= AIOL_TASK_DEFERRED;
        }
        aiol_future_release(future);
        return !outranked || waiter != NULL;
    }
    aiol_future_end_cancelled(future, message);
    return true;
}

/* The one whose result it has. */
static aioloop_future *aiol_future_source(aioloop_future *f) {
    return (f->flags & AIOL_FUTURE_BORROWS) != 0 ? f->next.source : f;
}

/* ---- asking ---- */

AIOLOOP_API bool aioloop_future_done(const aioloop_future *future) {
    return future != NULL && future->state != AIOL_FUTURE_PENDING;
}

AIOLOOP_API bool aioloop_future_cancelled(const aioloop_future *future) {
    return future != NULL && future->state == AIOL_FUTURE_CANCELLED;
}

AIOLOOP_API aioloop *aioloop_future_get_loop(const aioloop_future *future) {
    return future == NULL ? NULL : future->loop;
}

AIOLOOP_API int64_t aioloop_future_result(aioloop_future *future, void *out) {
    if (future == NULL)
        return AIOLOOP_EINVAL;
    if (aiol_future_is_static(future))
        return future->code;
    if (future->state == AIOL_FUTURE_PENDING)
        return AIOLOOP_EINVALIDSTATE;
    future->flags |= AIOL_FUTURE_LOOKED_AT;
    if (future->state != AIOL_FUTURE_FINISHED)
        return future->code;
    if (AIOL_UNLIKELY((future->flags & AIOL_FUTURE_BORROWS) != 0))
        return aioloop_future_result(future->next.source, out);
    if (out != NULL)
        aiol_store_pointer(out, future->of.pointer);
    future->flags |= AIOL_FUTURE_READ;
    if (out != NULL || (future->flags & AIOL_FUTURE_GRANT) != 0)
        future->flags |= AIOL_FUTURE_TAKEN;
    return future->number;
}

AIOLOOP_API int aioloop_future_exception(aioloop_future *future) {
    if (future == NULL)
        return AIOLOOP_EINVAL;
    if (aiol_future_is_static(future))
        return future->code;
    if (future->state == AIOL_FUTURE_PENDING)
        return AIOLOOP_EINVALIDSTATE;
    future->flags |= AIOL_FUTURE_LOOKED_AT;
    return future->code;
}

static const struct aioloop_error aiol_static_errors[] = {{AIOLOOP_ENOMEM, 1, 0, NULL, NULL},
                                                         {AIOLOOP_EINVAL, 1, 0, NULL, NULL},
                                                         {AIOLOOP_ECLOSED, 1, 0, NULL, NULL},
                                                         {AIOLOOP_EMISUSE, 1, 0, NULL, NULL},
                                                         {AIOLOOP_ENOTAVAILABLE, 1, 0, NULL, NULL},
                                                         {AIOLOOP_ECANCELED, 1, 0, NULL, NULL}};

AIOLOOP_API const aioloop_error *aioloop_future_error(aioloop_future *future) {
    size_t i = 0;
    if (future == NULL)
        return NULL;
    if (aiol_future_is_static(future)) {
        while (aiol_static_errors[i].code != future->code)
            i++;
        return &aiol_static_errors[i];
    }
    if (future->state == AIOL_FUTURE_PENDING || future->state == AIOL_FUTURE_FINISHED)
        return NULL;
    future->flags |= AIOL_FUTURE_LOOKED_AT;
    if (future->error == NULL) /* made when asked for; without memory there is no message to give */
        future->error = aiol_error_new(&future->loop->allocator, future->code, NULL, 0);
    return future->error != NULL ? future->error : &aiol_static_errors[0];
}

/* ---- callbacks ---- */

AIOLOOP_INTERNAL void aiol_run_future(aioloop *loop, aiol_node *node) {
    aiol_slot *slot = (aiol_slot *)(void *)node;
    aioloop_future *f = slot->u.future;
    aiol_frame frame = aiol_enter(loop, aiol_slot_place(slot));
    aioloop_time since = AIOL_UNLIKELY(loop->debug) ? aiol_loop_now(loop) : 0;
    slot->fn.future(f, slot->arg);
    if (AIOL_UNLIKELY(since != 0))
        aiol_slot_slow(loop, slot, since);
    if (AIOL_UNLIKELY(loop->attention))
        aiol_slot_attend(loop, slot, f);
    aiol_leave(loop, &frame);
    aiol_slot_free(loop, slot);
    aiol_future_release(f);
}

/* Registers a callback in a slot that the caller had in reserve; needs no memory. */
AIOLOOP_INTERNAL void aiol_future_attach(aioloop_future *f, aiol_slot *slot, aioloop_future_callback fn, void *arg) {
    aioloop *loop = f->loop;
    slot->sequence = ++loop->sequence;
    slot->fn.future = fn;
    slot->arg = arg;
    slot->u.future = f;
    slot->site = AIOL_UNLIKELY(loop->debug) ? aiol_site_take(loop) : 0;
    slot->at.node.run = aiol_run_future;
    if (f->state == AIOL_FUTURE_PENDING) {
        aiol_future_push_callback(f, slot);
        return;
    }
    slot->state = AIOL_SLOT_READY;
    if ((slot->flags & AIOL_SLOT_HOLDS) == 0) {
        slot->flags |= AIOL_SLOT_HOLDS;
        f->refs++;
    }
    aiol_queue_push(&loop->ready, &slot->at.node);
}

static int aiol_future_callback(aioloop_future *f, aioloop_future_callback fn, void *arg, aioloop_context *context,
                                uint8_t flags) {
    aioloop *loop = f->loop;
    aiol_slot *slot;
    if (aiol_future_is_static(f))
        return f->code;
    if (loop->careful) {
        int err = aiol_check(loop);
        if (err < 0)
            return err;
    }
    if (fn == NULL)
        return AIOLOOP_EINVAL;
    slot = aiol_slot_new(loop);
    if (slot == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    slot->flags |= flags;
    aiol_slot_capture(slot, context);
    aiol_future_attach(f, slot, fn, arg);
    return 0;
}

AIOLOOP_API int(aioloop_future_add_done_callback)(aioloop_future *future, aioloop_future_callback fn, void *arg) {
    return future == NULL ? AIOLOOP_EINVAL : aiol_future_callback(future, fn, arg, NULL, 0);
}

AIOLOOP_API int aioloop_future_add_done_callback_context(aioloop_future *future, aioloop_future_callback fn, void *arg,
                                                         aioloop_context *context) {
    return future == NULL ? AIOLOOP_EINVAL : aiol_future_callback(future, fn, arg, context, 0);
}

AIOLOOP_API int(aioloop_future_then)(aioloop_future *future, aioloop_future_callback fn, void *arg) {
    int err = future == NULL ? AIOLOOP_EINVAL : aiol_future_use(future);
    if (err < 0)
        return err;
    err = aiol_future_callback(future, fn, arg, NULL, AIOL_SLOT_HOLDS);
    if (err < 0)
        aiol_future_release(future);
    return err;
}

AIOLOOP_API size_t aioloop_future_remove_done_callback(aioloop_future *future, aioloop_future_callback fn, void *arg) {
    aiol_slot *slot;
    aiol_queue dropped;
    aiol_slot *all;
    size_t removed = 0;
    if (future == NULL || aiol_future_is_static(future) || future->state != AIOL_FUTURE_PENDING)
        return 0; /* done: next may be something else */
    aiol_queue_init(&dropped);
    all = future->next.callbacks;
    future->next.callbacks = NULL;
    while ((slot = aiol_ring_pop(&all)) != NULL) {
        if ((slot->flags & AIOL_SLOT_TASK) == 0 && slot->fn.future == fn && slot->arg == arg) {
            removed++;
            aiol_queue_push(&dropped, &slot->at.node);
        } else {
            aiol_ring_push(&future->next.callbacks, slot);
        }
    }
    aiol_future_hold(future); /* the ring is right again; what follows may run user code */
    while ((slot = (aiol_slot *)(void *)aiol_queue_pop(&dropped)) != NULL) {
        bool held = (slot->flags & AIOL_SLOT_HOLDS) != 0;
        aiol_slot_free(future->loop, slot);
        if (held)
            aiol_future_release(future);
    }
    aiol_future_release(future);
    return removed;
}

#endif
