/*
 * combine.c - futures of futures.                                                 (asyncio: tasks.py)
 *
 * Each combinator is a small resource of the loop: it holds its inner futures, has a done-callback on each that is
 * pending, and completes the outer one. It goes when both are done with. What is done already when the call is made
 * counts at once.
 */
#ifndef AIOL_CORE_COMBINE_C
#define AIOL_CORE_COMBINE_C

#include "core/task.c"

/* ---- what they share ---- */

static void aiol_combine_closed(aiol_resource *resource) {
    (void)resource;
}

static bool aiol_combine_is_open(const aiol_resource *resource) {
    (void)resource;
    return false;
}

/* The future for a call that fails, with its message as the loop's last error. */
static aioloop_future *aiol_combine_failed(aioloop *loop, int code) {
    aioloop_future *f;
    if (code == AIOLOOP_ECLOSED)
        return aiol_future_failed(code);
    f = aiol_future_new(loop, NULL, NULL);
    if (f == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    aiol_future_fail(f, code, aiol_detail(loop, code));
    aiol_future_release(f);
    return f;
}

static int aiol_combine_check(aioloop *loop, aioloop_future *const *futures, size_t count) {
    size_t i;
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if (futures == NULL && count != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "futures are needed, not NULL");
    for (i = 0; i < count; i++) {
        if (futures[i] == NULL)
            return aiol_fail(loop, AIOLOOP_EINVAL, "a future is needed, not NULL");
        if (!aiol_future_is_static(futures[i]) && futures[i]->loop != loop)
            return aiol_fail(loop, AIOLOOP_EINVAL, "the future belongs to another loop");
    }
    return 0;
}

static bool aiol_combine_is_own(const aioloop_future *f) {
    return f != NULL && (f->flags & AIOL_FUTURE_STATIC) == 0;
}

/* Ends the use of them all. */
static void aiol_combine_release(aioloop_future *const *futures, size_t count) {
    size_t i;
    for (i = 0; i < count; i++)
        if (aiol_combine_is_own(futures[i]))
            aiol_future_release(futures[i]);
}

/* Begins the use of all of them, or, with an error, ends it. One that cannot be used gets a reference too: it may
 * stand there again, where it could, and is to be there until all are released. */
static int aiol_combine_use(aioloop_future *const *futures, size_t count) {
    size_t i;
    int failed = 0;
    for (i = 0; i < count; i++) {
        int err = aiol_combine_is_own(futures[i]) ? aiol_future_use(futures[i]) : 0;
        if (err < 0) {
            aiol_future_hold(futures[i]);
            failed = err;
        }
    }
    if (failed < 0)
        aiol_combine_release(futures, count);
    return failed;
}

/* For a call that fails before it has begun: the use of its futures ends all the same. */
static void aiol_combine_end_use(aioloop_future *const *futures, size_t count) {
    size_t i;
    if (futures == NULL)
        return;
    for (i = 0; i < count; i++) {
        if (!aiol_combine_is_own(futures[i]))
            continue;
        if ((futures[i]->flags & AIOL_FUTURE_UNCLAIMED) != 0)
            futures[i]->flags = (uint16_t)((futures[i]->flags & ~AIOL_FUTURE_UNCLAIMED) | AIOL_FUTURE_USED);
        else
            aiol_future_hold(futures[i]);
    }
    aiol_combine_release(futures, count);
}

/* ---- sleep ---- */

static bool aiol_sleep_cancel(aioloop_future *f, void *owner) {
    aioloop_handle handle;
    handle.slot = owner;
    handle.sequence = ((aiol_slot *)owner)->sequence;
    f->end.cancel = NULL; /* the timer lets go of context values, which may cancel again */
    aioloop_handle_cancel(&handle);
    aiol_future_release(f);
    return true;
}

static void aiol_sleep_over(aioloop *loop, void *arg) {
    aioloop_future *f = (aioloop_future *)arg;
    (void)loop;
    if (f->state == AIOL_FUTURE_PENDING)
        aiol_future_finish(f, 0, NULL, NULL);
    aiol_future_release(f);
}

AIOLOOP_API aioloop_future *(aioloop_sleep)(aioloop *loop, aioloop_time delay) {
    aioloop_timer_handle timer;
    aioloop_future *f;
    if (loop == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    if (delay == AIOLOOP_NOT_A_TIME)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EINVAL, "not a time"));
    f = aiol_future_new(loop, aiol_sleep_cancel, NULL);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    if (delay <= 0) {
        aiol_future_finish(f, 0, NULL, NULL);
        f->flags |= AIOL_FUTURE_YIELDS;
        aiol_future_release(f);
        return f;
    }
    timer = (aioloop_call_later)(loop, delay, aiol_sleep_over, f);
    if (aioloop_handle_is_null(&timer.handle)) {
        aiol_future_release(f);
        aiol_future_release(f);
        return aiol_future_failed(loop->error.error.code);
    }
    f->of.owner = timer.handle.slot;
    return f;
}

