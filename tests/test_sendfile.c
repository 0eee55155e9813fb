/*
 * test_sendfile.c - files sent over transports and sockets, by the system and by copying.
 */
#include "awaits.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#define FILE_SIZE 600000 /* more than a connection and the buffers of a copy hold */

/* ---- files ---- */

static unsigned char file_bytes[FILE_SIZE];

/* An open file of the first bytes of file_bytes, with no name. */
static aioloop_file file_new(size_t size) {
    char name[] = "/tmp/aioloop-sendfile-XXXXXX";
    size_t done = 0;
    size_t i;
    int fd = test_keep_socket(mkstemp(name));
    unlink(name);
    for (i = 0; i < size; i++)
        file_bytes[i] = (unsigned char)(i * 7 + i / 251 + i / 65521);
    while (done < size) {
        ssize_t n = write(fd, file_bytes + done, size - done);
        CHECK_GT(n, 0);
        done += (size_t)n;
    }
    return fd;
}

static void file_end(aioloop_file file) {
    test_forget_socket(file);
    CHECK(close(file) == 0);
}

static int64_t file_place(aioloop_file file) {
    return (int64_t)lseek(file, 0, SEEK_CUR);
}

/* A pipe that ends after size bytes (as many as it holds). Its reading end. */
static aioloop_file file_pipe(size_t size) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    test_keep_socket(ends[0]);
    CHECK_EQ(write(ends[1], file_bytes, size), (ssize_t)size);
    close(ends[1]);
    return ends[0];
}

/* ---- what arrives ---- */

static unsigned char file_wanted[FILE_SIZE + 64]; /* the stream that the peer is to get */
static size_t file_wanted_size;

static void file_want(const void *data, size_t size) {
    CHECK(file_wanted_size + size <= sizeof(file_wanted));
    memcpy(file_wanted + file_wanted_size, data, size);
    file_wanted_size += size;
}

static void file_check(test_peer *peer, const void *data, size_t size) {
    size_t start = peer->received - size;
    CHECK(peer->received <= file_wanted_size);
    CHECK(memcmp(data, file_wanted + start, size) == 0);
}

static void file_pair(aioloop *loop, test_peer *a, test_peer *b) {
    memset(a, 0, sizeof(*a));
    memset(b, 0, sizeof(*b));
    test_connect_pair(loop, a, b);
    b->on_data = file_check;
    file_wanted_size = 0;
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a->transport, 1000, 100), 0);
}

/* A socket, and a connection of its other end. */
static aioloop_socket file_socket(aioloop *loop, test_peer *b) {
    aioloop_socket s[2];
    test_socketpair(loop, s);
    if (!test_simulated(loop))
        CHECK(fcntl(s[0], F_SETFL, O_NONBLOCK) == 0);
    memset(b, 0, sizeof(*b));
    b->on_data = file_check;
    test_adopt(loop, &test_protocol, b, s[1]);
    file_wanted_size = 0;
    return s[0];
}

static void file_end_socket(aioloop *loop, aioloop_socket s, test_peer *b) {
    test_close_socket(loop, s);
    if (b->lost == 0)
        aioloop_transport_abort(b->transport);
    test_run_until(loop, &b->lost, 1, "connection_lost");
    test_peer_drop(b);
}

/* ---- loops ---- */

/* A loop whose engine cannot send files. */
static aioloop *file_copying_loop(void) {
    static char backend[128];
    const char *wanted = getenv("AIOLOOP_BACKEND");
    aioloop_config config = AIOLOOP_ZERO;
    snprintf(backend, sizeof(backend), "%s,no-sendfile", wanted != NULL && wanted[0] != '\0' ? wanted : "epoll");
    config.backend = backend;
    return test_loop_with(&config);
}

/* False in a run whose engine is told to do without. */
static bool file_system_can(void) {
    const char *backend = getenv("AIOLOOP_BACKEND");
    return backend == NULL || strstr(backend, "no-sendfile") == NULL;
}

static void file_forbid(aioloop_sendfile_options *options) {
    memset(options, 0, sizeof(*options));
    options->no_fallback = true;
}

static double file_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Gives up when it takes too long in real time: a thread may be about it. */
static void file_patience(double since) {
    if (file_clock() - since > (test_injected() ? 0.3 : 10 * test_slowdown()))
        FAIL("waited in vain");
}

/* Runs until it is done. */
static void file_done(aioloop *loop, aioloop_future *future) {
    double since = file_clock();
    while (!aioloop_future_done(future)) {
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(50)), 0);
        file_patience(since);
        if (test_simulated(loop))
            sched_yield();
    }
}

/* The same. Its number or code. */
static int64_t file_run(aioloop *loop, aioloop_future *future) {
    int64_t n;
    aioloop_future_ref(future);
    file_done(loop, future);
    n = aioloop_future_result(future, NULL);
    aioloop_future_unref(future);
    return n;
}

