/*
 * test_queue.c - queues: the three orders, who waits for items and for room, what comes back from a getter that is
 * cancelled, and what becomes of items that nobody gets.
 */
#include "support.h"

/* ---- items ---- */

/* Static in the tests: when one gives up, its queues are freed after its stack has gone. */
typedef struct queue_item {
    int value;
    int disposed;
} queue_item;

static void queue_dispose(void *item) {
    ((queue_item *)item)->disposed++;
}

static int queue_compare(const void *a, const void *b) {
    return ((const queue_item *)a)->value - ((const queue_item *)b)->value;
}

/* Items with the values 0, 1, 2 and so on. */
static void queue_items(queue_item *items, int count) {
    int i;
    for (i = 0; i < count; i++) {
        items[i].value = i;
        items[i].disposed = 0;
    }
}

static aioloop_queue *queue_new(aioloop *loop, aioloop_queue_kind kind, int64_t maxsize) {
    aioloop_queue_options options = AIOLOOP_ZERO;
    aioloop_queue *queue;
    options.kind = kind;
    options.maxsize = maxsize;
    options.compare = queue_compare;
    queue = aioloop_queue_new(loop, &options);
    CHECK(queue != NULL);
    return queue;
}

static void queue_put_all(aioloop_queue *queue, queue_item *items, int count) {
    int i;
    for (i = 0; i < count; i++)
        CHECK_EQ(aioloop_queue_put_nowait(queue, &items[i], queue_dispose), 0);
}

/* The value of the next item; or the code. */
static int queue_next(aioloop_queue *queue) {
    queue_item *item = NULL;
    int err = aioloop_queue_get_nowait(queue, &item);
    if (err < 0)
        return err;
    CHECK_EQ(item->disposed, 0);
    return item->value;
}

/* ---- who waits ---- */

typedef enum queue_style { QUEUE_BY_CALLBACK, QUEUE_BY_STACK, QUEUE_BY_FRAME, QUEUE_STYLES } queue_style;

/* Waits for one future: of a get, a put or a join. */
typedef struct queue_who {
    aioloop_frame frame;
    aioloop_future *future; /* a callback's: claimed */
    aioloop_task *task;     /* claimed; NULL for a callback */
    int done;
    int64_t n;
    queue_item *item;
} queue_who;

static void queue_called(aioloop_future *future, void *arg) {
    queue_who *who = (queue_who *)arg;
    who->n = aioloop_future_result(future, &who->item);
    who->done++;
}

static int64_t queue_stack(aioloop *loop, void *arg, void **out) {
    queue_who *who = (queue_who *)arg;
    (void)loop;
    (void)out;
    who->n = aioloop_await(who->future, &who->item);
    who->done++;
    return who->n == AIOLOOP_ECANCELED ? who->n : 0;
}

static int64_t queue_frame(aioloop *loop, aioloop_frame *frame, void **out) {
    queue_who *who = (queue_who *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_AWAIT(who->n, who->future, &who->item);
    who->done++;
    return who->n == AIOLOOP_ECANCELED ? who->n : 0;
    AIOLOOP_END;
}

static bool queue_can(aioloop *loop, queue_style style) {
    aioloop_task_options options = AIOLOOP_ZERO;
    options.stack_size = 1; /* which is too small, where there are stacks */
    return style != QUEUE_BY_STACK ||
           aioloop_future_exception(aioloop_create_task(loop, queue_stack, NULL, &options)) != AIOLOOP_ENOTAVAILABLE;
}

static void queue_start(aioloop *loop, queue_who *who, queue_style style, aioloop_future *future) {
    memset(who, 0, sizeof(*who));
    who->future = future;
    if (style == QUEUE_BY_CALLBACK) {
        who->future = aioloop_future_ref(future);
        CHECK_EQ(aioloop_future_then(future, queue_called, who), 0);
        return;
    }
    if (style == QUEUE_BY_STACK)
        who->task = aioloop_create_task(loop, queue_stack, who, NULL);
    else
        who->task = aioloop_create_task_frame(loop, queue_frame, &who->frame, NULL);
    CHECK(aioloop_is_task(who->task));
    aioloop_future_ref(who->task);
    test_spin(loop, 1);
}

static void queue_cancel(queue_who *who) {
    CHECK(aioloop_future_cancel(who->task != NULL ? who->task : who->future, NULL));
}

static void queue_ended(queue_who *who, int64_t n) {
    CHECK_EQ(who->done, 1);
    CHECK_EQ(who->n, n);
    aioloop_future_unref(who->task != NULL ? who->task : who->future);
}

/* It has got that item. */
static void queue_got(queue_who *who, queue_item *item) {
    queue_ended(who, 0);
    CHECK_PTR(who->item, item);
}

/* A loop over all styles from the first on. */
#define QUEUE_FROM(style, first)                                                                   \
    for (style = (first); style < QUEUE_STYLES; style = (queue_style)(style + 1))                  \
        if (queue_can(loop, style))
#define QUEUE_FOR_TASKS(style) QUEUE_FROM(style, QUEUE_BY_STACK)
#define QUEUE_FOR_ALL(style) QUEUE_FROM(style, QUEUE_BY_CALLBACK)

static int queue_code(aioloop_future *future) {
    int code = aioloop_future_exception(future);
    aioloop_future_unref(future);
    return code;
}

/* ---- the orders ---- */

TEST(queue_fifo, "QUE-01") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = aioloop_queue_new(loop, NULL);
    static queue_item items[5];
    int i;
    queue_items(items, 5);
    CHECK(queue != NULL);
    queue_put_all(queue, items, 5);
    CHECK_EQ(aioloop_queue_qsize(queue), 5);
    for (i = 0; i < 5; i++)
        CHECK_EQ(queue_next(queue), i);
    CHECK_EQ(queue_next(queue), AIOLOOP_EQUEUEEMPTY);
    aioloop_queue_free(queue);
    test_end(loop);
}

