/*
 * test_generator.c - asynchronous generators, and what is closed with the loop.
 */
#include "support.h"

/* Runs until the future is done; its outcome. Ends an unclaimed future's use. */
#define RUN(future) aioloop_run_until_complete(loop, (future), NULL)

/* ---- generators without a stack: in every build ---- */

/* Counts to `end`, then ends with `code`; notes what its yields return. */
typedef struct gen_counter {
    aioloop_frame frame;
    aioloop_time pause; /* before each value; 0: none */
    int64_t i;
    int64_t end;
    int64_t n;
    int64_t code;
    int64_t told;   /* what the last yield returned */
    bool stubborn;  /* yields on, whatever it is told */
    bool swallows;  /* does not mind that its pause is cancelled */
    bool slow_end;  /* waits once more when it is told to end, */
    aioloop_future *gate; /* for this, or a moment */
    int disposed;
    int ended;
} gen_counter;

static int64_t gen_count(aioloop *loop, aioloop_frame *frame, void **out) {
    gen_counter *self = (gen_counter *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    while (self->i < self->end) {
        if (self->pause != 0) {
            AIOLOOP_SLEEP(self->n, self->pause);
            if (self->n < 0 && !self->swallows)
                break;
        }
        AIOLOOP_YIELD(self->told, self->i++, NULL);
        if (self->told < 0 && !self->stubborn) {
            self->n = self->told;
            break;
        }
    }
    if (self->slow_end) {
        AIOLOOP_AWAIT(self->end, self->gate != NULL ? self->gate : aioloop_sleep(loop, AIOLOOP_MS(1)), NULL);
    }
    self->ended++;
    return self->code < 0 ? aioloop_raise(loop, (int)self->code, "as asked") : self->n < 0 ? self->n : 0;
    AIOLOOP_END;
}

static void gen_disposed(void *arg) {
    ((gen_counter *)arg)->disposed++;
}

static aioloop_generator *gen_new(aioloop *loop, gen_counter *c, int64_t end) {
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_generator *g;
    c->end = end;
    options.dispose = gen_disposed;
    g = aioloop_generator_new_frame(loop, gen_count, &c->frame, &options);
    CHECK(g != NULL);
    return g;
}

TEST(gen_gives_its_values_and_ends, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    CHECK_EQ(c.i, 1);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 1);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 2);
    CHECK_EQ(c.disposed, 0);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_ESTOPITERATION);
    CHECK_EQ(c.disposed, 1);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_ESTOPITERATION);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    aioloop_generator_unref(g);
    test_end(loop);
}

TEST(gen_runs_nothing_before_the_first_request, "") {
    aioloop *loop = test_loop();
    gen_counter a = AIOLOOP_ZERO;
    gen_counter b = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &a, 3);
    test_spin(loop, 3);
    CHECK_EQ(a.frame.line, 0);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    CHECK_EQ(a.disposed, 1);
    CHECK_EQ(a.ended, 0);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_ESTOPITERATION);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    aioloop_generator_unref(g);
    g = gen_new(loop, &b, 3);
    aioloop_generator_unref(g);
    CHECK_EQ(b.disposed, 1);
    test_end(loop);
}

TEST(gen_that_fails_says_so_once, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 1);
    c.code = AIOLOOP_EPIPE;
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_EPIPE);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "as asked");
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_ESTOPITERATION);
    aioloop_generator_unref(g);
    test_end(loop);
}

TEST(gen_stop_iteration_passed_on_is_the_end, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 0);
    c.code = AIOLOOP_ESTOPITERATION;
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_ESTOPITERATION);
    aioloop_generator_unref(g);
    test_end(loop);
}

TEST(gen_is_told_what_is_sent_and_thrown, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    gen_counter d = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 9);
    CHECK_EQ(RUN(aioloop_generator_asend(g, 5)), AIOLOOP_EMISUSE); /* nothing to answer yet */
    CHECK_EQ(RUN(aioloop_generator_asend(g, 0)), 0);
    CHECK_EQ(RUN(aioloop_generator_asend(g, 5)), 1);
    CHECK_EQ(c.told, 5);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 2);
    CHECK_EQ(c.told, 0);
    CHECK_EQ(RUN(aioloop_generator_asend(g, -1)), AIOLOOP_EINVAL);
    CHECK_EQ(RUN(aioloop_generator_athrow(g, 1)), AIOLOOP_EINVAL);
    CHECK_EQ(RUN(aioloop_generator_athrow(g, AIOLOOP_EPIPE)), AIOLOOP_EPIPE);
    CHECK_EQ(c.told, AIOLOOP_EPIPE);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_ESTOPITERATION);
    aioloop_generator_unref(g);
    g = gen_new(loop, &d, 9);
    CHECK_EQ(RUN(aioloop_generator_athrow(g, AIOLOOP_EPIPE)), AIOLOOP_EPIPE);
    CHECK_EQ(d.disposed, 1);
    CHECK_EQ(d.ended, 0);
    aioloop_generator_unref(g);
    test_end(loop);
}

