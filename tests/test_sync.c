/*
 * test_sync.c - locks, events, conditions, semaphores, barriers: who gets what, in which order, and what becomes of it
 * when a waiter is cancelled.
 *
 * The scenarios are played by done-callbacks, by coroutines with a stack and by coroutines without one, where there is
 * no difference.
 */
#include "support.h"

/* ---- who waits ---- */

typedef enum sync_style { SYNC_BY_CALLBACK, SYNC_BY_STACK, SYNC_BY_FRAME, SYNC_STYLES } sync_style;

/* Waits for one future and notes its letter when that is done. */
typedef struct sync_who {
    aioloop_frame frame;
    aioloop_future *future; /* a callback's: claimed */
    aioloop_task *task;     /* claimed; NULL for a callback */
    char *order;
    char letter;
    int done;
    int64_t n;
} sync_who;

static void sync_note(sync_who *who, int64_t n) {
    size_t length = strlen(who->order);
    who->n = n;
    who->done++;
    who->order[length] = who->letter;
    who->order[length + 1] = '\0';
}

static void sync_called(aioloop_future *future, void *arg) {
    sync_note((sync_who *)arg, aioloop_future_result(future, NULL));
}

static int64_t sync_stack(aioloop *loop, void *arg, void **out) {
    sync_who *who = (sync_who *)arg;
    (void)loop;
    (void)out;
    sync_note(who, aioloop_await(who->future, NULL));
    return who->n == AIOLOOP_ECANCELED ? who->n : 0;
}

static int64_t sync_frame(aioloop *loop, aioloop_frame *frame, void **out) {
    sync_who *who = (sync_who *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_AWAIT(who->n, who->future, NULL);
    sync_note(who, who->n);
    return who->n == AIOLOOP_ECANCELED ? who->n : 0;
    AIOLOOP_END;
}

/* Whether this build has what the style needs: coroutines with stacks. Those say that a byte is not enough for one. */
static bool sync_can(aioloop *loop, sync_style style) {
    aioloop_task_options options = AIOLOOP_ZERO;
    options.stack_size = 1;
    return style != SYNC_BY_STACK ||
           aioloop_future_exception(aioloop_create_task(loop, sync_stack, NULL, &options)) != AIOLOOP_ENOTAVAILABLE;
}

/* Begins to wait, and has got so far when it returns. */
static void sync_start(aioloop *loop, sync_who *who, sync_style style, char letter, char *order,
                       aioloop_future *future) {
    memset(who, 0, sizeof(*who));
    who->letter = letter;
    who->order = order;
    who->future = future;
    if (style == SYNC_BY_CALLBACK) {
        who->future = aioloop_future_ref(future);
        CHECK_EQ(aioloop_future_then(future, sync_called, who), 0);
        return;
    }
    if (style == SYNC_BY_STACK)
        who->task = aioloop_create_task(loop, sync_stack, who, NULL);
    else
        who->task = aioloop_create_task_frame(loop, sync_frame, &who->frame, NULL);
    CHECK(aioloop_is_task(who->task));
    aioloop_future_ref(who->task);
    test_spin(loop, 1);
}

static void sync_cancel(sync_who *who) {
    CHECK(aioloop_future_cancel(who->task != NULL ? who->task : who->future, NULL));
}

/* It has ended, with that outcome. */
static void sync_ended(sync_who *who, int64_t n) {
    CHECK_EQ(who->done, 1);
    CHECK_EQ(who->n, n);
    aioloop_future_unref(who->task != NULL ? who->task : who->future);
}

/* A loop over all styles from the first on. */
#define SYNC_FROM(style, first)                                                                    \
    for (style = (first); style < SYNC_STYLES; style = (sync_style)(style + 1))                    \
        if (sync_can(loop, style))
#define SYNC_FOR_TASKS(style) SYNC_FROM(style, SYNC_BY_STACK)
#define SYNC_FOR_ALL(style) SYNC_FROM(style, SYNC_BY_CALLBACK)

/* An allocator that can be told to give nothing any more. It keeps the size of each block in front of it, and what is
 * freed must be told to have that size. */
static bool sync_no_memory;
static bool sync_wrong_size;

#define SYNC_HEADER 16

static void *sync_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    char *block = pointer == NULL ? NULL : (char *)pointer - SYNC_HEADER;
    (void)context;
    if (block != NULL && memcmp(block, &old_size, sizeof(old_size)) != 0)
        sync_wrong_size = true;
    if (new_size == 0) {
        test_free(block);
        return NULL;
    }
    if (sync_no_memory)
        return NULL;
    block = (char *)(block == NULL ? test_malloc(SYNC_HEADER + new_size) : test_realloc(block, SYNC_HEADER + new_size));
    if (block == NULL)
        return NULL;
    memcpy(block, &new_size, sizeof(new_size));
    return block + SYNC_HEADER;
}

static aioloop *sync_poor_loop(void) {
    static const aioloop_allocator allocator = {sync_allocate, NULL};
    aioloop_config config = AIOLOOP_ZERO;
    sync_no_memory = false;
    sync_wrong_size = false;
    config.allocator = &allocator;
    return test_loop_with(&config);
}

/* Drops a future and answers its code or 0. */
static int sync_code(aioloop_future *future) {
    int code = aioloop_future_exception(future);
    aioloop_future_unref(future);
    return code;
}

static aioloop_lock *sync_lock(aioloop *loop) {
    aioloop_lock *lock = aioloop_lock_new(loop);
    CHECK(lock != NULL);
    return lock;
}

/* ---- Lock ---- */

TEST(lock_is_handed_on_in_order, "LOCK-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_lock *lock = sync_lock(loop);
        sync_who a, b, c;
        char order[8] = "";
        CHECK(!aioloop_lock_locked(lock));
        CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
        CHECK(aioloop_lock_locked(lock));
        sync_start(loop, &a, style, 'a', order, aioloop_lock_acquire(lock));
        sync_start(loop, &b, style, 'b', order, aioloop_lock_acquire(lock));
        sync_start(loop, &c, style, 'c', order, aioloop_lock_acquire(lock));
        test_spin(loop, 3);
        CHECK_STR(order, "");
        CHECK_EQ(aioloop_lock_release(lock), 0);
        CHECK_STR(order, ""); /* nobody runs inside the call */
        test_spin(loop, 3);
        CHECK_STR(order, "a");
        CHECK(aioloop_lock_locked(lock));
        CHECK_EQ(aioloop_lock_release(lock), 0);
        test_spin(loop, 3);
        CHECK_STR(order, "ab");
        CHECK_EQ(aioloop_lock_release(lock), 0);
        test_spin(loop, 3);
        CHECK_STR(order, "abc");
        CHECK_EQ(aioloop_lock_release(lock), 0);
        CHECK(!aioloop_lock_locked(lock));
        sync_ended(&a, 0);
        sync_ended(&b, 0);
        sync_ended(&c, 0);
        aioloop_lock_free(lock);
    }
    test_end(loop);
}

TEST(lock_that_is_free_is_taken_at_once, "LOCK-01") {
    aioloop *loop = test_loop();
    aioloop_lock *lock = sync_lock(loop);
    aioloop_future *f = aioloop_future_ref(aioloop_lock_acquire(lock));
    CHECK(aioloop_future_done(f));
    CHECK_EQ(aioloop_future_result(f, NULL), 0);
    CHECK(aioloop_lock_locked(lock));
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), AIOLOOP_EAGAIN);
    aioloop_future_unref(f);
    CHECK(aioloop_lock_locked(lock));
    CHECK_EQ(aioloop_lock_release(lock), 0);
    aioloop_lock_free(lock);
    test_end(loop);
}

