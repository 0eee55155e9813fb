/*
 * test_scope.c - time-outs and task groups: scopes of a task.
 */
#include "awaits.h"

/* ---- what goes on in a scope ---- */

typedef struct scope_log {
    aioloop_time delay; /* of the scope */
    aioloop_time work;  /* how long what is inside takes */
    int64_t outcome;    /* of what is inside, if it is in time */
    aioloop_timeout limit;
    aioloop_timeout inner;
    aioloop_time inner_delay;
    aioloop_task_group *group;
    int64_t inside; /* what came to the wait */
    int cancelling;
    int steps;
    char message[256];
} scope_log;

static int64_t scope_sleep(aioloop *loop, aioloop_time delay) {
    return aioloop_await(aioloop_sleep(loop, delay), NULL);
}

static void scope_enter(aioloop *loop, aioloop_timeout *limit, aioloop_time delay) {
    int err = aioloop_timeout_enter(loop, limit, delay);
    CHECK_EQ(err, 0);
}

static int64_t scope_works(aioloop *loop, void *arg, void **out) {
    scope_log *log = (scope_log *)arg;
    int64_t n;
    (void)out;
    scope_enter(loop, &log->limit, log->delay);
    log->inside = scope_sleep(loop, log->work);
    n = aioloop_timeout_exit(&log->limit, log->inside < 0 ? log->inside : log->outcome);
    snprintf(log->message, sizeof(log->message), "%s", aioloop_error_message(aioloop_last_error(loop)));
    log->cancelling = aioloop_task_cancelling(aioloop_current_task(loop));
    log->steps++;
    CHECK_EQ(scope_sleep(loop, 0), 0); /* the cancellation is over */
    return n;
}

/* ---- time-outs ---- */

TEST(time_out_makes_its_own_cancellation_a_time_out, "TIME-07 TASK-10") {
    aioloop *loop = test_loop();
    scope_log log = AIOLOOP_ZERO;
    await_needs_stacks(loop);
    log.delay = AIOLOOP_US(500);
    log.work = AIOLOOP_SECONDS(100);
    CHECK_EQ(await_run(loop, scope_works, &log), AIOLOOP_ETIMEDOUT);
    CHECK_EQ(log.inside, AIOLOOP_ECANCELED);
    CHECK_EQ(log.cancelling, 0);
    CHECK(aioloop_timeout_expired(&log.limit));
    CHECK_STR(log.message, aioloop_strerror(AIOLOOP_ETIMEDOUT));
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    test_end(loop);
}

TEST(time_out_lets_other_outcomes_through, "TIME-07") {
    static const int64_t outcomes[] = {0, 7, AIOLOOP_EIO, AIOLOOP_ECANCELED, AIOLOOP_ETIMEDOUT};
    aioloop *loop = test_loop();
    size_t i;
    await_needs_stacks(loop);
    for (i = 0; i < 5; i++) {
        scope_log log = AIOLOOP_ZERO;
        log.delay = AIOLOOP_SECONDS(100);
        log.work = AIOLOOP_US(100);
        log.outcome = outcomes[i];
        CHECK_EQ(await_run(loop, scope_works, &log), outcomes[i]);
        CHECK(!aioloop_timeout_expired(&log.limit));
        CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    }
    test_end(loop);
}

TEST(time_out_of_no_time_cancels_the_next_wait, "TIME-07") {
    static const aioloop_time delays[] = {0, -1, INT64_MIN + 1};
    aioloop *loop = test_loop();
    size_t i;
    await_needs_stacks(loop);
    for (i = 0; i < 3; i++) {
        scope_log log = AIOLOOP_ZERO;
        log.delay = delays[i];
        log.work = AIOLOOP_SECONDS(100);
        CHECK_EQ(await_run(loop, scope_works, &log), AIOLOOP_ETIMEDOUT);
    }
    test_end(loop);
}

TEST(time_out_that_never_comes, "TIME-07") {
    static const aioloop_time delays[] = {AIOLOOP_FOREVER, INT64_MAX - 1};
    aioloop *loop = test_loop();
    size_t i;
    await_needs_stacks(loop);
    for (i = 0; i < 2; i++) {
        scope_log log = AIOLOOP_ZERO;
        log.delay = delays[i];
        log.outcome = 3;
        CHECK_EQ(await_run(loop, scope_works, &log), 3);
        CHECK(aioloop_timeout_when(&log.limit) == AIOLOOP_FOREVER); /* the sum saturates */
    }
    test_end(loop);
}

TEST(foreign_cancellation_goes_through_a_time_out, "TIME-07") {
    aioloop *loop = test_loop();
    scope_log log = AIOLOOP_ZERO;
    aioloop_task *t;
    await_needs_stacks(loop);
    log.delay = AIOLOOP_SECONDS(100);
    log.work = AIOLOOP_SECONDS(100);
    t = await_task(loop, scope_works, &log, NULL);
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(t, "foreign"));
    await_done(loop, t);
    CHECK(aioloop_future_cancelled(t));
    CHECK_STR(log.message, "foreign");
    CHECK(!aioloop_timeout_expired(&log.limit));
    CHECK_EQ(log.cancelling, 1);
    aioloop_future_unref(t);
    test_end(loop);
}

