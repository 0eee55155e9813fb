/*
 * sync.c - locks and their kin.                                                    (asyncio: locks.py)
 *
 * Whoever waits is a waiter in the object's line: the future and its link are one block. What is released is handed to
 * the first in the line at once, so a newcomer can take only what nobody waits for. A waiter that was given a lock
 * stays in a second list until its future is freed: if nobody has read the result by then it is given back, and if the
 * object goes first it finds them there.
 *
 * While the loop is open completing a waiter calls no user code. Where a failure may be reported, or the loop be
 * closed, the line is taken off the object first, which may then go.
 */
#ifndef AIOL_HIGH_SYNC_C
#define AIOL_HIGH_SYNC_C

#include "api/sync.h"
#include "api/task.h"
#include "core/combine.c"

/* ---- lines ---- */

AIOL_INLINE aiol_waiter *aiol_waiter_of(aiol_link *link) {
    return AIOL_CONTAINER(link, aiol_waiter, link);
}

/* The first of a line, out of it; NULL: it is empty. */
static aiol_waiter *aiol_line_pop(aiol_link *line) {
    aiol_waiter *w;
    if (aiol_list_empty(line))
        return NULL;
    w = aiol_waiter_of(line->next);
    aiol_list_remove(&w->link);
    return w;
}

/* Moves a line to a new one that is not the object's any more. */
static void aiol_line_detach(aiol_link *to, aiol_link *from) {
    aiol_link *link;
    aiol_list_init(to);
    aiol_list_move(to, from);
    for (link = to->next; link != to; link = link->next)
        aiol_waiter_of(link)->object = NULL;
}

/* Ends all of a detached line: with 0, cancelled, or with an error. */
static void aiol_line_end(aiol_link *line, int code) {
    aiol_waiter *w;
    while ((w = aiol_line_pop(line)) != NULL) {
        if (code == 0)
            aiol_future_finish(&w->future, 0, NULL, NULL);
        else if (code == AIOLOOP_ECANCELED)
            aiol_future_end_cancelled(&w->future, NULL);
        else
            aiol_future_fail(&w->future, code, NULL);
        aiol_future_release(&w->future);
    }
}

/* The object goes: what it has given stays where it is. */
static void aiol_line_forget(aiol_link *granted) {
    aiol_waiter *w;
    while ((w = aiol_line_pop(granted)) != NULL) {
        w->gone = NULL;
        w->object = NULL;
    }
}

static bool aiol_waiter_leave(aioloop_future *f, void *owner) {
    (void)owner;
    aiol_list_remove(&((aiol_waiter *)(void *)f)->link);
    aiol_future_release(f);
    return true;
}

/* A waiter at the end of the line; NULL when there is no memory. */
static aiol_waiter *aiol_line_join(aioloop *loop, aiol_link *line, void *object) {
    aiol_waiter *w = aiol_waiter_new(loop, aiol_waiter_leave, object);
    if (w == NULL)
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    else
        aiol_list_append(line, &w->link);
    return w;
}

/* A future that is done, with a number. */
static aioloop_future *aiol_future_of_number(aioloop *loop, int64_t number) {
    aioloop_future *f = aiol_future_new(loop, NULL, NULL);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    aiol_future_finish(f, number, NULL, NULL);
    aiol_future_release(f);
    return f;
}

/* Whether a call that acquires or waits is refused. */
AIOL_INLINE int aiol_sync_check(aioloop *loop) {
    return AIOL_UNLIKELY(loop->careful) ? aiol_check(loop) : 0;
}

/* The same for the others, which work on a closed loop too. */
AIOL_INLINE int aiol_sync_check_thread(aioloop *loop) {
    return AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop) ? AIOLOOP_EMISUSE : 0;
}

/* Memory for an object, zeroed; NULL, and the error stored. */
static void *aiol_sync_new(aioloop *loop, size_t size) {
    void *object;
    if (loop == NULL) {
        aiol_fail(NULL, AIOLOOP_EINVAL, "a loop is needed, not NULL");
        return NULL;
    }
    if (aiol_sync_check(loop) < 0)
        return NULL;
    object = aiol_alloc_zero(&loop->allocator, size);
    if (object == NULL)
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    return object;
}

/* ---- permits: what locks and semaphores have in common ---- */

