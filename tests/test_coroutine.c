/*
 * test_coroutine.c - coroutines without a stack: the macros, frames inside frames, and step functions that break the
 * rules.
 */
#include "awaits.h"

/* ---- frames ---- */

typedef struct coroutine_tick {
    aioloop_frame frame;
    int rounds;
    int i;
    int64_t n;
    aioloop_time delay;
    aioloop_future *future;
    void *pointer;
    int disposed;
} coroutine_tick;

static coroutine_tick *coroutine_disposing;

static void coroutine_dispose(void *arg) {
    CHECK(arg != NULL);
    coroutine_disposing->disposed++;
}

static aioloop_future *coroutine_future(aioloop *loop) {
    aioloop_future *f = aioloop_create_future(loop);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    return f;
}

static int64_t coroutine_play(aioloop *loop, aioloop_step fn, aioloop_frame *frame, void *out) {
    aioloop_task *t = await_task_frame(loop, fn, frame, NULL);
    int64_t n;
    await_done(loop, t);
    n = aioloop_future_result(t, out);
    aioloop_future_unref(t);
    return n;
}

static int64_t coroutine_ticks(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_tick *self = (coroutine_tick *)frame;
    AIOLOOP_BEGIN(loop, frame);
    for (self->i = 0; self->i < self->rounds; self->i++) {
        AIOLOOP_AWAIT(self->n, aioloop_sleep(loop, self->delay), NULL);
        if (self->n < 0)
            return self->n;
    }
    *out = self;
    return self->i;
    AIOLOOP_END;
}

TEST(frame_goes_on_where_it_waited, "TASK-01 TASK-04 TIME-01") {
    aioloop *loop = test_loop();
    coroutine_tick t = AIOLOOP_ZERO;
    void *out = NULL;
    t.rounds = 5;
    CHECK_EQ(coroutine_play(loop, coroutine_ticks, &t.frame, &out), 5);
    CHECK_PTR(out, &t);
    memset(&t, 0, sizeof(t));
    t.rounds = 2;
    t.delay = AIOLOOP_MS(1);
    CHECK_EQ(coroutine_play(loop, coroutine_ticks, &t.frame, &out), 2);
    memset(&t, 0, sizeof(t)); /* without a wait */
    CHECK_EQ(coroutine_play(loop, coroutine_ticks, &t.frame, NULL), 0);
    test_end(loop);
}

static int64_t coroutine_falls_off(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_tick *self = (coroutine_tick *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_SLEEP(self->n, 0);
    self->i++;
    AIOLOOP_SLEEP(self->n, AIOLOOP_US(100));
    self->i++;
    AIOLOOP_END;
}

TEST(frame_that_comes_to_its_end_returns_0, "TASK-01") {
    aioloop *loop = test_loop();
    coroutine_tick t = AIOLOOP_ZERO;
    CHECK_EQ(coroutine_play(loop, coroutine_falls_off, &t.frame, NULL), 0);
    CHECK_EQ(t.i, 2);
    test_end(loop);
}

static int64_t coroutine_awaits(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_tick *self = (coroutine_tick *)frame;
    AIOLOOP_BEGIN(loop, frame);
    self->i = 1;
    AIOLOOP_AWAIT(self->n, self->future, &self->pointer);
    self->i = 2;
    *out = self->pointer;
    return self->n;
    AIOLOOP_END;
}

TEST(frame_that_awaits_what_is_done_goes_on_at_once, "FUT-12") {
    aioloop *loop = test_loop();
    coroutine_tick t = AIOLOOP_ZERO;
    aioloop_task *task;
    void *out = NULL;
    t.future = coroutine_future(loop);
    CHECK_EQ(aioloop_future_set_result(t.future, 9, &t, NULL), 0);
    task = await_task_frame(loop, coroutine_awaits, &t.frame, NULL);
    CHECK_EQ(t.i, 0);
    test_spin(loop, 1);
    CHECK_EQ(t.i, 2);
    CHECK_EQ(aioloop_future_result(task, &out), 9);
    CHECK_PTR(out, &t);
    aioloop_future_unref(task);
    aioloop_future_unref(t.future);
    test_end(loop);
}

TEST(frame_is_cancelled_where_it_waits, "TASK-05 TASK-06 TASK-08") {
    aioloop *loop = test_loop();
    coroutine_tick t = AIOLOOP_ZERO;
    aioloop_task *task;
    t.future = coroutine_future(loop);
    task = await_task_frame(loop, coroutine_awaits, &t.frame, NULL);
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(task, "off"));
    CHECK(aioloop_future_cancelled(t.future));
    CHECK_EQ(t.i, 1);
    test_spin(loop, 1);
    CHECK_EQ(t.i, 2);
    CHECK(aioloop_future_cancelled(task));
    CHECK_STR(aioloop_error_message(aioloop_future_error(task)), "off");
    aioloop_future_unref(task);
    memset(&t.frame, 0, sizeof(t.frame));
    t.i = 0;
    task = await_task_frame(loop, coroutine_awaits, &t.frame, NULL); /* before it begins */
    CHECK(aioloop_future_cancel(task, NULL));
    test_spin(loop, 2);
    CHECK_EQ(t.i, 0);
    CHECK(aioloop_future_cancelled(task));
    aioloop_future_unref(task);
    aioloop_future_unref(t.future);
    test_end(loop);
}

