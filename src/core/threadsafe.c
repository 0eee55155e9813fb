/*
 * threadsafe.c - coroutines for a loop from other threads.                  (asyncio: tasks.py, futures.py)
 *
 * A concurrent future is on a list of its loop, under the list's lock, until the loop is through with it; so
 * aioloop_close finds those whose post or task it drops, and no waiter hangs. A lock of its own guards its state and
 * its pointer to the loop: whoever posts to the loop does so with that lock held, and aioloop_close takes it to take
 * the pointer away.
 *
 * Both posts that it may need, to begin and to cancel, have their slots from the start, so neither can fail.
 */
#ifndef AIOL_CORE_THREADSAFE_C
#define AIOL_CORE_THREADSAFE_C

#include "api/threads.h"
#include "core/generator.c"
#include "sys/thread.c"

/* All of a loop's. */
typedef struct aiol_concurrents {
    aiol_mutex mutex;
    aiol_link list;
} aiol_concurrents;

struct aioloop_concurrent_future {
    int failed; /* the code of a static one; 0: the first member of an aiol_concurrent */
};

typedef struct aiol_concurrent {
    aioloop_concurrent_future future;
    uint32_t refs;
    uint32_t done; /* the outcome is there, for those who look without the lock */
    int process;   /* in a forked child its locks are not to be touched: a thread that is not there may hold them */
    aiol_link link;
    aioloop_allocator allocator;
    size_t size;
    aiol_mutex mutex; /* guards the rest but for what is the loop's thread's */
    aiol_thread_condition changed;
    aioloop *loop;     /* NULL: it is through with this */
    aiol_slot *cancel; /* in reserve */
    aioloop_handle cancelling;
    aiol_link followers;
    uint8_t state; /* aiol_future_state */
    bool begun;    /* the loop has looked at it */
    bool taken;
    int code;
    int64_t number;
    void *pointer;
    void (*dispose)(void *pointer);
    char text[AIOL_ERROR_TEXT_SIZE];
    aioloop_task *task;         /* the loop's thread's, as is */
    aioloop_task_recipe recipe; /* its name and a copy of its argument follow */
} aiol_concurrent;

#define AIOL_CONCURRENT_ROOM ((sizeof(aiol_concurrent) + 15) / 16 * 16)

/* A future of a loop that is to be what a concurrent one is. */
typedef struct aiol_wrapping {
    aiol_resource resource;
    aiol_link link; /* among the followers, under the other's lock; in no list: posted */
    aiol_concurrent *concurrent; /* with a reference */
    aioloop_future *future;      /* NULL: it was cancelled */
    aiol_slot *slot;             /* in reserve; NULL: posted */
} aiol_wrapping;

static aioloop_concurrent_future aiol_concurrent_invalid = {AIOLOOP_EINVAL};
static aioloop_concurrent_future aiol_concurrent_no_memory = {AIOLOOP_ENOMEM};
static aioloop_concurrent_future aiol_concurrent_closed = {AIOLOOP_ECLOSED};
static aioloop_concurrent_future aiol_concurrent_not_available = {AIOLOOP_ENOTAVAILABLE};

static aioloop_concurrent_future *aiol_concurrent_failed(int code) {
    switch (aiol_fail(NULL, code, NULL)) {
    case AIOLOOP_ENOMEM:
        return &aiol_concurrent_no_memory;
    case AIOLOOP_ECLOSED:
        return &aiol_concurrent_closed;
    case AIOLOOP_ENOTAVAILABLE:
        return &aiol_concurrent_not_available;
    default:
        return &aiol_concurrent_invalid;
    }
}

/* NULL for a static one. */
static aiol_concurrent *aiol_concurrent_of(const aioloop_concurrent_future *future) {
    return future->failed != 0 ? NULL : (aiol_concurrent *)(uintptr_t)future;
}

static bool aiol_concurrent_is_ours(const aiol_concurrent *c) {
    return c->process == aiol_process_id();
}

static void aiol_concurrent_lock(aiol_concurrent *c) {
    if (aiol_concurrent_is_ours(c))
        aiol_mutex_lock(&c->mutex);
}

static void aiol_concurrent_unlock(aiol_concurrent *c) {
    if (aiol_concurrent_is_ours(c))
        aiol_mutex_unlock(&c->mutex);
}

/* ---- making and ending ---- */