/* The same for who awaits it in one of the styles. */
static int64_t file_await(aioloop *loop, await_style style, aioloop_future *future) {
    awaiter w;
    int64_t n;
    aioloop_future_ref(future);
    memset(&w, 0, sizeof(w));
    await_begin(&w, loop, style, future);
    file_done(loop, future);
    n = await_end(&w);
    aioloop_future_unref(future);
    return n;
}

/* ---- sending ---- */

static void file_between_writes(aioloop *loop, await_style style) {
    test_peer a, b;
    aioloop_file file = file_new(FILE_SIZE);
    file_pair(loop, &a, &b);
    file_want("head", 4);
    file_want(file_bytes, FILE_SIZE);
    file_want("tail", 4);
    CHECK_EQ(aioloop_transport_write(a.transport, "head", 4), 0);
    CHECK_EQ(file_await(loop, style, aioloop_sendfile(loop, a.transport, file, 0, -1, NULL)), FILE_SIZE);
    CHECK_EQ(file_place(file), FILE_SIZE);
    CHECK_EQ(aioloop_transport_write(a.transport, "tail", 4), 0);
    test_run_until_received(loop, &b, FILE_SIZE + 8);
    test_end_pair(loop, &a, &b);
    file_end(file);
}

TEST(sendfile_is_between_the_writes, "SF-01 SF-02 SF-04") {
    await_in_all_styles(file_between_writes);
}

static void file_between_sends(aioloop *loop, await_style style) {
    test_peer b;
    aioloop_socket s = file_socket(loop, &b);
    aioloop_file file = file_new(FILE_SIZE);
    file_want("head", 4);
    file_want(file_bytes, FILE_SIZE);
    file_want("tail", 4);
    CHECK_EQ(file_run(loop, aioloop_sock_sendall(loop, s, "head", 4)), 0);
    CHECK_EQ(file_await(loop, style, aioloop_sock_sendfile(loop, s, file, 0, -1, NULL)), FILE_SIZE);
    CHECK_EQ(file_place(file), FILE_SIZE);
    CHECK_EQ(file_run(loop, aioloop_sock_sendall(loop, s, "tail", 4)), 0);
    test_run_until_received(loop, &b, FILE_SIZE + 8);
    file_end_socket(loop, s, &b);
    file_end(file);
}

TEST(sock_sendfile_is_between_the_sends, "SF-01 SF-02 SF-04") {
    await_in_all_styles(file_between_sends);
}

TEST(sendfile_follows_what_is_buffered_yet, "SF-01") {
    aioloop *loop = test_loop();
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    aioloop_future *f;
    file_pair(loop, &a, &b);
    file_want(file_bytes + 1000, 200000);
    file_want(file_bytes, 1000);
    aioloop_transport_pause_reading(b.transport);
    CHECK_EQ(aioloop_transport_write(a.transport, file_bytes + 1000, 200000), 0);
    f = aioloop_future_ref(aioloop_sendfile(loop, a.transport, file, 0, 1000, NULL));
    test_spin(loop, 20);
    if (aioloop_transport_get_write_buffer_size(a.transport) != 0)
        CHECK(!aioloop_future_done(f));
    aioloop_transport_resume_reading(b.transport);
    file_done(loop, f);
    CHECK_EQ(aioloop_future_result(f, NULL), 1000);
    aioloop_future_unref(f);
    test_run_until_received(loop, &b, 201000);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

TEST(a_small_file_goes_within_the_call, "SF-01") {
    aioloop *loop = test_loop();
    aioloop_file file = file_new(1000);
    test_peer b;
    aioloop_socket s = file_socket(loop, &b);
    aioloop_future *f = aioloop_future_ref(aioloop_sock_sendfile(loop, s, file, 0, -1, NULL));
    file_want(file_bytes, 1000);
    if (!test_delayed(loop) && file_system_can() && !test_injected())
        CHECK(aioloop_future_done(f));
    CHECK_EQ(file_run(loop, f), 1000);
    aioloop_future_unref(f);
    test_run_until_received(loop, &b, 1000);
    file_end_socket(loop, s, &b);
    file_end(file);
    test_end(loop);
}

/* ---- offset, count, place ---- */

/* Over a transport, then over a socket. */
static void file_part(aioloop *loop, aioloop_file file, int64_t offset, int64_t count, int64_t wanted) {
    test_peer a, b;
    aioloop_socket s;
    file_pair(loop, &a, &b);
    file_want(file_bytes + offset, (size_t)wanted);
    CHECK_EQ(lseek(file, 77, SEEK_SET), 77);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, offset, count, NULL)), wanted);
    CHECK_EQ(file_place(file), offset + wanted);
    test_run_until_received(loop, &b, (size_t)wanted);
    test_end_pair(loop, &a, &b);
    s = file_socket(loop, &b);
    file_want(file_bytes + offset, (size_t)wanted);
    CHECK_EQ(lseek(file, 77, SEEK_SET), 77);
    CHECK_EQ(file_run(loop, aioloop_sock_sendfile(loop, s, file, offset, count, NULL)), wanted);
    CHECK_EQ(file_place(file), offset + wanted);
    test_run_until_received(loop, &b, (size_t)wanted);
    file_end_socket(loop, s, &b);
}