TEST(lock_is_not_taken_by_a_newcomer, "LOCK-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_lock *lock = sync_lock(loop);
        sync_who a, b;
        char order[8] = "";
        CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
        sync_start(loop, &a, style, 'a', order, aioloop_lock_acquire(lock));
        CHECK_EQ(aioloop_lock_release(lock), 0); /* it is a's now, which has not run yet */
        CHECK_EQ(aioloop_lock_acquire_nowait(lock), AIOLOOP_EAGAIN);
        sync_start(loop, &b, style, 'b', order, aioloop_lock_acquire(lock));
        test_spin(loop, 3);
        CHECK_STR(order, "a");
        CHECK_EQ(aioloop_lock_release(lock), 0);
        test_spin(loop, 3);
        CHECK_STR(order, "ab");
        sync_ended(&a, 0);
        sync_ended(&b, 0);
        aioloop_lock_free(lock);
    }
    test_end(loop);
}

TEST(lock_waiter_that_is_cancelled_leaves_the_line, "LOCK-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_lock *lock = sync_lock(loop);
        sync_who a, b;
        char order[8] = "";
        CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
        sync_start(loop, &a, style, 'a', order, aioloop_lock_acquire(lock));
        sync_start(loop, &b, style, 'b', order, aioloop_lock_acquire(lock));
        sync_cancel(&a);
        test_spin(loop, 3);
        CHECK_STR(order, "a");
        CHECK_EQ(aioloop_lock_release(lock), 0);
        test_spin(loop, 3);
        CHECK_STR(order, "ab");
        CHECK(aioloop_lock_locked(lock));
        sync_ended(&a, AIOLOOP_ECANCELED);
        sync_ended(&b, 0);
        aioloop_lock_free(lock);
    }
    test_end(loop);
}

TEST(lock_given_to_a_task_that_is_cancelled_goes_to_the_next, "LOCK-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_TASKS(style) {
        aioloop_lock *lock = sync_lock(loop);
        sync_who a, b;
        char order[8] = "";
        CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
        sync_start(loop, &a, style, 'a', order, aioloop_lock_acquire(lock));
        sync_start(loop, &b, style, 'b', order, aioloop_lock_acquire(lock));
        CHECK_EQ(aioloop_lock_release(lock), 0);
        sync_cancel(&a);
        test_spin(loop, 4);
        CHECK_STR(order, "ab");
        CHECK(aioloop_lock_locked(lock));
        sync_ended(&a, AIOLOOP_ECANCELED);
        sync_ended(&b, 0);
        sync_start(loop, &a, style, 'a', order, aioloop_lock_acquire(lock));
        CHECK_EQ(aioloop_lock_release(lock), 0);
        sync_cancel(&a);
        test_spin(loop, 4);
        CHECK(!aioloop_lock_locked(lock)); /* nobody else was there */
        sync_ended(&a, AIOLOOP_ECANCELED);
        aioloop_lock_free(lock);
    }
    test_end(loop);
}

TEST(lock_whose_future_is_dropped_is_given_back, "LOCK-01") {
    aioloop *loop = test_loop();
    aioloop_lock *lock = sync_lock(loop);
    sync_who a;
    char order[8] = "";
    aioloop_future_unref(aioloop_lock_acquire(lock));
    CHECK(!aioloop_lock_locked(lock));
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
    aioloop_future_unref(aioloop_lock_acquire(lock));
    sync_start(loop, &a, SYNC_BY_FRAME, 'a', order, aioloop_lock_acquire(lock));
    CHECK_EQ(aioloop_lock_release(lock), 0);
    test_spin(loop, 3);
    sync_ended(&a, 0);
    CHECK(aioloop_lock_locked(lock));
    aioloop_lock_free(lock);
    test_end(loop);
}

TEST_WITH(lock_with_many_dropped_futures_needs_no_deep_stack, "LOCK-01", TEST_SLOW) {
    aioloop *loop = test_loop();
    aioloop_lock *lock = sync_lock(loop);
    int i;
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
    for (i = 0; i < 200000; i++)
        aioloop_future_unref(aioloop_lock_acquire(lock));
    CHECK_EQ(aioloop_lock_release(lock), 0);
    CHECK(!aioloop_lock_locked(lock));
    aioloop_lock_free(lock);
    test_end(loop);
}

TEST(lock_that_is_not_held_cannot_be_released, "LOCK-01") {
    aioloop *loop = test_loop();
    aioloop_lock *lock = sync_lock(loop);
    CHECK_EQ(aioloop_lock_release(lock), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
    CHECK_EQ(aioloop_lock_release(lock), 0);
    CHECK_EQ(aioloop_lock_release(lock), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
    aioloop_lock_free(lock);
    test_end(loop);
}

TEST(lock_freed_cancels_who_waits, "LOCK-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_lock *lock = sync_lock(loop);
        sync_who a, b;
        char order[8] = "";
        CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
        sync_start(loop, &a, style, 'a', order, aioloop_lock_acquire(lock));
        sync_start(loop, &b, style, 'b', order, aioloop_lock_acquire(lock));
        aioloop_lock_free(lock);
        test_spin(loop, 3);
        CHECK_STR(order, "ab");
        sync_ended(&a, AIOLOOP_ECANCELED);
        sync_ended(&b, AIOLOOP_ECANCELED);
    }
    test_end(loop);
}

TEST(lock_may_be_freed_before_who_was_given_it_runs, "LOCK-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_TASKS(style) {
        aioloop_lock *lock = sync_lock(loop);
        sync_who a;
        char order[8] = "";
        CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
        sync_start(loop, &a, style, 'a', order, aioloop_lock_acquire(lock));
        CHECK_EQ(aioloop_lock_release(lock), 0);
        sync_cancel(&a);
        aioloop_lock_free(lock);
        test_spin(loop, 3);
        sync_ended(&a, AIOLOOP_ECANCELED);
    }
    test_end(loop);
}

TEST(lock_forgotten_goes_with_the_loop, "LOCK-01") {
    aioloop *loop = test_loop();
    aioloop_lock *lock = sync_lock(loop);
    aioloop_future *given = aioloop_future_ref(aioloop_lock_acquire(lock));
    aioloop_future *waits = aioloop_future_ref(aioloop_lock_acquire(lock));
    aioloop_future_unref(aioloop_lock_acquire(lock));
    CHECK(aioloop_future_done(given));
    CHECK(!aioloop_future_done(waits));
    test_end(loop);
}