TEST(gen_takes_one_request_at_a_time, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    aioloop_future *first;
    c.pause = AIOLOOP_MS(1);
    first = aioloop_future_ref(aioloop_generator_anext(g));
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_EMISUSE);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), AIOLOOP_EMISUSE);
    CHECK_EQ(RUN(first), 0);
    aioloop_future_unref(first);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 1);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    aioloop_generator_unref(g);
    test_end(loop);
}

/* ---- closing ---- */

TEST(gen_closed_at_a_yield_cleans_up_first, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    c.slow_end = true;
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    CHECK_EQ(c.told, AIOLOOP_EGENERATOREXIT);
    CHECK_EQ(c.ended, 1);
    CHECK_EQ(c.disposed, 1);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_ESTOPITERATION);
    aioloop_generator_unref(g);
    test_end(loop);
}

TEST(gen_that_fails_while_it_is_closed_says_so, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    c.code = AIOLOOP_EPIPE;
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), AIOLOOP_EPIPE);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    aioloop_generator_unref(g);
    test_end(loop);
}

TEST(gen_that_yields_while_it_is_closed_is_left_there, "ERR-08") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    c.stubborn = true;
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), AIOLOOP_EMISUSE);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "the generator ignored AIOLOOP_EGENERATOREXIT");
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_ESTOPITERATION);
    aioloop_generator_unref(g);
    test_spin(loop, 3);
    CHECK_EQ(c.i, 2);
    CHECK_EQ(test_reports(), 0);
    aioloop_close(loop);
    aioloop_set_exception_handler(loop, NULL, NULL); /* it never ended, and the loop says so to the log */
    test_end(loop);
    CHECK(strstr(test_log_text(), "Task was destroyed but it is pending") != NULL);
}

TEST(gen_dropped_in_the_middle_is_closed_by_the_loop, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    c.slow_end = true;
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    aioloop_generator_unref(g);
    CHECK_EQ(c.told, 0); /* not inside the call */
    test_run_until(loop, &c.ended, 1, "the body's end");
    CHECK_EQ(c.told, AIOLOOP_EGENERATOREXIT);
    test_spin(loop, 2);
    CHECK_EQ(test_reports(), 0);
    test_end(loop);
}

TEST(gen_dropped_and_failing_is_reported, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    c.code = AIOLOOP_EPIPE;
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    aioloop_generator_unref(g);
    test_run_until(loop, &c.ended, 1, "the body's end");
    test_spin(loop, 2);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EPIPE);
    CHECK_STR(test_report_at(0)->detail, "as asked");
    test_reports_clear();
    test_end(loop);
}

TEST(gen_dropped_while_it_is_asked_answers_and_is_closed, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    aioloop_future *f = aioloop_future_ref(aioloop_generator_anext(g));
    aioloop_generator_unref(g);
    CHECK_EQ(RUN(f), 0);
    aioloop_future_unref(f);
    test_run_until(loop, &c.ended, 1, "the body's end");
    test_spin(loop, 2);
    test_end(loop);
}

TEST(gen_suspended_when_the_loop_is_freed_is_reported, "ERR-08") {
    aioloop *loop = test_loop();
    gen_counter a = AIOLOOP_ZERO;
    gen_counter b = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &a, 3);
    aioloop_generator *unbegun = gen_new(loop, &b, 3);
    CHECK(unbegun != NULL);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    aioloop_close(loop);
    CHECK_EQ(aioloop_future_exception(aioloop_generator_anext(g)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_generator_aclose(g)), AIOLOOP_ECLOSED);
    aioloop_generator_unref(g);
    aioloop_set_exception_handler(loop, NULL, NULL);
    test_end(loop);
    CHECK(strstr(test_log_text(), "Task was destroyed but it is pending\nasyncgen: ") != NULL);
    CHECK_EQ(test_log_lines(), 1);
    CHECK_EQ(b.disposed, 0);
}