typedef struct aiol_permits {
    aiol_link waiters;
    aiol_link granted;
    int64_t value; /* how many are left; 0 while somebody waits */
    bool serving;
} aiol_permits;

static void aiol_condition_turn(aiol_waiter *w);

static void aiol_permits_init(aiol_permits *p, int64_t value) {
    aiol_list_init(&p->waiters);
    aiol_list_init(&p->granted);
    p->value = value;
}

/* Lets in as many as there are permits for. One whose future nobody has gives its permit back at once, and the loop
 * here goes on. */
static void aiol_permits_serve(aioloop *loop, aiol_permits *p);

static void aiol_permits_gone(aiol_waiter *w, bool unread) {
    aiol_permits *p = (aiol_permits *)w->object;
    if (!unread)
        return;
    p->value++;
    aiol_permits_serve(w->future.loop, p);
}

/* A permit was taken for the waiter, which is in no line. */
static void aiol_permits_give(aiol_permits *p, aiol_waiter *w) {
    w->gone = aiol_permits_gone;
    w->future.flags |= AIOL_FUTURE_GRANT;
    aiol_list_append(&p->granted, &w->link);
    aiol_future_finish(&w->future, 0, NULL, NULL);
    aiol_future_release(&w->future);
}

static void aiol_permits_serve(aioloop *loop, aiol_permits *p) {
    aiol_waiter *w;
    if (p->serving || loop->closed)
        return;
    p->serving = true;
    while (p->value > 0 && (w = aiol_line_pop(&p->waiters)) != NULL) {
        p->value--;
        if (w->mark == 0)
            aiol_permits_give(p, w);
        else
            aiol_condition_turn(w);
    }
    p->serving = false;
}

static void aiol_permits_release(aioloop *loop, aiol_permits *p) {
    p->value++;
    aiol_permits_serve(loop, p);
}