TEST(sync_objects_end_without_memory, "LOCK-01 EVT-01 COND-01 SEM-01 BAR-02") {
    aioloop *loop = sync_poor_loop();
    aioloop_lock *lock = sync_lock(loop);
    aioloop_event *event = aioloop_event_new(loop);
    aioloop_condition *condition = aioloop_condition_new(loop, NULL);
    aioloop_semaphore *semaphore = aioloop_semaphore_new(loop, 0);
    aioloop_barrier *barrier = aioloop_barrier_new(loop, 2);
    sync_who who[6];
    char order[8] = "";
    int i;
    CHECK(event != NULL && condition != NULL && semaphore != NULL && barrier != NULL);
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
    CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
    sync_start(loop, &who[0], SYNC_BY_FRAME, '0', order, aioloop_lock_acquire(lock));
    sync_start(loop, &who[1], SYNC_BY_FRAME, '1', order, aioloop_lock_acquire(lock));
    sync_start(loop, &who[2], SYNC_BY_FRAME, '2', order, aioloop_event_wait(event));
    sync_start(loop, &who[3], SYNC_BY_FRAME, '3', order, aioloop_condition_wait(condition));
    sync_start(loop, &who[4], SYNC_BY_FRAME, '4', order, aioloop_semaphore_acquire(semaphore));
    sync_start(loop, &who[5], SYNC_BY_FRAME, '5', order, aioloop_barrier_wait(barrier));
    sync_no_memory = true;
    CHECK_EQ(aioloop_future_exception(aioloop_lock_acquire(lock)), AIOLOOP_ENOMEM);
    CHECK_EQ(aioloop_future_exception(aioloop_event_wait(event)), AIOLOOP_ENOMEM);
    CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_condition_wait(condition)), AIOLOOP_ENOMEM);
    CHECK(aioloop_condition_locked(condition)); /* nothing has changed */
    CHECK_EQ(aioloop_future_exception(aioloop_barrier_wait(barrier)), AIOLOOP_ENOMEM);
    CHECK_EQ(aioloop_barrier_n_waiting(barrier), 1);
    CHECK(aioloop_lock_new(loop) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_ENOMEM);
    sync_cancel(&who[0]);
    CHECK_EQ(aioloop_lock_release(lock), 0);
    CHECK_EQ(aioloop_event_set(event), 0);
    CHECK_EQ(aioloop_condition_notify(condition, 1), 0);
    CHECK_EQ(aioloop_condition_release(condition), 0);
    CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
    CHECK_EQ(aioloop_barrier_abort(barrier), 0);
    test_spin(loop, 4);
    aioloop_lock_free(lock);
    aioloop_event_free(event);
    aioloop_condition_free(condition);
    aioloop_semaphore_free(semaphore);
    aioloop_barrier_free(barrier);
    sync_no_memory = false;
    for (i = 0; i < 6; i++)
        sync_ended(&who[i], i == 0 ? (int)AIOLOOP_ECANCELED : i == 5 ? (int)AIOLOOP_EBROKENBARRIER : 0);
    test_end(loop);
    CHECK(!sync_wrong_size);
}

TEST(lock_is_acquired_with_a_time_out, "LOCK-01") {
    aioloop *loop = test_loop();
    aioloop_lock *lock = sync_lock(loop);
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait_for(aioloop_lock_acquire(lock), AIOLOOP_MS(1)), NULL),
             AIOLOOP_ETIMEDOUT);
    CHECK_EQ(aioloop_lock_release(lock), 0);
    CHECK(!aioloop_lock_locked(lock));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait_for(aioloop_lock_acquire(lock), AIOLOOP_MS(1)), NULL), 0);
    CHECK(aioloop_lock_locked(lock));
    aioloop_lock_free(lock);
    test_end(loop);
}

TEST(wait_for_that_is_cancelled_as_the_lock_comes_gives_it_back, "LOCK-01 TIME-06") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_TASKS(style) {
        aioloop_lock *lock = sync_lock(loop);
        sync_who a;
        char order[8] = "";
        CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
        sync_start(loop, &a, style, 'a', order, aioloop_wait_for(aioloop_lock_acquire(lock), AIOLOOP_SECONDS(3600)));
        CHECK_EQ(aioloop_lock_release(lock), 0);
        sync_cancel(&a);
        test_spin(loop, 4);
        sync_ended(&a, AIOLOOP_ECANCELED);
        CHECK(!aioloop_lock_locked(lock));
        aioloop_lock_free(lock);
    }
    test_end(loop);
}

TEST(lock_in_a_cancelled_gather_is_given_back, "LOCK-01") {
    aioloop *loop = test_loop();
    aioloop_lock *one = sync_lock(loop);
    aioloop_lock *two = sync_lock(loop);
    aioloop_future *both[2];
    sync_who a;
    char order[8] = "";
    CHECK_EQ(aioloop_lock_acquire_nowait(two), 0);
    both[0] = aioloop_lock_acquire(one);
    both[1] = aioloop_lock_acquire(two);
    sync_start(loop, &a, SYNC_BY_FRAME, 'a', order, aioloop_gather(loop, both, 2, false));
    CHECK(aioloop_lock_locked(one));
    sync_cancel(&a);
    test_spin(loop, 4);
    sync_ended(&a, AIOLOOP_ECANCELED);
    CHECK(!aioloop_lock_locked(one));
    CHECK_EQ(aioloop_lock_release(two), 0);
    CHECK(!aioloop_lock_locked(two));
    aioloop_lock_free(one);
    aioloop_lock_free(two);
    test_end(loop);
}

TEST(lock_survives_debug_mode, "LOCK-01") {
    aioloop *loop = sync_poor_loop();
    aioloop_lock *lock = sync_lock(loop);
    sync_who a;
    char order[8] = "";
    if (aioloop_set_debug(loop, true) < 0) {
        test_end(loop);
        SKIP("built without debug mode");
    }
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
    sync_start(loop, &a, SYNC_BY_FRAME, 'a', order, aioloop_lock_acquire(lock));
    aioloop_future_unref(aioloop_lock_acquire(lock));
    CHECK_EQ(aioloop_lock_release(lock), 0);
    test_spin(loop, 3);
    sync_ended(&a, 0);
    CHECK_EQ(aioloop_lock_release(lock), 0);
    CHECK(!aioloop_lock_locked(lock));
    aioloop_lock_free(lock);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
    CHECK(!sync_wrong_size);
}

/* ---- NULL, and a closed loop ---- */

static int64_t sync_true(void *arg) {
    (void)arg;
    return 1;
}