/* ---- cancelling ---- */

TEST(gen_cancelled_request_cancels_what_the_body_waits_for, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    aioloop_future *f;
    c.pause = AIOLOOP_MS(3600000);
    f = aioloop_future_ref(aioloop_generator_anext(g));
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(f, "enough"));
    CHECK(!aioloop_future_done(f)); /* the body has not answered */
    CHECK_EQ(RUN(f), AIOLOOP_ECANCELED);
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    CHECK_EQ(c.n, AIOLOOP_ECANCELED);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_ESTOPITERATION);
    aioloop_generator_unref(g);
    test_end(loop);
}

TEST(gen_that_swallows_a_cancel_gives_its_value, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 2);
    aioloop_future *f;
    c.pause = AIOLOOP_MS(3600000);
    c.swallows = true;
    f = aioloop_future_ref(aioloop_generator_anext(g));
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_EQ(RUN(f), 0);
    aioloop_future_unref(f);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    aioloop_generator_unref(g);
    test_end(loop);
}

TEST(gen_request_cancelled_before_the_body_hears_of_it_leaves_it_alone, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    gen_counter d = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    aioloop_generator *h = gen_new(loop, &d, 3);
    aioloop_future *f = aioloop_future_ref(aioloop_generator_anext(g));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    f = aioloop_future_ref(aioloop_generator_anext(h));
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    CHECK_EQ(RUN(aioloop_generator_aclose(h)), 0); /* with its place in the queue still taken */
    aioloop_generator_unref(h);
    CHECK_EQ(d.disposed, 1);
    test_spin(loop, 2);
    CHECK_EQ(c.frame.line, 0);
    CHECK_EQ(d.frame.line, 0);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    f = aioloop_future_ref(aioloop_generator_anext(g));
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 1); /* asked again in the same iteration */
    f = aioloop_future_ref(aioloop_generator_aclose(g));
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    test_spin(loop, 2);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 2);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    CHECK_EQ(c.told, AIOLOOP_EGENERATOREXIT);
    aioloop_generator_unref(g);
    test_end(loop);
}

/* A consumer that waits for one value. */
typedef struct gen_consumer {
    aioloop_frame frame;
    aioloop_generator *g;
    int64_t n;
    int steps;
} gen_consumer;

static int64_t gen_consume(aioloop *loop, aioloop_frame *frame, void **out) {
    gen_consumer *self = (gen_consumer *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    self->steps++;
    AIOLOOP_AWAIT(self->n, aioloop_generator_anext(self->g), NULL);
    self->steps++;
    return self->n;
    AIOLOOP_END;
}

TEST(gen_value_that_nobody_read_is_the_next_again, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 9);
    gen_consumer w = AIOLOOP_ZERO;
    aioloop_task *task;
    aioloop_future *f;
    w.g = g;
    task = aioloop_future_ref(aioloop_create_task_frame(loop, gen_consume, &w.frame, NULL));
    test_spin(loop, 2); /* the value is there, and the task is about to have it */
    CHECK_EQ(c.i, 1);
    CHECK_EQ(w.steps, 1);
    CHECK(aioloop_future_cancel(task, NULL));
    CHECK_EQ(RUN(task), AIOLOOP_ECANCELED);
    aioloop_future_unref(task);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 1); /* read once is read */
    f = aioloop_future_ref(aioloop_generator_anext(g));
    test_spin(loop, 3);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 3); /* who still has the future can still read it */
    CHECK_EQ(RUN(f), 2);
    aioloop_future_unref(f);
    CHECK_EQ(RUN(aioloop_wait_for(aioloop_generator_anext(g), AIOLOOP_SECONDS(5))), 4);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 5);
    aioloop_future_unref(aioloop_generator_anext(g));
    test_spin(loop, 3);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    aioloop_generator_unref(g);
    test_end(loop);
}

/* A body that cancels who waits for it. */
typedef struct gen_betrayer {
    aioloop_frame frame;
    aioloop_future *victim;
    int64_t n;
} gen_betrayer;