TEST(queue_lifo, "QUE-01") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_LIFO, 0);
    static queue_item items[5];
    int i;
    queue_items(items, 5);
    queue_put_all(queue, items, 5);
    for (i = 4; i >= 0; i--)
        CHECK_EQ(queue_next(queue), i);
    CHECK_EQ(queue_next(queue), AIOLOOP_EQUEUEEMPTY);
    aioloop_queue_free(queue);
    test_end(loop);
}

TEST(queue_priority, "QUE-01") {
    static const int values[8] = {5, 2, 9, 2, 7, 0, 5, 1};
    static const int sorted[8] = {0, 1, 2, 2, 5, 5, 7, 9};
    static const int order[8] = {5, 7, 1, 3, 0, 6, 4, 2}; /* equal ones as they were put */
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_PRIORITY, 0);
    static queue_item items[8];
    int i;
    queue_items(items, 8);
    for (i = 0; i < 8; i++)
        items[i].value = values[i];
    queue_put_all(queue, items, 8);
    for (i = 0; i < 8; i++) {
        queue_item *item = NULL;
        CHECK_EQ(aioloop_queue_get_nowait(queue, &item), 0);
        CHECK_EQ(item->value, sorted[i]);
        CHECK_PTR(item, &items[order[i]]);
    }
    CHECK(aioloop_queue_empty(queue));
    aioloop_queue_free(queue);
    test_end(loop);
}

/* Random puts and gets of each kind, against an array that is searched. */
TEST(queue_orders_agree_with_a_model, "QUE-01") {
    aioloop *loop = test_loop();
    int kind;
    for (kind = AIOLOOP_QUEUE_FIFO; kind <= AIOLOOP_QUEUE_PRIORITY; kind++) {
        aioloop_queue *queue = queue_new(loop, (aioloop_queue_kind)kind, 0);
        static queue_item items[3000];
        queue_item *model[3000];
        size_t count = 0;
        size_t put = 0;
        uint32_t random = 12345;
        while (put < 3000 || count != 0) {
            random = random * 1664525u + 1013904223u;
            if (put < 3000 && ((random >> 16) % 16 < ((put / 500) % 2 != 0 ? 6u : 10u) || count == 0)) {
                items[put].value = (int)((random >> 8) % 50);
                items[put].disposed = 0;
                model[count++] = &items[put];
                CHECK_EQ(aioloop_queue_put_nowait(queue, &items[put++], queue_dispose), 0);
            } else {
                queue_item *item = NULL;
                size_t best = kind == AIOLOOP_QUEUE_LIFO ? count - 1 : 0;
                size_t i;
                for (i = 1; kind == AIOLOOP_QUEUE_PRIORITY && i < count; i++)
                    if (model[i]->value < model[best]->value)
                        best = i;
                CHECK_EQ(aioloop_queue_get_nowait(queue, &item), 0);
                CHECK_PTR(item, model[best]);
                memmove(&model[best], &model[best + 1], (count - best - 1) * sizeof(model[0]));
                count--;
            }
            CHECK_EQ(aioloop_queue_qsize(queue), count);
        }
        aioloop_queue_free(queue);
    }
    test_end(loop);
}

