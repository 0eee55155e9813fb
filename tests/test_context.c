/*
 * test_context.c - context variables: what follows the work, what stays apart, and who owns the values.
 */
#include "support.h"

static const aioloop_context_var context_var = {"letter", (void *)(uintptr_t)'-'};
static const aioloop_context_var context_second = {"second", NULL};

#define CONTEXT_LETTER(c) ((void *)(uintptr_t)(c))

static char context_log[256];

static void context_note(char letter) {
    size_t n = strlen(context_log);
    if (n + 1 < sizeof(context_log)) {
        context_log[n] = letter;
        context_log[n + 1] = '\0';
    }
}

static char context_get(void) {
    return (char)(uintptr_t)aioloop_context_get(&context_var);
}

static void context_set(char letter) {
    CHECK_EQ(aioloop_context_set(&context_var, CONTEXT_LETTER(letter), NULL), 0);
}

/* ---- contexts that are dropped when the test gives up ---- */

static aioloop_context *context_kept[8];
static int context_kept_count;
static void (*context_next_hook)(void);

static void context_clean_up(void) {
    while (context_kept_count > 0)
        aioloop_context_unref(context_kept[--context_kept_count]);
    context_next_hook();
}

static aioloop *context_begin(void) {
    aioloop *loop = test_loop();
    context_log[0] = '\0';
    context_kept_count = 0;
    context_next_hook = test_cleanup_hook;
    test_cleanup_hook = context_clean_up;
    return loop;
}

static aioloop_context *context_copy(void) {
    aioloop_context *context = aioloop_copy_context();
    CHECK(context != NULL);
    CHECK(context_kept_count < 8);
    context_kept[context_kept_count++] = context;
    return context;
}

static void context_drop(aioloop_context *context) {
    int i;
    for (i = 0; i < context_kept_count; i++)
        if (context_kept[i] == context)
            context_kept[i] = context_kept[--context_kept_count];
    aioloop_context_unref(context);
}

/* Unsets what the test has set outside of callbacks. */
static void context_end(aioloop *loop) {
    CHECK_EQ(aioloop_context_set(&context_second, NULL, NULL), 0);
    context_set('-');
    test_end(loop);
}

/* ---- callbacks that look ---- */

static void context_look(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
    context_note(context_get());
}

static void context_look_future(aioloop_future *future, void *arg) {
    (void)future;
    (void)arg;
    context_note(context_get());
}

static void context_change(aioloop *loop, void *arg) {
    (void)loop;
    context_note(context_get());
    aioloop_context_set(&context_var, arg, NULL); /* without memory the letter stays, and a check fails */
}

static void context_look_here(void *arg) {
    (void)arg;
    context_note(context_get());
}

static void context_change_here(void *arg) {
    context_note(context_get());
    aioloop_context_set(&context_var, arg, NULL);
}

static void context_soon(aioloop *loop, aioloop_callback fn, void *arg, aioloop_context *context) {
    aioloop_handle h =
        context != NULL ? aioloop_call_soon_context(loop, fn, arg, context) : aioloop_call_soon(loop, fn, arg);
    CHECK(!aioloop_handle_is_null(&h));
}

/* Without threads a loop that does not run takes no posts. */
static void context_post(aioloop *loop, aioloop_context *context) {
#if defined(AIOLOOP_USE_THREADS) && AIOLOOP_USE_THREADS == 0
    context_soon(loop, context_look, NULL, context);
#else
    aioloop_handle h = context != NULL ? aioloop_call_soon_threadsafe_context(loop, context_look, NULL, context)
                                       : aioloop_call_soon_threadsafe(loop, context_look, NULL);
    CHECK(!aioloop_handle_is_null(&h));
#endif
}

static void context_at(aioloop *loop, aioloop_time when, aioloop_callback fn, aioloop_context *context) {
    aioloop_timer_handle h = aioloop_call_at_context(loop, when, fn, NULL, context);
    CHECK(!aioloop_handle_is_null(&h.handle));
}