TEST(sync_calls_refuse_null, "LOCK-01 EVT-01 COND-02 SEM-02 BAR-03") {
    aioloop *loop = test_loop();
    aioloop_condition *condition = aioloop_condition_new(loop, NULL);
    CHECK(condition != NULL);
    CHECK(aioloop_lock_new(NULL) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_EINVAL);
    CHECK(aioloop_event_new(NULL) == NULL);
    CHECK(aioloop_condition_new(NULL, NULL) == NULL);
    CHECK(aioloop_semaphore_new(NULL, 1) == NULL);
    CHECK(aioloop_bounded_semaphore_new(NULL, 1) == NULL);
    CHECK(aioloop_barrier_new(NULL, 1) == NULL);
    aioloop_lock_free(NULL);
    aioloop_event_free(NULL);
    aioloop_condition_free(NULL);
    aioloop_semaphore_free(NULL);
    aioloop_barrier_free(NULL);
    CHECK_EQ(aioloop_future_exception(aioloop_lock_acquire(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_event_wait(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_condition_acquire(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_condition_wait(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_condition_wait_for(NULL, sync_true, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_condition_wait_for(condition, NULL, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_semaphore_acquire(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_barrier_wait(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_lock_acquire_nowait(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_lock_release(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_event_set(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_event_clear(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_condition_acquire_nowait(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_condition_release(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_condition_notify(NULL, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_condition_notify_all(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_semaphore_acquire_nowait(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_semaphore_release(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_barrier_reset(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_barrier_abort(NULL), AIOLOOP_EINVAL);
    CHECK(!aioloop_lock_locked(NULL) && !aioloop_event_is_set(NULL) && !aioloop_condition_locked(NULL));
    CHECK(!aioloop_semaphore_locked(NULL) && !aioloop_barrier_broken(NULL));
    CHECK_EQ(aioloop_barrier_parties(NULL), 0);
    CHECK_EQ(aioloop_barrier_n_waiting(NULL), 0);
    aioloop_condition_free(condition);
    test_end(loop);
}

TEST(sync_objects_on_a_closed_loop, "RUN-17 RUN-19") {
    aioloop *loop = test_loop();
    aioloop_lock *lock = sync_lock(loop);
    aioloop_event *event = aioloop_event_new(loop);
    aioloop_condition *condition = aioloop_condition_new(loop, NULL);
    aioloop_semaphore *semaphore = aioloop_semaphore_new(loop, 0);
    aioloop_barrier *barrier = aioloop_barrier_new(loop, 2);
    aioloop_future *waits[5];
    int i;
    CHECK(event != NULL && condition != NULL && semaphore != NULL && barrier != NULL);
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
    CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
    waits[0] = aioloop_future_ref(aioloop_lock_acquire(lock));
    waits[1] = aioloop_future_ref(aioloop_event_wait(event));
    waits[2] = aioloop_future_ref(aioloop_condition_wait(condition));
    waits[3] = aioloop_future_ref(aioloop_semaphore_acquire(semaphore));
    waits[4] = aioloop_future_ref(aioloop_barrier_wait(barrier));
    for (i = 0; i < 5; i++)
        CHECK(!aioloop_future_done(waits[i]));
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(aioloop_lock_new(loop) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_lock_acquire(lock)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_event_wait(event)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_condition_wait(condition)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_condition_wait_for(condition, sync_true, NULL)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_semaphore_acquire(semaphore)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_barrier_wait(barrier)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_lock_release(lock), 0);
    CHECK_EQ(aioloop_event_set(event), 0);
    CHECK(aioloop_event_is_set(event));
    CHECK_EQ(aioloop_event_clear(event), 0);
    CHECK_EQ(aioloop_condition_notify_all(condition), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
    CHECK_EQ(aioloop_barrier_abort(barrier), 0);
    CHECK_EQ(aioloop_barrier_reset(barrier), 0);
    for (i = 0; i < 5; i++) {
        CHECK(!aioloop_future_done(waits[i]));
        CHECK(aioloop_future_cancel(waits[i], NULL));
        CHECK(aioloop_future_cancelled(waits[i]));
        aioloop_future_unref(waits[i]);
    }
    aioloop_lock_free(lock);
    aioloop_event_free(event);
    aioloop_condition_free(condition);
    aioloop_semaphore_free(semaphore);
    aioloop_barrier_free(barrier);
    test_end(loop);
}

/* ---- Event ---- */

TEST(event_wakes_all_even_if_cleared_at_once, "EVT-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_event *event = aioloop_event_new(loop);
        sync_who a, b, c;
        char order[8] = "";
        CHECK(event != NULL);
        sync_start(loop, &a, style, 'a', order, aioloop_event_wait(event));
        sync_start(loop, &b, style, 'b', order, aioloop_event_wait(event));
        test_spin(loop, 2);
        CHECK_STR(order, "");
        CHECK_EQ(aioloop_event_set(event), 0);
        CHECK_EQ(aioloop_event_clear(event), 0);
        CHECK(!aioloop_event_is_set(event));
        sync_start(loop, &c, style, 'c', order, aioloop_event_wait(event));
        test_spin(loop, 3);
        CHECK_STR(order, "ab");
        sync_ended(&a, 0);
        sync_ended(&b, 0);
        CHECK_EQ(aioloop_event_set(event), 0);
        test_spin(loop, 3);
        sync_ended(&c, 0);
        aioloop_event_free(event);
    }
    test_end(loop);
}

TEST(event_that_is_set_holds_nobody_up, "EVT-01") {
    aioloop *loop = test_loop();
    aioloop_event *event = aioloop_event_new(loop);
    CHECK(event != NULL);
    CHECK(!aioloop_event_is_set(event));
    CHECK_EQ(aioloop_event_set(event), 0);
    CHECK_EQ(aioloop_event_set(event), 0);
    CHECK(aioloop_event_is_set(event));
    CHECK_EQ(sync_code(aioloop_event_wait(event)), 0);
    CHECK(aioloop_event_is_set(event));
    CHECK_EQ(aioloop_event_clear(event), 0);
    CHECK_EQ(sync_code(aioloop_event_wait(event)), AIOLOOP_EINVALIDSTATE);
    aioloop_event_free(event);
    test_end(loop);
}

TEST(event_waiters_are_cancelled_alone_and_by_its_end, "EVT-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_event *event = aioloop_event_new(loop);
        sync_who a, b;
        char order[8] = "";
        CHECK(event != NULL);
        sync_start(loop, &a, style, 'a', order, aioloop_event_wait(event));
        sync_start(loop, &b, style, 'b', order, aioloop_event_wait(event));
        sync_cancel(&a);
        test_spin(loop, 3);
        CHECK_STR(order, "a");
        sync_ended(&a, AIOLOOP_ECANCELED);
        aioloop_event_free(event);
        test_spin(loop, 3);
        sync_ended(&b, AIOLOOP_ECANCELED);
    }
    test_end(loop);
}

/* ---- Condition ---- */

static aioloop_condition *sync_condition(aioloop *loop, aioloop_lock *lock) {
    aioloop_condition *condition = aioloop_condition_new(loop, lock);
    CHECK(condition != NULL);
    return condition;
}

/* Takes the lock and waits with it. */
static void sync_start_waiting(aioloop *loop, sync_who *who, sync_style style, char letter, char *order,
                               aioloop_condition *condition) {
    CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
    sync_start(loop, who, style, letter, order, aioloop_condition_wait(condition));
    CHECK(!aioloop_condition_locked(condition));
}

TEST(condition_wait_gives_the_lock_away_and_has_it_again, "COND-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_condition *condition = sync_condition(loop, NULL);
        sync_who a, b;
        char order[8] = "";
        sync_start_waiting(loop, &a, style, 'a', order, condition);
        CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
        CHECK_EQ(aioloop_condition_notify(condition, 1), 0);
        sync_start(loop, &b, style, 'b', order, aioloop_condition_acquire(condition)); /* behind a */
        test_spin(loop, 3);
        CHECK_STR(order, ""); /* the lock is not free */
        CHECK_EQ(aioloop_condition_release(condition), 0);
        test_spin(loop, 3);
        CHECK_STR(order, "a");
        CHECK(aioloop_condition_locked(condition));
        CHECK_EQ(aioloop_condition_release(condition), 0);
        test_spin(loop, 3);
        CHECK_STR(order, "ab");
        CHECK_EQ(aioloop_condition_release(condition), 0);
        CHECK(!aioloop_condition_locked(condition));
        sync_ended(&a, 0);
        sync_ended(&b, 0);
        aioloop_condition_free(condition);
    }
    test_end(loop);
}

TEST(condition_wait_gives_the_lock_to_who_waits_for_it, "COND-01") {
    aioloop *loop = test_loop();
    aioloop_condition *condition = sync_condition(loop, NULL);
    sync_who a;
    char order[8] = "";
    aioloop_future *wait;
    CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
    sync_start(loop, &a, SYNC_BY_FRAME, 'a', order, aioloop_condition_acquire(condition));
    wait = aioloop_future_ref(aioloop_condition_wait(condition));
    test_spin(loop, 2);
    sync_ended(&a, 0);
    CHECK(!aioloop_future_done(wait));
    aioloop_future_unref(wait);
    aioloop_condition_free(condition);
    test_end(loop);
}

TEST(condition_that_is_cancelled_has_the_lock_again, "COND-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_condition *condition = sync_condition(loop, NULL);
        sync_who a;
        char order[8] = "";
        sync_start_waiting(loop, &a, style, 'a', order, condition);
        sync_cancel(&a); /* the lock is free */
        CHECK(aioloop_condition_locked(condition));
        test_spin(loop, 3);
        sync_ended(&a, AIOLOOP_ECANCELED);
        CHECK_EQ(aioloop_condition_release(condition), 0);

        sync_start_waiting(loop, &a, style, 'a', order, condition);
        CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
        sync_cancel(&a); /* it is not */
        sync_cancel(&a); /* a second time changes nothing */
        test_spin(loop, 3);
        CHECK_EQ(a.done, 0);
        CHECK_EQ(aioloop_condition_release(condition), 0);
        CHECK(aioloop_condition_locked(condition));
        test_spin(loop, 3);
        sync_ended(&a, AIOLOOP_ECANCELED);
        CHECK_EQ(aioloop_condition_release(condition), 0);
        aioloop_condition_free(condition);
    }
    test_end(loop);
}

TEST(condition_notification_of_one_that_is_cancelled_goes_on, "COND-01 COND-02") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_condition *condition = sync_condition(loop, NULL);
        sync_who a, b;
        char order[8] = "";
        sync_start_waiting(loop, &a, style, 'a', order, condition);
        sync_start_waiting(loop, &b, style, 'b', order, condition);
        CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
        CHECK_EQ(aioloop_condition_notify(condition, 1), 0);
        sync_cancel(&a); /* it waits for the lock */
        CHECK_EQ(aioloop_condition_release(condition), 0);
        test_spin(loop, 3);
        CHECK_STR(order, "a");
        sync_ended(&a, AIOLOOP_ECANCELED);
        CHECK_EQ(aioloop_condition_release(condition), 0); /* which a had */
        test_spin(loop, 3);
        CHECK_STR(order, "ab");
        sync_ended(&b, 0);
        CHECK_EQ(aioloop_condition_release(condition), 0);
        aioloop_condition_free(condition);
    }
    test_end(loop);
}

TEST(condition_whose_task_is_cancelled_as_it_ends_has_the_lock_and_passes_the_notification_on, "COND-01 COND-02") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_TASKS(style) {
        aioloop_condition *condition = sync_condition(loop, NULL);
        sync_who a, b;
        char order[8] = "";
        sync_start_waiting(loop, &a, style, 'a', order, condition);
        sync_start_waiting(loop, &b, style, 'b', order, condition);
        CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
        CHECK_EQ(aioloop_condition_notify(condition, 1), 0);
        CHECK_EQ(aioloop_condition_release(condition), 0); /* a has the lock, and will go on */
        sync_cancel(&a);
        test_spin(loop, 3);
        CHECK_STR(order, "a");
        sync_ended(&a, AIOLOOP_ECANCELED);
        CHECK_EQ(aioloop_condition_release(condition), 0);
        test_spin(loop, 3);
        CHECK_STR(order, "ab");
        sync_ended(&b, 0);
        CHECK_EQ(aioloop_condition_release(condition), 0);
        aioloop_condition_free(condition);
    }
    test_end(loop);
}

TEST(condition_wait_with_a_time_out_has_the_lock_again, "COND-01") {
    aioloop *loop = test_loop();
    aioloop_condition *condition = sync_condition(loop, NULL);
    CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait_for(aioloop_condition_wait(condition), AIOLOOP_MS(1)), NULL),
             AIOLOOP_ETIMEDOUT);
    CHECK(aioloop_condition_locked(condition));
    aioloop_condition_free(condition);
    test_end(loop);
}

TEST(condition_notifies_so_many_in_order, "COND-02") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_condition *condition = sync_condition(loop, NULL);
        sync_who who[5];
        char order[8] = "";
        int i;
        for (i = 0; i < 5; i++)
            sync_start_waiting(loop, &who[i], style, (char)('0' + i), order, condition);
        CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
        CHECK_EQ(aioloop_condition_notify(condition, 0), 0);
        CHECK_EQ(aioloop_condition_notify(condition, 2), 0);
        for (i = 0; i < 4; i++) {
            if (aioloop_condition_locked(condition))
                CHECK_EQ(aioloop_condition_release(condition), 0);
            test_spin(loop, 3);
        }
        CHECK_STR(order, "01");
        CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
        CHECK_EQ(aioloop_condition_notify_all(condition), 0);
        for (i = 0; i < 4; i++) {
            CHECK_EQ(aioloop_condition_release(condition), 0);
            test_spin(loop, 3);
        }
        CHECK_STR(order, "01234");
        CHECK(!aioloop_condition_locked(condition));
        for (i = 0; i < 5; i++)
            sync_ended(&who[i], 0);
        aioloop_condition_free(condition);
    }
    test_end(loop);
}

TEST(condition_needs_its_lock, "COND-02") {
    aioloop *loop = test_loop();
    aioloop_condition *condition = sync_condition(loop, NULL);
    CHECK_EQ(sync_code(aioloop_condition_wait(condition)), AIOLOOP_EMISUSE);
    CHECK_EQ(sync_code(aioloop_condition_wait_for(condition, sync_true, NULL)), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_condition_notify(condition, 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_condition_notify_all(condition), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_condition_release(condition), AIOLOOP_EMISUSE);
    CHECK(!aioloop_condition_locked(condition));
    aioloop_condition_free(condition);
    test_end(loop);
}

TEST(condition_with_a_lock_of_the_users, "COND-01 COND-02") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_lock *lock = sync_lock(loop);
    aioloop_condition *one = sync_condition(loop, lock);
    aioloop_condition *two = sync_condition(loop, lock);
    sync_who a, b;
    char order[8] = "";
    CHECK(aioloop_condition_new(other, lock) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(other)), AIOLOOP_EINVAL);
    sync_start_waiting(loop, &a, SYNC_BY_FRAME, 'a', order, one);
    sync_start_waiting(loop, &b, SYNC_BY_FRAME, 'b', order, two);
    CHECK_EQ(aioloop_lock_acquire_nowait(lock), 0);
    CHECK_EQ(aioloop_condition_notify_all(two), 0);
    CHECK_EQ(aioloop_lock_release(lock), 0);
    test_spin(loop, 3);
    CHECK_STR(order, "b");
    sync_ended(&b, 0);
    aioloop_condition_free(two);
    aioloop_condition_free(one); /* a has to wait until it has the lock again */
    test_spin(loop, 3);
    CHECK_EQ(a.done, 0);
    CHECK_EQ(aioloop_lock_release(lock), 0);
    CHECK(aioloop_lock_locked(lock));
    test_spin(loop, 3);
    sync_ended(&a, AIOLOOP_ECANCELED);
    aioloop_lock_free(lock);
    test_end(other);
    test_end(loop);
}

TEST(condition_freed_with_who_waits_and_who_was_notified, "COND-01") {
    aioloop *loop = test_loop();
    sync_style style;
    int own;
    for (own = 0; own < 2; own++)
        SYNC_FOR_ALL(style) {
            aioloop_lock *lock = own ? NULL : sync_lock(loop);
            aioloop_condition *condition = sync_condition(loop, lock);
            sync_who a, b, c;
            char order[8] = "";
            sync_start_waiting(loop, &a, style, 'a', order, condition);
            sync_start_waiting(loop, &b, style, 'b', order, condition);
            sync_start_waiting(loop, &c, style, 'c', order, condition);
            CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
            CHECK_EQ(aioloop_condition_notify(condition, 2), 0);
            CHECK_EQ(aioloop_condition_release(condition), 0); /* it is a's; b waits for it */
            aioloop_condition_free(condition);
            if (lock != NULL) {
                CHECK_EQ(aioloop_lock_release(lock), 0);
                CHECK_EQ(aioloop_lock_release(lock), 0);
            }
            test_spin(loop, 4);
            sync_ended(&a, 0);
            sync_ended(&b, own ? (int)AIOLOOP_ECANCELED : 0);
            sync_ended(&c, AIOLOOP_ECANCELED);
            aioloop_lock_free(lock);
        }
    test_end(loop);
}

/* ---- wait_for ---- */

typedef struct sync_question {
    int asked;
    int64_t answers[8];
    aioloop_condition *condition; /* that must be locked; or NULL */
    int free_at; /* the question at which the condition is freed; 0: none */
} sync_question;

static int64_t sync_answer(void *arg) {
    sync_question *q = (sync_question *)arg;
    if (q->condition != NULL)
        CHECK(aioloop_condition_locked(q->condition));
    if (++q->asked == q->free_at)
        aioloop_condition_free(q->condition);
    return q->answers[q->asked - 1];
}

static void sync_notify(aioloop *loop, aioloop_condition *condition) {
    CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
    CHECK_EQ(aioloop_condition_notify(condition, 1), 0);
    CHECK_EQ(aioloop_condition_release(condition), 0);
    test_spin(loop, 5);
}

TEST(condition_wait_for_repeats_until_the_predicate_holds, "COND-02") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_condition *condition = sync_condition(loop, NULL);
        sync_question q = AIOLOOP_ZERO;
        sync_who a;
        char order[8] = "";
        q.condition = condition;
        q.answers[4] = 7;
        CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
        sync_start(loop, &a, style, 'a', order, aioloop_condition_wait_for(condition, sync_answer, &q));
        test_spin(loop, 3);
        CHECK_EQ(q.asked, 2); /* at once, and when its task begins */
        CHECK(!aioloop_condition_locked(condition));
        sync_notify(loop, condition);
        CHECK_EQ(q.asked, 3);
        sync_notify(loop, condition);
        CHECK_EQ(q.asked, 4);
        CHECK_EQ(a.done, 0);
        sync_notify(loop, condition);
        CHECK_EQ(q.asked, 5);
        sync_ended(&a, 7);
        CHECK_EQ(aioloop_condition_release(condition), 0);
        aioloop_condition_free(condition);
    }
    test_end(loop);
}

TEST(condition_wait_for_what_holds_already_does_not_wait, "COND-02") {
    aioloop *loop = test_loop();
    aioloop_condition *condition = sync_condition(loop, NULL);
    sync_question q = AIOLOOP_ZERO;
    aioloop_future *f;
    q.condition = condition;
    q.answers[0] = 3;
    q.answers[1] = AIOLOOP_EIO;
    q.answers[2] = INT64_MIN;
    CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
    f = aioloop_future_ref(aioloop_condition_wait_for(condition, sync_answer, &q));
    CHECK_EQ(aioloop_future_result(f, NULL), 3);
    aioloop_future_unref(f);
    CHECK_EQ(sync_code(aioloop_condition_wait_for(condition, sync_answer, &q)), AIOLOOP_EIO);
    CHECK_EQ(sync_code(aioloop_condition_wait_for(condition, sync_answer, &q)), AIOLOOP_EINVAL);
    CHECK(aioloop_condition_locked(condition));
    aioloop_condition_free(condition);
    test_end(loop);
}

TEST(condition_wait_for_fails_as_the_predicate_does, "COND-02") {
    aioloop *loop = test_loop();
    aioloop_condition *condition = sync_condition(loop, NULL);
    sync_question q = AIOLOOP_ZERO;
    sync_who a;
    char order[8] = "";
    q.condition = condition;
    q.answers[2] = AIOLOOP_EIO;
    CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
    sync_start(loop, &a, SYNC_BY_FRAME, 'a', order, aioloop_condition_wait_for(condition, sync_answer, &q));
    test_spin(loop, 3);
    sync_notify(loop, condition);
    sync_ended(&a, AIOLOOP_EIO);
    CHECK(aioloop_condition_locked(condition));
    aioloop_condition_free(condition);
    test_end(loop);
}

TEST(condition_wait_for_that_is_cancelled_has_the_lock, "COND-01 COND-02") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_condition *condition = sync_condition(loop, NULL);
        sync_question q = AIOLOOP_ZERO;
        sync_who a;
        char order[8] = "";
        CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
        sync_start(loop, &a, style, 'a', order, aioloop_condition_wait_for(condition, sync_answer, &q));
        test_spin(loop, 3);
        CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
        sync_cancel(&a);
        test_spin(loop, 3);
        CHECK_EQ(a.done, 0);
        CHECK_EQ(aioloop_condition_release(condition), 0);
        test_spin(loop, 4);
        sync_ended(&a, AIOLOOP_ECANCELED);
        CHECK(aioloop_condition_locked(condition));
        aioloop_condition_free(condition);
    }
    test_end(loop);
}

TEST(condition_freed_under_a_wait_for, "COND-02") {
    aioloop *loop = test_loop();
    int at;
    /* By the predicate, the first, second or third time; before its task begins; while it waits. */
    for (at = 0; at < 5; at++) {
        aioloop_condition *condition = sync_condition(loop, NULL);
        sync_question q = AIOLOOP_ZERO;
        sync_who a;
        char order[8] = "";
        q.condition = condition;
        q.free_at = at < 3 ? at + 1 : 0;
        CHECK_EQ(aioloop_condition_acquire_nowait(condition), 0);
        sync_start(loop, &a, at == 0 ? SYNC_BY_FRAME : SYNC_BY_CALLBACK, 'a', order,
                   aioloop_condition_wait_for(condition, sync_answer, &q));
        if (at == 3)
            aioloop_condition_free(condition);
        test_spin(loop, 3);
        if (at == 2)
            sync_notify(loop, condition);
        if (at == 4)
            aioloop_condition_free(condition);
        test_spin(loop, 5);
        CHECK_EQ(q.asked, at < 3 ? at + 1 : at - 2);
        sync_ended(&a, AIOLOOP_ECANCELED);
    }
    test_end(loop);
}

/* ---- Semaphore ---- */

static aioloop_semaphore *sync_semaphore(aioloop *loop, int64_t value) {
    aioloop_semaphore *semaphore = aioloop_semaphore_new(loop, value);
    CHECK(semaphore != NULL);
    return semaphore;
}

TEST(semaphore_lets_so_many_in_and_the_others_in_order, "SEM-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_semaphore *semaphore = sync_semaphore(loop, 2);
        sync_who who[5];
        char order[8] = "";
        int i;
        CHECK(!aioloop_semaphore_locked(semaphore));
        for (i = 0; i < 5; i++)
            sync_start(loop, &who[i], style, (char)('0' + i), order, aioloop_semaphore_acquire(semaphore));
        test_spin(loop, 3);
        CHECK_STR(order, "01");
        CHECK(aioloop_semaphore_locked(semaphore));
        CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
        CHECK_EQ(aioloop_semaphore_acquire_nowait(semaphore), AIOLOOP_EAGAIN); /* it is the third's already */
        test_spin(loop, 3);
        CHECK_STR(order, "012");
        CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
        CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
        CHECK(aioloop_semaphore_locked(semaphore));
        CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
        CHECK(!aioloop_semaphore_locked(semaphore));
        test_spin(loop, 3);
        CHECK_STR(order, "01234");
        CHECK_EQ(aioloop_semaphore_acquire_nowait(semaphore), 0);
        CHECK(aioloop_semaphore_locked(semaphore));
        for (i = 0; i < 5; i++)
            sync_ended(&who[i], 0);
        aioloop_semaphore_free(semaphore);
    }
    test_end(loop);
}

TEST(semaphore_place_of_a_cancelled_task_goes_to_the_next, "SEM-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_TASKS(style) {
        aioloop_semaphore *semaphore = sync_semaphore(loop, 0);
        sync_who who[4];
        char order[8] = "";
        int i;
        for (i = 0; i < 4; i++)
            sync_start(loop, &who[i], style, (char)('0' + i), order, aioloop_semaphore_acquire(semaphore));
        sync_cancel(&who[2]); /* in the line */
        CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
        CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
        sync_cancel(&who[0]); /* let in */
        test_spin(loop, 4);
        CHECK_EQ(strlen(order), 4);
        sync_ended(&who[0], AIOLOOP_ECANCELED);
        sync_ended(&who[1], 0);
        sync_ended(&who[2], AIOLOOP_ECANCELED);
        sync_ended(&who[3], 0);
        CHECK(aioloop_semaphore_locked(semaphore));
        sync_start(loop, &who[0], style, '0', order, aioloop_semaphore_acquire(semaphore));
        CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
        sync_cancel(&who[0]);
        test_spin(loop, 4);
        sync_ended(&who[0], AIOLOOP_ECANCELED);
        CHECK(!aioloop_semaphore_locked(semaphore));
        aioloop_semaphore_free(semaphore);
    }
    test_end(loop);
}

TEST(semaphore_freed_cancels_who_waits, "SEM-01") {
    aioloop *loop = test_loop();
    aioloop_semaphore *semaphore = sync_semaphore(loop, 0);
    sync_who a, b;
    char order[8] = "";
    sync_start(loop, &a, SYNC_BY_FRAME, 'a', order, aioloop_semaphore_acquire(semaphore));
    sync_start(loop, &b, SYNC_BY_FRAME, 'b', order, aioloop_semaphore_acquire(semaphore));
    CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
    sync_cancel(&a); /* it has a place that nobody is to get */
    aioloop_semaphore_free(semaphore);
    test_spin(loop, 4);
    sync_ended(&a, AIOLOOP_ECANCELED);
    sync_ended(&b, AIOLOOP_ECANCELED);
    test_end(loop);
}

TEST(semaphore_values_that_are_refused, "SEM-02") {
    aioloop *loop = test_loop();
    aioloop_semaphore *semaphore;
    CHECK(aioloop_semaphore_new(loop, -1) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    CHECK(aioloop_bounded_semaphore_new(loop, INT64_MIN) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    semaphore = sync_semaphore(loop, INT64_MAX);
    CHECK_EQ(aioloop_semaphore_release(semaphore), AIOLOOP_EOVERFLOW);
    CHECK_EQ(aioloop_semaphore_acquire_nowait(semaphore), 0);
    CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
    aioloop_semaphore_free(semaphore);
    test_end(loop);
}

TEST(semaphore_that_is_bounded_refuses_a_release_above, "SEM-02") {
    aioloop *loop = test_loop();
    aioloop_semaphore *semaphore = aioloop_bounded_semaphore_new(loop, 2);
    aioloop_semaphore *shut = aioloop_bounded_semaphore_new(loop, 0);
    CHECK(semaphore != NULL && shut != NULL);
    CHECK_EQ(aioloop_semaphore_release(semaphore), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_semaphore_acquire_nowait(semaphore), 0);
    CHECK_EQ(aioloop_semaphore_acquire_nowait(semaphore), 0);
    CHECK_EQ(aioloop_semaphore_acquire_nowait(semaphore), AIOLOOP_EAGAIN);
    CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
    CHECK_EQ(aioloop_semaphore_release(semaphore), 0);
    CHECK_EQ(aioloop_semaphore_release(semaphore), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_semaphore_release(shut), AIOLOOP_EINVAL);
    aioloop_semaphore_free(semaphore);
    aioloop_semaphore_free(shut);
    test_end(loop);
}

/* ---- Barrier ---- */

static aioloop_barrier *sync_barrier(aioloop *loop, int parties) {
    aioloop_barrier *barrier = aioloop_barrier_new(loop, parties);
    CHECK(barrier != NULL);
    CHECK_EQ(aioloop_barrier_parties(barrier), parties);
    return barrier;
}

TEST(barrier_lets_all_go_when_the_last_has_come, "BAR-01") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_barrier *barrier = sync_barrier(loop, 3);
        sync_who who[3];
        char order[8] = "";
        int round, i;
        for (round = 0; round < 3; round++) {
            order[0] = '\0';
            sync_start(loop, &who[0], style, '0', order, aioloop_barrier_wait(barrier));
            CHECK_EQ(aioloop_barrier_n_waiting(barrier), 1);
            sync_start(loop, &who[1], style, '1', order, aioloop_barrier_wait(barrier));
            test_spin(loop, 3);
            CHECK_STR(order, "");
            CHECK_EQ(aioloop_barrier_n_waiting(barrier), 2);
            sync_start(loop, &who[2], style, '2', order, aioloop_barrier_wait(barrier));
            CHECK_EQ(aioloop_barrier_n_waiting(barrier), 0);
            test_spin(loop, 3);
            CHECK_EQ(strlen(order), 3);
            for (i = 0; i < 3; i++)
                sync_ended(&who[i], i);
        }
        aioloop_barrier_free(barrier);
    }
    test_end(loop);
}

TEST(barrier_for_one_holds_nobody_up, "BAR-01") {
    aioloop *loop = test_loop();
    aioloop_barrier *barrier = sync_barrier(loop, 1);
    CHECK_EQ(sync_code(aioloop_barrier_wait(barrier)), 0);
    CHECK_EQ(sync_code(aioloop_barrier_wait(barrier)), 0);
    aioloop_barrier_free(barrier);
    test_end(loop);
}

TEST(barrier_fills_anew_while_those_let_go_have_not_run, "BAR-01") {
    aioloop *loop = test_loop();
    aioloop_barrier *barrier = sync_barrier(loop, 2);
    aioloop_future *f[4];
    int i;
    for (i = 0; i < 4; i++)
        f[i] = aioloop_future_ref(aioloop_barrier_wait(barrier));
    CHECK_EQ(aioloop_barrier_abort(barrier), 0); /* too late for any of them */
    for (i = 0; i < 4; i++) {
        CHECK_EQ(aioloop_future_result(f[i], NULL), i % 2);
        aioloop_future_unref(f[i]);
    }
    aioloop_barrier_free(barrier);
    test_end(loop);
}

TEST(barrier_that_is_aborted_is_broken_until_reset, "BAR-02") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_barrier *barrier = sync_barrier(loop, 3);
        sync_who a, b;
        char order[8] = "";
        sync_start(loop, &a, style, 'a', order, aioloop_barrier_wait(barrier));
        sync_start(loop, &b, style, 'b', order, aioloop_barrier_wait(barrier));
        CHECK(!aioloop_barrier_broken(barrier));
        CHECK_EQ(aioloop_barrier_abort(barrier), 0);
        CHECK(aioloop_barrier_broken(barrier));
        CHECK_EQ(aioloop_barrier_n_waiting(barrier), 0);
        test_spin(loop, 3);
        CHECK_STR(order, "ab");
        sync_ended(&a, AIOLOOP_EBROKENBARRIER);
        sync_ended(&b, AIOLOOP_EBROKENBARRIER);
        CHECK_EQ(sync_code(aioloop_barrier_wait(barrier)), AIOLOOP_EBROKENBARRIER);
        CHECK_EQ(sync_code(aioloop_barrier_wait(barrier)), AIOLOOP_EBROKENBARRIER);
        CHECK_EQ(aioloop_barrier_reset(barrier), 0);
        CHECK(!aioloop_barrier_broken(barrier));
        CHECK_EQ(sync_code(aioloop_barrier_wait(barrier)), AIOLOOP_EINVALIDSTATE);
        CHECK_EQ(aioloop_barrier_n_waiting(barrier), 1);
        aioloop_barrier_free(barrier);
    }
    test_end(loop);
}

TEST(barrier_that_is_reset_fails_who_waits_and_is_empty, "BAR-02") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_barrier *barrier = sync_barrier(loop, 2);
        sync_who a, b;
        char order[8] = "";
        sync_start(loop, &a, style, 'a', order, aioloop_barrier_wait(barrier));
        CHECK_EQ(aioloop_barrier_reset(barrier), 0);
        CHECK(!aioloop_barrier_broken(barrier));
        test_spin(loop, 3);
        sync_ended(&a, AIOLOOP_EBROKENBARRIER);
        sync_start(loop, &a, style, 'a', order, aioloop_barrier_wait(barrier));
        test_spin(loop, 3);
        CHECK_EQ(a.done, 0);
        sync_start(loop, &b, style, 'b', order, aioloop_barrier_wait(barrier));
        test_spin(loop, 3);
        sync_ended(&a, 0);
        sync_ended(&b, 1);
        aioloop_barrier_free(barrier);
    }
    test_end(loop);
}