TEST(queue_of_no_known_kind, "QUE-01") {
    aioloop *loop = test_loop();
    aioloop_queue_options options = AIOLOOP_ZERO;
    options.kind = AIOLOOP_QUEUE_PRIORITY;
    CHECK(aioloop_queue_new(loop, &options) == NULL); /* no compare */
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    memset(&options.kind, 0x55, sizeof(options.kind));
    CHECK(aioloop_queue_new(loop, &options) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    test_end(loop);
}

/* ---- waiting ---- */

TEST(queue_get_waits_for_an_item, "QUE-02") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_ALL(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
        static queue_item items[3];
        queue_who a, b, c;
        queue_items(items, 3);
        queue_start(loop, &a, style, aioloop_queue_get(queue));
        queue_start(loop, &b, style, aioloop_queue_get(queue));
        test_spin(loop, 3);
        CHECK_EQ(a.done, 0);
        CHECK_EQ(aioloop_queue_put_nowait(queue, &items[0], queue_dispose), 0);
        CHECK_EQ(queue_next(queue), AIOLOOP_EQUEUEEMPTY); /* it is a's, which has not run yet */
        queue_start(loop, &c, style, aioloop_queue_get(queue));
        CHECK_EQ(aioloop_queue_put_nowait(queue, &items[1], queue_dispose), 0);
        CHECK_EQ(aioloop_queue_put_nowait(queue, &items[2], queue_dispose), 0);
        CHECK(aioloop_queue_empty(queue));
        test_spin(loop, 3);
        queue_got(&a, &items[0]);
        queue_got(&b, &items[1]);
        queue_got(&c, &items[2]);
        aioloop_queue_free(queue);
        CHECK_EQ(items[0].disposed + items[1].disposed + items[2].disposed, 0); /* they are who got them */
    }
    test_end(loop);
}

TEST(queue_put_waits_for_room, "QUE-02") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_ALL(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 2);
        static queue_item items[5];
        queue_who a, b;
        queue_items(items, 5);
        CHECK_EQ(aioloop_queue_maxsize(queue), 2);
        CHECK(!aioloop_queue_full(queue));
        queue_put_all(queue, items, 2);
        CHECK(aioloop_queue_full(queue));
        CHECK_EQ(aioloop_queue_put_nowait(queue, &items[4], queue_dispose), AIOLOOP_EQUEUEFULL);
        CHECK_EQ(items[4].disposed, 0); /* it is still the caller's */
        queue_start(loop, &a, style, aioloop_queue_put(queue, &items[2], queue_dispose));
        queue_start(loop, &b, style, aioloop_queue_put(queue, &items[3], queue_dispose));
        test_spin(loop, 3);
        CHECK_EQ(a.done + b.done, 0);
        CHECK_EQ(aioloop_queue_qsize(queue), 2);
        CHECK_EQ(queue_next(queue), 0);
        CHECK_EQ(aioloop_queue_put_nowait(queue, &items[4], queue_dispose), AIOLOOP_EQUEUEFULL); /* a was first */
        test_spin(loop, 3);
        CHECK_EQ(a.done, 1);
        CHECK_EQ(b.done, 0);
        CHECK_EQ(queue_next(queue), 1);
        CHECK_EQ(queue_next(queue), 2);
        CHECK_EQ(queue_next(queue), 3);
        CHECK_EQ(queue_next(queue), AIOLOOP_EQUEUEEMPTY);
        test_spin(loop, 3);
        queue_ended(&a, 0);
        queue_ended(&b, 0);
        aioloop_queue_free(queue);
    }
    test_end(loop);
}

TEST(queue_futures_are_done_at_once_where_nothing_is_to_wait_for, "QUE-02") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 1);
    static queue_item items[2];
    queue_item *out = NULL;
    aioloop_future *get;
    queue_items(items, 2);
    CHECK_EQ(queue_code(aioloop_queue_put(queue, &items[0], queue_dispose)), 0);
    CHECK(aioloop_queue_full(queue));
    get = aioloop_future_ref(aioloop_queue_get(queue));
    CHECK_EQ(aioloop_future_result(get, &out), 0);
    CHECK_PTR(out, &items[0]);
    aioloop_future_unref(get);
    CHECK(aioloop_queue_empty(queue));
    aioloop_queue_free(queue);
    CHECK_EQ(items[0].disposed, 0);
    test_end(loop);
}

TEST(queue_without_a_bound_is_never_full, "QUE-02") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, -5);
    static queue_item items[100];
    queue_items(items, 100);
    queue_put_all(queue, items, 100);
    CHECK(!aioloop_queue_full(queue));
    CHECK_EQ(aioloop_queue_maxsize(queue), 0);
    aioloop_queue_free(queue);
    CHECK_EQ(items[0].disposed, 1);
    CHECK_EQ(items[99].disposed, 1);
    test_end(loop);
}

/* A producer and a consumer, over a queue of two. */
typedef struct queue_flow {
    aioloop_queue *queue;
    queue_item items[20];
    int sum;
    int got;
} queue_flow;

typedef struct queue_worker {
    aioloop_frame frame;
    queue_flow *flow;
    int i;
    int64_t n;
    queue_item *item;
} queue_worker;