TEST(context_variable_has_its_default_until_set, "") {
    aioloop *loop = context_begin();
    int object = 0;
    CHECK_EQ(context_get(), '-');
    CHECK_PTR(aioloop_context_get(&context_second), NULL);
    CHECK_PTR(aioloop_context_get(NULL), NULL);
    CHECK_EQ(aioloop_context_set(NULL, &object, NULL), AIOLOOP_EINVAL);
    context_set('a');
    CHECK_EQ(aioloop_context_set(&context_second, &object, NULL), 0);
    CHECK_EQ(context_get(), 'a');
    CHECK_PTR(aioloop_context_get(&context_second), &object);
    context_set('b');
    CHECK_EQ(context_get(), 'b');
    CHECK_PTR(aioloop_context_get(&context_second), &object);
    context_set('-');
    CHECK_EQ(context_get(), '-');
    CHECK_PTR(aioloop_context_get(&context_second), &object);
    context_end(loop);
}

/* ---- CTX-01: the context of the registration ---- */

TEST(context_of_the_registration_is_the_callbacks, "CTX-01") {
    aioloop *loop = context_begin();
    aioloop_future *f = aioloop_create_future(loop);
    aioloop_handle h;
    context_soon(loop, context_look, NULL, NULL); /* before anything was set */
    context_set('a');
    context_soon(loop, context_look, NULL, NULL);
    context_set('b');
    context_post(loop, NULL);
    context_set('c');
    CHECK_EQ(aioloop_future_add_done_callback(f, context_look_future, NULL), 0);
    context_set('d');
    CHECK_EQ(aioloop_future_then(f, context_look_future, NULL), 0);
    context_set('e');
    context_at(loop, 0, context_look, NULL);
    context_set('f');
    h = aioloop_call_later(loop, 0, context_look, NULL).handle;
    CHECK(!aioloop_handle_is_null(&h));
    context_set('g');
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0); /* completing it is not registering */
    context_set('h');
    CHECK_EQ(aioloop_future_add_done_callback(f, context_look_future, NULL), 0); /* done already */
    context_set('i');
    test_spin(loop, 2);
    /* The threadsafe one joins the queue when the loop looks at its inbox: behind the others. */
    CHECK(strcmp(context_log, "-acdhbef") == 0 || strcmp(context_log, "-abcdhef") == 0);
    CHECK_EQ(context_get(), 'i');
    aioloop_future_unref(f);
    context_end(loop);
}

static void context_watch(aioloop *loop, void *arg) {
    (void)loop;
    if (++*(int *)arg <= 4) {
        context_note(context_get());
        aioloop_context_set(&context_var, CONTEXT_LETTER(context_get() + 1), NULL);
    }
}

TEST(context_of_a_watcher_is_that_of_its_setting, "CTX-01 CTX-02") {
    aioloop *loop = context_begin();
    test_peer far = AIOLOOP_ZERO;
    aioloop_socket fed = test_feed(loop, &far);
    int runs = 0;
    int before;
    context_set('a');
    CHECK_EQ(aioloop_add_reader(loop, fed, context_watch, &runs), 0);
    context_set('p');
    test_run_until(loop, &runs, 2, "the reader");
    before = runs < 4 ? runs : 4;
    CHECK_MEM(context_log, "ab", 2); /* it sees what it changed itself; nobody else does */
    CHECK_EQ(context_get(), 'p');
    CHECK_EQ(aioloop_add_reader(loop, fed, context_watch, &runs), 0); /* set anew: the context of now */
    context_set('x');
    test_run_until(loop, &runs, before + 1, "the reader after it was replaced");
    CHECK_EQ(context_log[before], 'p');
    CHECK_EQ(aioloop_remove_reader(loop, fed), 1);
    context_log[0] = '\0';
    runs = 0;
    context_set('W');
    CHECK_EQ(aioloop_add_writer(loop, fed, context_watch, &runs), 0);
    context_set('y');
    test_run_until(loop, &runs, 1, "the writer");
    CHECK_EQ(context_log[0], 'W');
    CHECK_EQ(aioloop_remove_writer(loop, fed), 1);
    test_feed_end(loop, fed, &far);
    context_end(loop);
}