/* ---- sleeping without a future ---- */

static int64_t coroutine_sleeps(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_tick *self = (coroutine_tick *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_SLEEP(self->n, self->delay);
    self->i++;
    return self->n;
    AIOLOOP_END;
}

TEST(frame_sleeps, "TIME-01") {
    static const aioloop_time delays[] = {0, -1, INT64_MIN + 1, AIOLOOP_US(300)};
    aioloop *loop = test_loop();
    aioloop_task *task;
    size_t i;
    coroutine_tick t = AIOLOOP_ZERO;
    for (i = 0; i < 4; i++) {
        aioloop_time begin = aioloop_now(loop);
        memset(&t, 0, sizeof(t));
        t.delay = delays[i];
        CHECK_EQ(coroutine_play(loop, coroutine_sleeps, &t.frame, NULL), 0);
        CHECK(aioloop_now(loop) - begin >= t.delay);
    }
    memset(&t, 0, sizeof(t));
    t.delay = AIOLOOP_NOT_A_TIME;
    CHECK_EQ(coroutine_play(loop, coroutine_sleeps, &t.frame, NULL), AIOLOOP_EINVAL);
    memset(&t, 0, sizeof(t)); /* exactly one turn */
    task = await_task_frame(loop, coroutine_sleeps, &t.frame, NULL);
    test_spin(loop, 1);
    CHECK_EQ(t.i, 0);
    test_spin(loop, 1);
    CHECK_EQ(t.i, 1);
    aioloop_future_unref(task);
    test_end(loop);
}

TEST(sleeping_frame_is_cancelled_and_its_timer_goes, "TIME-02 TASK-05") {
    static const aioloop_time delays[] = {AIOLOOP_FOREVER, INT64_MAX - 1, AIOLOOP_MS(3600000), 0};
    aioloop *loop = test_loop();
    size_t i;
    for (i = 0; i < 4; i++) {
        coroutine_tick t = AIOLOOP_ZERO;
        aioloop_task *task;
        t.delay = delays[i];
        task = await_task_frame(loop, coroutine_sleeps, &t.frame, NULL);
        test_spin(loop, 1);
        CHECK(aioloop_future_cancel(task, "wake"));
        CHECK(aioloop_future_cancel(task, "up"));
        CHECK_EQ(t.i, 0);
        test_spin(loop, 1);
        CHECK_EQ(t.i, 1);
        CHECK_EQ(t.n, AIOLOOP_ECANCELED);
        CHECK(aioloop_future_cancelled(task));
        CHECK_STR(aioloop_error_message(aioloop_future_error(task)), "up");
        CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
        aioloop_future_unref(task);
    }
    test_end(loop);
}

static void coroutine_cancels(aioloop *loop, void *arg) {
    coroutine_tick *t = (coroutine_tick *)arg;
    if (t->i == 0) /* else the timers came in two iterations: there is nothing to see */
        CHECK(aioloop_future_cancel(t->future, NULL));
    (void)loop;
    t->disposed = t->i == 0;
}

TEST(sleeping_frame_is_cancelled_in_the_iteration_it_is_due, "TIME-02 TASK-05") {
    aioloop *loop = test_loop();
    coroutine_tick t = AIOLOOP_ZERO;
    aioloop_timer_handle timer;
    aioloop_time when;
    t.delay = AIOLOOP_MS(1);
    t.future = await_task_frame(loop, coroutine_sleeps, &t.frame, NULL);
    when = aioloop_now(loop) + AIOLOOP_MS(1);
    timer = aioloop_call_at(loop, when, coroutine_cancels, &t); /* comes first, in the same list when both are due */
    CHECK(!aioloop_handle_is_null(&timer.handle));
    test_spin(loop, 1);
    test_run_for(loop, AIOLOOP_MS(2));
    CHECK_EQ(t.i, 1);
    CHECK_EQ(t.n, t.disposed ? AIOLOOP_ECANCELED : 0);
    aioloop_future_unref(t.future);
    test_end(loop);
}

/* ---- frames inside frames ---- */

typedef struct coroutine_tree {
    aioloop_frame frame;
    int depth;
    int sum;
    int64_t n;
    void *pointer;
    struct coroutine_tree *child; /* the next of an array */
} coroutine_tree;

static int64_t coroutine_descends(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_tree *self = (coroutine_tree *)frame;
    AIOLOOP_BEGIN(loop, frame);
    if (self->depth == 0) {
        AIOLOOP_SLEEP(self->n, 0);
        if (self->n < 0)
            return self->n;
        *out = self;
        return 1;
    }
    self->child->depth = self->depth - 1;
    AIOLOOP_CALL(self->n, coroutine_descends, &self->child->frame, &self->pointer);
    if (self->n < 0)
        return self->n;
    self->sum = (int)self->n;
    self->child->depth = self->depth - 1;
    AIOLOOP_CALL(self->n, coroutine_descends, &self->child->frame, NULL); /* the same frame again */
    if (self->n < 0)
        return self->n;
    *out = self->pointer;
    return self->sum + self->n;
    AIOLOOP_END;
}

static void coroutine_plant(coroutine_tree *trees, int depth) {
    int i;
    memset(trees, 0, sizeof(trees[0]) * ((size_t)depth + 1));
    trees[0].depth = depth;
    for (i = 0; i < depth; i++)
        trees[i].child = &trees[i + 1];
}

TEST(frame_calls_frames, "TASK-01") {
    aioloop *loop = test_loop();
    coroutine_tree trees[6];
    void *out = NULL;
    coroutine_plant(trees, 5);
    CHECK_EQ(coroutine_play(loop, coroutine_descends, &trees[0].frame, &out), 32);
    CHECK_PTR(out, &trees[5]);
    test_end(loop);
}

TEST(cancel_goes_through_frames_that_frames_call, "TASK-05") {
    aioloop *loop = test_loop();
    coroutine_tree trees[4];
    aioloop_task *task;
    coroutine_plant(trees, 3);
    task = await_task_frame(loop, coroutine_descends, &trees[0].frame, NULL);
    test_spin(loop, 3);
    CHECK(aioloop_future_cancel(task, "all of you"));
    await_done(loop, task);
    CHECK_EQ(trees[0].n, AIOLOOP_ECANCELED);
    CHECK_EQ(trees[2].n, AIOLOOP_ECANCELED);
    CHECK_STR(aioloop_error_message(aioloop_future_error(task)), "all of you");
    aioloop_future_unref(task);
    test_end(loop);
}

static int64_t coroutine_on_a_stack(aioloop *loop, void *arg, void **out) {
    coroutine_tree *trees = (coroutine_tree *)arg;
    int64_t n = aioloop_frame_call(loop, coroutine_descends, &trees[0].frame, out);
    CHECK_NE(n, AIOLOOP_SUSPENDED); /* each wait is over when it returns */
    return n;
}

TEST(coroutine_with_a_stack_calls_one_without, "TASK-01") {
    aioloop *loop = test_loop();
    coroutine_tree trees[6];
    await_needs_stacks(loop);
    coroutine_plant(trees, 5);
    CHECK_EQ(await_run(loop, coroutine_on_a_stack, trees), 32);
    test_end(loop);
}

static int64_t coroutine_raises(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_tick *self = (coroutine_tick *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_SLEEP(self->n, 0);
    return aioloop_raise(loop, AIOLOOP_EPROTOTYPE, "round %d", self->rounds);
    AIOLOOP_END;
}

typedef struct coroutine_caller {
    aioloop_frame frame;
    coroutine_tick child;
    aioloop_task *other;
    int64_t n;
    int64_t m;
    int rounds;
} coroutine_caller;

static int64_t coroutine_cleans_up(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_caller *self = (coroutine_caller *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_CALL(self->n, coroutine_raises, &self->child.frame, NULL);
    for (self->rounds = 0; self->rounds < 5; self->rounds++) /* while another one fails with the same code */
        AIOLOOP_SLEEP(self->m, 0);
    return self->n;
    AIOLOOP_END;
}

TEST(message_survives_the_clean_up_of_a_frame, "") {
    aioloop *loop = test_loop();
    coroutine_caller a = AIOLOOP_ZERO;
    coroutine_tick b = AIOLOOP_ZERO;
    aioloop_task *t;
    aioloop_task *u;
    a.child.rounds = 1;
    b.rounds = 2;
    t = await_task_frame(loop, coroutine_cleans_up, &a.frame, NULL);
    test_spin(loop, 2);
    u = await_task_frame(loop, coroutine_raises, &b.frame, NULL);
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), AIOLOOP_EPROTOTYPE);
    CHECK_STR(aioloop_error_message(aioloop_future_error(t)), "round 1");
    CHECK_STR(aioloop_error_message(aioloop_future_error(u)), "round 2");
    aioloop_future_unref(t);
    aioloop_future_unref(u);
    test_end(loop);
}

/* Fails where no loop is named; returns the code. */
static int coroutine_fails_without_a_loop(const char *what) {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *none;
    config.backend = what;
    none = aioloop_new_event_loop(&config);
    if (none != NULL)
        aioloop_free(none);
    CHECK(none == NULL);
    return aioloop_error_code(aioloop_last_error(NULL));
}

static int64_t coroutine_makes_no_loop(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_caller *self = (coroutine_caller *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    self->n = coroutine_fails_without_a_loop(self->rounds == 1 ? "first" : "second");
    AIOLOOP_SLEEP(self->m, 0);
    AIOLOOP_SLEEP(self->m, 0);
    return self->n;
    AIOLOOP_END;
}

static int64_t coroutine_makes_no_loop_either(aioloop *loop, void *arg, void **out) {
    int64_t n = coroutine_fails_without_a_loop((const char *)arg);
    (void)out;
    (void)aioloop_await(aioloop_sleep(loop, 0), NULL);
    (void)aioloop_await(aioloop_sleep(loop, 0), NULL);
    return n;
}

/* The message of a call that knows no loop is the coroutine's too, and others' do not take its place. */
TEST(message_of_a_call_without_a_loop_is_the_coroutines, "") {
    aioloop *loop = test_loop();
    coroutine_caller a = AIOLOOP_ZERO;
    coroutine_caller b = AIOLOOP_ZERO;
    char third[] = "third";
    aioloop_task *tasks[3] = {NULL, NULL, NULL};
    static const char *const names[] = {"first", "second", "third"};
    int count = await_has_stacks(loop) ? 3 : 2;
    int i;
    a.rounds = 1;
    b.rounds = 2;
    tasks[0] = await_task_frame(loop, coroutine_makes_no_loop, &a.frame, NULL);
    tasks[1] = await_task_frame(loop, coroutine_makes_no_loop, &b.frame, NULL);
    if (count == 3)
        tasks[2] = await_task(loop, coroutine_makes_no_loop_either, third, NULL);
    for (i = 0; i < count; i++) {
        await_done(loop, tasks[i]);
        CHECK_EQ(aioloop_future_result(tasks[i], NULL), AIOLOOP_EINVAL);
        CHECK(strstr(aioloop_error_message(aioloop_future_error(tasks[i])), names[i]) != NULL);
        aioloop_future_unref(tasks[i]);
    }
    test_end(loop);
}

/* ---- making ---- */

TEST(frame_is_needed_and_may_be_copied, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    coroutine_tick t = AIOLOOP_ZERO;
    aioloop_task *task;
    coroutine_disposing = &t;
    CHECK_EQ(aioloop_future_exception(aioloop_create_task_frame(loop, coroutine_ticks, NULL, NULL)), AIOLOOP_EINVAL);
    options.copy_size = sizeof(aioloop_frame) - 1;
    CHECK_EQ(aioloop_future_exception(aioloop_create_task_frame(loop, coroutine_ticks, &t.frame, &options)),
             AIOLOOP_EINVAL);
    options.copy_size = sizeof(t);
    options.dispose = coroutine_dispose;
    t.rounds = 3;
    task = await_task_frame(loop, coroutine_ticks, &t.frame, &options);
    t.rounds = 100;
    await_done(loop, task);
    CHECK_EQ(aioloop_future_result(task, NULL), 3);
    CHECK_EQ(t.frame.line, 0);
    CHECK_EQ(t.disposed, 1);
    aioloop_future_unref(task);
    options.copy_size = 0; /* the frame itself; disposed of once in every way of ending */
    t.rounds = 1;
    task = await_task_frame(loop, coroutine_ticks, &t.frame, &options);
    CHECK(aioloop_future_cancel(task, NULL));
    await_done(loop, task);
    CHECK_EQ(t.disposed, 2);
    aioloop_future_unref(task);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_create_task_frame(loop, coroutine_ticks, &t.frame, &options)),
             AIOLOOP_ECLOSED);
    CHECK_EQ(t.disposed, 3);
    test_end(loop);
}