static int64_t queue_produce(aioloop *loop, aioloop_frame *frame, void **out) {
    queue_worker *self = (queue_worker *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    for (self->i = 0; self->i < 20; self->i++) {
        AIOLOOP_AWAIT(self->n, aioloop_queue_put(self->flow->queue, &self->flow->items[self->i], NULL), NULL);
        CHECK_EQ(self->n, 0);
        CHECK_INT(aioloop_queue_qsize(self->flow->queue), <=, 2);
    }
    AIOLOOP_AWAIT(self->n, aioloop_queue_join(self->flow->queue), NULL);
    CHECK_EQ(self->flow->got, 20);
    CHECK_EQ(aioloop_queue_shutdown(self->flow->queue, false), 0);
    return self->n;
    AIOLOOP_END;
}

static int64_t queue_consume(aioloop *loop, aioloop_frame *frame, void **out) {
    queue_worker *self = (queue_worker *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    for (;;) {
        AIOLOOP_AWAIT(self->n, aioloop_queue_get(self->flow->queue), &self->item);
        if (self->n < 0)
            return self->n == AIOLOOP_EQUEUESHUTDOWN ? 0 : self->n;
        CHECK_EQ(self->item->value, self->flow->got);
        self->flow->got++;
        self->flow->sum += self->item->value;
        CHECK_EQ(aioloop_queue_task_done(self->flow->queue), 0);
    }
    AIOLOOP_END;
}

TEST(queue_between_a_producer_and_a_consumer, "QUE-02 QUE-03 QUE-04") {
    aioloop *loop = test_loop();
    queue_flow flow;
    queue_worker workers[2];
    aioloop_task *tasks[2];
    memset(&flow, 0, sizeof(flow));
    memset(workers, 0, sizeof(workers));
    queue_items(flow.items, 20);
    flow.queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 2);
    workers[0].flow = &flow;
    workers[1].flow = &flow;
    tasks[0] = aioloop_create_task_frame(loop, queue_produce, &workers[0].frame, NULL);
    tasks[1] = aioloop_create_task_frame(loop, queue_consume, &workers[1].frame, NULL);
    CHECK(aioloop_is_task(tasks[0]) && aioloop_is_task(tasks[1]));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, tasks, 2, false), NULL), 2);
    CHECK_EQ(flow.sum, 190);
    aioloop_queue_free(flow.queue);
    test_end(loop);
}

/* ---- cancelling ---- */

TEST(queue_getter_that_is_cancelled_leaves_the_line, "QUE-02") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_ALL(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
        static queue_item items[1];
        queue_who a, b;
        queue_items(items, 1);
        queue_start(loop, &a, style, aioloop_queue_get(queue));
        queue_start(loop, &b, style, aioloop_queue_get(queue));
        queue_cancel(&a);
        queue_put_all(queue, items, 1);
        test_spin(loop, 3);
        queue_ended(&a, AIOLOOP_ECANCELED);
        queue_got(&b, &items[0]);
        aioloop_queue_free(queue);
    }
    test_end(loop);
}

TEST(queue_putter_that_is_cancelled_leaves_the_line_and_its_item_goes, "QUE-02") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_ALL(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 1);
        static queue_item items[3];
        queue_who a, b;
        queue_items(items, 3);
        queue_put_all(queue, items, 1);
        queue_start(loop, &a, style, aioloop_queue_put(queue, &items[1], queue_dispose));
        queue_start(loop, &b, style, aioloop_queue_put(queue, &items[2], queue_dispose));
        queue_cancel(&a);
        test_spin(loop, 3);
        queue_ended(&a, AIOLOOP_ECANCELED);
        CHECK_EQ(items[1].disposed, 1);
        CHECK_EQ(queue_next(queue), 0);
        CHECK_EQ(queue_next(queue), 2);
        CHECK_EQ(queue_next(queue), AIOLOOP_EQUEUEEMPTY);
        test_spin(loop, 3);
        queue_ended(&b, 0);
        aioloop_queue_free(queue);
        CHECK_EQ(items[0].disposed + items[2].disposed, 0);
    }
    test_end(loop);
}

TEST(queue_item_of_a_cancelled_getter_goes_to_the_next, "QUE-02") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_TASKS(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
        static queue_item items[2];
        queue_who a, b, c;
        queue_items(items, 2);
        queue_start(loop, &a, style, aioloop_queue_get(queue));
        queue_start(loop, &b, style, aioloop_queue_get(queue));
        queue_start(loop, &c, style, aioloop_queue_get(queue));
        queue_put_all(queue, items, 2);
        queue_cancel(&a);
        queue_cancel(&b);
        test_spin(loop, 4);
        queue_ended(&a, AIOLOOP_ECANCELED);
        queue_ended(&b, AIOLOOP_ECANCELED);
        queue_got(&c, &items[0]);
        CHECK_EQ(queue_next(queue), 1);
        aioloop_queue_free(queue);
        CHECK_EQ(items[0].disposed + items[1].disposed, 0);
    }
    test_end(loop);
}

/* Items 0 to 2 were given to getters that are cancelled, in any order, with 3 and 4 put behind them; then all come out
 * by rank. */
static void queue_come_back(aioloop *loop, aioloop_queue_kind kind, const int *cancels, const int *order) {
    aioloop_queue *queue = queue_new(loop, kind, 0);
    static queue_item items[5];
    aioloop_future *get[3];
    int i;
    queue_items(items, 5);
    for (i = 0; i < 3; i++)
        get[i] = aioloop_queue_get(queue);
    queue_put_all(queue, items, 3);
    for (i = 0; i < 3; i++)
        CHECK(aioloop_future_done(get[i]));
    queue_put_all(queue, items + 3, 2);
    for (i = 0; i < 3; i++)
        aioloop_future_unref(get[cancels[i]]); /* what a cancelled task does */
    CHECK_EQ(aioloop_queue_qsize(queue), 5);
    for (i = 0; i < 5; i++)
        CHECK_EQ(queue_next(queue), order[i]);
    aioloop_queue_free(queue);
    CHECK_EQ(items[0].disposed + items[4].disposed, 0);
}