TEST(barrier_waiter_that_is_cancelled_is_not_counted, "BAR-03") {
    aioloop *loop = test_loop();
    sync_style style;
    SYNC_FOR_ALL(style) {
        aioloop_barrier *barrier = sync_barrier(loop, 3);
        sync_who who[4];
        char order[8] = "";
        int i;
        for (i = 0; i < 2; i++)
            sync_start(loop, &who[i], style, (char)('0' + i), order, aioloop_barrier_wait(barrier));
        sync_cancel(&who[0]);
        CHECK_EQ(aioloop_barrier_n_waiting(barrier), 1);
        CHECK(!aioloop_barrier_broken(barrier));
        test_spin(loop, 3);
        CHECK_STR(order, "0");
        sync_start(loop, &who[2], style, '2', order, aioloop_barrier_wait(barrier));
        test_spin(loop, 3);
        CHECK_STR(order, "0");
        sync_start(loop, &who[3], style, '3', order, aioloop_barrier_wait(barrier));
        test_spin(loop, 3);
        sync_ended(&who[0], AIOLOOP_ECANCELED);
        for (i = 1; i < 4; i++)
            sync_ended(&who[i], i - 1); /* the numbers have no gap and no double */
        aioloop_barrier_free(barrier);
    }
    test_end(loop);
}