static int64_t gen_betray(aioloop *loop, aioloop_frame *frame, void **out) {
    gen_betrayer *self = (gen_betrayer *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    aioloop_future_cancel(self->victim, NULL);
    AIOLOOP_YIELD(self->n, 7, NULL);
    AIOLOOP_YIELD(self->n, 8, NULL);
    return self->n;
    AIOLOOP_END;
}

TEST(gen_that_cancels_its_own_consumer_keeps_the_value, "") {
    aioloop *loop = test_loop();
    gen_betrayer b = AIOLOOP_ZERO;
    aioloop_generator *g = aioloop_generator_new_frame(loop, gen_betray, &b.frame, NULL);
    CHECK(g != NULL);
    b.victim = aioloop_future_ref(aioloop_generator_anext(g));
    CHECK_EQ(RUN(b.victim), AIOLOOP_ECANCELED);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 7);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 8);
    CHECK_EQ(b.n, 0);
    aioloop_future_unref(b.victim);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    aioloop_generator_unref(g);
    test_end(loop);
}

/* ---- pointers ---- */

static int gen_pointers_disposed;

static void gen_dispose_pointer(void *pointer) {
    gen_pointers_disposed += *(int *)pointer;
}

typedef struct gen_pointers {
    aioloop_frame frame;
    int values[3];
    int i;
    int64_t n;
} gen_pointers;

static int64_t gen_give_pointers(aioloop *loop, aioloop_frame *frame, void **out) {
    gen_pointers *self = (gen_pointers *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    for (self->i = 0; self->i < 3; self->i++) {
        AIOLOOP_YIELD(self->n, self->i, &self->values[self->i]);
        if (self->n < 0)
            break;
    }
    return self->n;
    AIOLOOP_END;
}

TEST(gen_pointer_belongs_to_who_takes_it_or_is_disposed_of, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    gen_pointers p = AIOLOOP_ZERO;
    aioloop_generator *g;
    int *got = NULL;
    p.values[0] = 1;
    p.values[1] = 10;
    p.values[2] = 100;
    gen_pointers_disposed = 0;
    options.dispose_result = gen_dispose_pointer;
    g = aioloop_generator_new_frame(loop, gen_give_pointers, &p.frame, &options);
    CHECK(g != NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_generator_anext(g), &got), 0);
    CHECK_PTR(got, &p.values[0]);
    aioloop_future_unref(aioloop_generator_anext(g));
    test_spin(loop, 3);
    CHECK_EQ(p.i, 1);
    CHECK_EQ(gen_pointers_disposed, 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait_for(aioloop_generator_anext(g), AIOLOOP_SECONDS(5)), &got), 1);
    CHECK_PTR(got, &p.values[1]);
    aioloop_future_unref(aioloop_generator_anext(g));
    test_spin(loop, 3);
    CHECK_EQ(gen_pointers_disposed, 0);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    CHECK_EQ(gen_pointers_disposed, 100);
    aioloop_generator_unref(g);
    test_end(loop);
    CHECK_EQ(gen_pointers_disposed, 100);
}

/* ---- what is refused ---- */