static void aiol_concurrent_free(aiol_concurrent *c) {
    aioloop_allocator allocator = c->allocator;
    if (aiol_concurrent_is_ours(c)) {
        aiol_thread_condition_destroy(&c->changed);
        aiol_mutex_destroy(&c->mutex);
    }
    aiol_free(&allocator, c, c->size);
}

static void aiol_concurrent_unref(aiol_concurrent *c) {
    if (aiol_add_u32(&c->refs, (uint32_t)-1) != 0)
        return;
    if (c->state == AIOL_FUTURE_FINISHED && !c->taken && c->dispose != NULL)
        c->dispose(c->pointer);
    aiol_concurrent_free(c);
}

/* Pending, with two references: the caller's and the loop's. 0, AIOLOOP_ENOMEM or AIOLOOP_ENOTAVAILABLE. */
static int aiol_concurrent_new(aioloop *loop, const aioloop_task_recipe *recipe, aiol_concurrent **out) {
    const aioloop_task_options *options = &recipe->options;
    size_t name_size = options->name == NULL ? 0 : strlen(options->name) + 1;
    size_t size = AIOL_CONCURRENT_ROOM + options->copy_size + name_size;
    aiol_concurrent *c = (aiol_concurrent *)aiol_alloc_zero(&loop->allocator, size);
    char *copies = (char *)c + AIOL_CONCURRENT_ROOM;
    int err;
    if (c == NULL)
        return AIOLOOP_ENOMEM;
    err = aiol_mutex_init(&c->mutex);
    if (err == 0 && (err = aiol_thread_condition_init(&c->changed)) < 0)
        aiol_mutex_destroy(&c->mutex);
    if (err < 0) {
        aiol_free(&loop->allocator, c, size);
        return err;
    }
    c->refs = 2;
    c->process = aiol_process_id();
    c->allocator = loop->allocator;
    c->size = size;
    c->loop = loop;
    c->recipe = *recipe;
    aiol_list_init(&c->followers);
    if (options->copy_size != 0) {
        memcpy(copies, recipe->arg, options->copy_size);
        c->recipe.arg = copies;
    }
    if (name_size != 0) {
        memcpy(copies + options->copy_size, options->name, name_size);
        c->recipe.options.name = copies + options->copy_size;
    }
    if (options->context != NULL)
        (void)aioloop_context_ref(options->context);
    *out = c;
    return 0;
}

/* ---- the outcome ---- */

static void aiol_wrapping_done(aioloop *loop, void *arg);

/* With the lock held, of one that is done: the loops that follow it are told. */
static void aiol_concurrent_post(aiol_concurrent *c) {
    while (!aiol_list_empty(&c->followers)) {
        aiol_wrapping *w = AIOL_CONTAINER(c->followers.next, aiol_wrapping, link);
        aiol_slot *slot = w->slot;
        aiol_list_remove(&w->link);
        w->slot = NULL;
        (void)aiol_remote_post(w->resource.loop, slot, aiol_wrapping_done, w, NULL);
    }
}

/* With the lock held: whoever waits is told. What the outcome consists of is there, but for the state. */
static void aiol_concurrent_settle(aiol_concurrent *c, aiol_future_state state) {
    c->state = (uint8_t)state;
    aiol_store(&c->done, 1);
    if (!aiol_concurrent_is_ours(c))
        return;
    aiol_thread_condition_broadcast(&c->changed);
    aiol_concurrent_post(c);
}

/* With the lock held. */
static void aiol_concurrent_settle_failed(aiol_concurrent *c, int code, const char *text) {
    c->code = code;
    snprintf(c->text, sizeof(c->text), "%s", text == NULL ? aioloop_strerror(code) : text);
    aiol_concurrent_settle(c, code == AIOLOOP_ECANCELED ? AIOL_FUTURE_CANCELLED : AIOL_FUTURE_FAILED);
}

/* With the lock held: f, which is done, is the outcome. Its result has a new owner then. */
static void aiol_concurrent_settle_as(aiol_concurrent *c, aioloop_future *f) {
    const aioloop_future *owner = f;
    while ((owner->flags & AIOL_FUTURE_BORROWS) != 0)
        owner = owner->next.source;
    f->flags |= AIOL_FUTURE_LOOKED_AT;
    if (f->state != AIOL_FUTURE_FINISHED) {
        aiol_concurrent_settle_failed(c, f->code, f->error == NULL ? NULL : aioloop_error_message(f->error));
        return;
    }
    if ((owner->flags & AIOL_FUTURE_TAKEN) == 0)
        c->dispose = owner->end.dispose;
    c->number = aioloop_future_result(f, &c->pointer);
    aiol_concurrent_settle(c, AIOL_FUTURE_FINISHED);
}