static void scope_cancels(aioloop *loop, void *arg) {
    (void)loop;
    CHECK(aioloop_future_cancel((aioloop_task *)arg, "foreign too"));
}

static int64_t scope_expires_and_is_cancelled(aioloop *loop, void *arg, void **out) {
    scope_log *log = (scope_log *)arg;
    aioloop_handle handle;
    int64_t n;
    (void)out;
    scope_enter(loop, &log->limit, 0);
    handle = aioloop_call_soon(loop, scope_cancels, aioloop_current_task(loop));
    CHECK(!aioloop_handle_is_null(&handle));
    n = scope_sleep(loop, AIOLOOP_SECONDS(100)); /* both in one iteration */
    CHECK_EQ(n, AIOLOOP_ECANCELED);
    CHECK_EQ(aioloop_task_cancelling(aioloop_current_task(loop)), 2);
    n = aioloop_timeout_exit(&log->limit, n);
    log->cancelling = aioloop_task_cancelling(aioloop_current_task(loop));
    return n;
}

TEST(foreign_cancellation_wins_over_a_time_out, "TIME-07 TASK-10") {
    aioloop *loop = test_loop();
    scope_log log = AIOLOOP_ZERO;
    await_needs_stacks(loop);
    CHECK_EQ(await_run(loop, scope_expires_and_is_cancelled, &log), AIOLOOP_ECANCELED);
    CHECK_EQ(log.cancelling, 1);
    test_end(loop);
}

static int64_t scope_moves(aioloop *loop, void *arg, void **out) {
    scope_log *log = (scope_log *)arg;
    aioloop_time now = aioloop_now(loop);
    int64_t n;
    (void)out;
    CHECK_EQ(aioloop_timeout_reschedule(NULL, 1), AIOLOOP_EINVAL);
    CHECK(aioloop_timeout_when(NULL) == AIOLOOP_FOREVER);
    CHECK(!aioloop_timeout_expired(NULL));
    CHECK_EQ(aioloop_timeout_exit(NULL, 3), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_timeout_reschedule(&log->limit, 1), AIOLOOP_EMISUSE); /* not entered */
    scope_enter(loop, &log->limit, AIOLOOP_SECONDS(100));
    CHECK(aioloop_timeout_when(&log->limit) >= now + AIOLOOP_SECONDS(100));
    CHECK_EQ(aioloop_timeout_reschedule(&log->limit, AIOLOOP_NOT_A_TIME), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_timeout_reschedule(&log->limit, AIOLOOP_FOREVER), 0); /* removed */
    CHECK(aioloop_timeout_when(&log->limit) == AIOLOOP_FOREVER);
    CHECK_EQ(scope_sleep(loop, 0), 0);
    now = aioloop_now(loop) + AIOLOOP_MS(1);
    CHECK_EQ(aioloop_timeout_reschedule(&log->limit, now), 0);
    CHECK(aioloop_timeout_when(&log->limit) == now);
    CHECK(!aioloop_timeout_expired(&log->limit));
    n = scope_sleep(loop, AIOLOOP_SECONDS(100));
    CHECK_EQ(n, AIOLOOP_ECANCELED);
    CHECK(aioloop_timeout_expired(&log->limit)); /* asked while still inside */
    CHECK_EQ(aioloop_timeout_reschedule(&log->limit, AIOLOOP_FOREVER), AIOLOOP_EMISUSE);
    n = aioloop_timeout_exit(&log->limit, n);
    CHECK_EQ(n, AIOLOOP_ETIMEDOUT);
    CHECK_EQ(aioloop_timeout_reschedule(&log->limit, AIOLOOP_FOREVER), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_timeout_exit(&log->limit, 9), 9); /* left already */
    scope_enter(loop, &log->limit, AIOLOOP_FOREVER);
    CHECK_EQ(aioloop_timeout_reschedule(&log->limit, INT64_MIN + 1), 0); /* into the past */
    n = scope_sleep(loop, AIOLOOP_SECONDS(100));
    CHECK_EQ(aioloop_timeout_exit(&log->limit, n), AIOLOOP_ETIMEDOUT);
    CHECK_EQ(aioloop_timeout_enter_at(loop, &log->limit, aioloop_now(loop) - 5), 0);
    n = scope_sleep(loop, AIOLOOP_SECONDS(100));
    CHECK_EQ(aioloop_timeout_exit(&log->limit, n), AIOLOOP_ETIMEDOUT);
    scope_enter(loop, &log->limit, 0); /* left before it could */
    CHECK_EQ(aioloop_timeout_exit(&log->limit, 4), 4);
    CHECK_EQ(scope_sleep(loop, 0), 0);
    CHECK_EQ(aioloop_timeout_reschedule(&log->limit, 1), AIOLOOP_EMISUSE);
    return 1;
}

TEST(deadline_can_be_moved_inside, "TIME-08") {
    aioloop *loop = test_loop();
    scope_log log = AIOLOOP_ZERO;
    await_needs_stacks(loop);
    CHECK_EQ(await_run(loop, scope_moves, &log), 1);
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    test_end(loop);
}