TEST(queue_items_come_back_to_where_they_were, "QUE-01") {
    static const int cancels[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static const int forth[5] = {0, 1, 2, 3, 4};
    static const int back[5] = {4, 3, 2, 1, 0};
    aioloop *loop = test_loop();
    int i;
    for (i = 0; i < 6; i++) {
        queue_come_back(loop, AIOLOOP_QUEUE_FIFO, cancels[i], forth);
        queue_come_back(loop, AIOLOOP_QUEUE_LIFO, cancels[i], back);
        queue_come_back(loop, AIOLOOP_QUEUE_PRIORITY, cancels[i], forth);
    }
    test_end(loop);
}

TEST(queue_item_comes_back_to_a_queue_that_is_full_again, "QUE-02") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 1);
    static queue_item items[3];
    aioloop_future *get = aioloop_queue_get(queue);
    queue_who a;
    queue_items(items, 3);
    queue_put_all(queue, items, 1);
    CHECK(aioloop_future_done(get));
    queue_put_all(queue, items + 1, 1);
    queue_start(loop, &a, QUEUE_BY_FRAME, aioloop_queue_put(queue, &items[2], queue_dispose));
    aioloop_future_unref(get);
    CHECK_EQ(aioloop_queue_qsize(queue), 2);
    CHECK(aioloop_queue_full(queue));
    CHECK_EQ(queue_next(queue), 0);
    test_spin(loop, 2);
    CHECK_EQ(a.done, 0); /* there is no room yet */
    CHECK_EQ(queue_next(queue), 1);
    test_spin(loop, 2);
    queue_ended(&a, 0);
    CHECK_EQ(queue_next(queue), 2);
    aioloop_queue_free(queue);
    test_end(loop);
}

TEST(queue_get_with_a_time_out, "QUE-02") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
    static queue_item items[1];
    queue_item *out = NULL;
    queue_items(items, 1);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait_for(aioloop_queue_get(queue), AIOLOOP_MS(1)), &out),
             AIOLOOP_ETIMEDOUT);
    queue_put_all(queue, items, 1);
    CHECK_EQ(aioloop_queue_qsize(queue), 1);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait_for(aioloop_queue_get(queue), AIOLOOP_MS(1)), &out), 0);
    CHECK_PTR(out, &items[0]);
    aioloop_queue_free(queue);
    test_end(loop);
}

/* ---- join ---- */

TEST(queue_join_waits_until_every_item_is_done_with, "QUE-03") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_ALL(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
        static queue_item items[3];
        queue_who a, b, c;
        queue_items(items, 3);
        CHECK_EQ(queue_code(aioloop_queue_join(queue)), 0); /* nothing was put */
        queue_put_all(queue, items, 2);
        queue_start(loop, &a, style, aioloop_queue_join(queue));
        queue_start(loop, &b, style, aioloop_queue_join(queue));
        queue_start(loop, &c, style, aioloop_queue_join(queue));
        CHECK_EQ(queue_next(queue), 0);
        CHECK_EQ(queue_next(queue), 1);
        CHECK_EQ(aioloop_queue_task_done(queue), 0);
        queue_cancel(&c);
        test_spin(loop, 3);
        CHECK_EQ(a.done + b.done, 0); /* got is not done */
        queue_ended(&c, AIOLOOP_ECANCELED);
        CHECK_EQ(aioloop_queue_task_done(queue), 0);
        queue_put_all(queue, items + 2, 1); /* too late to hold them up */
        test_spin(loop, 3);
        queue_ended(&a, 0);
        queue_ended(&b, 0);
        aioloop_queue_free(queue);
    }
    test_end(loop);
}

TEST(queue_task_done_more_often_than_put, "QUE-03") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
    static queue_item items[1];
    queue_items(items, 1);
    CHECK_EQ(aioloop_queue_task_done(queue), AIOLOOP_EINVAL);
    queue_put_all(queue, items, 1);
    CHECK_EQ(queue_next(queue), 0);
    CHECK_EQ(aioloop_queue_task_done(queue), 0);
    CHECK_EQ(aioloop_queue_task_done(queue), AIOLOOP_EINVAL);
    aioloop_queue_free(queue);
    test_end(loop);
}

TEST(queue_item_that_comes_back_is_not_counted_twice, "QUE-03") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
    static queue_item items[1];
    queue_items(items, 1);
    queue_put_all(queue, items, 1);
    aioloop_future_unref(aioloop_queue_get(queue));
    CHECK_EQ(queue_next(queue), 0);
    CHECK_EQ(aioloop_queue_task_done(queue), 0);
    CHECK_EQ(queue_code(aioloop_queue_join(queue)), 0);
    CHECK_EQ(aioloop_queue_task_done(queue), AIOLOOP_EINVAL);
    aioloop_queue_free(queue);
    test_end(loop);
}