static void file_parts(aioloop *loop) {
    aioloop_file file = file_new(5000);
    file_part(loop, file, 0, 100, 100);
    file_part(loop, file, 4900, 100, 100);
    file_part(loop, file, 4900, 101, 100);
    file_part(loop, file, 4999, -1, 1);
    file_part(loop, file, 3000, INT64_MAX, 2000);
    file_end(file);
    test_end(loop);
}

TEST(sendfile_sends_the_part_asked_for, "SF-02 SF-03 SF-04") {
    file_parts(test_loop());
}

TEST_WITH(copying_sends_the_part_asked_for, "SF-02 SF-03 SF-04 SF-07", TEST_THREADS) {
    file_parts(file_copying_loop());
}

TEST(sendfile_sends_what_a_file_gains_meanwhile, "SF-02") {
    aioloop *loop = test_loop();
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    aioloop_future *f;
    file_pair(loop, &a, &b);
    file_want(file_bytes, FILE_SIZE);
    file_want("more", 4);
    aioloop_transport_pause_reading(b.transport);
    f = aioloop_future_ref(aioloop_sendfile(loop, a.transport, file, 0, -1, NULL));
    test_spin(loop, 3);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(pwrite(file, "more", 4, FILE_SIZE), 4);
    aioloop_transport_resume_reading(b.transport);
    CHECK_EQ(file_run(loop, f), FILE_SIZE + 4);
    aioloop_future_unref(f);
    test_run_until_received(loop, &b, FILE_SIZE + 4);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

TEST(sendfile_ends_where_a_file_was_cut_meanwhile, "SF-02 SF-04") {
    aioloop *loop = test_loop();
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    aioloop_future *f;
    file_pair(loop, &a, &b);
    file_want(file_bytes, FILE_SIZE - 10);
    aioloop_transport_pause_reading(b.transport);
    f = aioloop_future_ref(aioloop_sendfile(loop, a.transport, file, 0, FILE_SIZE, NULL));
    test_spin(loop, 3);
    CHECK(ftruncate(file, FILE_SIZE - 10) == 0);
    aioloop_transport_resume_reading(b.transport);
    CHECK_EQ(file_run(loop, f), FILE_SIZE - 10);
    aioloop_future_unref(f);
    CHECK_EQ(file_place(file), FILE_SIZE - 10);
    test_run_until_received(loop, &b, FILE_SIZE - 10);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

static void file_nothing(aioloop *loop) {
    aioloop_file empty = file_new(0);
    aioloop_file file = file_new(100);
    test_peer a, b;
    aioloop_socket s;
    file_pair(loop, &a, &b);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, empty, 0, -1, NULL)), 0);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, empty, 0, 10, NULL)), 0);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, 100, -1, NULL)), 0);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, 5000, 10, NULL)), 0);
    CHECK_EQ(file_place(file), 5000);
    test_spin(loop, 10);
    CHECK_EQ(b.received, 0);
    test_end_pair(loop, &a, &b);
    s = file_socket(loop, &b);
    CHECK_EQ(file_run(loop, aioloop_sock_sendfile(loop, s, empty, 0, -1, NULL)), 0);
    CHECK_EQ(file_run(loop, aioloop_sock_sendfile(loop, s, file, 101, 7, NULL)), 0);
    test_spin(loop, 10);
    CHECK_EQ(b.received, 0);
    file_end_socket(loop, s, &b);
    file_end(empty);
    file_end(file);
    test_end(loop);
}

TEST(sendfile_of_nothing_is_zero, "SF-05") {
    file_nothing(test_loop());
}

TEST_WITH(copying_nothing_is_zero, "SF-05", TEST_THREADS) {
    file_nothing(file_copying_loop());
}

/* ---- what is refused ---- */