TEST(time_out_outside_of_a_task_is_misuse, "TIME-08") {
    aioloop *loop = test_loop();
    aioloop_timeout limit;
    CHECK_EQ(aioloop_timeout_enter(loop, &limit, 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_timeout_exit(&limit, AIOLOOP_ECANCELED), AIOLOOP_ECANCELED);
    CHECK_EQ(aioloop_timeout_enter(loop, &limit, AIOLOOP_NOT_A_TIME), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_timeout_enter(NULL, &limit, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_timeout_enter(loop, NULL, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_timeout_enter_at(loop, &limit, 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_timeout_reschedule(&limit, 1), AIOLOOP_EMISUSE);
    CHECK(!aioloop_timeout_expired(&limit));
    test_end(loop);
}

static int64_t scope_nests(aioloop *loop, void *arg, void **out) {
    scope_log *log = (scope_log *)arg;
    int64_t n;
    (void)out;
    scope_enter(loop, &log->limit, log->delay);
    scope_enter(loop, &log->inner, log->inner_delay);
    n = scope_sleep(loop, AIOLOOP_SECONDS(100));
    log->inside = aioloop_timeout_exit(&log->inner, n);
    if (log->inside == AIOLOOP_ETIMEDOUT)
        log->steps++; /* dealt with */
    n = aioloop_timeout_exit(&log->limit, log->inside == AIOLOOP_ETIMEDOUT ? 5 : log->inside);
    log->cancelling = aioloop_task_cancelling(aioloop_current_task(loop));
    return n;
}

TEST(of_nested_time_outs_the_outermost_that_expires_tells, "TIME-09") {
    aioloop *loop = test_loop();
    scope_log log = AIOLOOP_ZERO;
    await_needs_stacks(loop);
    CHECK_EQ(await_run(loop, scope_nests, &log), AIOLOOP_ETIMEDOUT); /* both together */
    CHECK_EQ(log.inside, AIOLOOP_ECANCELED);
    CHECK(aioloop_timeout_expired(&log.limit));
    CHECK(aioloop_timeout_expired(&log.inner));
    CHECK_EQ(log.cancelling, 0);
    log.inner_delay = AIOLOOP_SECONDS(50); /* the outer one alone */
    CHECK_EQ(await_run(loop, scope_nests, &log), AIOLOOP_ETIMEDOUT);
    CHECK_EQ(log.inside, AIOLOOP_ECANCELED);
    CHECK(!aioloop_timeout_expired(&log.inner));
    log.delay = AIOLOOP_SECONDS(50); /* the inner one alone */
    log.inner_delay = AIOLOOP_US(100);
    CHECK_EQ(await_run(loop, scope_nests, &log), 5);
    CHECK_EQ(log.inside, AIOLOOP_ETIMEDOUT);
    CHECK(!aioloop_timeout_expired(&log.limit));
    CHECK_EQ(log.cancelling, 0);
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    test_end(loop);
}

typedef struct scope_frame {
    aioloop_frame frame;
    aioloop_timeout limit;
    int64_t n;
    int entered;
} scope_frame;

static int64_t scope_of_a_frame(aioloop *loop, aioloop_frame *frame, void **out) {
    scope_frame *self = (scope_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    self->entered = aioloop_timeout_enter(loop, &self->limit, AIOLOOP_US(200));
    AIOLOOP_SLEEP(self->n, AIOLOOP_SECONDS(100));
    self->n = aioloop_timeout_exit(&self->limit, self->n);
    return self->n;
    AIOLOOP_END;
}

TEST(time_out_of_a_frame, "TIME-07") {
    aioloop *loop = test_loop();
    scope_frame f = AIOLOOP_ZERO;
    aioloop_task *t = await_task_frame(loop, scope_of_a_frame, &f.frame, NULL);
    await_done(loop, t);
    CHECK_EQ(f.entered, 0);
    CHECK_EQ(aioloop_future_result(t, NULL), AIOLOOP_ETIMEDOUT);
    aioloop_future_unref(t);
    test_end(loop);
}

/* ---- task groups ---- */

typedef struct scope_child {
    scope_log *log;
    aioloop_time delay;
    int64_t outcome;
    int64_t answer; /* to a cancellation; 0: it is passed on */
    int64_t n;
    int ended;
    bool adds; /* another child */
    struct scope_child *next;
} scope_child;

static int64_t scope_child_works(aioloop *loop, void *arg, void **out) {
    scope_child *c = (scope_child *)arg;
    (void)out;
    c->n = scope_sleep(loop, c->delay);
    if (c->n == 0 && c->adds)
        aioloop_future_unref(aioloop_task_group_create_task(c->log->group, scope_child_works, c->next, NULL));
    c->ended = 1;
    if (c->n == AIOLOOP_ECANCELED)
        return c->answer < 0 ? aioloop_raise(loop, (int)c->answer, "answered") : c->n;
    if (c->n < 0)
        return c->n;
    if (c->outcome < 0)
        return aioloop_raise(loop, (int)c->outcome, "child %s", aioloop_error_name((int)c->outcome));
    return c->outcome;
}

static aioloop_task_group *scope_group(aioloop *loop) {
    aioloop_task_group *group = aioloop_task_group_enter(loop);
    if (group == NULL)
        FAIL("no group: %s", aioloop_error_message(aioloop_last_error(loop)));
    return group;
}

static aioloop_task *scope_spawn(aioloop *loop, aioloop_task_group *group, scope_child *c) {
    aioloop_task *t = aioloop_task_group_create_task(group, scope_child_works, c, NULL);
    CHECK_PTR(aioloop_future_get_loop(t), loop);
    return t;
}

typedef struct scope_family {
    scope_log log;
    scope_child children[4];
    int count;
    aioloop_time body; /* the parent sleeps in the body for so long */
    int64_t body_outcome;
    int64_t in_body;
    int64_t result;
    int64_t after; /* the wait behind the group */
    int cancelling;
    int code;
    size_t errors;
    int codes[4];
    char messages[4][64];
    char message[256];
    int over;
} scope_family;

static int64_t scope_parent(aioloop *loop, void *arg, void **out) {
    scope_family *f = (scope_family *)arg;
    const aioloop_error *error;
    size_t i;
    int k;
    (void)out;
    f->log.group = scope_group(loop);
    for (k = 0; k < f->count; k++)
        aioloop_future_unref(scope_spawn(loop, f->log.group, &f->children[k]));
    f->in_body = f->body == 0 ? f->body_outcome : scope_sleep(loop, f->body);
    if (f->in_body == 0)
        f->in_body = f->body_outcome;
    if (f->body_outcome < 0 && f->in_body == f->body_outcome)
        (void)aioloop_raise(loop, (int)f->body_outcome, "the body");
    f->result = aioloop_await(aioloop_task_group_exit(f->log.group, f->in_body), NULL);
    f->log.group = NULL;
    error = aioloop_last_error(loop);
    if (f->result < 0) {
        f->code = aioloop_error_code(error);
        f->errors = aioloop_error_count(error);
        snprintf(f->message, sizeof(f->message), "%s", aioloop_error_message(error));
        for (i = 0; i < f->errors && i < 4; i++) {
            f->codes[i] = aioloop_error_code(aioloop_error_at(error, i));
            snprintf(f->messages[i], sizeof(f->messages[i]), "%s", aioloop_error_message(aioloop_error_at(error, i)));
        }
    }
    f->cancelling = aioloop_task_cancelling(aioloop_current_task(loop));
    f->after = scope_sleep(loop, 0);
    f->over = 1;
    return f->after == AIOLOOP_ECANCELED ? f->after : f->result;
}

static void scope_family_begin(aioloop *loop, scope_family *f) {
    int i;
    await_needs_stacks(loop);
    memset(f, 0, sizeof(*f));
    for (i = 0; i < 4; i++) {
        f->children[i].log = &f->log;
        f->children[i].delay = AIOLOOP_SECONDS(100);
    }
}

TEST(group_waits_for_all_its_tasks, "TG-01") {
    aioloop *loop = test_loop();
    scope_family f;
    scope_family_begin(loop, &f);
    f.count = 2;
    f.children[0].delay = AIOLOOP_US(100);
    f.children[1].delay = AIOLOOP_US(200);
    f.children[1].adds = true; /* one more meanwhile, */
    f.children[1].next = &f.children[2];
    f.children[2].delay = AIOLOOP_US(300);
    f.children[2].adds = true; /* which adds another */
    f.children[2].next = &f.children[3];
    f.children[3].delay = 0;
    f.body_outcome = 6;
    CHECK_EQ(await_run(loop, scope_parent, &f), 6);
    CHECK_EQ(f.children[0].ended + f.children[1].ended + f.children[2].ended + f.children[3].ended, 4);
    CHECK_EQ(f.cancelling, 0);
    scope_family_begin(loop, &f); /* and one with no task at all */
    f.body_outcome = 2;
    CHECK_EQ(await_run(loop, scope_parent, &f), 2);
    test_end(loop);
}

TEST(first_failure_cancels_the_group_and_all_errors_are_told, "TG-02") {
    aioloop *loop = test_loop();
    scope_family f;
    scope_family_begin(loop, &f);
    f.count = 4;
    f.children[1].delay = AIOLOOP_US(100);
    f.children[1].outcome = AIOLOOP_EIO;
    f.children[2].answer = AIOLOOP_EPIPE; /* fails as it is cancelled */
    f.body = AIOLOOP_SECONDS(100);        /* the parent is in the body */
    CHECK_EQ(await_run(loop, scope_parent, &f), AIOLOOP_ETASKGROUP);
    CHECK_EQ(f.in_body, AIOLOOP_ECANCELED);
    CHECK_EQ(f.children[0].n, AIOLOOP_ECANCELED);
    CHECK_EQ(f.children[3].n, AIOLOOP_ECANCELED);
    CHECK_EQ(f.code, AIOLOOP_ETASKGROUP);
    CHECK_EQ(f.errors, 2);
    CHECK_EQ(f.codes[0], AIOLOOP_EIO);
    CHECK_STR(f.messages[0], "child EIO");
    CHECK_EQ(f.codes[1], AIOLOOP_EPIPE);
    CHECK_STR(f.messages[1], "answered");
    CHECK(strstr(f.message, "child EIO") != NULL);
    CHECK_EQ(f.cancelling, 0); /* the group took its own cancel back */
    CHECK_EQ(f.after, 0);
    test_end(loop);
}

TEST(failure_while_the_parent_leaves_cancels_the_rest, "TG-02") {
    aioloop *loop = test_loop();
    scope_family f;
    scope_family_begin(loop, &f);
    f.count = 3;
    f.children[1].delay = AIOLOOP_US(100);
    f.children[1].outcome = AIOLOOP_EIO;
    CHECK_EQ(await_run(loop, scope_parent, &f), AIOLOOP_ETASKGROUP);
    CHECK_EQ(f.errors, 1);
    CHECK_EQ(f.children[2].n, AIOLOOP_ECANCELED);
    CHECK_EQ(f.cancelling, 0);
    CHECK_EQ(f.after, 0);
    test_end(loop);
}

TEST(error_of_the_body_cancels_the_group, "TG-02") {
    aioloop *loop = test_loop();
    scope_family f;
    scope_family_begin(loop, &f);
    f.count = 2;
    f.body = AIOLOOP_US(100);
    f.body_outcome = AIOLOOP_EPERM;
    f.children[1].answer = AIOLOOP_EIO;
    CHECK_EQ(await_run(loop, scope_parent, &f), AIOLOOP_ETASKGROUP);
    CHECK_EQ(f.children[0].n, AIOLOOP_ECANCELED);
    CHECK_EQ(f.errors, 2);
    CHECK_EQ(f.codes[0], AIOLOOP_EPERM);
    CHECK_STR(f.messages[0], "the body");
    CHECK_EQ(f.codes[1], AIOLOOP_EIO);
    scope_family_begin(loop, &f); /* with no task */
    f.body_outcome = AIOLOOP_EPERM;
    CHECK_EQ(await_run(loop, scope_parent, &f), AIOLOOP_ETASKGROUP);
    CHECK_EQ(f.errors, 1);
    test_end(loop);
}

TEST(cancelled_parent_cancels_the_group, "TG-03") {
    int where;
    for (where = 0; where < 2; where++) {
        aioloop *loop = test_loop();
        scope_family f;
        aioloop_task *t;
        scope_family_begin(loop, &f);
        f.count = 2;
        f.body = where == 0 ? AIOLOOP_SECONDS(100) : 0; /* in the body, or while it leaves */
        t = await_task(loop, scope_parent, &f, NULL);
        test_spin(loop, 3);
        CHECK(aioloop_future_cancel(t, "parent"));
        await_done(loop, t);
        CHECK_EQ(f.result, AIOLOOP_ECANCELED);
        CHECK_EQ(f.children[0].n, AIOLOOP_ECANCELED);
        CHECK_EQ(f.children[1].n, AIOLOOP_ECANCELED);
        CHECK_EQ(f.cancelling, 1);
        CHECK_EQ(f.after, 0); /* told once */
        aioloop_future_unref(t);
        test_end(loop);
    }
}

TEST(errors_win_over_the_cancellation_of_the_parent, "TG-03") {
    int where;
    for (where = 0; where < 2; where++) {
        aioloop *loop = test_loop();
        scope_family f;
        aioloop_task *t;
        scope_family_begin(loop, &f);
        f.count = 2;
        f.body = where == 0 ? AIOLOOP_SECONDS(100) : 0;
        f.children[1].answer = AIOLOOP_EIO;
        t = await_task(loop, scope_parent, &f, NULL);
        test_spin(loop, 3);
        CHECK(aioloop_future_cancel(t, "a message that goes nowhere"));
        CHECK(aioloop_future_cancel(t, "and another"));
        await_done(loop, t);
        CHECK_EQ(f.result, AIOLOOP_ETASKGROUP);
        CHECK_EQ(f.errors, 1);
        CHECK_EQ(f.codes[0], AIOLOOP_EIO);
        CHECK_EQ(f.cancelling, 2);
        CHECK_EQ(f.after, AIOLOOP_ECANCELED); /* it hears of the cancellation next */
        CHECK(aioloop_future_cancelled(t));
        aioloop_future_unref(t);
        test_end(loop);
    }
}

TEST(cancelled_task_is_no_failure_of_its_group, "TG-04") {
    aioloop *loop = test_loop();
    scope_family f;
    aioloop_task *t;
    aioloop_task *all[4];
    size_t count;
    size_t i;
    scope_family_begin(loop, &f);
    f.count = 2;
    f.children[0].delay = 0;
    f.body_outcome = 3;
    t = await_task(loop, scope_parent, &f, NULL);
    test_spin(loop, 2);
    count = aioloop_all_tasks(loop, all, 4);
    CHECK_EQ(count, 3);
    CHECK_PTR(all[0], t);
    CHECK(aioloop_future_cancel(all[2], NULL)); /* the second child, by somebody */
    for (i = 0; i < count; i++)
        aioloop_future_unref(all[i]);
    await_done(loop, t);
    CHECK_EQ(f.result, 3);
    CHECK_EQ(f.children[0].n, 0);
    CHECK_EQ(f.children[1].n, AIOLOOP_ECANCELED);
    aioloop_future_unref(t);
    test_end(loop);
}

static void scope_dispose(void *arg) {
    ((scope_child *)arg)->ended += 10;
}

static int64_t scope_adds_late(aioloop *loop, void *arg, void **out) {
    scope_family *f = (scope_family *)arg;
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_task_group *group = scope_group(loop);
    aioloop_future *t;
    int64_t n;
    (void)out;
    options.dispose = scope_dispose;
    f->children[0].delay = 0;
    f->children[0].outcome = AIOLOOP_EIO;
    aioloop_future_unref(scope_spawn(loop, group, &f->children[0]));
    n = scope_sleep(loop, AIOLOOP_SECONDS(100));
    CHECK_EQ(n, AIOLOOP_ECANCELED);
    t = aioloop_task_group_create_task(group, scope_child_works, &f->children[1], &options); /* while aborting */
    CHECK_EQ(aioloop_future_exception(t), AIOLOOP_EMISUSE);
    aioloop_future_unref(t);
    CHECK_EQ(f->children[1].ended, 10);
    n = aioloop_await(aioloop_task_group_exit(group, n), NULL);
    CHECK_EQ(n, AIOLOOP_ETASKGROUP);
    return 4;
}

static int64_t scope_leaves_anothers(aioloop *loop, void *arg, void **out) {
    scope_log *log = (scope_log *)arg;
    aioloop_future *f = aioloop_task_group_exit(log->group, 0);
    (void)out;
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EMISUSE);
    aioloop_future_unref(f);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EMISUSE);
    return 0;
}

static int64_t scope_misuses(aioloop *loop, void *arg, void **out) {
    scope_log *log = (scope_log *)arg;
    aioloop_future *exit;
    aioloop_future *again;
    aioloop_task *t;
    int64_t n;
    (void)out;
    log->group = scope_group(loop);
    t = await_task(loop, scope_leaves_anothers, log, NULL);
    n = aioloop_await(t, NULL);
    CHECK_EQ(n, 0);
    aioloop_future_unref(t);
    t = aioloop_task_group_create_task(log->group, NULL, log, NULL);
    CHECK_EQ(aioloop_future_exception(t), AIOLOOP_EINVAL);
    t = aioloop_task_group_create_task(log->group, scope_leaves_anothers, log, NULL);
    CHECK_PTR(aioloop_future_get_loop(t), loop);
    aioloop_future_unref(t);
    exit = aioloop_task_group_exit(log->group, 0);
    again = aioloop_task_group_exit(log->group, 0); /* it waits for the task: still there */
    CHECK_EQ(aioloop_future_exception(again), AIOLOOP_EMISUSE);
    aioloop_future_unref(again);
    n = aioloop_await(exit, NULL);
    return n;
}

TEST(group_at_the_wrong_time_is_misuse, "TG-05") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    scope_family f;
    aioloop_task *t;
    scope_family_begin(loop, &f);
    CHECK(aioloop_task_group_enter(loop) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EMISUSE);
    CHECK(aioloop_task_group_enter(NULL) == NULL);
    options.dispose = scope_dispose;
    t = aioloop_task_group_create_task(NULL, scope_child_works, &f.children[2], &options);
    CHECK_EQ(aioloop_future_exception(t), AIOLOOP_EINVAL);
    CHECK_EQ(f.children[2].ended, 10);
    CHECK_EQ(aioloop_future_exception(aioloop_task_group_create_task_frame(NULL, NULL, NULL, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_task_group_exit(NULL, 0)), AIOLOOP_EINVAL);
    CHECK_EQ(await_run(loop, scope_adds_late, &f), 4);
    CHECK_EQ(await_run(loop, scope_misuses, &f.log), 0);
    test_end(loop);
}

static int64_t scope_eager_children(aioloop *loop, void *arg, void **out) {
    scope_family *f = (scope_family *)arg;
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_task_group *group = scope_group(loop);
    aioloop_task *t;
    int k;
    (void)out;
    options.eager = true;
    for (k = 0; k < 2; k++) {
        t = aioloop_task_group_create_task(group, scope_child_works, &f->children[k], &options);
        CHECK_PTR(aioloop_future_get_loop(t), loop);
        aioloop_future_unref(t);
    }
    f->result = aioloop_await(aioloop_task_group_exit(group, 1), NULL);
    f->after = scope_sleep(loop, 0);
    return f->result;
}

static int64_t scope_fails_at_once(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    return aioloop_raise(loop, AIOLOOP_EIO, "at once");
}

static int64_t scope_eager_failure(aioloop *loop, void *arg, void **out) {
    scope_family *f = (scope_family *)arg;
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_task_group *group = scope_group(loop);
    aioloop_task *t;
    (void)out;
    options.eager = true;
    t = aioloop_task_group_create_task(group, scope_fails_at_once, NULL, &options);
    CHECK_EQ(aioloop_future_exception(t), AIOLOOP_EIO);
    aioloop_future_unref(t);
    f->result = aioloop_await(aioloop_task_group_exit(group, 1), NULL);
    f->after = scope_sleep(loop, 0);
    return f->result;
}

TEST(eager_tasks_of_a_group, "TG-01 TG-02 CRE-08") {
    aioloop *loop = test_loop();
    scope_family f;
    scope_family_begin(loop, &f);
    f.children[0].delay = 0;
    f.children[1].delay = AIOLOOP_US(100);
    CHECK_EQ(await_run(loop, scope_eager_children, &f), 1);
    CHECK_EQ(f.children[0].ended + f.children[1].ended, 2);
    CHECK_EQ(await_run(loop, scope_eager_failure, &f), AIOLOOP_ETASKGROUP);
    CHECK_EQ(f.after, 0);
    test_end(loop);
}

static int64_t scope_inner_group(aioloop *loop, void *arg, void **out) {
    scope_family *f = (scope_family *)arg;
    int64_t n = scope_parent(loop, &f[1], out);
    return n;
}

static int64_t scope_outer_group(aioloop *loop, void *arg, void **out) {
    scope_family *f = (scope_family *)arg;
    aioloop_task_group *group = scope_group(loop);
    const aioloop_error *error;
    aioloop_task *t = aioloop_task_group_create_task(group, scope_inner_group, f, NULL);
    (void)out;
    CHECK_PTR(aioloop_future_get_loop(t), loop);
    aioloop_future_unref(t);
    aioloop_future_unref(scope_spawn(loop, group, &f->children[0]));
    /* through a task, wait_for and shield, a gather, and a second group */
    f->result =
        aioloop_await(aioloop_shield(aioloop_wait_for(aioloop_task_group_exit(group, 0), AIOLOOP_SECONDS(100))), NULL);
    error = aioloop_last_error(loop);
    CHECK_EQ(aioloop_error_count(error), 1);
    error = aioloop_error_at(error, 0);
    CHECK_EQ(aioloop_error_code(error), AIOLOOP_ETASKGROUP);
    CHECK_EQ(aioloop_error_count(error), 1);
    f->code = aioloop_error_code(aioloop_error_at(error, 0));
    snprintf(f->message, sizeof(f->message), "%s", aioloop_error_message(aioloop_error_at(error, 0)));
    return f->result;
}

static int64_t scope_gathers_outer(aioloop *loop, void *arg, void **out) {
    aioloop_future *f = aioloop_create_task(loop, scope_outer_group, arg, NULL);
    int64_t n;
    (void)out;
    f = aioloop_gather(loop, &f, 1, false);
    n = aioloop_await(f, NULL);
    CHECK_EQ(scope_sleep(loop, 0), 0); /* the list is kept over a wait */
    return n;
}

TEST(lists_of_errors_survive_being_passed_up, "TG-02") {
    aioloop *loop = test_loop();
    scope_family f[2];
    scope_family_begin(loop, &f[0]);
    scope_family_begin(loop, &f[1]);
    f[1].count = 1;
    f[1].children[0].delay = AIOLOOP_US(100);
    f[1].children[0].outcome = AIOLOOP_EPROTOTYPE;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, scope_gathers_outer, f, NULL), NULL),
             AIOLOOP_ETASKGROUP);
    CHECK_EQ(f[0].code, AIOLOOP_EPROTOTYPE);
    CHECK_STR(f[0].message, "child EPROTOTYPE");
    CHECK_EQ(aioloop_error_count(aioloop_last_error(loop)), 1);
    CHECK_EQ(aioloop_error_count(aioloop_error_at(aioloop_last_error(loop), 0)), 1);
    CHECK_STR(aioloop_error_message(aioloop_error_at(aioloop_error_at(aioloop_last_error(loop), 0), 0)),
              "child EPROTOTYPE");
    test_end(loop);
}