static void coroutine_begins_eagerly(aioloop *loop, void *arg) {
    coroutine_tick *t = (coroutine_tick *)arg;
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_task *task;
    options.eager = true;
    task = await_task_frame(loop, coroutine_ticks, &t->frame, &options);
    CHECK_EQ(aioloop_future_done(task), t->rounds == 0);
    aioloop_future_unref(task);
    t->disposed = 1;
}

TEST(eager_frame_runs_inside_the_call, "CRE-08") {
    aioloop *loop = test_loop();
    int rounds;
    for (rounds = 0; rounds < 2; rounds++) {
        coroutine_tick t = AIOLOOP_ZERO;
        aioloop_handle handle;
        t.rounds = rounds;
        handle = aioloop_call_soon(loop, coroutine_begins_eagerly, &t);
        CHECK(!aioloop_handle_is_null(&handle));
        test_spin(loop, 4);
        CHECK_EQ(t.disposed, 1);
        CHECK_EQ(t.i, rounds);
    }
    test_end(loop);
}

TEST(pending_frame_is_reported_when_the_loop_is_freed, "ERR-08 RUN-19") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    coroutine_tick t = AIOLOOP_ZERO;
    coroutine_tick u = AIOLOOP_ZERO;
    coroutine_disposing = &t;
    options.copy_size = sizeof(t);
    options.dispose = coroutine_dispose;
    options.name = "left over";
    t.delay = AIOLOOP_SECONDS(100);
    aioloop_future_unref(aioloop_create_task_frame(loop, coroutine_sleeps, &t.frame, &options));
    u.future = coroutine_future(loop);
    aioloop_future_unref(aioloop_create_task_frame(loop, coroutine_awaits, &u.frame, NULL));
    test_spin(loop, 2);
    aioloop_future_unref(u.future); /* which the task holds */
    test_end(loop);
    CHECK_EQ(test_reports(), 2);
    CHECK_STR(test_report_at(0)->message, "Task was destroyed but it is pending");
    test_reports_clear();
    CHECK_EQ(t.disposed, 0);
}