static int64_t gen_yields_astray(aioloop *loop, aioloop_frame *frame, void **out) {
    gen_counter *self = (gen_counter *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_YIELD(self->n, self->i, NULL);
    return self->n;
    AIOLOOP_END;
}

/* Holds the generator whose argument it is. */
typedef struct gen_holder {
    gen_counter counter;
    aioloop_generator *g;
} gen_holder;

static void gen_let_go(void *arg) {
    gen_disposed(arg);
    aioloop_generator_unref(((gen_holder *)arg)->g);
}

TEST(gen_that_never_begins_may_be_let_go_by_its_argument, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    int i;
    options.dispose = gen_let_go;
    for (i = 0; i < 2; i++) {
        gen_holder h = AIOLOOP_ZERO;
        h.g = aioloop_generator_new_frame(loop, gen_count, &h.counter.frame, &options);
        CHECK(h.g != NULL);
        if (i == 0)
            CHECK_EQ(RUN(aioloop_generator_aclose(h.g)), 0);
        else
            CHECK_EQ(RUN(aioloop_generator_athrow(h.g, AIOLOOP_EPIPE)), AIOLOOP_EPIPE);
        CHECK_EQ(h.counter.disposed, 1);
    }
    test_end(loop);
}

TEST(gen_refuses_what_makes_no_sense, "RUN-17") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    gen_counter c = AIOLOOP_ZERO;
    gen_counter d = AIOLOOP_ZERO;
    gen_counter e = AIOLOOP_ZERO;
    aioloop_generator *g;
    CHECK_EQ(aioloop_yield(loop, 1, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_frame_yielded(loop), AIOLOOP_EMISUSE);
    CHECK_EQ(RUN(aioloop_create_task_frame(loop, gen_yields_astray, &c.frame, NULL)), AIOLOOP_EMISUSE);
    d.i = -1;
    g = aioloop_generator_new_frame(loop, gen_yields_astray, &d.frame, NULL);
    CHECK(g != NULL);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), AIOLOOP_EINVAL);
    aioloop_generator_unref(g);
    CHECK(aioloop_generator_new_frame(loop, gen_count, NULL, NULL) == NULL);
    CHECK(aioloop_generator_new_frame(NULL, gen_count, &e.frame, NULL) == NULL);
    options.dispose = gen_disposed;
    options.timeout = AIOLOOP_MS(1);
    CHECK(aioloop_generator_new_frame(loop, gen_count, &e.frame, &options) == NULL);
    CHECK_EQ(e.disposed, 1);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_generator_anext(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_generator_aclose(NULL)), AIOLOOP_EINVAL);
    CHECK(aioloop_generator_ref(NULL) == NULL);
    aioloop_generator_unref(NULL);
    options.timeout = 0;
    aioloop_close(loop);
    CHECK(aioloop_generator_new_frame(loop, gen_count, &e.frame, &options) == NULL);
    CHECK_EQ(e.disposed, 2);
    CHECK_EQ(aioloop_future_exception(aioloop_shutdown_asyncgens(loop)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_shutdown_asyncgens(NULL)), AIOLOOP_EINVAL);
    CHECK(aioloop_register_closer(loop, NULL, NULL) == NULL);
    aioloop_unregister_closer(NULL);
    test_end(loop);
}

TEST(gen_body_is_no_task_of_the_program, "") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 3);
    aioloop_future *f;
    c.pause = AIOLOOP_MS(1);
    f = aioloop_future_ref(aioloop_generator_anext(g));
    test_spin(loop, 1);
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 0);
    CHECK_EQ(RUN(f), 0);
    aioloop_future_unref(f);
    CHECK_EQ(RUN(aioloop_generator_aclose(g)), 0);
    aioloop_generator_unref(g);
    test_end(loop);
}

/* ---- with a stack ---- */

static int64_t gen_stack_squares(aioloop *loop, void *arg, void **out) {
    int64_t i;
    (void)out;
    for (i = 0; i < *(int *)arg; i++) {
        int64_t n = aioloop_await(aioloop_sleep(loop, AIOLOOP_US(100)), NULL);
        if (n >= 0)
            n = aioloop_yield(loop, i * i, NULL);
        if (n < 0)
            return n;
    }
    return 0;
}

static int64_t gen_stack_sums(aioloop *loop, void *arg, void **out) {
    aioloop_generator *source = (aioloop_generator *)arg;
    int64_t sum = 0;
    int64_t n;
    (void)out;
    while ((n = aioloop_await(aioloop_generator_anext(source), NULL)) >= 0) {
        sum += n;
        n = aioloop_yield(loop, sum, NULL);
        if (n < 0)
            break;
    }
    if (n == AIOLOOP_EGENERATOREXIT)
        (void)aioloop_await(aioloop_generator_aclose(source), NULL);
    return n;
}

TEST(gen_with_a_stack_feeds_another, "") {
    aioloop *loop = test_loop();
    int count = 4;
    aioloop_generator *squares = aioloop_generator_new(loop, gen_stack_squares, &count, NULL);
    aioloop_generator *sums;
    if (squares == NULL && aioloop_error_code(aioloop_last_error(loop)) == AIOLOOP_ENOTAVAILABLE) {
        test_end(loop);
        SKIP("built without coroutines that have a stack");
    }
    CHECK(squares != NULL);
    sums = aioloop_generator_new(loop, gen_stack_sums, squares, NULL);
    CHECK(sums != NULL);
    CHECK_EQ(RUN(aioloop_generator_anext(sums)), 0);
    CHECK_EQ(RUN(aioloop_generator_anext(sums)), 1);
    CHECK_EQ(RUN(aioloop_generator_anext(sums)), 5);
    CHECK_EQ(RUN(aioloop_generator_anext(sums)), 14);
    CHECK_EQ(RUN(aioloop_generator_anext(sums)), AIOLOOP_ESTOPITERATION);
    aioloop_generator_unref(sums);
    aioloop_generator_unref(squares);
    squares = aioloop_generator_new(loop, gen_stack_squares, &count, NULL);
    sums = aioloop_generator_new(loop, gen_stack_sums, squares, NULL);
    CHECK(squares != NULL && sums != NULL);
    CHECK_EQ(RUN(aioloop_generator_anext(sums)), 0);
    CHECK_EQ(RUN(aioloop_generator_aclose(sums)), 0);
    CHECK_EQ(RUN(aioloop_generator_anext(squares)), AIOLOOP_ESTOPITERATION); /* closed along */
    aioloop_generator_unref(sums);
    aioloop_generator_unref(squares);
    test_end(loop);
}