static aioloop_future *aiol_permits_acquire(aioloop *loop, aiol_permits *p) {
    int err = aiol_sync_check(loop);
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    w = aiol_line_join(loop, &p->waiters, p);
    if (w == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    aiol_permits_serve(loop, p);
    return &w->future;
}

static int aiol_permits_acquire_nowait(aioloop *loop, aiol_permits *p) {
    int err = aiol_sync_check(loop);
    if (err < 0)
        return err;
    if (p->value == 0)
        return AIOLOOP_EAGAIN;
    p->value--;
    return 0;
}

/* ---- Lock ---- */

struct aioloop_lock {
    aiol_resource resource;
    aiol_permits permits; /* one */
};

static void aiol_lock_destroy(aiol_resource *resource) {
    aioloop_lock *lock = AIOL_CONTAINER(resource, aioloop_lock, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, lock, sizeof(*lock));
}

static const aiol_resource_calls aiol_lock_resource = {"lock", aiol_combine_closed, aiol_lock_destroy,
                                                       aiol_combine_is_open};

AIOLOOP_API aioloop_lock *aioloop_lock_new(aioloop *loop) {
    aioloop_lock *lock = (aioloop_lock *)aiol_sync_new(loop, sizeof(*lock));
    if (lock == NULL)
        return NULL;
    aiol_permits_init(&lock->permits, 1);
    aiol_resource_add(loop, &lock->resource, &aiol_lock_resource);
    return lock;
}

AIOLOOP_API void aioloop_lock_free(aioloop_lock *lock) {
    aiol_link line;
    if (lock == NULL || lock->resource.loop->freeing)
        return; /* it goes with the loop */
    aiol_line_forget(&lock->permits.granted);
    aiol_line_detach(&line, &lock->permits.waiters);
    aiol_lock_destroy(&lock->resource);
    aiol_line_end(&line, AIOLOOP_ECANCELED);
}

AIOLOOP_API aioloop_future *(aioloop_lock_acquire)(aioloop_lock *lock) {
    if (lock == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    return aiol_permits_acquire(lock->resource.loop, &lock->permits);
}

AIOLOOP_API int aioloop_lock_acquire_nowait(aioloop_lock *lock) {
    return lock == NULL ? AIOLOOP_EINVAL : aiol_permits_acquire_nowait(lock->resource.loop, &lock->permits);
}

AIOLOOP_API int aioloop_lock_release(aioloop_lock *lock) {
    int err = lock == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(lock->resource.loop);
    if (err < 0)
        return err;
    if (lock->permits.value != 0)
        return aiol_fail(lock->resource.loop, AIOLOOP_EMISUSE, "the lock is not held");
    aiol_permits_release(lock->resource.loop, &lock->permits);
    return 0;
}

AIOLOOP_API bool aioloop_lock_locked(const aioloop_lock *lock) {
    return lock != NULL && lock->permits.value == 0;
}

/* ---- Event ---- */

struct aioloop_event {
    aiol_resource resource;
    aiol_link waiters;
    bool set;
};

static void aiol_event_destroy(aiol_resource *resource) {
    aioloop_event *event = AIOL_CONTAINER(resource, aioloop_event, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, event, sizeof(*event));
}

static const aiol_resource_calls aiol_event_resource = {"event", aiol_combine_closed, aiol_event_destroy,
                                                        aiol_combine_is_open};

AIOLOOP_API aioloop_event *aioloop_event_new(aioloop *loop) {
    aioloop_event *event = (aioloop_event *)aiol_sync_new(loop, sizeof(*event));
    if (event == NULL)
        return NULL;
    aiol_list_init(&event->waiters);
    aiol_resource_add(loop, &event->resource, &aiol_event_resource);
    return event;
}

AIOLOOP_API void aioloop_event_free(aioloop_event *event) {
    aiol_link line;
    if (event == NULL || event->resource.loop->freeing)
        return;
    aiol_line_detach(&line, &event->waiters);
    aiol_event_destroy(&event->resource);
    aiol_line_end(&line, AIOLOOP_ECANCELED);
}

AIOLOOP_API int aioloop_event_set(aioloop_event *event) {
    aiol_link line;
    int err = event == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(event->resource.loop);
    if (err < 0)
        return err;
    event->set = true;
    if (event->resource.loop->closed)
        return 0;
    aiol_line_detach(&line, &event->waiters);
    aiol_line_end(&line, 0);
    return 0;
}

AIOLOOP_API int aioloop_event_clear(aioloop_event *event) {
    int err = event == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(event->resource.loop);
    if (err == 0)
        event->set = false;
    return err;
}

AIOLOOP_API bool aioloop_event_is_set(const aioloop_event *event) {
    return event != NULL && event->set;
}

AIOLOOP_API aioloop_future *(aioloop_event_wait)(aioloop_event *event) {
    int err = event == NULL ? AIOLOOP_EINVAL : aiol_sync_check(event->resource.loop);
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    if (event->set)
        return aiol_future_nothing(event->resource.loop);
    w = aiol_line_join(event->resource.loop, &event->waiters, event);
    return w == NULL ? aiol_future_failed(AIOLOOP_ENOMEM) : &w->future;
}

/* ---- Condition ---- */

/* Where a waiter of a condition is: in the condition's line, or in that of the lock. */
enum { AIOL_CONDITION_WAITS = 1, AIOL_CONDITION_NOTIFIED, AIOL_CONDITION_CANCELLED };

struct aioloop_condition {
    aiol_resource resource;
    aioloop_lock *lock;
    bool own; /* the lock is */
    aiol_link waiters;
    aiol_link granted;    /* who were notified and have the lock, but may not have read so */
    aiol_link predicates; /* those of wait_for */
};

static void aiol_condition_destroy(aiol_resource *resource) {
    aioloop_condition *c = AIOL_CONTAINER(resource, aioloop_condition, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, c, sizeof(*c));
}

static const aiol_resource_calls aiol_condition_resource = {"condition", aiol_combine_closed, aiol_condition_destroy,
                                                            aiol_combine_is_open};

/* Sends a waiter, which is in no line, for the lock. */
static void aiol_condition_reacquire(aioloop_condition *c, aiol_waiter *w, uint64_t mark) {
    w->mark = mark;
    aiol_list_append(&c->lock->permits.waiters, &w->link);
}

static void aiol_condition_wake(aioloop_condition *c, size_t n) {
    aiol_waiter *w;
    while (n-- != 0 && (w = aiol_line_pop(&c->waiters)) != NULL)
        aiol_condition_reacquire(c, w, AIOL_CONDITION_NOTIFIED);
    aiol_permits_serve(c->resource.loop, &c->lock->permits);
}

/* The task that was notified was cancelled before it went on: another one is to know. It has the lock all the same. */
static void aiol_condition_gone(aiol_waiter *w, bool unread) {
    if (unread && !w->future.loop->closed)
        aiol_condition_wake((aioloop_condition *)w->object, 1);
}

/* The lock was taken for a waiter, which is in no line. */
static void aiol_condition_turn(aiol_waiter *w) {
    aioloop_condition *c = (aioloop_condition *)w->object;
    if (w->mark == AIOL_CONDITION_CANCELLED) {
        aiol_future_end_cancelled(&w->future, NULL);
    } else {
        if (c != NULL) {
            w->gone = aiol_condition_gone;
            aiol_list_append(&c->granted, &w->link);
        }
        w->future.flags |= AIOL_FUTURE_GRANT;
        aiol_future_finish(&w->future, 0, NULL, NULL);
    }
    aiol_future_release(&w->future);
}

/* It ends when it has the lock again. */
static bool aiol_condition_cancel(aioloop_future *f, void *owner) {
    aiol_waiter *w = (aiol_waiter *)(void *)f;
    aioloop_condition *c = (aioloop_condition *)w->object;
    (void)owner;
    if (w->mark == AIOL_CONDITION_WAITS) {
        aiol_list_remove(&w->link);
        if (c == NULL || f->loop->closed || c->lock->permits.value > 0) {
            if (c != NULL)
                c->lock->permits.value = 0;
            aiol_future_release(f);
            return true;
        }
        aiol_condition_reacquire(c, w, AIOL_CONDITION_CANCELLED);
    } else if (w->mark == AIOL_CONDITION_NOTIFIED) {
        w->mark = AIOL_CONDITION_CANCELLED;
        if (c != NULL)
            aiol_condition_wake(c, 1);
    }
    return false;
}

AIOLOOP_API aioloop_condition *aioloop_condition_new(aioloop *loop, aioloop_lock *lock) {
    aioloop_condition *c = (aioloop_condition *)aiol_sync_new(loop, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->lock = lock;
    if (lock == NULL) {
        c->own = true;
        c->lock = aioloop_lock_new(loop);
    } else if (lock->resource.loop != loop) {
        aiol_fail(loop, AIOLOOP_EINVAL, "the lock belongs to another loop");
        c->lock = NULL;
    }
    if (c->lock == NULL) {
        aiol_free(&loop->allocator, c, sizeof(*c));
        return NULL;
    }
    aiol_list_init(&c->waiters);
    aiol_list_init(&c->granted);
    aiol_list_init(&c->predicates);
    aiol_resource_add(loop, &c->resource, &aiol_condition_resource);
    return c;
}

AIOLOOP_API aioloop_future *(aioloop_condition_acquire)(aioloop_condition *condition) {
    return (aioloop_lock_acquire)(condition == NULL ? NULL : condition->lock);
}

AIOLOOP_API int aioloop_condition_acquire_nowait(aioloop_condition *condition) {
    return aioloop_lock_acquire_nowait(condition == NULL ? NULL : condition->lock);
}

AIOLOOP_API int aioloop_condition_release(aioloop_condition *condition) {
    return aioloop_lock_release(condition == NULL ? NULL : condition->lock);
}

AIOLOOP_API bool aioloop_condition_locked(const aioloop_condition *condition) {
    return condition != NULL && aioloop_lock_locked(condition->lock);
}

AIOLOOP_API aioloop_future *(aioloop_condition_wait)(aioloop_condition *condition) {
    int err = condition == NULL ? AIOLOOP_EINVAL : aiol_sync_check(condition->resource.loop);
    aioloop *loop;
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    loop = condition->resource.loop;
    if (!aioloop_lock_locked(condition->lock))
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EMISUSE, "waiting on a condition needs its lock"));
    w = aiol_line_join(loop, &condition->waiters, condition);
    if (w == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    w->mark = AIOL_CONDITION_WAITS;
    w->future.end.cancel = aiol_condition_cancel;
    aiol_permits_release(loop, &condition->lock->permits);
    return &w->future;
}

AIOLOOP_API int aioloop_condition_notify(aioloop_condition *condition, size_t n) {
    int err = condition == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(condition->resource.loop);
    if (err < 0)
        return err;
    if (!aioloop_lock_locked(condition->lock))
        return aiol_fail(condition->resource.loop, AIOLOOP_EMISUSE, "notifying on a condition needs its lock");
    aiol_condition_wake(condition, n);
    return 0;
}

AIOLOOP_API int aioloop_condition_notify_all(aioloop_condition *condition) {
    return aioloop_condition_notify(condition, SIZE_MAX);
}

/* ---- wait_for, a coroutine without a stack ---- */

typedef struct aiol_predicate {
    aioloop_frame frame;
    aiol_link link;
    aioloop_condition *condition; /* NULL: it was freed */
    int64_t (*ask)(void *arg);
    void *arg;
    int64_t n;
} aiol_predicate;

static int64_t aiol_predicate_ask(aioloop *loop, aiol_predicate *p) {
    int64_t n;
    if (p->condition == NULL)
        return AIOLOOP_ECANCELED;
    n = p->ask(p->arg);
    if (p->condition == NULL)
        return AIOLOOP_ECANCELED;
    if (n < INT32_MIN)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a predicate answered a number that is neither a result nor a code");
    return n;
}

/* Inside the call: the predicate may free the condition. Not inlined, or gcc sees a local's address stored and
 * warns. */
static AIOL_NOINLINE int64_t aiol_predicate_ask_first(aioloop *loop, aiol_predicate *p) {
    int64_t n;
    aiol_list_append(&p->condition->predicates, &p->link);
    n = aiol_predicate_ask(loop, p);
    aiol_list_remove(&p->link);
    return n;
}

static int64_t aiol_predicate_step(aioloop *loop, aioloop_frame *frame, void **out) {
    aiol_predicate *self = (aiol_predicate *)(void *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    while ((self->n = aiol_predicate_ask(loop, self)) == 0) {
        AIOLOOP_AWAIT(self->n, (aioloop_condition_wait)(self->condition), NULL);
        if (self->n < 0)
            break;
    }
    return self->n;
    AIOLOOP_END;
}

static void aiol_predicate_dispose(void *frame) {
    aiol_list_remove(&((aiol_predicate *)frame)->link);
}

AIOLOOP_API aioloop_future *(aioloop_condition_wait_for)(aioloop_condition *condition, int64_t (*predicate)(void *arg),
                                                         void *arg) {
    int err = condition == NULL || predicate == NULL ? AIOLOOP_EINVAL : aiol_sync_check(condition->resource.loop);
    aioloop_task_recipe recipe;
    aiol_predicate first;
    aioloop_future *task;
    aioloop *loop;
    if (err < 0)
        return aiol_future_failed(err);
    loop = condition->resource.loop;
    if (!aioloop_lock_locked(condition->lock))
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EMISUSE, "waiting on a condition needs its lock"));
    memset(&first, 0, sizeof(first));
    first.condition = condition;
    first.ask = predicate;
    first.arg = arg;
    first.n = aiol_predicate_ask_first(loop, &first);
    if (first.n > 0)
        return aiol_future_of_number(loop, first.n);
    if (first.n == AIOLOOP_ECANCELED)
        return aiol_future_failed(AIOLOOP_ECANCELED);
    if (first.n < 0)
        return aiol_combine_failed(loop, (int)first.n);
    memset(&recipe, 0, sizeof(recipe));
    recipe.step = aiol_predicate_step;
    recipe.arg = &first;
    recipe.options.copy_size = sizeof(first);
    recipe.options.dispose = aiol_predicate_dispose;
    task = (aioloop_task_new)(loop, &recipe);
    if (!aiol_future_is_static(task))
        aiol_list_append(&condition->predicates, &((aiol_predicate *)((aiol_task *)(void *)task)->slot.arg)->link);
    return task;
}

AIOLOOP_API void aioloop_condition_free(aioloop_condition *condition) {
    aioloop *loop;
    aioloop_lock *lock;
    aiol_link line;
    aiol_link *link;
    aiol_waiter *w;
    bool own;
    if (condition == NULL || condition->resource.loop->freeing)
        return;
    loop = condition->resource.loop;
    lock = condition->lock;
    own = condition->own;
    while (!aiol_list_empty(&condition->predicates)) {
        aiol_predicate *p = AIOL_CONTAINER(condition->predicates.next, aiol_predicate, link);
        aiol_list_remove(&p->link);
        p->condition = NULL;
    }
    for (link = lock->permits.waiters.next; link != &lock->permits.waiters; link = link->next)
        if (aiol_waiter_of(link)->object == condition)
            aiol_waiter_of(link)->object = NULL;
    aiol_line_forget(&condition->granted);
    aiol_line_detach(&line, &condition->waiters);
    while (!own && (w = aiol_line_pop(&line)) != NULL)
        aiol_condition_reacquire(condition, w, AIOL_CONDITION_CANCELLED);
    aiol_condition_destroy(&condition->resource);
    if (own) {
        aioloop_lock_free(lock);
        aiol_line_end(&line, AIOLOOP_ECANCELED);
    } else {
        aiol_permits_serve(loop, &lock->permits);
    }
}

/* ---- Semaphore ---- */

struct aioloop_semaphore {
    aiol_resource resource;
    aiol_permits permits;
    int64_t bound;
    int refusal; /* of a release above the bound */
};

static void aiol_semaphore_destroy(aiol_resource *resource) {
    aioloop_semaphore *semaphore = AIOL_CONTAINER(resource, aioloop_semaphore, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, semaphore, sizeof(*semaphore));
}

static const aiol_resource_calls aiol_semaphore_resource = {"semaphore", aiol_combine_closed, aiol_semaphore_destroy,
                                                            aiol_combine_is_open};

static aioloop_semaphore *aiol_semaphore_make(aioloop *loop, int64_t value, int64_t bound, int refusal) {
    aioloop_semaphore *semaphore;
    if (loop != NULL && value < 0) {
        aiol_fail(loop, AIOLOOP_EINVAL, "a semaphore's value cannot be negative");
        return NULL;
    }
    semaphore = (aioloop_semaphore *)aiol_sync_new(loop, sizeof(*semaphore));
    if (semaphore == NULL)
        return NULL;
    aiol_permits_init(&semaphore->permits, value);
    semaphore->bound = bound;
    semaphore->refusal = refusal;
    aiol_resource_add(loop, &semaphore->resource, &aiol_semaphore_resource);
    return semaphore;
}

AIOLOOP_API aioloop_semaphore *aioloop_semaphore_new(aioloop *loop, int64_t value) {
    return aiol_semaphore_make(loop, value, INT64_MAX, AIOLOOP_EOVERFLOW);
}

AIOLOOP_API aioloop_semaphore *aioloop_bounded_semaphore_new(aioloop *loop, int64_t value) {
    return aiol_semaphore_make(loop, value, value, AIOLOOP_EINVAL);
}

AIOLOOP_API void aioloop_semaphore_free(aioloop_semaphore *semaphore) {
    aiol_link line;
    if (semaphore == NULL || semaphore->resource.loop->freeing)
        return;
    aiol_line_forget(&semaphore->permits.granted);
    aiol_line_detach(&line, &semaphore->permits.waiters);
    aiol_semaphore_destroy(&semaphore->resource);
    aiol_line_end(&line, AIOLOOP_ECANCELED);
}

AIOLOOP_API aioloop_future *(aioloop_semaphore_acquire)(aioloop_semaphore *semaphore) {
    if (semaphore == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    return aiol_permits_acquire(semaphore->resource.loop, &semaphore->permits);
}

AIOLOOP_API int aioloop_semaphore_acquire_nowait(aioloop_semaphore *semaphore) {
    if (semaphore == NULL)
        return AIOLOOP_EINVAL;
    return aiol_permits_acquire_nowait(semaphore->resource.loop, &semaphore->permits);
}

AIOLOOP_API int aioloop_semaphore_release(aioloop_semaphore *semaphore) {
    int err = semaphore == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(semaphore->resource.loop);
    if (err < 0)
        return err;
    if (semaphore->permits.value >= semaphore->bound)
        return aiol_fail(semaphore->resource.loop, semaphore->refusal, "the semaphore was released too often");
    aiol_permits_release(semaphore->resource.loop, &semaphore->permits);
    return 0;
}

AIOLOOP_API bool aioloop_semaphore_locked(const aioloop_semaphore *semaphore) {
    return semaphore != NULL && semaphore->permits.value == 0;
}

/* ---- Barrier ---- */

struct aioloop_barrier {
    aiol_resource resource;
    aiol_link waiters;
    int parties;
    int waiting;
    bool broken;
};

static void aiol_barrier_destroy(aiol_resource *resource) {
    aioloop_barrier *barrier = AIOL_CONTAINER(resource, aioloop_barrier, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, barrier, sizeof(*barrier));
}

static const aiol_resource_calls aiol_barrier_resource = {"barrier", aiol_combine_closed, aiol_barrier_destroy,
                                                          aiol_combine_is_open};

AIOLOOP_API aioloop_barrier *aioloop_barrier_new(aioloop *loop, int parties) {
    aioloop_barrier *barrier;
    if (loop != NULL && parties < 1) {
        aiol_fail(loop, AIOLOOP_EINVAL, "a barrier needs one party at least");
        return NULL;
    }
    barrier = (aioloop_barrier *)aiol_sync_new(loop, sizeof(*barrier));
    if (barrier == NULL)
        return NULL;
    aiol_list_init(&barrier->waiters);
    barrier->parties = parties;
    aiol_resource_add(loop, &barrier->resource, &aiol_barrier_resource);
    return barrier;
}

AIOLOOP_API void aioloop_barrier_free(aioloop_barrier *barrier) {
    aiol_link line;
    if (barrier == NULL || barrier->resource.loop->freeing)
        return;
    aiol_line_detach(&line, &barrier->waiters);
    aiol_barrier_destroy(&barrier->resource);
    aiol_line_end(&line, AIOLOOP_ECANCELED);
}

static bool aiol_barrier_cancel(aioloop_future *f, void *owner) {
    aioloop_barrier *barrier = (aioloop_barrier *)((aiol_waiter *)(void *)f)->object;
    if (barrier != NULL)
        barrier->waiting--;
    return aiol_waiter_leave(f, owner);
}

/* The last one has come. */
static void aiol_barrier_open(aioloop_barrier *barrier) {
    aiol_link line;
    aiol_waiter *w;
    int64_t number = 0;
    barrier->waiting = 0;
    aiol_line_detach(&line, &barrier->waiters);
    while ((w = aiol_line_pop(&line)) != NULL) {
        aiol_future_finish(&w->future, number++, NULL, NULL);
        aiol_future_release(&w->future);
    }
}

AIOLOOP_API aioloop_future *(aioloop_barrier_wait)(aioloop_barrier *barrier) {
    int err = barrier == NULL ? AIOLOOP_EINVAL : aiol_sync_check(barrier->resource.loop);
    aioloop *loop;
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    loop = barrier->resource.loop;
    if (barrier->broken)
        return aiol_combine_failed(loop, aiol_fail(loop, AIOLOOP_EBROKENBARRIER, NULL));
    w = aiol_line_join(loop, &barrier->waiters, barrier);
    if (w == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    w->future.end.cancel = aiol_barrier_cancel;
    if (++barrier->waiting == barrier->parties)
        aiol_barrier_open(barrier);
    return &w->future;
}

/* Those who wait fail; barrier may be gone afterwards. */
static int aiol_barrier_break(aioloop_barrier *barrier, bool broken) {
    aiol_link line;
    int err = barrier == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(barrier->resource.loop);
    if (err < 0)
        return err;
    barrier->broken = broken;
    if (barrier->resource.loop->closed)
        return 0;
    barrier->waiting = 0;
    aiol_line_detach(&line, &barrier->waiters);
    aiol_line_end(&line, AIOLOOP_EBROKENBARRIER);
    return 0;
}

AIOLOOP_API int aioloop_barrier_reset(aioloop_barrier *barrier) {
    return aiol_barrier_break(barrier, false);
}

AIOLOOP_API int aioloop_barrier_abort(aioloop_barrier *barrier) {
    return aiol_barrier_break(barrier, true);
}

AIOLOOP_API int aioloop_barrier_parties(const aioloop_barrier *barrier) {
    return barrier == NULL ? 0 : barrier->parties;
}

AIOLOOP_API int aioloop_barrier_n_waiting(const aioloop_barrier *barrier) {
    return barrier == NULL ? 0 : barrier->waiting;
}

AIOLOOP_API bool aioloop_barrier_broken(const aioloop_barrier *barrier) {
    return barrier != NULL && barrier->broken;
}

#endif