TEST(sendfile_refuses_bad_arguments, "SF-06") {
    static const int64_t bad[][2] = {{-1, -1}, {INT64_MIN, 5}, {0, 0}, {0, -2}, {5, INT64_MIN}};
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_file file = file_new(100);
    test_peer a, b;
    aioloop_socket d;
    size_t i;
    file_pair(loop, &a, &b);
    CHECK_EQ(lseek(file, 3, SEEK_SET), 3);
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, bad[i][0], bad[i][1], NULL)), AIOLOOP_EINVAL);
        CHECK_EQ(file_run(loop, aioloop_sock_sendfile(loop, -1, file, bad[i][0], bad[i][1], NULL)), AIOLOOP_EINVAL);
    }
    d = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_DGRAM);
    CHECK_EQ(file_run(loop, aioloop_sock_sendfile(loop, d, file, 0, -1, NULL)), AIOLOOP_EINVAL);
    test_close_socket(loop, d);
    CHECK_EQ(file_run(loop, aioloop_sock_sendfile(loop, -1, file, 0, -1, NULL)), AIOLOOP_EBADF);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, -1, 0, -1, NULL)), AIOLOOP_EBADF);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, NULL, file, 0, -1, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(file_run(loop, aioloop_sendfile(NULL, a.transport, file, 0, -1, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(file_run(loop, aioloop_sock_sendfile(NULL, 0, file, 0, -1, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(file_run(other, aioloop_sendfile(other, a.transport, file, 0, -1, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(file_place(file), 3);
    CHECK_EQ(aioloop_transport_write(a.transport, "still", 5), 0);
    file_want("still", 5);
    test_run_until_received(loop, &b, 5);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(other);
    test_end(loop);
}

TEST(sendfile_refuses_a_closing_transport, "SF-09") {
    aioloop *loop = test_loop();
    aioloop_file file = file_new(100);
    test_peer a, b;
    file_pair(loop, &a, &b);
    CHECK_EQ(lseek(file, 3, SEEK_SET), 3);
    aioloop_transport_close(a.transport);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, 0, -1, NULL)), AIOLOOP_EMISUSE);
    test_run_until(loop, &a.lost, 1, "connection_lost");
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, 0, -1, NULL)), AIOLOOP_EMISUSE);
    test_run_until(loop, &b.lost, 1, "connection_lost");
    CHECK_EQ(b.received, 0);
    CHECK_EQ(file_place(file), 3);
    test_end_pair(loop, &a, &b);
    file_pair(loop, &a, &b);
    b.keep_open = true;
    CHECK_EQ(aioloop_transport_write_eof(a.transport), 0);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, 0, -1, NULL)), AIOLOOP_EMISUSE);
    test_end_pair(loop, &a, &b);
    file_end(file);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_sock_sendfile(loop, 0, 0, 0, -1, NULL)), AIOLOOP_ECLOSED);
    test_end(loop);
}

TEST(without_copying_what_has_to_be_copied_is_not_available, "SF-08") {
    aioloop *loop = test_loop();
    aioloop_file file = file_pipe(10);
    aioloop_sendfile_options options;
    test_peer a, b;
    aioloop_socket s;
    file_forbid(&options);
    file_pair(loop, &a, &b);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, 0, -1, &options)), AIOLOOP_ENOTAVAILABLE);
    test_spin(loop, 10);
    CHECK_EQ(b.received, 0);
    CHECK(aioloop_transport_is_reading(a.transport));
    test_end_pair(loop, &a, &b);
    s = file_socket(loop, &b);
    CHECK_EQ(file_run(loop, aioloop_sock_sendfile(loop, s, file, 0, -1, &options)), AIOLOOP_ENOTAVAILABLE);
    file_end_socket(loop, s, &b);
    file_end(file);
    test_end(loop);
}

TEST(without_copying_an_engine_that_cannot_is_not_available, "SF-08") {
    aioloop *loop = file_copying_loop();
    aioloop_file file = file_new(100);
    aioloop_sendfile_options options;
    test_peer a, b;
    aioloop_socket s;
    file_forbid(&options);
    file_pair(loop, &a, &b);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, 0, -1, &options)), AIOLOOP_ENOTAVAILABLE);
    test_end_pair(loop, &a, &b);
    s = file_socket(loop, &b);
    CHECK_EQ(file_run(loop, aioloop_sock_sendfile(loop, s, file, 0, -1, &options)), AIOLOOP_ENOTAVAILABLE);
    file_end_socket(loop, s, &b);
    file_end(file);
    test_end(loop);
}

TEST(sendfile_without_copying_works_where_the_system_can, "SF-07") {
    aioloop *loop = test_loop();
    aioloop_file file = file_new(100);
    aioloop_sendfile_options options;
    test_peer a, b;
    file_forbid(&options);
    file_pair(loop, &a, &b);
    file_want(file_bytes, 100);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, 0, -1, &options)),
             file_system_can() ? 100 : AIOLOOP_ENOTAVAILABLE);
    test_run_until_received(loop, &b, file_system_can() ? 100 : 0);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

/* ---- while a file is sent ---- */

static void file_never_released(const void *data, size_t size, void *arg) {
    (void)data;
    (void)size;
    (void)arg;
    FAIL("nothing was lent");
}