/* ---- in the loop's thread ---- */

/* The loop is through with it. f: its task, which is done; NULL: it failed with code. Ends the loop's reference. */
static void aiol_concurrent_leave(aioloop *loop, aiol_concurrent *c, aioloop_future *f, int code) {
    aiol_concurrents *all = (aiol_concurrents *)aiol_load(&loop->concurrents);
    aiol_slot *slot;
    aioloop_handle cancelling;
    aiol_mutex_lock(&all->mutex);
    aiol_list_remove(&c->link);
    aiol_mutex_unlock(&all->mutex);
    aiol_concurrent_lock(c);
    c->loop = NULL;
    slot = c->cancel;
    c->cancel = NULL;
    cancelling = c->cancelling;
    if (c->state == AIOL_FUTURE_PENDING && f != NULL)
        aiol_concurrent_settle_as(c, f);
    else if (c->state == AIOL_FUTURE_PENDING)
        aiol_concurrent_settle_failed(c, code, aiol_detail(loop, code));
    aiol_concurrent_unlock(c);
    if (slot != NULL)
        aiol_slot_free(loop, slot);
    else
        aioloop_handle_cancel(&cancelling); /* it would come too late */
    if (c->task != NULL)
        aioloop_future_unref(c->task);
    aiol_concurrent_unref(c);
}

static void aiol_concurrent_task_done(aioloop_future *f, void *arg) {
    aiol_concurrent_leave(f->loop, (aiol_concurrent *)arg, f, 0);
}

/* What was posted first. */
static void aiol_concurrent_begin(aioloop *loop, void *arg) {
    aiol_concurrent *c = (aiol_concurrent *)arg;
    aioloop_context *context = c->recipe.options.context;
    aiol_slot *slot = NULL;
    bool cancelled;
    int code = AIOLOOP_ENOMEM;
    aiol_concurrent_lock(c);
    c->begun = true;
    cancelled = c->state != AIOL_FUTURE_PENDING;
    aiol_concurrent_unlock(c);
    if (!cancelled)
        slot = aiol_slot_new(loop);
    if (slot == NULL) {
        aiol_recipe_dispose(&c->recipe);
        aiol_fail(loop, code, NULL);
    } else {
        aioloop_task *task = aiol_create_task(loop, &c->recipe);
        code = task->code;
        if ((task->flags & AIOL_FUTURE_STATIC) == 0) {
            c->task = aioloop_future_ref(task);
            aiol_slot_capture(slot, NULL);
            aiol_future_attach(task, slot, aiol_concurrent_task_done, c);
        } else {
            aiol_slot_free(loop, slot);
        }
    }
    aioloop_context_unref(context);
    if (c->task == NULL)
        aiol_concurrent_leave(loop, c, NULL, code);
}

/* What is posted when it is cancelled after that. */
static void aiol_concurrent_cancel_task(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_future_cancel(((aiol_concurrent *)arg)->task, NULL);
}

/* The loop was closed, and nothing of it will run any more: waiters are told. What else there is goes with the loop. */
static void aiol_concurrents_close(aioloop *loop) {
    aiol_concurrents *all = (aiol_concurrents *)aiol_load(&loop->concurrents);
    aiol_link *link;
    if (all == NULL)
        return;
    if (loop->process == aiol_process_id()) { /* whoever had not seen that posts are refused is through with the list then */
        aiol_mutex_lock(&all->mutex);
        aiol_mutex_unlock(&all->mutex);
    }
    for (link = all->list.next; link != &all->list; link = link->next) {
        aiol_concurrent *c = AIOL_CONTAINER(link, aiol_concurrent, link);
        aiol_concurrent_lock(c);
        c->loop = NULL;
        c->cancel = NULL;
        if (c->state == AIOL_FUTURE_PENDING)
            aiol_concurrent_settle_failed(c, AIOLOOP_ECLOSED, NULL);
        aiol_concurrent_unlock(c);
    }
}