/* ---- shutdown ---- */

TEST(queue_shutdown_ends_puts_and_drains, "QUE-04") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_ALL(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 2);
        static queue_item items[5];
        queue_who a;
        queue_items(items, 5);
        queue_put_all(queue, items, 2);
        queue_start(loop, &a, style, aioloop_queue_put(queue, &items[2], queue_dispose));
        CHECK_EQ(aioloop_queue_shutdown(queue, false), 0);
        CHECK_EQ(aioloop_queue_put_nowait(queue, &items[3], queue_dispose), AIOLOOP_EQUEUESHUTDOWN);
        CHECK_EQ(items[3].disposed, 0); /* still the caller's */
        CHECK_EQ(queue_code(aioloop_queue_put(queue, &items[4], queue_dispose)), AIOLOOP_EQUEUESHUTDOWN);
        CHECK_EQ(items[4].disposed, 1);
        test_spin(loop, 3);
        queue_ended(&a, AIOLOOP_EQUEUESHUTDOWN);
        CHECK_EQ(items[2].disposed, 1);
        CHECK_EQ(queue_next(queue), 0);
        CHECK_EQ(queue_next(queue), 1);
        CHECK_EQ(queue_next(queue), AIOLOOP_EQUEUESHUTDOWN);
        CHECK_EQ(queue_code(aioloop_queue_get(queue)), AIOLOOP_EQUEUESHUTDOWN);
        CHECK_EQ(aioloop_queue_shutdown(queue, false), 0);
        CHECK_EQ(aioloop_queue_task_done(queue), 0);
        CHECK_EQ(aioloop_queue_task_done(queue), 0);
        CHECK_EQ(queue_code(aioloop_queue_join(queue)), 0);
        aioloop_queue_free(queue);
    }
    test_end(loop);
}

TEST(queue_shutdown_wakes_who_waits_for_items, "QUE-04") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_ALL(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
        static queue_item items[1];
        queue_who a, b;
        queue_items(items, 1);
        queue_start(loop, &a, style, aioloop_queue_get(queue));
        queue_start(loop, &b, style, aioloop_queue_get(queue));
        queue_put_all(queue, items, 1); /* is a's already */
        CHECK_EQ(aioloop_queue_shutdown(queue, false), 0);
        test_spin(loop, 3);
        queue_got(&a, &items[0]);
        queue_ended(&b, AIOLOOP_EQUEUESHUTDOWN);
        aioloop_queue_free(queue);
    }
    test_end(loop);
}

TEST(queue_shutdown_at_once_drops_the_items, "QUE-04") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_ALL(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
        static queue_item items[3];
        queue_who a;
        queue_items(items, 3);
        queue_put_all(queue, items, 3);
        CHECK_EQ(queue_next(queue), 0);
        queue_start(loop, &a, style, aioloop_queue_join(queue));
        CHECK_EQ(aioloop_queue_shutdown(queue, true), 0);
        CHECK(aioloop_queue_empty(queue));
        CHECK_EQ(items[0].disposed, 0);
        CHECK_EQ(items[1].disposed, 1);
        CHECK_EQ(items[2].disposed, 1);
        CHECK_EQ(queue_next(queue), AIOLOOP_EQUEUESHUTDOWN);
        test_spin(loop, 3);
        CHECK_EQ(a.done, 0); /* one was got, and is not done with */
        CHECK_EQ(aioloop_queue_task_done(queue), 0);
        test_spin(loop, 3);
        queue_ended(&a, 0);
        aioloop_queue_free(queue);
    }
    test_end(loop);
}

TEST(queue_item_that_would_come_back_after_the_end_is_dropped, "QUE-04") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_TASKS(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
        static queue_item items[2];
        queue_who a, b;
        queue_items(items, 2);
        queue_put_all(queue, items, 1);
        queue_start(loop, &b, style, aioloop_queue_join(queue));
        CHECK_EQ(queue_next(queue), 0);
        queue_start(loop, &a, style, aioloop_queue_get(queue));
        queue_put_all(queue, items + 1, 1); /* given to a, which is cancelled before it runs */
        queue_cancel(&a);
        CHECK_EQ(aioloop_queue_shutdown(queue, true), 0);
        CHECK_EQ(aioloop_queue_task_done(queue), 0); /* for the first */
        test_spin(loop, 4);
        queue_ended(&a, AIOLOOP_ECANCELED);
        CHECK_EQ(items[1].disposed, 1);
        queue_ended(&b, 0);
        aioloop_queue_free(queue);
    }
    test_end(loop);
}

