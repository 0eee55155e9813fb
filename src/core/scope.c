/*
 * scope.c - time-outs and task groups.                          (asyncio: timeouts.py, taskgroups.py)
 */
#ifndef AIOL_CORE_SCOPE_C
#define AIOL_CORE_SCOPE_C

#include "core/combine.c"

/* ---- time-outs ---- */

/* What the timer writes to is a record of the library's, on a list of the task: a function that returns without
 * leaving its scope takes the user's struct with it, and the record goes when an outer scope is left, or with the
 * task. */
enum { AIOL_TIMEOUT_NEW, AIOL_TIMEOUT_ENTERED, AIOL_TIMEOUT_EXPIRED, AIOL_TIMEOUT_EXITED };

static void aiol_timeout_due(aioloop *loop, void *arg) {
    aiol_scope *scope = (aiol_scope *)arg;
    (void)loop;
    scope->due = true;
    scope->alone = (scope->task->flags & AIOL_TASK_MUST_CANCEL) == 0;
    aioloop_future_cancel(&scope->task->future, NULL);
}

/* Sets the timer of a scope. */
static int aiol_timeout_arm(aiol_scope *scope, aioloop_time when) {
    aioloop *loop = scope->task->future.loop;
    aioloop_timer_handle timer;
    memset(&timer, 0, sizeof(timer));
    if (when != AIOLOOP_FOREVER) {
        if (when <= aiol_loop_now(loop))
            timer.handle = (aioloop_call_soon)(loop, aiol_timeout_due, scope);
        else
            timer = (aioloop_call_at)(loop, when, aiol_timeout_due, scope);
        if (aioloop_handle_is_null(&timer.handle))
            return AIOLOOP_ENOMEM;
    }
    aioloop_timer_handle_cancel(&scope->timer);
    scope->timer = timer;
    return 0;
}