static void aiol_concurrents_free(aioloop *loop) {
    aiol_concurrents *all = (aiol_concurrents *)aiol_load(&loop->concurrents);
    if (all == NULL)
        return;
    while (!aiol_list_empty(&all->list)) {
        aiol_concurrent *c = AIOL_CONTAINER(all->list.next, aiol_concurrent, link);
        aiol_list_remove(&c->link);
        if (!c->begun) {
            aiol_recipe_dispose(&c->recipe);
            aioloop_context_unref(c->recipe.options.context);
        }
        aiol_concurrent_unref(c);
    }
    if (loop->process == aiol_process_id())
        aiol_mutex_destroy(&all->mutex);
    loop->concurrents = NULL;
    aiol_free(&loop->allocator, all, sizeof(*all));
}

/* ---- in any thread ---- */

/* The loop's list; NULL with *err when it cannot be made. */
static aiol_concurrents *aiol_concurrents_of(aioloop *loop, int *err) {
    void *there = aiol_load(&loop->concurrents);
    aiol_concurrents *mine;
    if (there != NULL)
        return (aiol_concurrents *)there;
    mine = (aiol_concurrents *)aiol_alloc(&loop->allocator, sizeof(*mine));
    *err = mine == NULL ? AIOLOOP_ENOMEM + 0 : aiol_mutex_init(&mine->mutex);
    if (*err < 0) {
        aiol_free(&loop->allocator, mine, sizeof(*mine));
        return NULL;
    }
    aiol_list_init(&mine->list);
    if (aiol_cas_pointer(&loop->concurrents, &there, mine))
        return mine;
    aiol_mutex_destroy(&mine->mutex); /* another thread was faster */
    aiol_free(&loop->allocator, mine, sizeof(*mine));
    return (aiol_concurrents *)there;
}

/* Puts it on the list and posts it, unless the loop is closed. */
static int aiol_concurrent_submit(aioloop *loop, aiol_concurrents *all, aiol_concurrent *c) {
    aiol_slot *begin = aiol_remote_take(loop);
    bool refused;
    c->cancel = begin == NULL ? NULL : aiol_remote_take(loop);
    if (c->cancel == NULL) {
        if (begin != NULL)
            aiol_remote_give_back(loop, begin);
        return AIOLOOP_ENOMEM;
    }
    aiol_mutex_lock(&all->mutex);
    refused = aiol_load(&loop->posts_refused) != 0;
    if (!refused) {
        aiol_list_append(&all->list, &c->link);
        (void)aiol_remote_post(loop, begin, aiol_concurrent_begin, c, NULL);
    }
    aiol_mutex_unlock(&all->mutex);
    if (!refused)
        return 0;
    aiol_remote_give_back(loop, begin);
    aiol_remote_give_back(loop, c->cancel);
    return AIOLOOP_ECLOSED;
}

static aioloop_concurrent_future *aiol_run_threadsafe(aioloop *loop, const aioloop_task_recipe *recipe) {
    aiol_concurrents *all = NULL;
    aiol_concurrent *c = NULL;
    int err = 0;
    aiol_thread.site_file = NULL;
    if (loop == NULL || (recipe->coroutine == NULL) == (recipe->step == NULL) || recipe->options.copy_size > UINT32_MAX / 2 ||
        (recipe->arg == NULL && recipe->options.copy_size != 0))
        err = AIOLOOP_EINVAL;
    else if (aiol_load(&loop->posts_refused) != 0)
        err = AIOLOOP_ECLOSED;
    if (err == 0)
        all = aiol_concurrents_of(loop, &err);
    if (err == 0)
        err = aiol_concurrent_new(loop, recipe, &c);
    if (err == 0)
        err = aiol_concurrent_submit(loop, all, c);
    if (err == 0)
        return &c->future;
    if (c != NULL) {
        aioloop_context_unref(recipe->options.context);
        aiol_concurrent_free(c);
    }
    aiol_recipe_dispose(recipe);
    return aiol_concurrent_failed(err);
}

AIOLOOP_API aioloop_concurrent_future *aioloop_run_coroutine_threadsafe(aioloop *loop, aioloop_coroutine fn, void *arg,
                                                                        const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(fn, NULL, arg, options);
    return aiol_run_threadsafe(loop, &recipe);
}

AIOLOOP_API aioloop_concurrent_future *aioloop_run_coroutine_threadsafe_frame(aioloop *loop, aioloop_step fn,
                                                                              aioloop_frame *frame,
                                                                              const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(NULL, fn, frame, options);
    return aiol_run_threadsafe(loop, &recipe);
}