static int64_t scope_timed_group(aioloop *loop, void *arg, void **out) {
    scope_family *f = (scope_family *)arg;
    int64_t n;
    scope_enter(loop, &f->log.limit, AIOLOOP_US(300));
    n = scope_parent(loop, f, out);
    return aioloop_timeout_exit(&f->log.limit, n);
}

TEST(group_inside_a_time_out, "TIME-07 TG-03") {
    aioloop *loop = test_loop();
    scope_family f;
    scope_family_begin(loop, &f);
    f.count = 2;
    CHECK_EQ(await_run(loop, scope_timed_group, &f), AIOLOOP_ETIMEDOUT);
    CHECK_EQ(f.result, AIOLOOP_ECANCELED);
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 0);
    test_end(loop);
}

static int64_t scope_frame_child(aioloop *loop, aioloop_frame *frame, void **out) {
    scope_frame *self = (scope_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_SLEEP(self->n, AIOLOOP_US(100));
    self->entered++;
    return self->n;
    AIOLOOP_END;
}

typedef struct scope_frame_parent {
    aioloop_frame frame;
    aioloop_task_group *group;
    scope_frame children[3];
    int64_t n;
    int i;
} scope_frame_parent;

static int64_t scope_group_of_frames(aioloop *loop, aioloop_frame *frame, void **out) {
    scope_frame_parent *self = (scope_frame_parent *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    self->group = scope_group(loop);
    for (self->i = 0; self->i < 3; self->i++)
        aioloop_future_unref(
            aioloop_task_group_create_task_frame(self->group, scope_frame_child, &self->children[self->i].frame, NULL));
    AIOLOOP_AWAIT(self->n, aioloop_task_group_exit(self->group, 8), NULL);
    return self->n;
    AIOLOOP_END;
}

TEST(group_of_frames, "TG-01") {
    aioloop *loop = test_loop();
    scope_frame_parent p = AIOLOOP_ZERO;
    aioloop_task *t = await_task_frame(loop, scope_group_of_frames, &p.frame, NULL);
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), 8);
    CHECK_EQ(p.children[0].entered + p.children[1].entered + p.children[2].entered, 3);
    aioloop_future_unref(t);
    test_end(loop);
}