AIOLOOP_API int aioloop_timeout_enter_at(aioloop *loop, aioloop_timeout *timeout, aioloop_time when) {
    aiol_scope *scope;
    int err;
    if (timeout == NULL)
        return AIOLOOP_EINVAL;
    memset(timeout, 0, sizeof(*timeout));
    if (loop == NULL || when == AIOLOOP_NOT_A_TIME)
        return aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    if (aiol_thread.running != loop || loop->task == NULL)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a time-out outside of a task");
    scope = aiol_task_extra_of(loop->task) == NULL ? NULL : (aiol_scope *)aiol_alloc_zero(&loop->allocator, sizeof(*scope));
    if (scope == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    scope->task = loop->task;
    scope->cancelling = loop->task->cancelling;
    if (scope->cancelling != 0 && (loop->task->flags & AIOL_TASK_DEFERRED) != 0)
        scope->cancelling--; /* one is still to be told: it is told inside, and is not the time-out's */
    err = aiol_timeout_arm(scope, when);
    if (err < 0) {
        aiol_free(&loop->allocator, scope, sizeof(*scope));
        return err;
    }
    scope->outer = loop->task->extra->scopes;
    loop->task->extra->scopes = scope;
    timeout->loop = loop;
    timeout->scope = scope;
    timeout->when = when;
    timeout->state = AIOL_TIMEOUT_ENTERED;
    return 0;
}

AIOLOOP_API int aioloop_timeout_enter(aioloop *loop, aioloop_timeout *timeout, aioloop_time delay) {
    aioloop_time when = delay;
    if (loop != NULL && delay != AIOLOOP_NOT_A_TIME)
        when = aiol_time_add(aiol_loop_now(loop), delay);
    return aioloop_timeout_enter_at(loop, timeout, when);
}

/* The record of a scope that the current task has entered and not left; else NULL. */
static aiol_scope *aiol_timeout_scope(const aioloop_timeout *timeout) {
    const aiol_task *task = timeout->state == AIOL_TIMEOUT_ENTERED ? timeout->loop->task : NULL;
    aiol_scope *scope = task == NULL || task->extra == NULL ? NULL : task->extra->scopes;
    while (scope != NULL && scope != timeout->scope)
        scope = scope->outer;
    return scope;
}

AIOLOOP_API int64_t aioloop_timeout_exit(aioloop_timeout *timeout, int64_t outcome) {
    aiol_scope *scope = timeout == NULL ? NULL : aiol_timeout_scope(timeout);
    aiol_task *task;
    bool due;
    bool alone;
    int cancelling;
    if (timeout == NULL)
        return AIOLOOP_EINVAL;
    if (scope == NULL)
        return outcome;
    task = scope->task;
    due = scope->due;
    alone = scope->alone;
    cancelling = scope->cancelling;
    while (task->extra->scopes != scope)
        aiol_task_drop_scope(task); /* inner ones that were not left */
    aiol_scope_free(task);
    timeout->scope = NULL;
    timeout->state = due ? AIOL_TIMEOUT_EXPIRED : AIOL_TIMEOUT_EXITED;
    if (!due || aioloop_task_uncancel(&task->future) > cancelling)
        return outcome;
    if (outcome == AIOLOOP_ECANCELED)
        return aiol_fail(timeout->loop, AIOLOOP_ETIMEDOUT, NULL);
    if (alone && (task->flags & AIOL_TASK_MUST_HEAR) == 0)
        task->flags &= (uint16_t)~(AIOL_TASK_MUST_CANCEL | AIOL_TASK_DEFERRED); /* it was not told, and is not to be */
    return outcome;
}

AIOLOOP_API int aioloop_timeout_reschedule(aioloop_timeout *timeout, aioloop_time when) {
    aiol_scope *scope;
    int err;
    if (timeout == NULL || when == AIOLOOP_NOT_A_TIME)
        return AIOLOOP_EINVAL;
    scope = aiol_timeout_scope(timeout);
    if (scope == NULL || scope->due)
        return AIOLOOP_EMISUSE;
    err = aiol_timeout_arm(scope, when);
    if (err == 0)
        timeout->when = when;
    return err;
}

AIOLOOP_API aioloop_time aioloop_timeout_when(const aioloop_timeout *timeout) {
    return timeout == NULL ? AIOLOOP_FOREVER : timeout->when;
}

AIOLOOP_API bool aioloop_timeout_expired(const aioloop_timeout *timeout) {
    const aiol_scope *scope = timeout == NULL ? NULL : aiol_timeout_scope(timeout);
    return timeout != NULL && (timeout->state == AIOL_TIMEOUT_EXPIRED || (scope != NULL && scope->due));
}

/* ---- task groups ---- */

/* A task of a group, while it is pending. */
typedef struct aiol_member {
    aiol_link link;
    aioloop_task_group *group;
    aioloop_task *task;
} aiol_member;

struct aioloop_task_group {
    aiol_resource resource;
    aiol_task *parent; /* held */
    aiol_link members;
    aioloop_future *exit; /* made when it is entered: leaving needs no memory */
    bool exiting;         /* the body has ended */
    struct aioloop_error **errors;
    size_t error_count;
    size_t error_capacity;
    size_t lost_errors; /* that there was no memory for */
    int64_t outcome;
    bool aborting;
    bool parent_cancelled; /* by the group */
    bool cancelled;        /* the parent was, by somebody else */
};

static void aiol_group_destroy(aiol_resource *resource) {
    aioloop_task_group *g = AIOL_CONTAINER(resource, aioloop_task_group, resource);
    const aioloop_allocator *a = &resource->loop->allocator;
    size_t i;
    while (!aiol_list_empty(&g->members)) {
        aiol_member *m = AIOL_CONTAINER(g->members.next, aiol_member, link);
        aiol_list_remove(&m->link);
        aiol_free(a, m, sizeof(*m));
    }
    for (i = 0; i < g->error_count; i++)
        aiol_error_free(a, g->errors[i]);
    aiol_free(a, g->errors, g->error_capacity * sizeof(g->errors[0]));
    aiol_resource_remove(resource);
    aiol_free(a, g, sizeof(*g));
}

static bool aiol_group_is_open(const aiol_resource *resource) {
    (void)resource;
    return true;
}

static const aiol_resource_calls aiol_group_resource = {"task group", aiol_combine_closed, aiol_group_destroy,
                                                        aiol_group_is_open};

static void aiol_group_abort(aioloop_task_group *g) {
    aiol_link *link;
    g->aborting = true;
    for (link = g->members.next; link != &g->members; link = link->next) /* no member comes or goes meanwhile */
        aioloop_future_cancel(AIOL_CONTAINER(link, aiol_member, link)->task, NULL);
}

static void aiol_group_add_error(aioloop_task_group *g, int code, struct aioloop_error *error) {
    const aioloop_allocator *a = &g->resource.loop->allocator;
    if (error == NULL)
        error = aiol_error_new(a, code, NULL, 0);
    else
        aiol_error_ref(error);
    if (error == NULL || aiol_grow(a, &g->errors, &g->error_capacity, sizeof(g->errors[0]), g->error_count + 1) < 0) {
        aiol_error_free(a, error);
        g->lost_errors++;
        return;
    }
    g->errors[g->error_count++] = error;
}

/* The body's, with the message that is the loop's last. */
static void aiol_group_add_body_error(aioloop_task_group *g, int code) {
    aioloop *loop = g->resource.loop;
    struct aioloop_error *error = NULL;
    if (loop->error_of != NULL && loop->error_of->code == code)
        error = aiol_error_ref(loop->error_of);
    else
        error = aiol_error_new(&loop->allocator, code, aiol_detail(loop, code), 0);
    aiol_group_add_error(g, code, error);
    aiol_error_free(&loop->allocator, error);
}

/* All errors in one; NULL when there is no memory. */
static struct aioloop_error *aiol_group_error(aioloop_task_group *g) {
    char text[AIOL_ERROR_TEXT_SIZE];
    struct aioloop_error *error;
    size_t i;
    snprintf(text, sizeof(text), "%zu of the group's tasks failed%s%s", g->error_count + g->lost_errors,
             g->error_count != 0 ? ", first: " : "", g->error_count != 0 ? aioloop_error_message(g->errors[0]) : "");
    error = aiol_error_new(&g->resource.loop->allocator, AIOLOOP_ETASKGROUP, text, g->error_count);
    if (error == NULL)
        return NULL;
    for (i = 0; i < g->error_count; i++)
        error->list[error->count++] = aiol_error_ref(g->errors[i]);
    return error;
}

/* Ends the group, if its body and its tasks have ended. */
static void aiol_group_check_over(aioloop_task_group *g) {
    aioloop_future *f = g->exit;
    aiol_task *parent = g->parent;
    bool failed = g->error_count + g->lost_errors != 0;
    if (!g->exiting || !aiol_list_empty(&g->members))
        return;
    if (failed) {
        f->flags |= AIOL_FUTURE_OUTRANKS;
        aiol_future_fail_with(f, AIOLOOP_ETASKGROUP, aiol_group_error(g));
    } else if (g->cancelled) {
        aiol_future_end_cancelled(f, NULL);
    } else {
        aiol_future_finish(f, g->outcome, NULL, NULL);
    }
    if (failed && parent->cancelling != 0)
        parent->flags |= AIOL_TASK_MUST_CANCEL; /* it hears of the errors first */
    aiol_group_destroy(&g->resource);
    aiol_future_release(f);
    aiol_future_release(&parent->future);
}

static void aiol_group_task_done(aioloop_future *f, void *arg) {
    aiol_member *m = (aiol_member *)arg;
    aioloop_task_group *g = m->group;
    aiol_list_remove(&m->link);
    aiol_free(&g->resource.loop->allocator, m, sizeof(*m));
    if (f->state == AIOL_FUTURE_FAILED) {
        f->flags |= AIOL_FUTURE_LOOKED_AT;
        aiol_group_add_error(g, f->code, f->error);
        if (!g->aborting) {
            aiol_group_abort(g);
            if (!g->exiting && g->parent->future.state == AIOL_FUTURE_PENDING) {
                g->parent_cancelled = true;
                aioloop_future_cancel(&g->parent->future, NULL);
            }
        }
    }
    aiol_group_check_over(g);
}

/* The parent was cancelled while it waits for the end. */
static bool aiol_group_cancel(aioloop_future *f, void *owner) {
    aioloop_task_group *g = (aioloop_task_group *)owner;
    (void)f;
    g->cancelled = true;
    if (!g->aborting)
        aiol_group_abort(g);
    return false;
}

AIOLOOP_API aioloop_task_group *aioloop_task_group_enter(aioloop *loop) {
    aioloop_task_group *g;
    if (loop == NULL || aiol_thread.running != loop || loop->task == NULL) {
        aiol_fail(loop, AIOLOOP_EMISUSE, "a task group outside of a task");
        return NULL;
    }
    g = (aioloop_task_group *)aiol_alloc_zero(&loop->allocator, sizeof(*g));
    if (g == NULL) {
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    aiol_list_init(&g->members);
    g->exit = aiol_future_new(loop, aiol_group_cancel, g);
    if (g->exit == NULL) {
        aiol_free(&loop->allocator, g, sizeof(*g));
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    g->parent = loop->task;
    aiol_future_hold(&g->parent->future);
    aiol_resource_add(loop, &g->resource, &aiol_group_resource);
    return g;
}

static aioloop_task *aiol_group_create(aioloop_task_group *g, const aioloop_task_recipe *recipe) {
    aioloop *loop;
    aioloop_task *task;
    aiol_member *m;
    if (g == NULL) {
        aiol_recipe_dispose(recipe);
        return aiol_future_failed(AIOLOOP_EINVAL);
    }
    loop = g->resource.loop;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop)) {
        aiol_recipe_dispose(recipe);
        return aiol_future_failed(AIOLOOP_EMISUSE);
    }
    if (g->aborting || (g->exiting && aiol_list_empty(&g->members))) {
        aiol_recipe_dispose(recipe);
        return aiol_combine_failed(loop, aiol_fail(loop, AIOLOOP_EMISUSE, "the task group is ending"));
    }
    m = (aiol_member *)aiol_alloc_zero(&loop->allocator, sizeof(*m));
    if (m == NULL) {
        aiol_recipe_dispose(recipe);
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    task = aiol_create_task(loop, recipe);
    if ((task->flags & AIOL_FUTURE_STATIC) != 0) {
        aiol_free(&loop->allocator, m, sizeof(*m));
        return task;
    }
    m->group = g;
    m->task = task;
    aiol_list_append(&g->members, &m->link);
    if (aiol_future_callback(task, aiol_group_task_done, m, NULL, 0) < 0) {
        aiol_list_remove(&m->link);
        aiol_free(&loop->allocator, m, sizeof(*m));
        aioloop_future_cancel(task, NULL); /* it has not begun; an eager one ends by itself, outside of the group */
        aioloop_future_unref(task);
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    if (AIOL_UNLIKELY(g->aborting)) /* an eager one has cancelled the parent */
        aioloop_future_cancel(task, NULL);
    return task;
}

AIOLOOP_API aioloop_task *(aioloop_task_group_create_task)(aioloop_task_group *group, aioloop_coroutine fn, void *arg,
                                                           const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(fn, NULL, arg, options);
    return aiol_group_create(group, &recipe);
}

AIOLOOP_API aioloop_task *(aioloop_task_group_create_task_frame)(aioloop_task_group *group, aioloop_step fn,
                                                                 aioloop_frame *frame, const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(NULL, fn, frame, options);
    return aiol_group_create(group, &recipe);
}

AIOLOOP_API aioloop_future *(aioloop_task_group_exit)(aioloop_task_group *group, int64_t outcome) {
    aioloop *loop;
    aioloop_future *f;
    if (group == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = group->resource.loop;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    if (group->exiting || loop->task != group->parent)
        return aiol_combine_failed(loop, aiol_fail(loop, AIOLOOP_EMISUSE, "the task that entered a group leaves it, once"));
    f = group->exit;
    group->exiting = true;
    group->outcome = outcome < 0 ? 0 : outcome;
    group->cancelled = outcome == AIOLOOP_ECANCELED;
    if (group->parent_cancelled && aioloop_task_uncancel(&group->parent->future) == 0)
        group->cancelled = false;
    if (outcome < 0 && outcome != AIOLOOP_ECANCELED)
        aiol_group_add_body_error(group, (int)outcome);
    if (outcome < 0 && !group->aborting)
        aiol_group_abort(group);
    aiol_group_check_over(group);
    return f;
}

#endif