/* ---- gather ---- */

struct aioloop_results {
    aiol_resource resource;
    size_t count;
    aioloop_future *futures[1]; /* count of them, each with a reference */
};

typedef struct aiol_gathering {
    aiol_resource resource;
    aioloop_future *outer; /* NULL: it is done */
    aioloop_results *results;
    size_t left;
    bool keep_errors;
    bool cancelled;
    bool cancelling; /* the cancel is under way */
} aiol_gathering;

static size_t aiol_results_size(size_t count) {
    return sizeof(aioloop_results) + (count == 0 ? 0 : count - 1) * sizeof(aioloop_future *);
}

static void aiol_results_destroy(aiol_resource *resource) {
    aioloop_results *results = AIOL_CONTAINER(resource, aioloop_results, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, results, aiol_results_size(results->count));
}

static const aiol_resource_calls aiol_results_resource = {"results", aiol_combine_closed, aiol_results_destroy,
                                                          aiol_combine_is_open};

AIOLOOP_API void aioloop_results_free(aioloop_results *results) {
    if (results == NULL || results->resource.loop->freeing)
        return; /* it goes with the loop */
    aiol_combine_release(results->futures, results->count);
    aiol_results_destroy(&results->resource);
}

static void aiol_results_dispose(void *pointer) {
    aioloop_results_free((aioloop_results *)pointer);
}

AIOLOOP_API size_t aioloop_results_count(const aioloop_results *results) {
    return results == NULL ? 0 : results->count;
}

AIOLOOP_API int64_t aioloop_results_get(aioloop_results *results, size_t i, void *out) {
    if (results == NULL || i >= results->count)
        return AIOLOOP_EINVAL;
    return aioloop_future_result(results->futures[i], out);
}

AIOLOOP_API const aioloop_error *aioloop_results_error(aioloop_results *results, size_t i) {
    if (results == NULL || i >= results->count)
        return NULL;
    return aioloop_future_error(results->futures[i]);
}

static void aiol_gather_destroy(aiol_resource *resource) {
    aiol_gathering *g = AIOL_CONTAINER(resource, aiol_gathering, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, g, sizeof(*g));
}

static const aiol_resource_calls aiol_gather_resource = {"gather", aiol_combine_closed, aiol_gather_destroy,
                                                         aiol_combine_is_open};

/* Gives up the reference to the outer future that was completed. */
static void aiol_gather_settled(aiol_gathering *g) {
    aioloop_future *outer = g->outer;
    g->outer = NULL;
    aiol_future_release(outer);
}

/* One inner future less is pending. */
static void aiol_gather_count(aiol_gathering *g, aioloop_future *f) {
    g->left--;
    if ((f->flags & AIOL_FUTURE_STATIC) == 0)
        f->flags |= AIOL_FUTURE_LOOKED_AT; /* by whoever has the results; or it is not the first failure */
    if (g->outer == NULL || g->keep_errors || g->cancelled || f->state == AIOL_FUTURE_FINISHED)
        return;
    g->outer->code = f->code;
    g->outer->error = aiol_error_ref(f->error);
    aiol_future_done(g->outer, AIOL_FUTURE_FAILED); /* also for a cancelled one: gather itself was not */
    aiol_gather_settled(g);
}