TEST(context_that_is_passed_is_the_callbacks, "CTX-01 CTX-03") {
    aioloop *loop = context_begin();
    aioloop_future *f = aioloop_create_future(loop);
    aioloop_context *context;
    context_set('a');
    context = context_copy();
    context_set('z');
    context_soon(loop, context_look, NULL, context);
    context_post(loop, context);
    CHECK_EQ(aioloop_future_add_done_callback_context(f, context_look_future, NULL, context), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    CHECK_EQ(aioloop_future_add_done_callback_context(f, context_look_future, NULL, context), 0);
    context_at(loop, 0, context_look, context);
    context_soon(loop, context_look, NULL, NULL); /* and next to it one with its own */
    test_spin(loop, 2);
    CHECK_EQ(strlen(context_log), 6);
    CHECK_EQ(strspn(context_log, "az"), 6);
    CHECK(strchr(context_log, 'z') != NULL);
    CHECK_PTR(strchr(strchr(context_log, 'z') + 1, 'z'), NULL);
    CHECK_EQ(context_log[5], 'a');
    aioloop_future_unref(f);
    context_drop(context);
    context_end(loop);
}

/* ---- CTX-02: apart ---- */

static void context_change_and_schedule(aioloop *loop, void *arg) {
    context_note(context_get());
    context_soon(loop, context_look, NULL, NULL); /* before the change */
    aioloop_context_set(&context_var, arg, NULL);
    context_soon(loop, context_look, NULL, NULL); /* after it */
    context_at(loop, 0, context_look, NULL);
}

TEST(context_changes_stay_with_the_work_and_its_children, "CTX-02") {
    aioloop *loop = context_begin();
    context_set('a');
    context_soon(loop, context_change_and_schedule, CONTEXT_LETTER('b'), NULL);
    context_soon(loop, context_look, NULL, NULL); /* registered elsewhere */
    context_at(loop, 0, context_change, NULL);
    test_spin(loop, 1);
    CHECK_EQ(context_get(), 'a'); /* the creator */
    context_soon(loop, context_look, NULL, NULL);
    test_spin(loop, 1);
    CHECK_STR(context_log, "aaaabab");
    CHECK_EQ(context_get(), 'a');
    context_end(loop);
}

TEST(context_of_the_creator_may_change_later_unseen, "CTX-02") {
    aioloop *loop = context_begin();
    aioloop_context *copy;
    context_set('a');
    context_soon(loop, context_look, NULL, NULL);
    copy = context_copy();
    context_set('b');
    test_spin(loop, 1);
    CHECK_STR(context_log, "a");
    CHECK_EQ(aioloop_context_run(copy, context_look_here, NULL), 0);
    CHECK_STR(context_log, "aa");
    context_drop(copy);
    context_end(loop);
}

/* ---- CTX-03: used itself ---- */

TEST(context_that_is_passed_keeps_the_changes, "CTX-03") {
    aioloop *loop = context_begin();
    aioloop_context *context;
    context_set('a');
    context = context_copy();
    context_set('z');
    context_soon(loop, context_change, CONTEXT_LETTER('b'), context);
    context_soon(loop, context_change, CONTEXT_LETTER('c'), context);
    context_at(loop, 0, context_look, context);
    test_spin(loop, 1);
    CHECK_STR(context_log, "abc");
    CHECK_EQ(aioloop_context_run(context, context_change_here, CONTEXT_LETTER('d')), 0);
    CHECK_EQ(aioloop_context_run(context, context_look_here, NULL), 0);
    CHECK_STR(context_log, "abccd");
    CHECK_EQ(context_get(), 'z');
    context_drop(context);
    context_end(loop);
}

typedef struct context_nest {
    aioloop_context *outer;
    aioloop_context *inner;
    int outer_again;
    int outer_inside; /* from within the inner one */
    int inner_run;
} context_nest;

static void context_nest_deeper(void *arg) {
    context_nest *n = (context_nest *)arg;
    context_change_here(CONTEXT_LETTER('j'));
    n->outer_inside = aioloop_context_run(n->outer, context_look_here, NULL);
    CHECK_EQ(aioloop_context_run(n->inner, context_look_here, NULL), AIOLOOP_EMISUSE);
}

static void context_nest_run(void *arg) {
    context_nest *n = (context_nest *)arg;
    context_note(context_get());
    n->outer_again = aioloop_context_run(n->outer, context_look_here, NULL);
    n->inner_run = aioloop_context_run(n->inner, context_nest_deeper, n);
    context_note(context_get());
}

static void context_nest_callback(aioloop *loop, void *arg) {
    (void)loop;
    context_nest_run(arg);
}

TEST(context_cannot_be_entered_twice, "CTX-03") {
    aioloop *loop = context_begin();
    context_nest n = AIOLOOP_ZERO;
    context_set('o');
    n.outer = context_copy();
    context_set('i');
    n.inner = context_copy();
    context_set('z');
    CHECK_EQ(aioloop_context_run(NULL, context_look_here, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_context_run(n.outer, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_context_run(n.outer, context_nest_run, &n), 0);
    CHECK_EQ(n.outer_again, AIOLOOP_EMISUSE);
    CHECK_EQ(n.outer_inside, AIOLOOP_EMISUSE);
    CHECK_EQ(n.inner_run, 0);
    CHECK_STR(context_log, "oio");
    CHECK_EQ(context_get(), 'z');
    context_log[0] = '\0';
    n.outer_again = 0;
    n.outer_inside = 0;
    context_soon(loop, context_nest_callback, &n, n.outer); /* a callback has entered its context, too */
    test_spin(loop, 1);
    CHECK_EQ(n.outer_again, AIOLOOP_EMISUSE);
    CHECK_EQ(n.outer_inside, AIOLOOP_EMISUSE);
    CHECK_EQ(n.inner_run, 0);
    CHECK_STR(context_log, "ojo");
    CHECK_EQ(aioloop_context_run(n.outer, context_look_here, NULL), 0); /* left: free again */
    CHECK_STR(context_log, "ojoo");
    aioloop_context_ref(NULL);
    aioloop_context_unref(NULL);
    context_drop(n.outer);
    context_drop(n.inner);
    context_end(loop);
}

static void context_drop_in_callback(aioloop *loop, void *arg) {
    (void)loop;
    context_drop((aioloop_context *)arg);
    context_note(context_get());
    aioloop_context_set(&context_var, CONTEXT_LETTER('y'), NULL);
    context_note(context_get());
}

TEST(context_lives_as_long_as_work_needs_it, "CTX-03") {
    aioloop *loop = context_begin();
    aioloop_context *context;
    aioloop_timer_handle timer;
    context_set('a');
    context = context_copy();
    context_set('z');
    context_soon(loop, context_drop_in_callback, context, context); /* drops the last one but the callback's own */
    test_spin(loop, 1);
    CHECK_STR(context_log, "ay");
    CHECK_EQ(context_get(), 'z');
    context = context_copy();
    timer = aioloop_call_at_context(loop, AIOLOOP_FOREVER, context_look, NULL, context);
    CHECK(!aioloop_handle_is_null(&timer.handle));
    context_drop(context);
    aioloop_timer_handle_cancel(&timer); /* the last owner */
    context = context_copy();
    timer = aioloop_call_at_context(loop, AIOLOOP_FOREVER, context_look, NULL, context);
    CHECK(!aioloop_handle_is_null(&timer.handle));
    context_drop(context);
    context_end(loop); /* here the loop is */
}

/* ---- the values ---- */

static void context_dispose(void *value) {
    ++*(int *)value;
}

static void context_set_counted(aioloop *loop, void *arg) {
    (void)loop;
    if (aioloop_context_set(&context_second, arg, context_dispose) == 0)
        context_note('s');
}

TEST(context_value_is_disposed_of_with_its_last_context, "") {
    aioloop *loop = context_begin();
    aioloop_context *copy;
    aioloop_handle h;
    int a = 0;
    int b = 0;
    int c = 0;
    int d = 0;
    CHECK_EQ(aioloop_context_set(&context_second, &a, context_dispose), 0);
    CHECK_EQ(a, 0);
    CHECK_EQ(aioloop_context_set(&context_second, &b, context_dispose), 0);
    CHECK_EQ(a, 1); /* replaced, and nobody else had it */
    context_soon(loop, context_look, NULL, NULL);
    copy = context_copy();
    CHECK_EQ(aioloop_context_set(&context_second, NULL, NULL), 0);
    CHECK_EQ(b, 0); /* the copy and the callback have it */
    context_drop(copy);
    CHECK_EQ(b, 0);
    test_spin(loop, 1);
    CHECK_EQ(b, 1); /* the callback has run */
    context_soon(loop, context_set_counted, &c, NULL);
    test_spin(loop, 1);
    CHECK_STR(context_log, "-s");
    CHECK_EQ(c, 1); /* set inside, gone with it */
    CHECK_EQ(aioloop_context_set(&context_second, &d, context_dispose), 0);
    h = aioloop_call_soon(loop, context_look, NULL);
    CHECK(!aioloop_handle_is_null(&h));
    context_at(loop, AIOLOOP_FOREVER, context_look, NULL);
    CHECK_EQ(aioloop_context_set(&context_second, NULL, NULL), 0);
    aioloop_handle_cancel(&h);
    test_spin(loop, 1);
    CHECK_EQ(d, 0);
    CHECK_EQ(aioloop_close(loop), 0); /* drops the timer */
    CHECK_EQ(d, 1);
    context_end(loop);
    CHECK_EQ(a + b + c + d, 4);
}

TEST(context_value_equal_to_the_default_is_owned_too, "") {
    static int value;
    static const aioloop_context_var var = {"owned", &value};
    aioloop *loop = context_begin();
    value = 0;
    CHECK_EQ(aioloop_context_set(&var, &value, context_dispose), 0);
    CHECK_EQ(value, 0);
    CHECK_EQ(aioloop_context_set(&var, &value, NULL), 0);
    CHECK_EQ(value, 1);
    CHECK_PTR(aioloop_context_get(&var), &value);
    context_end(loop);
}

TEST(context_holds_many_variables, "CTX-02") {
    static aioloop_context_var vars[40];
    static int values[40];
    aioloop *loop = context_begin();
    aioloop_context *half;
    int i;
    for (i = 0; i < 40; i++) {
        vars[i].name = "many";
        vars[i].default_value = NULL;
    }
    for (i = 0; i < 20; i++)
        CHECK_EQ(aioloop_context_set(&vars[i], &values[i], NULL), 0);
    half = context_copy();
    for (i = 20; i < 40; i++)
        CHECK_EQ(aioloop_context_set(&vars[i], &values[i], NULL), 0);
    for (i = 0; i < 40; i++)
        CHECK_PTR(aioloop_context_get(&vars[i]), &values[i]);
    for (i = 0; i < 40; i += 2) /* unset every other one */
        CHECK_EQ(aioloop_context_set(&vars[i], NULL, NULL), 0);
    for (i = 0; i < 40; i++)
        CHECK_PTR(aioloop_context_get(&vars[i]), i % 2 == 0 ? NULL : &values[i]);
    for (i = 1; i < 40; i += 2)
        CHECK_EQ(aioloop_context_set(&vars[i], NULL, NULL), 0);
    context_drop(half);
    context_end(loop);
}

/* ---- CTX-04: protocols ---- */

/* What each method saw, as pairs of a method's letter and the variable's. */
typedef struct context_side {
    char calls[256];
    int made;
    int received;
    int paused;
    int resumed;
    int eof;
    int lost;
    aioloop_transport *transport;
    char place[32];
} context_side;

static void context_side_note(context_side *side, char method) {
    size_t n = strlen(side->calls);
    if (n + 2 < sizeof(side->calls)) {
        side->calls[n] = method;
        side->calls[n + 1] = context_get();
        side->calls[n + 2] = '\0';
    }
}

/* Every method saw this letter. */
static void context_side_check(const context_side *side, char letter) {
    size_t i;
    for (i = 0; side->calls[i] != '\0'; i += 2)
        if (side->calls[i + 1] != letter)
            FAIL("method %c saw %c, not %c: %s", side->calls[i], side->calls[i + 1], letter, side->calls);
}

static int context_factory(void *self, void *arg) {
    (void)arg;
    context_side_note((context_side *)self, 'f');
    return 0;
}

static void context_made(aioloop_transport *transport, void *self) {
    context_side *side = (context_side *)self;
    context_side_note(side, 'm');
    side->transport = transport; /* borrowed: valid until connection_lost */
    side->made++;
}

static void context_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)transport;
    (void)data;
    context_side_note((context_side *)self, 'd');
    ((context_side *)self)->received += (int)size;
}

static size_t context_buffer(aioloop_transport *transport, void *self, size_t hint, void **buffer) {
    context_side *side = (context_side *)self;
    (void)transport;
    (void)hint;
    context_side_note(side, 'g');
    *buffer = side->place;
    return sizeof(side->place);
}

static void context_updated(aioloop_transport *transport, void *self, size_t size) {
    (void)transport;
    context_side_note((context_side *)self, 'b');
    ((context_side *)self)->received += (int)size;
}

static bool context_eof(aioloop_transport *transport, void *self) {
    (void)transport;
    context_side_note((context_side *)self, 'e');
    ((context_side *)self)->eof++;
    return false;
}

static void context_pause(aioloop_transport *transport, void *self) {
    (void)transport;
    context_side_note((context_side *)self, 'p');
    ((context_side *)self)->paused++;
}

static void context_resume(aioloop_transport *transport, void *self) {
    (void)transport;
    context_side_note((context_side *)self, 'r');
    ((context_side *)self)->resumed++;
}

static void context_lost(aioloop_transport *transport, void *self, int error) {
    (void)transport;
    (void)error;
    context_side_note((context_side *)self, 'l');
    ((context_side *)self)->lost++;
}

static aioloop_protocol context_protocol(bool buffered) {
    aioloop_protocol p = AIOLOOP_ZERO;
    p.factory = context_factory;
    p.connection_made = context_made;
    if (buffered) {
        p.get_buffer = context_buffer;
        p.buffer_updated = context_updated;
    } else {
        p.data_received = context_received;
    }
    p.eof_received = context_eof;
    p.connection_lost = context_lost;
    p.pause_writing = context_pause;
    p.resume_writing = context_resume;
    return p;
}

TEST(context_of_a_connection_is_that_of_its_making, "CTX-04") {
    static char much[200000];
    static aioloop_protocol plain;    /* protocols outlive their transports, also when the test gives up */
    static aioloop_protocol buffered;
    static context_side client;
    static context_side server_side;
    aioloop *loop = context_begin();
    aioloop_server *server;
    aioloop_transport *t;
    int port = 0;
    int i;
    memset(&client, 0, sizeof(client));
    memset(&server_side, 0, sizeof(server_side));
    plain = context_protocol(false);
    buffered = context_protocol(true);
    context_set('s');
    server = test_serve(loop, &plain, &server_side, &port);
    context_set('c');
    t = test_dial(loop, &buffered, &client, port);
    context_set('x');
    test_run_until(loop, &server_side.made, 1, "the server's side");
    CHECK_EQ(aioloop_transport_write(t, "hello", 5), 0);
    test_run_until(loop, &server_side.received, 5, "the bytes");
    CHECK_EQ(aioloop_transport_write(server_side.transport, "world", 5), 0);
    test_run_until(loop, &client.received, 5, "the answer");
    /* pause_writing is called inside write: still in the connection's context. */
    aioloop_transport_pause_reading(server_side.transport);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(t, 100, 10), 0);
    for (i = 0; i < 200 && client.paused == 0; i++)
        CHECK_EQ(aioloop_transport_write(t, much, sizeof(much)), 0);
    CHECK_EQ(client.paused, 1);
    CHECK_EQ(context_get(), 'x');
    aioloop_transport_resume_reading(server_side.transport);
    test_run_until(loop, &client.resumed, 1, "resume_writing");
    CHECK_EQ(aioloop_transport_write_eof(t), 0);
    test_run_until(loop, &server_side.lost, 1, "the server's loss");
    test_run_until(loop, &client.lost, 1, "the client's loss");
    CHECK_EQ(server_side.eof, 1);
    context_side_check(&server_side, 's');
    context_side_check(&client, 'c');
    CHECK(strchr(client.calls, 'f') != NULL);
    CHECK(strchr(client.calls, 'g') != NULL);
    CHECK(strchr(client.calls, 'b') != NULL);
    CHECK_EQ(context_get(), 'x');
    aioloop_transport_unref(t);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    context_end(loop);
}