TEST(group_that_is_open_goes_with_the_loop, "ERR-08") {
    aioloop *loop = test_loop();
    scope_family f;
    scope_family_begin(loop, &f);
    f.count = 2;
    aioloop_future_unref(aioloop_create_task(loop, scope_parent, &f, NULL));
    test_spin(loop, 3);
    test_end(loop);
    CHECK_EQ(test_reports(), 3);
    test_reports_clear();
}

/* ---- scopes that are not left ---- */

static int64_t scope_forgets(aioloop *loop) {
    aioloop_timeout limit;
    CHECK_EQ(aioloop_timeout_enter(loop, &limit, AIOLOOP_US(200)), 0);
    return 0;
}

/* The forgotten one cancels what it does not concern, but writes to no stack; the outer one lets go of it. */
static int64_t scope_outer(aioloop *loop, void *arg, void **out) {
    aioloop_timeout limit;
    int64_t n;
    (void)out;
    CHECK_EQ(aioloop_timeout_enter(loop, &limit, AIOLOOP_SECONDS(100)), 0);
    scope_forgets(loop);
    n = arg != NULL ? aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(5)), NULL) : 0;
    CHECK_EQ(n, arg != NULL ? AIOLOOP_ECANCELED : 0);
    n = aioloop_timeout_exit(&limit, 0);
    CHECK_EQ(aioloop_task_cancelling(aioloop_current_task(loop)), 0);
    CHECK_EQ(aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(1)), NULL), 0);
    return n;
}