TEST(queue_freed_cancels_who_waits_and_disposes, "QUE-02") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_ALL(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 2);
        aioloop_queue *hungry = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
        static queue_item items[3];
        queue_who put, join, get;
        queue_items(items, 3);
        queue_put_all(queue, items, 2);
        queue_start(loop, &put, style, aioloop_queue_put(queue, &items[2], queue_dispose));
        queue_start(loop, &join, style, aioloop_queue_join(queue));
        queue_start(loop, &get, style, aioloop_queue_get(hungry));
        aioloop_queue_free(queue);
        aioloop_queue_free(hungry);
        CHECK_EQ(items[0].disposed, 1);
        CHECK_EQ(items[1].disposed, 1);
        test_spin(loop, 3);
        queue_ended(&put, AIOLOOP_ECANCELED);
        queue_ended(&join, AIOLOOP_ECANCELED);
        queue_ended(&get, AIOLOOP_ECANCELED);
        CHECK_EQ(items[2].disposed, 1);
    }
    test_end(loop);
}

TEST(queue_freed_before_who_was_given_an_item_runs, "QUE-02") {
    aioloop *loop = test_loop();
    queue_style style;
    QUEUE_FOR_TASKS(style) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
        static queue_item items[2];
        queue_who a, b;
        queue_items(items, 2);
        queue_start(loop, &a, style, aioloop_queue_get(queue));
        queue_start(loop, &b, style, aioloop_queue_get(queue));
        queue_put_all(queue, items, 2);
        queue_cancel(&b);
        aioloop_queue_free(queue);
        test_spin(loop, 3);
        queue_got(&a, &items[0]);
        queue_ended(&b, AIOLOOP_ECANCELED);
        CHECK_EQ(items[0].disposed, 0);
        CHECK_EQ(items[1].disposed, 1);
    }
    test_end(loop);
}

/* ---- the end of the loop, and NULL ---- */

TEST(queue_of_a_closed_loop, "RUN-17 RUN-19") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 1);
    static queue_item items[5];
    queue_item *out = NULL;
    aioloop_future *put, *join;
    queue_items(items, 5);
    queue_put_all(queue, items, 1);
    put = aioloop_future_ref(aioloop_queue_put(queue, &items[1], queue_dispose));
    join = aioloop_future_ref(aioloop_queue_join(queue));
    CHECK(!aioloop_future_done(put) && !aioloop_future_done(join));
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(items[0].disposed, 1);
    CHECK(aioloop_queue_empty(queue));
    CHECK(aioloop_queue_new(loop, NULL) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_queue_put(queue, &items[2], queue_dispose)), AIOLOOP_ECLOSED);
    CHECK_EQ(items[2].disposed, 1);
    CHECK_EQ(aioloop_queue_put_nowait(queue, &items[3], queue_dispose), AIOLOOP_ECLOSED);
    CHECK_EQ(items[3].disposed, 0);
    CHECK_EQ(aioloop_future_exception(aioloop_queue_get(queue)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_queue_get_nowait(queue, &out), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_queue_join(queue)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_queue_shutdown(queue, true), 0);
    CHECK_EQ(aioloop_queue_task_done(queue), 0);
    CHECK(!aioloop_future_done(put) && !aioloop_future_done(join));
    aioloop_future_cancel(put, NULL);
    aioloop_future_unref(put);
    CHECK_EQ(items[1].disposed, 1);
    aioloop_future_unref(join);
    aioloop_queue_free(queue);
    test_end(loop);
}

static aioloop_queue *queue_disposing; /* freed by what is disposed of */

static void queue_dispose_and_free(void *item) {
    queue_dispose(item);
    aioloop_queue_free(queue_disposing);
    queue_disposing = NULL;
}

TEST(queue_may_be_freed_by_what_it_disposes_of, "QUE-04") {
    aioloop *loop = test_loop();
    static queue_item items[3];
    int closes;
    for (closes = 0; closes < 2; closes++) {
        aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
        int i;
        queue_items(items, 3);
        queue_disposing = queue;
        for (i = 0; i < 3; i++)
            CHECK_EQ(aioloop_queue_put_nowait(queue, &items[i], queue_dispose_and_free), 0);
        if (closes)
            CHECK_EQ(aioloop_close(loop), 0);
        else
            CHECK_EQ(aioloop_queue_shutdown(queue, true), 0);
        CHECK_EQ(items[0].disposed + items[1].disposed + items[2].disposed, 3);
        CHECK(queue_disposing == NULL);
    }
    test_end(loop);
}

TEST(queue_forgotten_goes_with_the_loop, "QUE-04") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 2);
    static queue_item items[4];
    aioloop_future *get = aioloop_queue_get(queue);
    aioloop_future *put;
    queue_items(items, 4);
    queue_put_all(queue, items, 3);
    CHECK(aioloop_future_done(get));
    put = aioloop_queue_put(queue, &items[3], queue_dispose);
    CHECK(!aioloop_future_done(put));
    test_end(loop);
    CHECK_EQ(items[0].disposed, 1); /* given, and not read */
    CHECK_EQ(items[1].disposed, 1);
    CHECK_EQ(items[2].disposed, 1);
    CHECK_EQ(items[3].disposed, 1); /* not put */
}