/* ---- step functions that break the rules ---- */

TEST(frame_that_was_not_zeroed_is_misuse, "") {
    aioloop *loop = test_loop();
    coroutine_tick t;
    memset(&t, 0x5a, sizeof(t));
    CHECK_EQ(coroutine_play(loop, coroutine_ticks, &t.frame, NULL), AIOLOOP_EMISUSE);
    test_end(loop);
}

static int64_t coroutine_suspends_for_nothing(aioloop *loop, aioloop_frame *frame, void **out) {
    (void)loop;
    (void)frame;
    (void)out;
    return AIOLOOP_SUSPENDED;
}

TEST(step_that_suspends_without_a_wait_is_misuse, "") {
    aioloop *loop = test_loop();
    aioloop_frame frame = AIOLOOP_ZERO;
    CHECK_EQ(coroutine_play(loop, coroutine_suspends_for_nothing, &frame, NULL), AIOLOOP_EMISUSE);
    test_end(loop);
}

/* Begins a wait, and returns as if there were none. */
static int64_t coroutine_returns_in_a_wait(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_tick *self = (coroutine_tick *)frame;
    (void)out;
    self->i++;
    if (self->future != NULL)
        CHECK(aioloop_frame_await(loop, self->future));
    else
        CHECK(aioloop_frame_sleep(loop, self->delay));
    return 4;
}