/* ---- the shutdown ---- */

TEST(gen_shutdown_with_nothing_registered_is_done_at_once, "RUN-20") {
    aioloop *loop = test_loop();
    aioloop_future *f = aioloop_shutdown_asyncgens(loop);
    CHECK(aioloop_future_done(f));
    CHECK_EQ(aioloop_future_result(f, NULL), 0);
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(gen_shutdown_closes_all_that_have_begun_side_by_side, "RUN-20") {
    aioloop *loop = test_loop();
    gen_counter c[4];
    aioloop_generator *g[4];
    aioloop_future *gate = aioloop_create_future(loop);
    aioloop_future *f;
    int i;
    memset(c, 0, sizeof(c));
    for (i = 0; i < 4; i++) {
        g[i] = gen_new(loop, &c[i], i == 3 ? 1 : 9);
        c[i].slow_end = i != 3;
        c[i].gate = gate;
        if (i != 0)
            CHECK_EQ(RUN(aioloop_generator_anext(g[i])), 0);
    }
    CHECK_EQ(RUN(aioloop_generator_anext(g[3])), AIOLOOP_ESTOPITERATION); /* this one has ended, the first has not begun */
    f = aioloop_future_ref(aioloop_shutdown_asyncgens(loop));
    CHECK_EQ(c[1].told, 0);
    test_spin(loop, 3);
    CHECK_EQ(c[1].told, AIOLOOP_EGENERATOREXIT);
    CHECK_EQ(c[2].told, AIOLOOP_EGENERATOREXIT); /* before the first is through */
    CHECK_EQ(c[1].ended + c[2].ended, 0);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_set_result(gate, 0, NULL, NULL), 0);
    CHECK_EQ(RUN(f), 0);
    aioloop_future_unref(gate);
    CHECK_EQ(c[1].ended, 1);
    CHECK_EQ(c[2].ended, 1);
    CHECK_EQ(c[3].told, 0);
    CHECK_EQ(c[0].frame.line, 0);
    aioloop_future_unref(f);
    for (i = 0; i < 4; i++)
        aioloop_generator_unref(g[i]);
    test_end(loop);
}

TEST(gen_shutdown_reports_each_that_fails, "RUN-20") {
    aioloop *loop = test_loop();
    gen_counter c[3];
    aioloop_generator *g[3];
    int i;
    memset(c, 0, sizeof(c));
    for (i = 0; i < 3; i++) {
        g[i] = gen_new(loop, &c[i], 9);
        CHECK_EQ(RUN(aioloop_generator_anext(g[i])), 0);
    }
    c[0].code = AIOLOOP_EPIPE;
    c[1].stubborn = true;
    CHECK_EQ(RUN(aioloop_shutdown_asyncgens(loop)), 0);
    CHECK_EQ(test_reports(), 2);
    for (i = 0; i < 2; i++) {
        const test_report *r = test_report_at(i);
        CHECK_STR(r->message, "An error occurred while closing an asynchronous generator");
        CHECK_PTR(r->context.asyncgen, r->context.error == AIOLOOP_EPIPE ? g[0] : g[1]);
        CHECK_STR(r->detail, r->context.error == AIOLOOP_EPIPE ? "as asked" : "the generator ignored AIOLOOP_EGENERATOREXIT");
    }
    CHECK_NE(test_report_at(0)->context.error, test_report_at(1)->context.error);
    test_reports_clear();
    for (i = 0; i < 3; i++)
        aioloop_generator_unref(g[i]);
    aioloop_close(loop);
    aioloop_set_exception_handler(loop, NULL, NULL); /* the stubborn one */
    test_end(loop);
}