static void file_busy(aioloop *loop) {
    aioloop_file file = file_new(FILE_SIZE);
    aioloop_buf piece = {"x", 1};
    test_peer a, b;
    aioloop_future *f;
    file_pair(loop, &a, &b);
    file_want(file_bytes, FILE_SIZE);
    file_want("x", 1);
    aioloop_transport_pause_reading(b.transport);
    f = aioloop_future_ref(aioloop_sendfile(loop, a.transport, file, 0, -1, NULL));
    test_spin(loop, 5);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_transport_writelines(a.transport, &piece, 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_transport_write_owned(a.transport, "x", 1, file_never_released, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_transport_write_eof(a.transport), AIOLOOP_EMISUSE);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, 0, -1, NULL)), AIOLOOP_EMISUSE);
    aioloop_transport_resume_reading(b.transport);
    CHECK_EQ(file_run(loop, f), FILE_SIZE);
    aioloop_future_unref(f);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_run_until_received(loop, &b, FILE_SIZE + 1);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

TEST(nothing_can_be_written_while_a_file_is_sent, "SF-10") {
    file_busy(test_loop());
}

TEST_WITH(nothing_can_be_written_while_a_file_is_copied, "SF-10", TEST_THREADS) {
    file_busy(file_copying_loop());
}

static void file_pauses(aioloop *loop) {
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    int round;
    for (round = 0; round < 4; round++) {
        bool before = round % 2 == 0;
        bool change = round >= 2;
        bool after = change ? !before : before;
        aioloop_future *f;
        file_pair(loop, &a, &b);
        file_want(file_bytes, FILE_SIZE);
        if (!before)
            aioloop_transport_pause_reading(a.transport);
        aioloop_transport_pause_reading(b.transport);
        f = aioloop_future_ref(aioloop_sendfile(loop, a.transport, file, 0, -1, NULL));
        CHECK(!aioloop_transport_is_reading(a.transport));
        CHECK_EQ(aioloop_transport_write(b.transport, "hello", 5), 0);
        test_spin(loop, 10);
        CHECK(!aioloop_future_done(f));
        CHECK_EQ(a.received, 0);
        if (change && before)
            aioloop_transport_pause_reading(a.transport);
        else if (change)
            aioloop_transport_resume_reading(a.transport);
        CHECK(!aioloop_transport_is_reading(a.transport));
        aioloop_transport_resume_reading(b.transport);
        CHECK_EQ(file_run(loop, f), FILE_SIZE);
        aioloop_future_unref(f);
        CHECK_EQ(aioloop_transport_is_reading(a.transport), after);
        if (after) {
            test_run_until_received(loop, &a, 5);
        } else {
            test_spin(loop, 10);
            CHECK_EQ(a.received, 0);
        }
        test_run_until_received(loop, &b, FILE_SIZE);
        test_end_pair(loop, &a, &b);
    }
    file_end(file);
    test_end(loop);
}

TEST(reading_pauses_while_a_file_is_sent_and_is_then_as_before, "SF-11") {
    file_pauses(test_loop());
}

TEST_WITH(reading_pauses_while_a_file_is_copied_and_is_then_as_before, "SF-11", TEST_THREADS) {
    file_pauses(file_copying_loop());
}

TEST(resume_writing_waits_for_the_file, "") {
    aioloop *loop = test_loop();
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    aioloop_future *f;
    file_pair(loop, &a, &b);
    file_want(file_bytes, FILE_SIZE);
    file_want(file_bytes, 10);
    aioloop_transport_pause_reading(b.transport);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 1000, 100), 0);
    CHECK_EQ(aioloop_transport_write(a.transport, file_bytes, FILE_SIZE), 0);
    CHECK_EQ(a.paused, 1);
    f = aioloop_future_ref(aioloop_sendfile(loop, a.transport, file, 0, 10, NULL));
    aioloop_transport_resume_reading(b.transport);
    while (!aioloop_future_done(f)) {
        CHECK_EQ(a.resumed, 0);
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(50)), 0);
    }
    CHECK_EQ(aioloop_future_result(f, NULL), 10);
    aioloop_future_unref(f);
    test_run_until(loop, &a.resumed, 1, "resume_writing");
    CHECK_EQ(a.paused, 1);
    test_run_until_received(loop, &b, FILE_SIZE + 10);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

/* ---- copying ---- */

static void file_copied(aioloop *loop, await_style style) {
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    aioloop_socket s;
    aioloop_file source;
    file_pair(loop, &a, &b);
    source = file_pipe(30000);
    file_want(file_bytes, 20000);
    CHECK_EQ(file_await(loop, style, aioloop_sendfile(loop, a.transport, source, 0, 20000, NULL)), 20000);
    test_run_until_received(loop, &b, 20000);
    test_end_pair(loop, &a, &b);
    s = file_socket(loop, &b);
    file_want(file_bytes + 20000, 10000);
    CHECK_EQ(file_await(loop, style, aioloop_sock_sendfile(loop, s, source, 0, -1, NULL)), 10000);
    test_run_until_received(loop, &b, 10000);
    CHECK_EQ(file_await(loop, style, aioloop_sock_sendfile(loop, s, source, 5, -1, NULL)), AIOLOOP_ESPIPE);
    file_end_socket(loop, s, &b);
    file_end(source);
    file_end(file);
}