TEST(step_that_returns_in_the_middle_of_a_wait_is_misuse, "") {
    aioloop *loop = test_loop();
    int kind;
    for (kind = 0; kind < 6; kind++) {
        coroutine_tick t = AIOLOOP_ZERO;
        aioloop_task *task;
        t.delay = kind == 0 ? AIOLOOP_MS(1) : AIOLOOP_SECONDS(100);
        if (kind >= 2)
            t.future = kind == 5 ? aioloop_sleep(loop, 0) : coroutine_future(loop);
        task = await_task_frame(loop, coroutine_returns_in_a_wait, &t.frame, NULL);
        test_spin(loop, 1);
        CHECK(!aioloop_future_done(task)); /* it is in some list until then */
        if (kind == 1 || kind == 2 || kind == 4)
            CHECK(aioloop_future_cancel(task, NULL));
        if (kind == 3)
            CHECK_EQ(aioloop_future_set_result(t.future, 1, NULL, NULL), 0);
        if (kind == 4)
            CHECK(aioloop_future_cancel(task, "again"));
        await_done(loop, task);
        CHECK_EQ(aioloop_future_result(task, NULL), AIOLOOP_EMISUSE);
        CHECK_EQ(t.i, 1);
        aioloop_future_unref(task);
        if (kind >= 2 && kind <= 4)
            aioloop_future_unref(t.future);
        CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    }
    test_end(loop);
}