/* When all are done. */
static void aiol_gather_check_over(aiol_gathering *g) {
    aioloop_results *results = g->results;
    if (g->left != 0)
        return;
    g->results = NULL;
    if (g->outer != NULL && g->cancelled) {
        aiol_future_end_cancelled(g->outer, NULL);
        aiol_gather_settled(g);
    } else if (g->outer != NULL) {
        aiol_future_finish(g->outer, (int64_t)results->count, results, aiol_results_dispose);
        results = NULL;
        aiol_gather_settled(g);
    }
    aiol_gather_destroy(&g->resource);
    aioloop_results_free(results);
}

static void aiol_gather_done(aioloop_future *f, void *arg) {
    aiol_gathering *g = (aiol_gathering *)arg;
    aiol_gather_count(g, f);
    aiol_gather_check_over(g);
}

static bool aiol_gather_cancel(aioloop_future *outer, void *owner) {
    aiol_gathering *g = (aiol_gathering *)owner;
    size_t i;
    if (g->cancelling) { /* one of them waits for this one: the circle is broken here */
        g->outer = NULL;
        aiol_future_release(outer);
        return true;
    }
    g->cancelled = true;
    g->cancelling = true;
    for (i = 0; i < g->results->count; i++)
        aioloop_future_cancel(g->results->futures[i], NULL);
    g->cancelling = false;
    return false;
}

/* A call that cannot go on: everything as it was, but for the use of the futures. */
static aioloop_future *aiol_gather_abandon(aioloop *loop, aiol_gathering *g, aioloop_results *results) {
    size_t i;
    if (g->outer != NULL) {
        for (i = 0; i < results->count; i++)
            aioloop_future_remove_done_callback(results->futures[i], aiol_gather_done, g);
        g->outer->end.cancel = NULL;
        aiol_future_release(g->outer);
        aioloop_future_unref(g->outer);
    }
    aiol_gather_destroy(&g->resource);
    aioloop_results_free(results);
    return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
}