TEST_WITH(a_pipe_is_copied, "SF-07", TEST_THREADS) {
    await_in_all_styles(file_copied);
}

TEST_WITH(a_large_file_is_copied, "SF-01 SF-04 SF-07", TEST_THREADS) {
    aioloop *loop = file_copying_loop();
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    aioloop_socket s;
    file_pair(loop, &a, &b);
    file_want("head", 4);
    file_want(file_bytes, FILE_SIZE);
    file_want("tail", 4);
    CHECK_EQ(aioloop_transport_write(a.transport, "head", 4), 0);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, file, 0, -1, NULL)), FILE_SIZE);
    CHECK_EQ(aioloop_transport_write(a.transport, "tail", 4), 0);
    test_run_until_received(loop, &b, FILE_SIZE + 8);
    test_end_pair(loop, &a, &b);
    s = file_socket(loop, &b);
    file_want(file_bytes, FILE_SIZE);
    CHECK_EQ(file_run(loop, aioloop_sock_sendfile(loop, s, file, 0, -1, NULL)), FILE_SIZE);
    CHECK_EQ(file_place(file), FILE_SIZE);
    test_run_until_received(loop, &b, FILE_SIZE);
    file_end_socket(loop, s, &b);
    file_end(file);
    test_end(loop);
}

TEST_WITH(a_folder_is_no_file, "", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_file folder = test_keep_socket(open("/", O_RDONLY));
    test_peer a, b;
    file_pair(loop, &a, &b);
    CHECK_EQ(file_run(loop, aioloop_sendfile(loop, a.transport, folder, 0, -1, NULL)), AIOLOOP_EISDIR);
    file_want("on", 2);
    CHECK_EQ(aioloop_transport_write(a.transport, "on", 2), 0);
    test_run_until_received(loop, &b, 2);
    test_end_pair(loop, &a, &b);
    file_end(folder);
    test_end(loop);
}

TEST_WITH(copying_obeys_flow_control, "SF-13", TEST_THREADS) {
    aioloop *loop = file_copying_loop();
    aioloop_file file = file_new(FILE_SIZE);
    double since = file_clock();
    size_t most = 0;
    test_peer a, b;
    aioloop_future *f;
    int i;
    file_pair(loop, &a, &b);
    file_want(file_bytes, FILE_SIZE);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 10000, 1000), 0);
    aioloop_transport_pause_reading(b.transport);
    f = aioloop_future_ref(aioloop_sendfile(loop, a.transport, file, 0, -1, NULL));
    for (i = 0; !aioloop_future_done(f) || b.received < FILE_SIZE; i++) {
        size_t size = aioloop_transport_get_write_buffer_size(a.transport);
        most = size > most ? size : most;
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(5)), 0);
        if (i == 20)
            aioloop_transport_resume_reading(b.transport);
        file_patience(since);
    }
    CHECK_EQ(aioloop_future_result(f, NULL), FILE_SIZE);
    aioloop_future_unref(f);
    CHECK_LE(most, 10000 + 65536);
    test_spin(loop, 10);
    CHECK_EQ(a.paused, a.resumed);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

/* ---- ends ---- */

/* Sends until the peer, which does not read, holds it up, then has `act` done. The code it ended with. */
static int64_t file_interrupted(aioloop *loop, aioloop_file file, test_peer *a, test_peer *b,
                                void (*act)(aioloop_future *f, test_peer *a, test_peer *b)) {
    aioloop_future *f;
    int64_t n;
    file_pair(loop, a, b);
    file_want("head", 4);
    file_want(file_bytes + 10, FILE_SIZE - 10);
    CHECK_EQ(aioloop_transport_write(a->transport, "head", 4), 0);
    aioloop_transport_pause_reading(b->transport);
    f = aioloop_future_ref(aioloop_sendfile(loop, a->transport, file, 10, -1, NULL));
    test_spin(loop, 20);
    CHECK(!aioloop_future_done(f));
    act(f, a, b);
    file_done(loop, f);
    n = aioloop_future_result(f, NULL);
    aioloop_future_unref(f);
    return n;
}

static void file_do_cancel(aioloop_future *f, test_peer *a, test_peer *b) {
    (void)a;
    (void)b;
    CHECK(aioloop_future_cancel(f, NULL));
}

static void file_do_close(aioloop_future *f, test_peer *a, test_peer *b) {
    (void)f;
    (void)b;
    aioloop_transport_close(a->transport);
}