/* Waits until it is done. */
static int aiol_concurrent_wait(aiol_concurrent *c, aioloop_time timeout) {
    int err = 0;
    if (aiol_load(&c->done) != 0)
        return 0;
    if (timeout <= 0)
        return AIOLOOP_ETIMEDOUT;
    if (!aiol_concurrent_is_ours(c))
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "a concurrent future of the process that forked");
    aiol_concurrent_lock(c);
    if (c->loop != NULL && c->loop == aiol_thread.running && c->state == AIOL_FUTURE_PENDING) {
        err = aiol_fail(NULL, AIOLOOP_EMISUSE, "a loop cannot bring the result that its own thread waits for");
    } else {
        aioloop_time deadline = aiol_thread_condition_deadline(timeout);
        while (c->state == AIOL_FUTURE_PENDING && err == 0)
            err = aiol_thread_condition_wait(&c->changed, &c->mutex, deadline);
        if (c->state != AIOL_FUTURE_PENDING)
            err = 0;
    }
    aiol_concurrent_unlock(c);
    return err;
}

AIOLOOP_API int64_t aioloop_concurrent_future_result(aioloop_concurrent_future *future, aioloop_time timeout, void *out) {
    aiol_concurrent *c;
    int err;
    if (future == NULL || timeout == AIOLOOP_NOT_A_TIME)
        return aiol_fail(NULL, AIOLOOP_EINVAL, NULL);
    c = aiol_concurrent_of(future);
    if (c == NULL)
        return aiol_fail(NULL, future->failed, NULL);
    err = aiol_concurrent_wait(c, timeout);
    if (err == AIOLOOP_ETIMEDOUT)
        aiol_fail(NULL, err, NULL);
    if (err < 0)
        return err;
    if (c->state != AIOL_FUTURE_FINISHED)
        return aiol_fail(NULL, c->code, "%s", c->text);
    if (out != NULL) {
        aiol_store_pointer(out, c->pointer);
        aiol_concurrent_lock(c);
        c->taken = true;
        aiol_concurrent_unlock(c);
    }
    return c->number;
}

AIOLOOP_API bool aioloop_concurrent_future_cancel(aioloop_concurrent_future *future) {
    aiol_concurrent *c = future == NULL ? NULL : aiol_concurrent_of(future);
    bool pending;
    if (c == NULL)
        return false;
    aiol_concurrent_lock(c);
    pending = c->state == AIOL_FUTURE_PENDING;
    if (pending) {
        if (c->loop != NULL && c->begun) {
            c->cancelling = aiol_remote_post(c->loop, c->cancel, aiol_concurrent_cancel_task, c, NULL);
            c->cancel = NULL;
        }
        aiol_concurrent_settle_failed(c, AIOLOOP_ECANCELED, NULL);
    }
    aiol_concurrent_unlock(c);
    return pending;
}

AIOLOOP_API bool aioloop_concurrent_future_done(const aioloop_concurrent_future *future) {
    const aiol_concurrent *c = future == NULL ? NULL : aiol_concurrent_of(future);
    return c != NULL ? aiol_load(&c->done) != 0 : future != NULL;
}

AIOLOOP_API bool aioloop_concurrent_future_cancelled(const aioloop_concurrent_future *future) {
    const aiol_concurrent *c = future == NULL ? NULL : aiol_concurrent_of(future);
    return c != NULL && aiol_load(&c->done) != 0 && c->state == AIOL_FUTURE_CANCELLED;
}

AIOLOOP_API aioloop_concurrent_future *aioloop_concurrent_future_ref(aioloop_concurrent_future *future) {
    aiol_concurrent *c = future == NULL ? NULL : aiol_concurrent_of(future);
    if (c != NULL)
        aiol_add_u32(&c->refs, 1);
    return future;
}

AIOLOOP_API void aioloop_concurrent_future_unref(aioloop_concurrent_future *future) {
    aiol_concurrent *c = future == NULL ? NULL : aiol_concurrent_of(future);
    if (c != NULL)
        aiol_concurrent_unref(c);
}

/* ---- a future of a loop for one of threads ---- */


static void aiol_wrapping_closed(aiol_resource *resource) {
    aiol_wrapping *w = AIOL_CONTAINER(resource, aiol_wrapping, resource);
    aiol_concurrent_lock(w->concurrent);
    aiol_list_remove(&w->link); /* from now on nobody posts */
    aiol_concurrent_unlock(w->concurrent);
}