TEST(gen_shutdown_cancels_what_is_still_waited_for, "RUN-20") {
    aioloop *loop = test_loop();
    gen_counter c[2];
    aioloop_generator *g[2];
    aioloop_future *f[2];
    int i;
    memset(c, 0, sizeof(c));
    for (i = 0; i < 2; i++) {
        g[i] = gen_new(loop, &c[i], 9);
        c[i].pause = AIOLOOP_MS(3600000);
        f[i] = aioloop_future_ref(aioloop_generator_anext(g[i]));
    }
    c[1].swallows = true; /* this one answers with a value, and is closed then */
    test_spin(loop, 2);
    CHECK_EQ(RUN(aioloop_shutdown_asyncgens(loop)), 0);
    CHECK(aioloop_future_cancelled(f[0]));
    CHECK_EQ(aioloop_future_result(f[1], NULL), 0);
    CHECK_EQ(c[0].ended, 1);
    CHECK_EQ(c[1].ended, 1);
    CHECK_EQ(test_reports(), 0);
    for (i = 0; i < 2; i++) {
        aioloop_future_unref(f[i]);
        aioloop_generator_unref(g[i]);
    }
    test_end(loop);
}

TEST(gen_shutdown_when_cancelled_cancels_each_closing, "RUN-20") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    gen_counter d = AIOLOOP_ZERO;
    aioloop_generator *g = gen_new(loop, &c, 9);
    aioloop_generator *h = gen_new(loop, &d, 9);
    aioloop_future *gate = aioloop_create_future(loop);
    aioloop_future *f;
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    c.slow_end = true;
    c.gate = gate;
    f = aioloop_future_ref(aioloop_shutdown_asyncgens(loop));
    test_spin(loop, 3);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_EQ(RUN(f), AIOLOOP_ECANCELED);
    CHECK_EQ(c.end, AIOLOOP_ECANCELED); /* its last wait */
    CHECK_EQ(c.ended, 1);
    aioloop_future_unref(f);
    aioloop_future_unref(gate);
    CHECK_EQ(RUN(aioloop_generator_anext(h)), 0);
    test_log_clear();
    f = aioloop_future_ref(aioloop_shutdown_asyncgens(loop));
    CHECK(aioloop_future_cancel(f, NULL)); /* before it has begun: nothing is closed, */
    CHECK_EQ(RUN(f), AIOLOOP_ECANCELED);
    aioloop_future_unref(f);
    CHECK_EQ(d.told, 0);
    CHECK_EQ(RUN(aioloop_shutdown_asyncgens(loop)), 0); /* and all is as it was */
    CHECK_EQ(d.told, AIOLOOP_EGENERATOREXIT);
    aioloop_generator_unref(g);
    aioloop_generator_unref(h);
    test_end(loop);
}

/* Closers of the program's own. */
typedef struct gen_closing {
    aioloop_closer *closer;
    aioloop_future *future; /* what the closing waits for; NULL: nothing */
    int closed;
    bool unregisters;
    aioloop_closer *other; /* is unregistered along */
} gen_closing;

static aioloop_future *gen_close(aioloop *loop, void *arg) {
    gen_closing *c = (gen_closing *)arg;
    (void)loop;
    c->closed++;
    if (c->unregisters)
        aioloop_unregister_closer(c->closer);
    aioloop_unregister_closer(c->other);
    return c->future;
}

static void gen_register(aioloop *loop, gen_closing *c) {
    memset(c, 0, sizeof(*c));
    c->closer = aioloop_register_closer(loop, gen_close, c);
    CHECK(c->closer != NULL);
}