/* Forgets what a frame it calls has returned, and waits for something else. */
static int64_t coroutine_waits_twice(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_caller *self = (coroutine_caller *)frame;
    void *pointer = NULL;
    int64_t n = 0;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    (void)coroutine_sleeps(loop, &self->child.frame, &pointer);
    AIOLOOP_AWAIT(self->n, aioloop_sleep(loop, 0), NULL);
    AIOLOOP_SLEEP(self->m, 0);
    n = aioloop_frame_result(loop, NULL);
    return n == AIOLOOP_EMISUSE ? 5 : 6;
    AIOLOOP_END;
}

TEST(step_that_waits_twice_is_misuse, "") {
    aioloop *loop = test_loop();
    coroutine_caller c = AIOLOOP_ZERO;
    c.child.delay = AIOLOOP_MS(1);
    CHECK_EQ(coroutine_play(loop, coroutine_waits_twice, &c.frame, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(c.n, AIOLOOP_EMISUSE);
    CHECK_EQ(c.m, AIOLOOP_EMISUSE);
    test_end(loop);
}

static int64_t coroutine_asks_without_a_wait(aioloop *loop, aioloop_frame *frame, void **out) {
    (void)frame;
    (void)out;
    return aioloop_frame_result(loop, NULL);
}

static int64_t coroutine_loses_its_place(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_tick *self = (coroutine_tick *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_AWAIT(self->n, self->future, NULL);
    return 1;
    AIOLOOP_END;
}

TEST(step_that_asks_without_a_wait_or_loses_its_place_is_misuse, "") {
    aioloop *loop = test_loop();
    aioloop_frame frame = AIOLOOP_ZERO;
    coroutine_tick t = AIOLOOP_ZERO;
    aioloop_task *task;
    CHECK_EQ(coroutine_play(loop, coroutine_asks_without_a_wait, &frame, NULL), AIOLOOP_EMISUSE);
    t.future = coroutine_future(loop);
    task = await_task_frame(loop, coroutine_loses_its_place, &t.frame, NULL);
    test_spin(loop, 1);
    t.frame.line = 1; /* somebody writes there */
    CHECK_EQ(aioloop_future_set_result(t.future, 1, NULL, NULL), 0);
    aioloop_future_unref(t.future); /* the task's is the last reference, and goes all the same */
    await_done(loop, task);
    CHECK_EQ(aioloop_future_result(task, NULL), AIOLOOP_EMISUSE);
    aioloop_future_unref(task);
    test_end(loop);
}

static void coroutine_in_a_callback(aioloop *loop, void *arg) {
    coroutine_tick *self = (coroutine_tick *)arg;
    void *out = NULL;
    self->n = coroutine_awaits(loop, &self->frame, &out);
}

TEST(macros_outside_of_a_task_are_misuse, "") {
    aioloop *loop = test_loop();
    coroutine_tick t = AIOLOOP_ZERO;
    aioloop_handle handle;
    t.future = coroutine_future(loop);
    handle = aioloop_call_soon(loop, coroutine_in_a_callback, &t);
    CHECK(!aioloop_handle_is_null(&handle));
    test_spin(loop, 1);
    CHECK_EQ(t.n, AIOLOOP_EMISUSE);
    CHECK_EQ(t.i, 2);
    aioloop_future_unref(t.future);
    test_end(loop);
}

static int64_t coroutine_awaits_itself(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_tick *self = (coroutine_tick *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_AWAIT(self->n, aioloop_current_task(loop), NULL);
    if (self->n != AIOLOOP_EMISUSE)
        return 1;
    AIOLOOP_AWAIT(self->n, self->future, NULL);
    if (self->n != AIOLOOP_EMISUSE)
        return 2;
    AIOLOOP_AWAIT(self->n, NULL, NULL);
    return self->n;
    AIOLOOP_END;
}

TEST(frame_that_awaits_itself_or_a_strangers_future_is_misuse, "TASK-11") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    coroutine_tick t = AIOLOOP_ZERO;
    t.future = coroutine_future(other);
    CHECK_EQ(coroutine_play(loop, coroutine_awaits_itself, &t.frame, NULL), AIOLOOP_EINVAL);
    aioloop_future_unref(t.future);
    test_end(other);
    test_end(loop);
}

static int64_t coroutine_swallows(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_tick *self = (coroutine_tick *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    for (self->i = 0; self->i < 4; self->i++)
        AIOLOOP_SLEEP(self->n, AIOLOOP_MS(1));
    return 3;
    AIOLOOP_END;
}

TEST(frame_that_swallows_a_cancellation_is_told_of_in_debug_mode, "TASK-09") {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop;
    coroutine_tick t = AIOLOOP_ZERO;
    aioloop_task *task;
    config.debug = 1;
    loop = test_loop_with(&config);
    task = await_task_frame(loop, coroutine_swallows, &t.frame, NULL);
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(task, NULL));
    await_done(loop, task);
    CHECK_EQ(aioloop_future_result(task, NULL), 3);
    CHECK(strstr(test_log_text(), "a cancellation that it was told") != NULL);
    CHECK_EQ(test_log_lines(), 1);
    test_log_clear();
    aioloop_future_unref(task);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

/* ---- where a result goes ---- */

typedef struct coroutine_once {
    aioloop_frame frame;
    aioloop_frame child;
    int64_t n;
    int asked; /* where to */
} coroutine_once;

static int64_t *coroutine_place(coroutine_once *self) {
    self->asked++;
    return &self->n;
}

static int64_t coroutine_yields_then_five(aioloop *loop, aioloop_frame *frame, void **out) {
    int64_t n;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_SLEEP(n, 0);
    return n < 0 ? n : 5;
    AIOLOOP_END;
}

static int64_t coroutine_calls_into_a_place(aioloop *loop, aioloop_frame *frame, void **out) {
    coroutine_once *self = (coroutine_once *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_CALL(*coroutine_place(self), coroutine_yields_then_five, &self->child, NULL);
    return self->n;
    AIOLOOP_END;
}

/* So it may as well be an int, which does not know AIOLOOP_SUSPENDED. */
TEST(call_asks_once_where_its_result_goes, "") {
    aioloop *loop = test_loop();
    coroutine_once c = AIOLOOP_ZERO;
    aioloop_task *task = await_task_frame(loop, coroutine_calls_into_a_place, &c.frame, NULL);
    await_done(loop, task);
    CHECK_EQ(aioloop_future_result(task, NULL), 5);
    CHECK_EQ(c.asked, 1);
    aioloop_future_unref(task);
    test_end(loop);
}