static void aiol_wrapping_destroy(aiol_resource *resource) {
    aiol_wrapping *w = AIOL_CONTAINER(resource, aiol_wrapping, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, w, sizeof(*w));
}

static const aiol_resource_calls aiol_wrapping_resource = {"wrap_future", aiol_wrapping_closed, aiol_wrapping_destroy,
                                                           aiol_combine_is_open};

static void aiol_wrapping_end(aiol_wrapping *w) {
    aiol_concurrent *c = w->concurrent;
    aiol_wrapping_destroy(&w->resource);
    aiol_concurrent_unref(c);
}

/* The loop is freed: lets go of what is wrapped while every block is there, since that may run user code. */
static void aiol_wrappings_free(aioloop *loop) {
    const aiol_link *link;
    for (link = loop->resources.next; link != &loop->resources; link = link->next) {
        const aiol_resource *resource = AIOL_CONTAINER(link, const aiol_resource, link);
        if (resource->calls == &aiol_wrapping_resource)
            aiol_concurrent_unref(AIOL_CONTAINER(resource, const aiol_wrapping, resource)->concurrent);
    }
}

/* The outcome is there. */
static void aiol_wrapping_done(aioloop *loop, void *arg) {
    aiol_wrapping *w = (aiol_wrapping *)arg;
    aiol_concurrent *c = w->concurrent;
    aioloop_future *f = w->future;
    bool mine;
    (void)loop;
    aiol_concurrent_lock(c); /* whoever has posted this is through with the loop then, which may go as soon as this has run */
    mine = !c->taken;
    c->taken = c->taken || f != NULL;
    aiol_concurrent_unlock(c);
    if (f != NULL && c->state == AIOL_FUTURE_FINISHED) {
        aiol_future_finish(f, c->number, c->pointer, mine ? c->dispose : NULL);
        aiol_future_release(f);
    } else if (f != NULL) {
        if (c->state == AIOL_FUTURE_CANCELLED)
            aiol_future_end_cancelled(f, NULL);
        else
            aiol_future_fail(f, c->code, c->text);
        aiol_future_release(f);
    }
    aiol_wrapping_end(w);
}

static bool aiol_wrapping_cancel(aioloop_future *f, void *owner) {
    aiol_wrapping *w = (aiol_wrapping *)owner;
    aiol_slot *slot;
    if (f->loop->freeing)
        return true; /* it goes with the loop */
    w->future = NULL;
    aiol_future_release(f);
    aiol_concurrent_lock(w->concurrent);
    aiol_list_remove(&w->link);
    slot = w->slot;
    w->slot = NULL;
    aiol_concurrent_unlock(w->concurrent);
    (void)aioloop_concurrent_future_cancel(&w->concurrent->future);
    if (slot == NULL)
        return true; /* the post comes, and ends it */
    aiol_slot_free(w->resource.loop, slot);
    aiol_wrapping_end(w);
    return true;
}

AIOLOOP_API aioloop_future *(aioloop_wrap_future)(aioloop *loop, aioloop_concurrent_future *future) {
    aiol_concurrent *c;
    aiol_wrapping *w;
    aioloop_future *f;
    int err = loop == NULL || future == NULL ? AIOLOOP_EINVAL + 0 : aiol_check(loop);
    if (err < 0)
        return aiol_future_failed(err);
    c = aiol_concurrent_of(future);
    if (c == NULL)
        return aiol_future_failed(aiol_fail(loop, future->failed, NULL));
    w = (aiol_wrapping *)aiol_alloc_zero(&loop->allocator, sizeof(*w));
    f = w == NULL ? NULL : aiol_future_new(loop, aiol_wrapping_cancel, w);
    if (f != NULL)
        w->slot = aiol_remote_take(loop);
    if (f == NULL || w->slot == NULL) {
        if (f != NULL) {
            f->end.cancel = NULL;
            aiol_future_release(f);
            aioloop_future_unref(f);
        }
        aiol_free(&loop->allocator, w, sizeof(*w));
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    w->future = f;
    w->concurrent = c;
    aiol_add_u32(&c->refs, 1);
    aiol_resource_add(loop, &w->resource, &aiol_wrapping_resource);
    aiol_concurrent_lock(c);
    aiol_list_append(&c->followers, &w->link);
    if (c->state != AIOL_FUTURE_PENDING)
        aiol_concurrent_post(c);
    aiol_concurrent_unlock(c);
    return f;
}

#endif