TEST(closers_are_called_once_and_waited_for, "RUN-20") {
    aioloop *loop = test_loop();
    gen_closing c[5];
    aioloop_future *slow = aioloop_create_future(loop);
    aioloop_future *end;
    int i;
    for (i = 0; i < 5; i++)
        gen_register(loop, &c[i]);
    c[0].future = slow;
    c[1].unregisters = true;
    c[1].other = c[2].closer;
    aioloop_unregister_closer(c[3].closer);
    end = aioloop_future_ref(aioloop_shutdown_asyncgens(loop));
    CHECK_EQ(c[0].closed, 0); /* from the loop, not inside the call */
    test_spin(loop, 3);
    CHECK_EQ(c[0].closed, 1);
    CHECK_EQ(c[1].closed, 1);
    CHECK_EQ(c[2].closed, 0);
    CHECK_EQ(c[3].closed, 0);
    CHECK_EQ(c[4].closed, 1);
    CHECK(!aioloop_future_done(end));
    aioloop_unregister_closer(c[0].closer); /* while it is at it */
    CHECK_EQ(aioloop_future_set_exception(slow, AIOLOOP_EPIPE, "broken"), 0);
    CHECK_EQ(RUN(end), 0);
    aioloop_future_unref(end);
    aioloop_future_unref(slow);
    CHECK_EQ(test_reports(), 1);
    CHECK_PTR(test_report_at(0)->context.asyncgen, &c[0]);
    CHECK_STR(test_report_at(0)->detail, "broken");
    test_reports_clear();
    CHECK_EQ(RUN(aioloop_shutdown_asyncgens(loop)), 0);
    CHECK_EQ(c[4].closed, 1);
    aioloop_unregister_closer(c[4].closer);
    test_end(loop);
}

TEST(closer_registered_after_the_shutdown_works_with_a_warning, "RUN-21") {
    aioloop *loop = test_loop();
    gen_counter c = AIOLOOP_ZERO;
    gen_closing late;
    aioloop_generator *g;
    CHECK_EQ(RUN(aioloop_shutdown_asyncgens(loop)), 0);
    g = gen_new(loop, &c, 9);
    CHECK_EQ(test_log_lines(), 0);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 0);
    CHECK_EQ(test_log_lines(), 1);
    CHECK(strstr(test_log_text(), "after aioloop_shutdown_asyncgens") != NULL);
    CHECK_EQ(RUN(aioloop_generator_anext(g)), 1);
    CHECK_EQ(test_log_lines(), 1); /* once is enough */
    gen_register(loop, &late);
    CHECK_EQ(test_log_lines(), 2);
    CHECK_EQ(RUN(aioloop_shutdown_asyncgens(loop)), 0);
    CHECK_EQ(late.closed, 1);
    CHECK_EQ(c.ended, 1);
    aioloop_generator_unref(g);
    aioloop_unregister_closer(late.closer);
    test_log_clear();
    test_end(loop);
}

/* ---- in a program ---- */

static gen_counter gen_left_over;

static int64_t gen_main(aioloop *loop, aioloop_frame *frame, void **out) {
    gen_consumer *self = (gen_consumer *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    self->g = aioloop_generator_new_frame(loop, gen_count, &gen_left_over.frame, NULL);
    if (self->g == NULL)
        return AIOLOOP_ENOMEM;
    AIOLOOP_AWAIT(self->n, aioloop_generator_anext(self->g), NULL);
    return self->n;
    AIOLOOP_END;
}

TEST(gen_left_over_is_closed_by_run, "RUN-20 RNR-01") {
    gen_consumer w = AIOLOOP_ZERO;
    memset(&gen_left_over, 0, sizeof(gen_left_over));
    gen_left_over.end = 9;
    gen_left_over.slow_end = true;
    CHECK_EQ(aioloop_run_frame(gen_main, &w.frame, NULL), 0);
    CHECK_EQ(gen_left_over.told, AIOLOOP_EGENERATOREXIT);
    CHECK_EQ(gen_left_over.ended, 1);
}

/* Read without a place for its pointer: nobody has taken it, and it is not given again. */
TEST(gen_pointer_that_was_read_past_is_disposed_of, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    gen_pointers p = AIOLOOP_ZERO;
    aioloop_generator *g;
    int *got = NULL;
    p.values[0] = 1;
    p.values[1] = 10;
    p.values[2] = 100;
    gen_pointers_disposed = 0;
    options.dispose_result = gen_dispose_pointer;
    g = aioloop_generator_new_frame(loop, gen_give_pointers, &p.frame, &options);
    CHECK(g != NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_generator_anext(g), NULL), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_generator_anext(g), &got), 1);
    CHECK_PTR(got, &p.values[1]);
    CHECK_EQ(gen_pointers_disposed, 1);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_generator_anext(g), NULL), 2);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_generator_anext(g), NULL), AIOLOOP_ESTOPITERATION);
    CHECK_EQ(gen_pointers_disposed, 101);
    aioloop_generator_unref(g);
    test_end(loop);
}