AIOLOOP_API aioloop_future *(aioloop_gather)(aioloop *loop, aioloop_future *const *futures, size_t count,
                                             bool return_exceptions) {
    aioloop_results *results;
    aioloop_future *outer;
    aiol_gathering *g;
    size_t i;
    int err;
    if (loop == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    err = aiol_combine_check(loop, futures, count);
    if (err < 0) {
        aiol_combine_end_use(futures, count);
        return aiol_combine_failed(loop, err);
    }
    err = aiol_combine_use(futures, count);
    if (err < 0)
        return aiol_combine_failed(loop, err);
    results = (aioloop_results *)aiol_alloc_zero(&loop->allocator, aiol_results_size(count));
    g = (aiol_gathering *)aiol_alloc_zero(&loop->allocator, sizeof(*g));
    if (results == NULL || g == NULL) {
        aiol_combine_release(futures, count);
        aiol_free(&loop->allocator, results, aiol_results_size(count));
        aiol_free(&loop->allocator, g, sizeof(*g));
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    aiol_resource_add(loop, &results->resource, &aiol_results_resource);
    aiol_resource_add(loop, &g->resource, &aiol_gather_resource);
    results->count = count;
    if (count != 0)
        memcpy(results->futures, futures, count * sizeof(futures[0]));
    g->results = results;
    g->keep_errors = return_exceptions;
    g->outer = aiol_future_new(loop, aiol_gather_cancel, g);
    if (g->outer == NULL)
        return aiol_gather_abandon(loop, g, results);
    outer = g->outer;
    g->left = count;
    for (i = 0; i < count; i++)
        if (futures[i]->state == AIOL_FUTURE_PENDING && aiol_future_callback(futures[i], aiol_gather_done, g, NULL, 0) < 0)
            return aiol_gather_abandon(loop, g, results);
    for (i = 0; i < count; i++)
        if (futures[i]->state != AIOL_FUTURE_PENDING)
            aiol_gather_count(g, futures[i]);
    aiol_gather_check_over(g);
    return outer;
}

/* ---- wait ---- */

typedef struct aiol_wait {
    aiol_resource resource;
    aioloop_future *outer; /* NULL: it is done */
    aioloop_timer_handle timer;
    size_t count;
    size_t left;        /* pending */
    size_t outstanding; /* done-callbacks that will come */
    aioloop_return_when return_when;
    bool failed; /* one of them has */
    aioloop_future *futures[1];
} aiol_wait;

static size_t aiol_wait_size(size_t count) {
    return sizeof(aiol_wait) + (count - 1) * sizeof(aioloop_future *);
}

static void aiol_wait_destroy(aiol_resource *resource) {
    aiol_wait *w = AIOL_CONTAINER(resource, aiol_wait, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, w, aiol_wait_size(w->count));
}

static const aiol_resource_calls aiol_wait_resource = {"wait", aiol_combine_closed, aiol_wait_destroy, aiol_combine_is_open};

static void aiol_wait_free_if_over(aiol_wait *w) {
    if (w->outer != NULL || w->outstanding != 0)
        return;
    aiol_combine_release(w->futures, w->count);
    aiol_wait_destroy(&w->resource);
}

/* True: done, so far as it was asked for. */
static bool aiol_wait_is_over(const aiol_wait *w) {
    if (w->left == 0)
        return true;
    return w->left != w->count && (w->return_when == AIOLOOP_FIRST_COMPLETED ||
                                   (w->return_when == AIOLOOP_FIRST_EXCEPTION && w->failed));
}

static void aiol_wait_done(aioloop_future *f, void *arg);

/* It waits no longer; the outer future is completed by the caller. Done-callbacks that are queued already still
 * come. */
static void aiol_wait_end(aiol_wait *w) {
    aioloop_future *outer = w->outer;
    size_t i;
    aioloop_timer_handle_cancel(&w->timer);
    for (i = 0; i < w->count; i++)
        w->outstanding -= aioloop_future_remove_done_callback(w->futures[i], aiol_wait_done, w);
    w->outer = NULL;
    aiol_future_release(outer);
    aiol_wait_free_if_over(w);
}

static void aiol_wait_finish(aiol_wait *w) {
    int64_t done = 0;
    size_t i;
    for (i = 0; i < w->count; i++)
        if (w->futures[i]->state != AIOL_FUTURE_PENDING)
            done++;
    aiol_future_finish(w->outer, done, NULL, NULL);
    aiol_wait_end(w);
}

static void aiol_wait_done(aioloop_future *f, void *arg) {
    aiol_wait *w = (aiol_wait *)arg;
    w->outstanding--;
    w->left--;
    w->failed |= f->state == AIOL_FUTURE_FAILED;
    if (w->outer != NULL && aiol_wait_is_over(w))
        aiol_wait_finish(w);
    else
        aiol_wait_free_if_over(w);
}

static void aiol_wait_timed_out(aioloop *loop, void *arg) {
    (void)loop;
    aiol_wait_finish((aiol_wait *)arg);
}

static bool aiol_wait_cancel(aioloop_future *outer, void *owner) {
    outer->end.cancel = NULL; /* the callbacks let go of context values, which may cancel again */
    aiol_wait_end((aiol_wait *)owner);
    return true;
}

static int aiol_wait_check(aioloop *loop, aioloop_future *const *futures, size_t count, const aioloop_wait_options *options) {
    int err = aiol_combine_check(loop, futures, count);
    size_t i;
    if (err < 0)
        return err;
    if (count == 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "wait needs a future at least");
    if (options != NULL && (unsigned)options->return_when > AIOLOOP_FIRST_EXCEPTION)
        return aiol_fail(loop, AIOLOOP_EINVAL, "wait: unknown return_when");
    if (options != NULL && options->timeout == AIOLOOP_NOT_A_TIME)
        return aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    for (i = 0; i < count; i++)
        if ((futures[i]->flags & (AIOL_FUTURE_UNCLAIMED | AIOL_FUTURE_USED)) != 0)
            return aiol_fail(loop, AIOLOOP_EINVAL, "wait looks at its futures afterwards: claim them (aioloop_future_ref)");
    return 0;
}

/* Registers with all that are pending, and sets the timer. */
static int aiol_wait_begin(aiol_wait *w, aioloop_time timeout) {
    aioloop *loop = w->resource.loop;
    size_t i;
    for (i = 0; i < w->count; i++) {
        if (w->futures[i]->state == AIOL_FUTURE_PENDING) {
            if (aiol_future_callback(w->futures[i], aiol_wait_done, w, NULL, 0) < 0)
                return AIOLOOP_ENOMEM;
            w->outstanding++;
        } else {
            w->left--;
            w->failed |= w->futures[i]->state == AIOL_FUTURE_FAILED;
        }
    }
    if (timeout == 0 || timeout == AIOLOOP_FOREVER || aiol_wait_is_over(w))
        return 0;
    w->timer = (aioloop_call_later)(loop, timeout, aiol_wait_timed_out, w);
    return aioloop_handle_is_null(&w->timer.handle) ? AIOLOOP_ENOMEM : 0;
}

AIOLOOP_API aioloop_future *(aioloop_wait)(aioloop *loop, aioloop_future *const *futures, size_t count,
                                           const aioloop_wait_options *options) {
    aioloop_future *outer;
    aiol_wait *w;
    int err;
    if (loop == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    err = aiol_wait_check(loop, futures, count, options);
    if (err < 0) {
        aiol_combine_end_use(futures, count);
        return aiol_combine_failed(loop, err);
    }
    w = (aiol_wait *)aiol_alloc_zero(&loop->allocator, aiol_wait_size(count));
    if (w == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    outer = aiol_future_new(loop, aiol_wait_cancel, w);
    if (outer == NULL) {
        aiol_free(&loop->allocator, w, aiol_wait_size(count));
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    aiol_resource_add(loop, &w->resource, &aiol_wait_resource);
    w->outer = outer;
    w->count = count;
    w->left = count;
    w->return_when = options != NULL ? options->return_when : AIOLOOP_ALL_COMPLETED;
    memcpy(w->futures, futures, count * sizeof(futures[0]));
    (void)aiol_combine_use(w->futures, count);
    err = aiol_wait_begin(w, options != NULL ? options->timeout : 0);
    if (err < 0) {
        outer->end.cancel = NULL;
        aiol_wait_end(w);
        aioloop_future_unref(outer);
        return aiol_future_failed(aiol_fail(loop, err, NULL));
    }
    if (aiol_wait_is_over(w))
        aiol_wait_finish(w);
    return outer;
}

/* ---- wait_for and shield: one future that follows another ---- */

typedef struct aiol_follower {
    aiol_resource resource;
    aioloop_future *outer; /* NULL: it is done */
    aioloop_future *inner;
    aioloop_timer_handle timer;
    bool shields;
    bool expired;
    bool cancelled;
    bool cancelling; /* the cancel is under way */
} aiol_follower;

static void aiol_follower_destroy(aiol_resource *resource) {
    aiol_follower *w = AIOL_CONTAINER(resource, aiol_follower, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, w, sizeof(*w));
}

static const aiol_resource_calls aiol_follower_resource = {"wait_for", aiol_combine_closed, aiol_follower_destroy,
                                                           aiol_combine_is_open};

/* The inner future is done, and so is the outer one then. */
static void aiol_follower_finish(aiol_follower *w) {
    aioloop_future *outer = w->outer;
    aioloop_future *inner = w->inner;
    bool in_vain = inner->state == AIOL_FUTURE_CANCELLED && w->expired && !w->cancelled;
    aioloop_timer_handle_cancel(&w->timer);
    aiol_follower_destroy(&w->resource);
    if (outer != NULL) {
        if (in_vain)
            aiol_future_fail(outer, AIOLOOP_ETIMEDOUT, NULL);
        else
            aiol_future_take_over(outer, inner);
        aiol_future_release(outer);
    }
    aiol_future_release(inner);
}

static void aiol_follower_done(aioloop_future *f, void *arg) {
    (void)f;
    aiol_follower_finish((aiol_follower *)arg);
}

static void aiol_follower_expired(aioloop *loop, void *arg) {
    aiol_follower *w = (aiol_follower *)arg;
    (void)loop;
    if (w->inner->state != AIOL_FUTURE_PENDING)
        return; /* its callback is queued */
    w->expired = true;
    aioloop_future_cancel(w->inner, NULL);
}

/* The outer one lets go of the inner one, whose callback stays, or is queued, and holds it. */
static void aiol_follower_leave(aiol_follower *w) {
    aioloop_future *outer = w->outer;
    w->outer = NULL;
    aiol_future_release(outer);
}

static bool aiol_follower_cancel(aioloop_future *outer, void *owner);

/* What it follows in the end, through any number of others that are pending. */
static aioloop_future *aiol_follower_source(const aiol_follower *w) {
    aioloop_future *f = w->inner;
    while (f->state == AIOL_FUTURE_PENDING && (f->flags & AIOL_FUTURE_TASK) == 0 &&
           f->end.cancel == aiol_follower_cancel)
        f = ((const aiol_follower *)f->of.owner)->inner;
    return f;
}

static bool aiol_follower_cancel(aioloop_future *outer, void *owner) {
    aiol_follower *w = (aiol_follower *)owner;
    aioloop_future *source = aiol_follower_source(w);
    if (aiol_future_outranks(source)) {
        aiol_future_take_over(outer, source);
        aiol_follower_leave(w);
        return false;
    }
    if (!w->shields && !w->cancelling) {
        bool cancelled;
        w->cancelling = true;
        cancelled = aioloop_future_cancel(w->inner, NULL);
        w->cancelling = false;
        if (cancelled) {
            w->cancelled = true;
            return false; /* it ends when the inner one has */
        }
    }
    aiol_follower_leave(w);
    return true;
}

/* There is no memory to follow it. A time-out that cannot be kept is no reason to wait for ever: what nobody else has a
 * reference of is cancelled. */
static aioloop_future *aiol_follow_fail(aioloop_future *inner, bool shields) {
    aioloop *loop = inner->loop;
    if (!shields && (inner->flags & AIOL_FUTURE_USED) != 0)
        aioloop_future_cancel(inner, NULL);
    aiol_future_release(inner);
    return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
}

static aioloop_future *aiol_follow(aioloop_future *inner, bool shields, aioloop_time timeout) {
    aioloop *loop;
    aioloop_future *outer;
    aiol_follower *w;
    int err;
    if (inner == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (aiol_future_is_static(inner))
        return inner;
    loop = inner->loop;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    err = aiol_future_use(inner);
    if (err < 0)
        return aiol_combine_failed(loop, err);
    if (loop->closed)
        err = aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    else if (timeout == AIOLOOP_NOT_A_TIME)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    if (err < 0) {
        aiol_future_release(inner);
        return aiol_combine_failed(loop, err);
    }
    w = (aiol_follower *)aiol_alloc_zero(&loop->allocator, sizeof(*w));
    outer = w == NULL ? NULL : aiol_future_new(loop, aiol_follower_cancel, w);
    if (outer == NULL) {
        aiol_free(&loop->allocator, w, sizeof(*w));
        return aiol_follow_fail(inner, shields);
    }
    aiol_resource_add(loop, &w->resource, &aiol_follower_resource);
    w->outer = outer;
    w->inner = inner;
    w->shields = shields;
    if (inner->state != AIOL_FUTURE_PENDING) {
        aiol_follower_finish(w);
        return outer;
    }
    err = aiol_future_callback(inner, aiol_follower_done, w, NULL, 0);
    if (err == 0 && timeout > 0 && timeout != AIOLOOP_FOREVER) {
        w->timer = (aioloop_call_later)(loop, timeout, aiol_follower_expired, w);
        if (aioloop_handle_is_null(&w->timer.handle))
            err = AIOLOOP_ENOMEM;
    }
    if (err < 0) {
        aioloop_future_remove_done_callback(inner, aiol_follower_done, w);
        aiol_follower_destroy(&w->resource);
        outer->end.cancel = NULL;
        aiol_future_release(outer);
        aioloop_future_unref(outer);
        return aiol_follow_fail(inner, shields);
    }
    if (timeout <= 0)
        aiol_follower_expired(loop, w);
    return outer;
}

AIOLOOP_API aioloop_future *(aioloop_wait_for)(aioloop_future *future, aioloop_time timeout) {
    return aiol_follow(future, false, timeout);
}

AIOLOOP_API aioloop_future *(aioloop_shield)(aioloop_future *future) {
    return aiol_follow(future, true, AIOLOOP_FOREVER);
}

/* ---- as_completed ---- */

struct aioloop_completed {
    aiol_resource resource;
    aioloop_timer_handle timer;
    size_t count;
    size_t outstanding; /* done-callbacks that will come */
    size_t completed;   /* in order, of which */
    size_t given;       /* were handed out; beyond completed: time-outs */
    size_t asked;       /* waiters from here on, in a ring of count */
    size_t waiting;
    bool expired;
    bool freed;
    size_t offer_count;
    size_t *order;            /* indices, as they completed; count */
    aioloop_future **waiters; /* count */
    aioloop_future **offers;  /* those of waiters that were given an outcome and may never read it; count */
    aioloop_future *futures[1];
};

static size_t aiol_completed_size(size_t count) {
    return sizeof(aioloop_completed) + count * (3 * sizeof(aioloop_future *) + sizeof(size_t));
}

static void aiol_completed_destroy(aiol_resource *resource) {
    aioloop_completed *c = AIOL_CONTAINER(resource, aioloop_completed, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, c, aiol_completed_size(c->count));
}

static const aiol_resource_calls aiol_completed_resource = {"as_completed", aiol_combine_closed, aiol_completed_destroy,
                                                            aiol_combine_is_open};

/* Gives the next outcome to f, if there is one. */
static bool aiol_completed_give(aioloop_completed *c, aioloop_future *f) {
    if (c->given < c->completed) {
        size_t i = c->order[c->given++];
        aiol_future_finish(f, (int64_t)i, c->futures[i], NULL);
    } else if (c->given >= c->count) {
        aiol_future_fail(f, AIOLOOP_ESTOPITERATION, NULL);
    } else if (c->expired) {
        c->given++;
        c->completed = c->given; /* what completes from here on comes too late */
        aiol_future_fail(f, AIOLOOP_ETIMEDOUT, NULL);
    } else {
        return false;
    }
    return true;
}

static void aiol_completed_serve(aioloop_completed *c) {
    while (c->waiting != 0) {
        aioloop_future *f = c->waiters[c->asked];
        if (!aiol_completed_give(c, f))
            return;
        c->asked = (c->asked + 1) % c->count;
        c->waiting--;
        if (f->state == AIOL_FUTURE_FINISHED)
            c->offers[c->offer_count++] = f;
        else
            aiol_future_release(f);
    }
}

/* The outcome that a waiter never read, as it was cancelled meanwhile, is the next to be given again. */
static void aiol_completed_give_back(aioloop_completed *c, size_t index) {
    size_t i = 0;
    while (c->order[i] != index)
        i++;
    c->order[i] = c->order[--c->given];
    c->order[c->given] = index;
}

static void aiol_completed_check_offers(aioloop_completed *c) {
    size_t i = c->offer_count;
    while (i-- != 0) {
        aioloop_future *f = c->offers[i];
        bool read = (f->flags & AIOL_FUTURE_LOOKED_AT) != 0;
        if (!read && f->refs != 1)
            continue;
        c->offers[i] = c->offers[--c->offer_count];
        if (!read)
            aiol_completed_give_back(c, (size_t)f->number);
        aiol_future_release(f);
    }
}

static void aiol_completed_free_if_over(aioloop_completed *c) {
    if (!c->freed || c->outstanding != 0)
        return;
    aiol_combine_release(c->futures, c->count);
    aiol_completed_destroy(&c->resource);
}

static void aiol_completed_add(aioloop_completed *c, const aioloop_future *f) {
    size_t i;
    if (c->expired)
        return;
    for (i = 0; i < c->count; i++) { /* the same future may stand there several times */
        size_t j = 0;
        if (c->futures[i] != f)
            continue;
        while (j < c->completed && c->order[j] != i)
            j++;
        if (j == c->completed) {
            c->order[c->completed++] = i;
            return;
        }
    }
}

static void aiol_completed_done(aioloop_future *f, void *arg) {
    aioloop_completed *c = (aioloop_completed *)arg;
    c->outstanding--;
    if (!c->freed) {
        aiol_completed_check_offers(c);
        aiol_completed_add(c, f);
        aiol_completed_serve(c);
    }
    aiol_completed_free_if_over(c);
}

static void aiol_completed_expired(aioloop *loop, void *arg) {
    aioloop_completed *c = (aioloop_completed *)arg;
    (void)loop;
    c->expired = true;
    aiol_completed_serve(c);
}

static bool aiol_completed_cancel(aioloop_future *f, void *owner) {
    aioloop_completed *c = (aioloop_completed *)owner;
    size_t i = 0;
    while (c->waiters[(c->asked + i) % c->count] != f)
        i++;
    for (c->waiting--; i < c->waiting; i++)
        c->waiters[(c->asked + i) % c->count] = c->waiters[(c->asked + i + 1) % c->count];
    aiol_future_release(f);
    return true;
}

AIOLOOP_API aioloop_completed *aioloop_as_completed(aioloop *loop, aioloop_future *const *futures, size_t count,
                                                    aioloop_time timeout) {
    aioloop_completed *c;
    size_t i;
    int err;
    if (loop == NULL || (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop)))
        return NULL;
    err = aiol_combine_check(loop, futures, count);
    if (err == 0 && timeout == AIOLOOP_NOT_A_TIME)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    if (err < 0) {
        aiol_combine_end_use(futures, count);
        return NULL;
    }
    if (aiol_combine_use(futures, count) < 0)
        return NULL;
    c = (aioloop_completed *)aiol_alloc_zero(&loop->allocator, aiol_completed_size(count));
    if (c == NULL) {
        aiol_combine_release(futures, count);
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    aiol_resource_add(loop, &c->resource, &aiol_completed_resource);
    c->count = count;
    c->waiters = c->futures + count;
    c->offers = c->waiters + count;
    c->order = (size_t *)(void *)(c->offers + count);
    if (count != 0)
        memcpy(c->futures, futures, count * sizeof(futures[0]));
    for (i = 0; i < count && err == 0; i++)
        if (futures[i]->state == AIOL_FUTURE_PENDING) {
            err = aiol_future_callback(futures[i], aiol_completed_done, c, NULL, 0);
            if (err == 0)
                c->outstanding++;
        } else {
            c->order[c->completed++] = i;
        }
    if (err == 0 && timeout > 0 && timeout != AIOLOOP_FOREVER) {
        c->timer = (aioloop_call_later)(loop, timeout, aiol_completed_expired, c);
        if (aioloop_handle_is_null(&c->timer.handle))
            err = AIOLOOP_ENOMEM;
    }
    c->expired = timeout <= 0;
    if (err < 0) {
        aioloop_completed_free(c);
        return NULL;
    }
    return c;
}

AIOLOOP_API aioloop_future *(aioloop_completed_next)(aioloop_completed *completed) {
    aioloop *loop;
    aioloop_future *f;
    if (completed == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = completed->resource.loop;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    f = aiol_future_new(loop, aiol_completed_cancel, completed);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    aiol_completed_check_offers(completed);
    aiol_completed_serve(completed);
    if (completed->waiting == 0 && aiol_completed_give(completed, f)) {
        aiol_future_release(f);
    } else if (completed->waiting >= completed->count - completed->given) { /* more are asked for than can come */
        aiol_future_fail(f, AIOLOOP_ESTOPITERATION, NULL);
        aiol_future_release(f);
    } else {
        completed->waiters[(completed->asked + completed->waiting++) % completed->count] = f;
    }
    return f;
}

AIOLOOP_API void aioloop_completed_free(aioloop_completed *completed) {
    size_t i;
    if (completed == NULL || completed->resource.loop->freeing)
        return; /* it goes with the loop */
    aioloop_timer_handle_cancel(&completed->timer);
    completed->freed = true;
    for (i = 0; i < completed->count; i++)
        completed->outstanding -= aioloop_future_remove_done_callback(completed->futures[i], aiol_completed_done, completed);
    while (completed->waiting != 0) {
        aioloop_future *f = completed->waiters[completed->asked];
        completed->asked = (completed->asked + 1) % completed->count;
        completed->waiting--;
        aiol_future_end_cancelled(f, NULL);
        aiol_future_release(f);
    }
    while (completed->offer_count != 0)
        aiol_future_release(completed->offers[--completed->offer_count]);
    aiol_completed_free_if_over(completed);
}

#endif