static void context_made_and_changed(aioloop_transport *transport, void *self) {
    context_made(transport, self);
    aioloop_context_set(&context_var, CONTEXT_LETTER(context_get() + 1), NULL);
}

TEST(context_of_each_connection_is_its_own, "CTX-02 CTX-04") {
    static aioloop_protocol p;
    static context_side a;
    static context_side b;
    aioloop *loop = context_begin();
    aioloop_socket s[2];
    memset(&a, 0, sizeof(a));
    memset(&b, 0, sizeof(b));
    p = context_protocol(false);
    p.connection_made = context_made_and_changed;
    context_set('q');
    test_socketpair(loop, s);
    test_adopt(loop, &p, &a, s[0]);
    test_adopt(loop, &p, &b, s[1]);
    context_set('x');
    CHECK_EQ(context_get(), 'x');
    CHECK_EQ(aioloop_transport_write(a.transport, "1", 1), 0);
    CHECK_EQ(aioloop_transport_write(b.transport, "2", 1), 0);
    test_run_until(loop, &a.received, 1, "a byte");
    test_run_until(loop, &b.received, 1, "the other byte");
    /* Each saw what the making call had, and then its own change once, not the other's. */
    CHECK_STR(a.calls, "fqmqdr");
    CHECK_STR(b.calls, "fqmqdr");
    aioloop_transport_abort(a.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    test_run_until(loop, &b.lost, 1, "the other loss");
    CHECK_EQ(a.calls[strlen(a.calls) - 1], 'r');
    CHECK_EQ(b.calls[strlen(b.calls) - 1], 'r');
    context_end(loop);
}

/* ---- the exception handler, which runs in a task's ---- */

static int context_numbers[] = {0, 7};
static const aioloop_context_var context_frame_var = {"frame", &context_numbers[0]};
static int context_handler_saw;

static int64_t context_asks_for_it(aioloop *loop, aioloop_frame *frame, void **out) {
    aioloop_task *failed = *(aioloop_task **)(void *)(frame + 1);
    aioloop_context *context = aioloop_task_get_context(failed);
    (void)loop;
    (void)out;
    aioloop_context_unref(context);
    return context == NULL ? 0 : 1;
}

typedef struct context_asker {
    aioloop_frame frame;
    aioloop_task *failed;
} context_asker;

static void context_handler(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    context_asker asker = AIOLOOP_ZERO;
    aioloop_task_options options = AIOLOOP_ZERO;
    (void)arg;
    options.eager = true;
    asker.failed = context->task;
    aioloop_future_unref(aioloop_create_task_frame(loop, context_asks_for_it, &asker.frame, &options));
    context_handler_saw = *(int *)aioloop_context_get(&context_frame_var);
    CHECK_EQ(aioloop_context_set(&context_frame_var, &context_numbers[0], NULL), 0);
}

static int64_t context_fails(aioloop *loop, aioloop_frame *frame, void **out) {
    (void)loop;
    (void)frame;
    (void)out;
    CHECK_EQ(aioloop_context_set(&context_frame_var, &context_numbers[1], NULL), 0);
    return AIOLOOP_EINVAL;
}

TEST(context_of_a_failed_task_stays_under_its_handler, "CTX-04") {
    aioloop *loop = test_loop();
    aioloop_frame frame = AIOLOOP_ZERO;
    context_handler_saw = 0;
    aioloop_set_exception_handler(loop, context_handler, NULL);
    aioloop_future_unref(aioloop_create_task_frame(loop, context_fails, &frame, NULL));
    test_spin(loop, 2);
    CHECK_EQ(context_handler_saw, 7);
    test_end(loop);
}