static int64_t scope_ends_inside(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    return scope_forgets(loop);
}

TEST(scope_that_was_not_left_goes_with_an_outer_one_or_the_task, "TIME-08") {
    aioloop *loop = test_loop();
    int due = 1;
    await_needs_stacks(loop);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, scope_outer, NULL, NULL), NULL), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, scope_outer, &due, NULL), NULL), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, scope_ends_inside, NULL, NULL), NULL), 0);
    test_run_for(loop, AIOLOOP_MS(1));
    if (aioloop_set_debug(loop, true) == 0) {
        CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, scope_ends_inside, NULL, NULL), NULL), 0);
        CHECK(strstr(test_log_text(), "has not left a time-out scope") != NULL);
        test_log_clear();
    }
    test_end(loop);
}

/* ---- what debug mode does not report ---- */

static int64_t scope_sleeps(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    return aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(100)), NULL);
}

static int64_t scope_cleans_up_badly(aioloop *loop, void *arg, void **out) {
    int64_t n = scope_sleeps(loop, arg, out);
    return n == AIOLOOP_ECANCELED ? aioloop_raise(loop, AIOLOOP_EIO, "cannot clean up") : n;
}

TEST(cancellation_that_ends_in_an_error_is_not_swallowed, "TASK-09") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_task *task;
    await_needs_stacks(loop);
    if (aioloop_set_debug(loop, true) < 0)
        SKIP("built without debug mode");
    options.timeout = AIOLOOP_MS(1);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, scope_sleeps, NULL, &options), NULL),
             AIOLOOP_ETIMEDOUT);
    task = aioloop_future_ref(aioloop_create_task(loop, scope_cleans_up_badly, NULL, NULL));
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(task, NULL));
    CHECK_EQ(aioloop_run_until_complete(loop, task, NULL), AIOLOOP_EIO);
    aioloop_future_unref(task);
    CHECK_EQ(test_log_lines(), 0);
    test_end(loop);
}