TEST(queue_calls_refuse_null, "QUE-02 QUE-03") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
    static queue_item items[2];
    void *out = NULL;
    queue_items(items, 2);
    CHECK(aioloop_queue_new(NULL, NULL) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_EINVAL);
    aioloop_queue_free(NULL);
    CHECK_EQ(aioloop_future_exception(aioloop_queue_put(NULL, &items[0], queue_dispose)), AIOLOOP_EINVAL);
    CHECK_EQ(items[0].disposed, 1);
    CHECK_EQ(aioloop_queue_put_nowait(NULL, &items[1], queue_dispose), AIOLOOP_EINVAL);
    CHECK_EQ(items[1].disposed, 0);
    CHECK_EQ(aioloop_future_exception(aioloop_queue_get(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_queue_get_nowait(NULL, &out), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_queue_get_nowait(queue, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_queue_task_done(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_queue_join(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_queue_shutdown(NULL, true), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_queue_qsize(NULL), 0);
    CHECK_EQ(aioloop_queue_maxsize(NULL), 0);
    CHECK(aioloop_queue_empty(NULL));
    CHECK(!aioloop_queue_full(NULL));
    CHECK_EQ(aioloop_queue_put_nowait(queue, NULL, NULL), 0); /* but an item may be NULL */
    CHECK_EQ(aioloop_queue_get_nowait(queue, &out), 0);
    aioloop_queue_free(queue);
    test_end(loop);
}

/* ---- memory ---- */

static bool queue_no_memory;
static int queue_allocations;

static void *queue_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    (void)context;
    (void)old_size;
    if (new_size == 0) {
        test_free(pointer);
        return NULL;
    }
    queue_allocations++;
    if (queue_no_memory)
        return NULL;
    return pointer == NULL ? test_malloc(new_size) : test_realloc(pointer, new_size);
}

TEST(queue_allocates_the_getters_future_alone, "QUE-02") {
    static const aioloop_allocator allocator = {queue_allocate, NULL};
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop;
    aioloop_queue *queue;
    static queue_item items[4];
    queue_item *out = NULL;
    aioloop_future *get, *put, *lost;
    queue_no_memory = false;
    config.allocator = &allocator;
    loop = test_loop_with(&config);
    queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 2);
    queue_items(items, 4);
    queue_put_all(queue, items, 1); /* the ring is there from now on */
    CHECK_EQ(queue_next(queue), 0);
    queue_allocations = 0;
    get = aioloop_queue_get(queue);
    lost = aioloop_queue_get(queue);
    CHECK_EQ(queue_allocations, 2);
    CHECK_EQ(aioloop_queue_put_nowait(queue, &items[0], queue_dispose), 0);
    CHECK_EQ(aioloop_queue_put_nowait(queue, &items[1], queue_dispose), 0);
    CHECK_EQ(aioloop_future_result(get, &out), 0);
    CHECK_PTR(out, &items[0]);
    aioloop_future_unref(get);
    CHECK_EQ(queue_allocations, 2);
    queue_put_all(queue, items + 2, 2);
    CHECK_EQ(queue_allocations, 2);
    put = aioloop_future_ref(aioloop_queue_put(queue, &items[0], queue_dispose));
    CHECK(!aioloop_future_done(put));
    queue_no_memory = true;
    CHECK_EQ(aioloop_future_exception(aioloop_queue_get(queue)), AIOLOOP_ENOMEM);
    CHECK_EQ(aioloop_queue_qsize(queue), 2); /* nothing was lost */
    aioloop_future_unref(lost); /* its item comes back */
    CHECK_EQ(queue_next(queue), 1);
    CHECK_EQ(queue_next(queue), 2);
    CHECK_EQ(aioloop_future_result(put, NULL), 0);
    CHECK_EQ(queue_next(queue), 3);
    CHECK_EQ(aioloop_queue_shutdown(queue, true), 0);
    aioloop_queue_free(queue);
    CHECK_EQ(items[0].disposed, 1);
    aioloop_future_unref(put);
    queue_no_memory = false;
    test_end(loop);
}

TEST(queue_keeps_room_for_what_may_come_back, "QUE-01") {
    aioloop *loop = test_loop();
    aioloop_queue *queue = queue_new(loop, AIOLOOP_QUEUE_FIFO, 0);
    static queue_item items[40];
    aioloop_future *get[20];
    int i;
    queue_items(items, 40);
    for (i = 0; i < 20; i++)
        get[i] = aioloop_queue_get(queue);
    queue_put_all(queue, items, 40);
    CHECK_EQ(aioloop_queue_qsize(queue), 20);
    for (i = 0; i < 20; i++) {
        CHECK(aioloop_future_done(get[i]));
        aioloop_future_unref(get[i]);
    }
    CHECK_EQ(aioloop_queue_qsize(queue), 40);
    for (i = 0; i < 40; i++)
        CHECK_EQ(queue_next(queue), i);
    aioloop_queue_free(queue);
    test_end(loop);
}