static void file_do_abort(aioloop_future *f, test_peer *a, test_peer *b) {
    (void)f;
    (void)b;
    aioloop_transport_abort(a->transport);
}

static void file_do_leave(aioloop_future *f, test_peer *a, test_peer *b) {
    (void)f;
    (void)a;
    aioloop_transport_abort(b->transport);
}

static void file_cancelled(aioloop *loop) {
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    int64_t place;
    CHECK_EQ(file_interrupted(loop, file, &a, &b, file_do_cancel), AIOLOOP_ECANCELED);
    CHECK(aioloop_transport_is_reading(a.transport));
    place = file_place(file);
    CHECK_GE(place, 10);
    CHECK_LT(place, FILE_SIZE);
    file_wanted_size = 4 + (size_t)place - 10;
    file_want("tail", 4);
    CHECK_EQ(aioloop_transport_write(a.transport, "tail", 4), 0);
    aioloop_transport_resume_reading(b.transport);
    test_run_until_received(loop, &b, file_wanted_size);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

TEST(a_cancelled_sendfile_tells_how_far_it_came, "SF-04") {
    file_cancelled(test_loop());
}

TEST_WITH(a_cancelled_copy_tells_how_far_it_came, "SF-04", TEST_THREADS) {
    file_cancelled(file_copying_loop());
}

static void file_closed(aioloop *loop) {
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    CHECK_EQ(file_interrupted(loop, file, &a, &b, file_do_close), AIOLOOP_ECONNABORTED);
    aioloop_transport_resume_reading(b.transport);
    test_run_until(loop, &a.lost, 1, "connection_lost");
    CHECK_EQ(a.error, 0);
    test_run_until(loop, &b.lost, 1, "connection_lost");
    CHECK_EQ(b.received, 4 + (size_t)file_place(file) - 10);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

TEST(close_ends_a_sendfile, "") {
    file_closed(test_loop());
}

TEST_WITH(close_ends_a_copy, "", TEST_THREADS) {
    file_closed(file_copying_loop());
}

static void file_aborted(aioloop *loop) {
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    CHECK_EQ(file_interrupted(loop, file, &a, &b, file_do_abort), AIOLOOP_ECONNABORTED);
    test_run_until(loop, &a.lost, 1, "connection_lost");
    CHECK_EQ(a.error, 0);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

TEST(abort_ends_a_sendfile, "") {
    file_aborted(test_loop());
}

TEST_WITH(abort_ends_a_copy, "", TEST_THREADS) {
    file_aborted(file_copying_loop());
}

static void file_left(aioloop *loop) {
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b;
    int64_t n = file_interrupted(loop, file, &a, &b, file_do_leave);
    CHECK(n == AIOLOOP_EPIPE || n == AIOLOOP_ECONNRESET);
    CHECK_GE(file_place(file), 10);
    CHECK_GE(file_place(file) - 10 + 4, (int64_t)b.received);
    test_run_until(loop, &a.lost, 1, "connection_lost");
    CHECK_EQ(a.error, n);
    test_end_pair(loop, &a, &b);
    file_end(file);
    test_end(loop);
}

TEST(a_peer_that_leaves_fails_a_sendfile, "SF-12") {
    file_left(test_loop());
}

TEST_WITH(a_peer_that_leaves_fails_a_copy, "SF-12", TEST_THREADS) {
    file_left(file_copying_loop());
}

/* ---- sockets ---- */

static void file_sock_interrupted(aioloop *loop) {
    aioloop_file file = file_new(FILE_SIZE);
    test_peer b;
    aioloop_socket s = file_socket(loop, &b);
    aioloop_future *f;
    int64_t n;
    file_want(file_bytes, FILE_SIZE);
    aioloop_transport_pause_reading(b.transport);
    f = aioloop_future_ref(aioloop_sock_sendfile(loop, s, file, 0, -1, NULL));
    test_spin(loop, 20);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(file_run(loop, aioloop_sock_sendfile(loop, s, file, 0, -1, NULL)), AIOLOOP_EMISUSE);
    CHECK_EQ(file_run(loop, aioloop_sock_sendall(loop, s, "x", 1)), AIOLOOP_EMISUSE);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_EQ(file_run(loop, f), AIOLOOP_ECANCELED);
    aioloop_future_unref(f);
    file_wanted_size = (size_t)file_place(file);
    file_want("tail", 4);
    f = aioloop_future_ref(aioloop_sock_sendall(loop, s, "tail", 4));
    aioloop_transport_resume_reading(b.transport);
    CHECK_EQ(file_run(loop, f), 0);
    aioloop_future_unref(f);
    test_run_until_received(loop, &b, file_wanted_size);
    file_wanted_size = 0;
    b.received = 0;
    file_want(file_bytes, FILE_SIZE);
    aioloop_transport_pause_reading(b.transport);
    f = aioloop_future_ref(aioloop_sock_sendfile(loop, s, file, 0, -1, NULL));
    test_spin(loop, 20);
    aioloop_transport_abort(b.transport);
    n = file_run(loop, f);
    CHECK(n == AIOLOOP_EPIPE || n == AIOLOOP_ECONNRESET);
    aioloop_future_unref(f);
    CHECK_LT(file_place(file), FILE_SIZE);
    file_end_socket(loop, s, &b);
    file_end(file);
    test_end(loop);
}

TEST(sock_sendfile_is_cancelled_and_fails, "SF-04 SF-12") {
    file_sock_interrupted(test_loop());
}

TEST_WITH(sock_copying_is_cancelled_and_fails, "SF-04 SF-12", TEST_THREADS) {
    file_sock_interrupted(file_copying_loop());
}

/* ---- the loop ---- */

/* pool: whose threads can be waited for; or NULL. */
static void file_loop_closed(aioloop *loop, aioloop_thread_pool *pool) {
    aioloop_file file = file_new(FILE_SIZE);
    test_peer a, b, c;
    aioloop_socket s = file_socket(loop, &c);
    aioloop_sendfile_options options;
    aioloop_future *f, *g;
    memset(&options, 0, sizeof(options));
    options.no_fallback = pool == NULL;
    if (pool != NULL)
        CHECK_EQ(aioloop_set_default_executor(loop, pool), 0);
    file_pair(loop, &a, &b);
    aioloop_transport_pause_reading(b.transport);
    aioloop_transport_pause_reading(c.transport);
    f = aioloop_future_ref(aioloop_sendfile(loop, a.transport, file, 0, -1, &options));
    g = aioloop_future_ref(aioloop_sock_sendfile(loop, s, file, 0, -1, &options));
    test_spin(loop, 10);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(!aioloop_future_done(f));
    CHECK(!aioloop_future_done(g));
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    aioloop_future_unref(g);
    test_close_socket(loop, s);
    test_peer_drop(&a);
    test_peer_drop(&b);
    test_peer_drop(&c);
    file_end(file);
    aioloop_thread_pool_free(pool);
    test_end(loop);
}

TEST(a_loop_is_closed_while_a_file_is_sent, "") {
    if (!file_system_can())
        SKIP("files are copied");
    file_loop_closed(test_loop(), NULL);
}

TEST_WITH(a_loop_is_closed_while_a_file_is_copied, "", TEST_THREADS) {
    aioloop_thread_pool *pool = aioloop_thread_pool_new(NULL);
    CHECK(pool != NULL);
    file_loop_closed(file_copying_loop(), pool);
}

TEST_WITH(a_cancel_does_not_wait_for_a_thread_that_reads, "", TEST_THREADS) {
    aioloop *loop = test_loop();
    test_peer a, b;
    aioloop_future *f;
    int ends[2];
    file_pair(loop, &a, &b);
    CHECK(pipe(ends) == 0);
    test_keep_socket(ends[0]);
    test_keep_socket(ends[1]);
    f = aioloop_future_ref(aioloop_sendfile(loop, a.transport, ends[0], 0, -1, NULL));
    test_spin(loop, 3);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_done(f));
    aioloop_future_unref(f);
    file_end(ends[0]);
    file_end(ends[1]);
    CHECK_EQ(file_run(loop, aioloop_shutdown_default_executor(loop, 0)), 0);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

/* ---- from the protocol ---- */

static aioloop_file made_file;
static aioloop_future *made_future;

static void file_on_made(test_peer *peer) {
    made_future = aioloop_future_ref(
        aioloop_sendfile(aioloop_transport_get_loop(peer->transport), peer->transport, made_file, 0, -1, NULL));
}

TEST(sendfile_from_connection_made, "SF-11") {
    aioloop *loop = test_loop();
    test_peer a, b;
    aioloop_socket s[2];
    made_file = file_new(FILE_SIZE);
    memset(&a, 0, sizeof(a));
    memset(&b, 0, sizeof(b));
    b.on_data = file_check;
    file_wanted_size = 0;
    file_want(file_bytes, FILE_SIZE);
    test_socketpair(loop, s);
    a.on_made = file_on_made;
    test_adopt(loop, &test_protocol, &b, s[1]);
    test_adopt(loop, &test_protocol, &a, s[0]);
    CHECK_EQ(file_run(loop, made_future), FILE_SIZE);
    aioloop_future_unref(made_future);
    CHECK_EQ(aioloop_transport_write(b.transport, "hello", 5), 0);
    test_run_until_received(loop, &a, 5);
    test_run_until_received(loop, &b, FILE_SIZE);
    test_end_pair(loop, &a, &b);
    file_end(made_file);
    test_end(loop);
}