/* ---- an eager member that cancels its parent ---- */

typedef struct scope_eager {
    aioloop_task_group *group;
    aioloop_task *parent;
    int64_t told;
} scope_eager;

static int64_t scope_cancels_parent(aioloop *loop, void *arg, void **out) {
    scope_eager *e = (scope_eager *)arg;
    (void)out;
    CHECK(aioloop_future_cancel(e->parent, NULL));
    e->told = scope_sleep(loop, AIOLOOP_MS(20));
    return e->told;
}

static int64_t scope_makes_one(aioloop *loop, void *arg, void **out) {
    scope_eager *e = (scope_eager *)arg;
    aioloop_task_options options = AIOLOOP_ZERO;
    int64_t n = scope_sleep(loop, 0);
    (void)out;
    options.eager = true;
    if (n == 0)
        aioloop_future_unref(aioloop_task_group_create_task(e->group, scope_cancels_parent, e, &options));
    return n < 0 ? n : scope_sleep(loop, AIOLOOP_MS(20));
}

static int64_t scope_has_an_eager_member(aioloop *loop, void *arg, void **out) {
    scope_eager *e = (scope_eager *)arg;
    (void)out;
    e->parent = aioloop_current_task(loop);
    e->group = aioloop_task_group_enter(loop);
    CHECK(e->group != NULL);
    aioloop_future_unref(aioloop_task_group_create_task(e->group, scope_makes_one, e, NULL));
    return aioloop_await(aioloop_task_group_exit(e->group, 0), NULL);
}

TEST(eager_member_that_cancels_the_parent_is_cancelled_with_the_others, "TG-03") {
    aioloop *loop = test_loop();
    scope_eager e = AIOLOOP_ZERO;
    await_needs_stacks(loop);
    CHECK_EQ(await_run(loop, scope_has_an_eager_member, &e), AIOLOOP_ECANCELED);
    CHECK_EQ(e.told, AIOLOOP_ECANCELED);
    test_end(loop);
}