TEST(barrier_needs_a_party, "BAR-03") {
    aioloop *loop = test_loop();
    CHECK(aioloop_barrier_new(loop, 0) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    CHECK(aioloop_barrier_new(loop, -3) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    test_end(loop);
}

TEST(barrier_freed_cancels_who_waits, "BAR-03") {
    aioloop *loop = test_loop();
    aioloop_barrier *barrier = sync_barrier(loop, 3);
    sync_who a;
    char order[8] = "";
    sync_start(loop, &a, SYNC_BY_FRAME, 'a', order, aioloop_barrier_wait(barrier));
    aioloop_barrier_free(barrier);
    test_spin(loop, 3);
    sync_ended(&a, AIOLOOP_ECANCELED);
    test_end(loop);
}

typedef struct sync_breaker {
    aioloop_barrier *barrier;
    aioloop_future *other;
    int calls;
    int error;
} sync_breaker;

/* Told of the failure of a future that nobody kept: frees the barrier, and cancels what was about to fail too. */
static void sync_handler(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    sync_breaker *breaker = (sync_breaker *)arg;
    (void)loop;
    breaker->error = context->error;
    breaker->calls++;
    aioloop_barrier_free(breaker->barrier);
    breaker->barrier = NULL;
    aioloop_future_cancel(breaker->other, NULL);
}

TEST(barrier_may_be_freed_by_the_handler_of_what_it_fails, "BAR-02") {
    aioloop *loop = test_loop();
    static sync_breaker breaker; /* the handler outlives a test that gives up */
    memset(&breaker, 0, sizeof(breaker));
    breaker.barrier = sync_barrier(loop, 3);
    aioloop_future_unref(aioloop_barrier_wait(breaker.barrier));
    breaker.other = aioloop_future_ref(aioloop_barrier_wait(breaker.barrier));
    aioloop_set_exception_handler(loop, sync_handler, &breaker);
    CHECK_EQ(aioloop_barrier_abort(breaker.barrier), 0);
    CHECK_EQ(breaker.calls, 1);
    CHECK_EQ(breaker.error, AIOLOOP_EBROKENBARRIER);
    CHECK(aioloop_future_cancelled(breaker.other));
    aioloop_future_unref(breaker.other);
    test_end(loop);
}

/* What has nothing to wait for gives the same future to everyone; whoever owns or drops it does no harm to the others. */
TEST(what_has_nothing_to_wait_for_is_a_future_like_any, "EVT-01") {
    aioloop *loop = test_loop();
    aioloop_event *event = aioloop_event_new(loop);
    aioloop_future *f[2];
    int i;
    CHECK(event != NULL);
    CHECK_EQ(aioloop_event_set(event), 0);
    for (i = 0; i < 3; i++) {
        f[0] = aioloop_event_wait(event);
        f[1] = aioloop_future_ref(aioloop_event_wait(event));
        CHECK(aioloop_future_done(f[0]));
        CHECK(!aioloop_future_cancel(f[0], NULL));
        CHECK_EQ(aioloop_future_set_result(f[0], 1, NULL, NULL), AIOLOOP_EINVALIDSTATE);
        aioloop_future_unref(f[0]);
        CHECK_EQ(aioloop_run_until_complete(loop, f[1], NULL), 0);
        CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 2, false), NULL), 2);
        CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait_for(f[1], AIOLOOP_MS(1)), NULL), 0);
        aioloop_future_unref(f[1]);
        aioloop_future_unref(aioloop_event_wait(event));
    }
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_event_wait(event), NULL), 0);
    aioloop_event_free(event);
    test_end(loop);
}
