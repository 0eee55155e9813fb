/*
 * test_subprocess.c - programs as children: the subprocess transport and its protocol, processes with streams.
 *
 * The children are programs that every system has: sh, cat, sort, gzip, and python3 where it is there.
 */
#include "awaits.h"
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A protocol that remembers. One letter a call: m made, 1 and 2 data, A, B and C pipe 0, 1 and 2 lost, x exited, l lost, p
 * and r pause and resume. */
typedef struct child {
    aioloop_subprocess *transport; /* a reference, from made on */
    char calls[256];
    char out[4096];
    char err[4096];
    size_t out_size;
    size_t err_size;
    int made, exited, lost;
    int pipes_lost;
    int pipe_error[3];
    int code;      /* when it exited */
    int lost_error;
    void (*on_made)(struct child *c);
    void (*on_data)(struct child *c, int fd, const void *data, size_t size);
    void (*on_exited)(struct child *c);
    void *user;
} child;

static void child_note(child *c, char call) {
    size_t n = strlen(c->calls);
    if ((call == '1' || call == '2') && n > 0 && c->calls[n - 1] == call)
        return; /* in how many pieces it comes is not promised */
    if (n + 1 < sizeof(c->calls))
        c->calls[n] = call;
}

static void child_made(aioloop_subprocess *t, void *self) {
    child *c = (child *)self;
    child_note(c, 'm');
    c->made++;
    c->transport = aioloop_subprocess_ref(t);
    if (c->on_made != NULL)
        c->on_made(c);
}

static void child_data(aioloop_subprocess *t, void *self, int fd, const void *data, size_t size) {
    child *c = (child *)self;
    size_t *at = fd == 1 ? &c->out_size : &c->err_size;
    char *to = fd == 1 ? c->out : c->err;
    CHECK(t == c->transport);
    child_note(c, (char)('0' + fd));
    if (*at + size < sizeof(c->out))
        memcpy(to + *at, data, size);
    *at += size;
    if (c->on_data != NULL)
        c->on_data(c, fd, data, size);
}

static void child_pipe_lost(aioloop_subprocess *t, void *self, int fd, int error) {
    child *c = (child *)self;
    CHECK(t == c->transport && fd >= 0 && fd <= 2);
    child_note(c, (char)('A' + fd));
    c->pipes_lost++;
    c->pipe_error[fd] = error;
}

static void child_exited(aioloop_subprocess *t, void *self) {
    child *c = (child *)self;
    child_note(c, 'x');
    c->exited++;
    CHECK(aioloop_subprocess_get_returncode(t, &c->code));
    if (c->on_exited != NULL)
        c->on_exited(c);
}

static void child_lost(aioloop_subprocess *t, void *self, int error) {
    child *c = (child *)self;
    (void)t;
    child_note(c, 'l');
    c->lost++;
    c->lost_error = error;
}

static void child_pause(aioloop_subprocess *t, void *self) {
    (void)t;
    child_note((child *)self, 'p');
}

static void child_resume(aioloop_subprocess *t, void *self) {
    (void)t;
    child_note((child *)self, 'r');
}

static const aioloop_subprocess_protocol child_protocol = {0,          NULL,       child_made,  child_data, child_pipe_lost,
                                                           child_exited, child_lost, child_pause, child_resume};

/* A loop on descriptors of the system; the simulated one is told apart by a test of its own. */
static aioloop *child_loop(void) {
    aioloop *loop = test_loop();
    int code;
    test_needs_real_descriptors(loop);
    signal(SIGCHLD, SIG_DFL);
    code = aioloop_future_exception(aioloop_subprocess_exec(loop, &child_protocol, NULL, NULL, NULL));
    if (code == AIOLOOP_ENOTAVAILABLE) {
        test_end(loop);
        SKIP("built without subprocesses");
    }
    return loop;
}

static void child_exec(aioloop *loop, child *c, const char *const *args, const aioloop_subprocess_options *o) {
    int64_t rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, c, args, o), NULL);
    if (rc < 0)
        NOTE("%s", aioloop_message(loop, (int)rc));
    CHECK_GT(rc, 0);
    CHECK_EQ(rc, aioloop_subprocess_get_pid(c->transport));
}

static void child_shell(aioloop *loop, child *c, const char *command, const aioloop_subprocess_options *o) {
    int64_t rc = aioloop_run_until_complete(loop, aioloop_subprocess_shell(loop, &child_protocol, c, command, o), NULL);
    if (rc < 0)
        NOTE("%s", aioloop_message(loop, (int)rc));
    CHECK_GT(rc, 0);
}

/* Each call at most as often as it may come, and in order. */
static void child_end(aioloop *loop, child *c) {
    test_run_until(loop, &c->lost, 1, "connection_lost");
    test_spin(loop, 4);
    CHECK_EQ(c->made, 1);
    CHECK_EQ(c->exited, 1);
    CHECK_EQ(c->lost, 1);
    CHECK_EQ(c->lost_error, 0);
    CHECK_EQ(c->calls[0], 'm');
    CHECK_EQ(c->calls[strlen(c->calls) - 1], 'l');
    aioloop_subprocess_unref(c->transport);
    c->transport = NULL;
}

/* How many children there are that nobody has waited for. */
static void child_no_zombie(void) {
    errno = 0;
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
    CHECK_EQ(errno, ECHILD);
}

/* Valgrind finds out itself whether there is a program, but does not survive it if the system then does not start it. */
static bool child_exec_may_fail(void) {
    const char *preloaded = getenv("LD_PRELOAD");
    return preloaded == NULL || strstr(preloaded, "vgpreload") == NULL;
}

/* ---- starting ---- */

TEST_WITH(subprocess_exec_gives_the_arguments_as_they_are, "PROC-01", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"printf", "[%s]", "a b", "$HOME", "*", "'\"", "", NULL};
    child c = AIOLOOP_ZERO;
    child_exec(loop, &c, args, NULL);
    child_end(loop, &c);
    CHECK_STR(c.out, "[a b][$HOME][*]['\"][]");
    CHECK_EQ(c.code, 0);
    child_no_zombie();
    test_end(loop);
}

TEST_WITH(subprocess_shell_runs_a_command_line, "PROC-01", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    child_shell(loop, &c, "for i in 1 2 3; do echo $i; done | sort -r; exit 7", NULL);
    child_end(loop, &c);
    CHECK_STR(c.out, "3\n2\n1\n");
    CHECK_EQ(c.code, 7);
    test_end(loop);
}

TEST(subprocess_is_not_simulated, "PROC-01") {
    aioloop *loop = test_loop();
    const char *const args[] = {"true", NULL};
    child c = AIOLOOP_ZERO;
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("for the simulated back end");
    }
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, args, NULL), NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_subprocess_exec(loop, args, NULL), NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(c.made, 0);
    test_end(loop);
}

TEST_WITH(subprocess_connection_made_is_first, "PROC-02", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    int i;
    for (i = 0; i < 10; i++) {
        child c = AIOLOOP_ZERO;
        aioloop_subprocess *t = NULL;
        int64_t rc = aioloop_run_until_complete(
            loop, aioloop_subprocess_shell(loop, &child_protocol, &c, "echo fast", NULL), &t);
        CHECK_GT(rc, 0);
        CHECK_EQ(c.made, 1);
        CHECK(t == c.transport);
        aioloop_subprocess_unref(t);
        child_end(loop, &c);
        CHECK_STR(c.out, "fast\n");
    }
    test_end(loop);
}

typedef struct child_own {
    int code;
    int made;
} child_own;

static int child_own_lost;

static int child_own_factory(void *self, void *arg) {
    ((child_own *)self)->code = *(int *)arg;
    return ((child_own *)self)->code;
}

static void child_own_made(aioloop_subprocess *t, void *self) {
    (void)t;
    ((child_own *)self)->made++;
}

static void child_own_gone(aioloop_subprocess *t, void *self, int error) {
    (void)t;
    (void)error;
    CHECK_EQ(((child_own *)self)->made, 1);
    child_own_lost++;
}

TEST_WITH(subprocess_protocol_with_memory_of_its_own, "PROC-02 PROC-11", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    aioloop_subprocess_protocol protocol = AIOLOOP_ZERO;
    const char *const args[] = {"cat", NULL};
    aioloop_subprocess *t = NULL;
    int code = 0;
    int64_t rc;
    child_own_lost = 0;
    protocol.instance_size = sizeof(child_own);
    protocol.factory = child_own_factory;
    protocol.connection_made = child_own_made;
    protocol.connection_lost = child_own_gone;
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &protocol, &code, args, NULL), &t);
    CHECK_GT(rc, 0);
    aioloop_subprocess_close(t);
    aioloop_subprocess_unref(t);
    test_run_until(loop, &child_own_lost, 1, "connection_lost");
    code = AIOLOOP_EACCES; /* refuses: the child is killed, and nobody is told */
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &protocol, &code, args, NULL), NULL);
    CHECK_EQ(rc, AIOLOOP_EACCES);
    CHECK_EQ(child_own_lost, 1);
    test_end(loop); /* waits for it */
    child_no_zombie();
}

/* ---- standard streams ---- */

TEST_WITH(subprocess_streams_are_pipes_by_default, "PROC-03 PROC-04 PROC-05", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    aioloop_transport *in;
    child_shell(loop, &c, "read line; echo \"out $line\"; echo \"err $line\" >&2", NULL);
    CHECK(aioloop_subprocess_get_loop(c.transport) == loop);
    in = aioloop_subprocess_get_pipe_transport(c.transport, 0);
    CHECK(in != NULL);
    CHECK(aioloop_subprocess_get_pipe_transport(c.transport, 1) != NULL);
    CHECK(aioloop_subprocess_get_pipe_transport(c.transport, 2) != NULL);
    CHECK(aioloop_subprocess_get_pipe_transport(c.transport, 3) == NULL);
    CHECK(aioloop_subprocess_get_pipe_transport(c.transport, -1) == NULL);
    CHECK_EQ(aioloop_transport_write(in, "hello\n", 6), 0);
    child_end(loop, &c);
    CHECK_STR(c.out, "out hello\n");
    CHECK_STR(c.err, "err hello\n");
    CHECK_EQ(c.pipes_lost, 3);
    CHECK(strchr(c.calls, '1') != NULL && strchr(c.calls, '1') < strchr(c.calls, 'B'));
    CHECK(strchr(c.calls, '2') != NULL && strchr(c.calls, '2') < strchr(c.calls, 'C'));
    test_end(loop);
}

TEST_WITH(subprocess_streams_inherited_null_given_or_joined, "PROC-03 PROC-04", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child joined = AIOLOOP_ZERO;
    child null = AIOLOOP_ZERO;
    child given = AIOLOOP_ZERO;
    child inherited = AIOLOOP_ZERO;
    char got[16];
    int ends[2];
    o.std_err = AIOLOOP_STDIO_STDOUT;
    child_shell(loop, &joined, "echo a; echo b >&2; echo c", &o);
    CHECK(aioloop_subprocess_get_pipe_transport(joined.transport, 2) == NULL);
    child_end(loop, &joined);
    CHECK_STR(joined.out, "a\nb\nc\n");
    CHECK_EQ(joined.pipes_lost, 2);

    o.std_in = AIOLOOP_STDIO_DEVNULL;
    o.std_out = AIOLOOP_STDIO_DEVNULL;
    o.std_err = AIOLOOP_STDIO_PIPE;
    child_shell(loop, &null, "cat; echo to nobody; echo to us >&2", &o);
    CHECK(aioloop_subprocess_get_pipe_transport(null.transport, 0) == NULL);
    CHECK(aioloop_subprocess_get_pipe_transport(null.transport, 1) == NULL);
    child_end(loop, &null);
    CHECK_EQ(null.out_size, 0);
    CHECK_STR(null.err, "to us\n");

    CHECK_EQ(pipe(ends), 0);
    test_keep_socket(ends[0]);
    test_keep_socket(ends[1]);
    o.std_in = AIOLOOP_STDIO_INHERIT;
    o.std_out = AIOLOOP_STDIO_FD(ends[1]);
    o.std_err = AIOLOOP_STDIO_STDOUT;
    child_shell(loop, &given, "echo one; echo two >&2", &o);
    child_end(loop, &given);
    CHECK_EQ(given.pipes_lost, 0);
    CHECK_STR(given.calls, "mxl");
    CHECK_EQ(read(ends[0], got, sizeof(got)), 8);
    CHECK_MEM(got, "one\ntwo\n", 8);
    CHECK(fcntl(ends[1], F_GETFD) != -1); /* stays ours */
    test_close_socket(loop, ends[0]);
    test_close_socket(loop, ends[1]);

    o.std_out = AIOLOOP_STDIO_INHERIT;
    o.std_err = AIOLOOP_STDIO_INHERIT;
    child_shell(loop, &inherited, "exit 3", &o);
    child_end(loop, &inherited);
    CHECK_EQ(inherited.code, 3);
    test_end(loop);
}

/* Given descriptors that are in each other's way: output and input change places. */
TEST_WITH(subprocess_given_standard_descriptors, "PROC-03", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child c = AIOLOOP_ZERO;
    char got[8];
    int saved[2];
    int in[2];
    int out[2];
    CHECK(pipe(in) == 0 && pipe(out) == 0);
    CHECK_EQ(write(in[1], "swap", 4), 4);
    saved[0] = dup(0);
    saved[1] = dup(1);
    CHECK(dup2(out[1], 0) == 0 && dup2(in[0], 1) == 1);
    close(in[0]);
    close(in[1]);
    close(out[1]);
    o.std_in = AIOLOOP_STDIO_FD(1);
    o.std_out = AIOLOOP_STDIO_FD(0);
    o.std_err = AIOLOOP_STDIO_DEVNULL;
    {
        const char *const args[] = {"cat", NULL};
        aioloop_future *f = aioloop_future_ref(aioloop_subprocess_exec(loop, &child_protocol, &c, args, &o));
        int ok = dup2(saved[0], 0) == 0 && dup2(saved[1], 1) == 1;
        close(saved[0]);
        close(saved[1]);
        test_keep_socket(out[0]);
        CHECK(ok);
        CHECK_GT(aioloop_run_until_complete(loop, f, NULL), 0);
        aioloop_future_unref(f);
    }
    child_end(loop, &c);
    CHECK_EQ(c.code, 0);
    CHECK_EQ(read(out[0], got, sizeof(got)), 4);
    CHECK_MEM(got, "swap", 4);
    test_close_socket(loop, out[0]);
    test_end(loop);
}

TEST_WITH(subprocess_options_that_make_no_sense, "PROC-12 PROC-11", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"true", NULL};
    const char *const none[] = {NULL};
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child c = AIOLOOP_ZERO;
    int fds[1] = {1};
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(NULL, &child_protocol, &c, args, NULL), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, NULL, &c, args, NULL), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, NULL, NULL), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, none, NULL), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_shell(loop, &child_protocol, &c, NULL, NULL), NULL), AIOLOOP_EINVAL);
    o.std_in = AIOLOOP_STDIO_STDOUT;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, args, &o), NULL), AIOLOOP_EINVAL);
    o.std_in = -4;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, args, &o), NULL), AIOLOOP_EINVAL);
    o.std_in = 0;
    o.process_group = -2;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, args, &o), NULL), AIOLOOP_EINVAL);
    o.process_group = 0;
    o.pass_fds_count = 1;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, args, &o), NULL), AIOLOOP_EINVAL);
    o.pass_fds = fds;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, args, &o), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(c.made, 0);
    CHECK_EQ(aioloop_subprocess_send_signal(NULL, SIGTERM), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_subprocess_get_pid(NULL), AIOLOOP_EINVAL);
    CHECK(!aioloop_subprocess_get_returncode(NULL, NULL));
    aioloop_subprocess_close(NULL);
    aioloop_subprocess_unref(NULL);
    test_end(loop);
}

/* ---- the end ---- */

TEST_WITH(subprocess_exit_status_and_signals, "PROC-06 PROC-07 PROC-08 PROC-09", TEST_REAL_FDS) {
    static const int signals[] = {SIGTERM, SIGKILL, SIGINT};
    aioloop *loop = child_loop();
    int i;
    int code;
    for (i = 0; i < 4; i++) {
        child c = AIOLOOP_ZERO;
        int pid;
        code = 77;
        child_shell(loop, &c, i == 3 ? "exit 255" : "exec sleep 1000", NULL);
        pid = aioloop_subprocess_get_pid(c.transport);
        CHECK_GT(pid, 0);
        if (i != 3) {
            CHECK(!aioloop_subprocess_get_returncode(c.transport, &code));
            CHECK_EQ(code, 77);
        }
        if (i == 0)
            CHECK_EQ(aioloop_subprocess_terminate(c.transport), 0);
        else if (i == 1)
            CHECK_EQ(aioloop_subprocess_kill(c.transport), 0);
        else if (i == 2)
            CHECK_EQ(aioloop_subprocess_send_signal(c.transport, SIGINT), 0);
        test_run_until(loop, &c.lost, 1, "connection_lost");
        CHECK_EQ(c.code, i == 3 ? 255 : -signals[i]);
        CHECK(aioloop_subprocess_get_returncode(c.transport, &code));
        CHECK_EQ(code, c.code);
        CHECK_EQ(aioloop_subprocess_get_pid(c.transport), pid);
        CHECK_EQ(aioloop_subprocess_terminate(c.transport), AIOLOOP_ESRCH);
        CHECK_EQ(aioloop_subprocess_kill(c.transport), AIOLOOP_ESRCH);
        CHECK_EQ(aioloop_subprocess_send_signal(c.transport, SIGINT), AIOLOOP_ESRCH);
        CHECK_EQ(aioloop_subprocess_send_signal(c.transport, 0), AIOLOOP_EINVAL);
        child_end(loop, &c);
    }
    child_no_zombie();
    test_end(loop);
}

TEST_WITH(subprocess_close_kills_what_runs, "PROC-10", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"cat", NULL};
    child c = AIOLOOP_ZERO;
    child_exec(loop, &c, args, NULL);
    CHECK(!aioloop_subprocess_is_closing(c.transport));
    aioloop_subprocess_close(c.transport);
    CHECK(aioloop_subprocess_is_closing(c.transport));
    aioloop_subprocess_close(c.transport);
    test_run_until(loop, &c.lost, 1, "connection_lost");
    aioloop_subprocess_close(c.transport);
    CHECK_EQ(c.pipes_lost, 3);
    child_end(loop, &c);
    CHECK_EQ(c.code, -SIGKILL);
    child_no_zombie();
    test_end(loop);
}

static void child_close(child *c) {
    aioloop_subprocess_close(c->transport);
}

TEST_WITH(subprocess_close_leaves_what_has_exited, "PROC-10", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    child made = AIOLOOP_ZERO;
    const char *const args[] = {"cat", NULL};
    c.on_exited = child_close;
    child_shell(loop, &c, "exit 5", NULL);
    child_end(loop, &c);
    CHECK_EQ(c.code, 5);
    made.on_made = child_close; /* and at the other end of its life */
    child_exec(loop, &made, args, NULL);
    child_end(loop, &made);
    CHECK_EQ(made.code, -SIGKILL);
    test_end(loop);
}

TEST_WITH(subprocess_loop_closed_meanwhile, "PROC-10", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"cat", NULL};
    child c = AIOLOOP_ZERO;
    child early = AIOLOOP_ZERO;
    aioloop_future *f;
    child_exec(loop, &c, args, NULL);
    f = aioloop_future_ref(aioloop_subprocess_exec(loop, &child_protocol, &early, args, NULL));
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_close(loop), 0);
    child_no_zombie();
    CHECK_EQ(c.lost, 0);
    CHECK_EQ(early.made, 0);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_subprocess_kill(c.transport), AIOLOOP_ESRCH);
    aioloop_subprocess_close(c.transport);
    aioloop_future_unref(f);
    aioloop_subprocess_unref(c.transport);
    test_end(loop);
}

TEST_WITH(subprocess_that_cannot_start, "PROC-11", TEST_REAL_FDS) {
    static const char *const missing[] = {"aioloop-no-such-program", NULL};
    static const char *const path[] = {"/aioloop/no/such/program", NULL};
    static const char *const folder[] = {"/", NULL};
    static const char *const fine[] = {"true", NULL};
    aioloop *loop = child_loop();
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child c = AIOLOOP_ZERO;
    static char large[3000000];
    const char *too_large[3] = {"true", NULL, NULL};
    int64_t rc;
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, missing, NULL), NULL);
    CHECK_EQ(rc, AIOLOOP_ENOENT);
    CHECK_STR(aioloop_message(loop, (int)rc), "exec \"aioloop-no-such-program\": no such file or directory");
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, path, NULL), NULL);
    CHECK_EQ(rc, AIOLOOP_ENOENT);
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, folder, NULL), NULL);
    CHECK_EQ(rc, AIOLOOP_EACCES);
    if (child_exec_may_fail()) {
        memset(large, 'x', sizeof(large) - 1);
        too_large[1] = large;
        rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, too_large, NULL), NULL);
        CHECK_EQ(rc, AIOLOOP_E2BIG);
    }
    o.cwd = "/aioloop/no/such/folder";
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, fine, &o), NULL);
    CHECK_EQ(rc, AIOLOOP_ENOENT);
    CHECK_STR(aioloop_message(loop, (int)rc), "chdir to \"/aioloop/no/such/folder\": no such file or directory");
    o.cwd = NULL;
    o.std_out = AIOLOOP_STDIO_FD(987);
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, fine, &o), NULL);
    CHECK_EQ(rc, AIOLOOP_EBADF);
    CHECK_STR(aioloop_message(loop, (int)rc), "standard stream 1 of \"true\": bad file descriptor");
    o.std_out = AIOLOOP_STDIO_FD(-1); /* what could not be opened */
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, fine, &o), NULL);
    CHECK_EQ(rc, AIOLOOP_EINVAL);
    CHECK_EQ(c.made, 0);
    child_no_zombie();
    test_end(loop);
}

/* Descriptors that are not open, and would be the next that the call opens itself. */
TEST_WITH(subprocess_given_descriptors_have_to_be_open, "PROC-11 PROC-14", TEST_REAL_FDS) {
    static const char *const fine[] = {"cat", NULL};
    aioloop *loop = child_loop();
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child c = AIOLOOP_ZERO;
    char text[80];
    int next[3];
    int64_t rc;
    int i;
    for (i = 0; i < 3; i++)
        next[i] = dup(1);
    for (i = 0; i < 3; i++)
        close(next[i]);
    for (i = 0; i < 3; i++) {
        o.pass_fds = &next[i];
        o.pass_fds_count = 1;
        rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, fine, &o), NULL);
        CHECK_EQ(rc, AIOLOOP_EBADF);
        snprintf(text, sizeof(text), "pass_fds: descriptor %d of \"cat\": bad file descriptor", next[i]);
        CHECK_STR(aioloop_message(loop, (int)rc), text);
        o.pass_fds = NULL;
        o.pass_fds_count = 0;
        o.std_err = AIOLOOP_STDIO_FD(next[i]);
        rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, fine, &o), NULL);
        CHECK_EQ(rc, AIOLOOP_EBADF);
        o.std_err = AIOLOOP_STDIO_PIPE;
    }
    child_no_zombie();
    test_end(loop);
}

TEST_WITH(subprocess_script_whose_interpreter_is_not_there, "PROC-11", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    char path[64];
    const char *args[] = {path, NULL};
    char wanted[200];
    int64_t rc;
    FILE *script;
    if (!child_exec_may_fail()) {
        test_end(loop);
        SKIP("valgrind");
    }
    snprintf(path, sizeof(path), "/tmp/aioloop-script-%d", (int)getpid());
    script = fopen(path, "w");
    CHECK(script != NULL);
    fputs("#!/aioloop/no/such/interpreter\n", script);
    fclose(script);
    chmod(path, 0700);
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, args, NULL), NULL);
    unlink(path);
    CHECK_EQ(rc, AIOLOOP_ENOENT);
    snprintf(wanted, sizeof(wanted), "exec \"%s\": no such file or directory, which is its interpreter (#!)", path);
    CHECK_STR(aioloop_message(loop, (int)rc), wanted);
    test_end(loop);
}

static void child_reported(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)loop;
    if (context->error == -4711 && strcmp(context->message, "Error in pipe_data_received") == 0)
        ++*(int *)arg;
}

static void child_raises(child *c, int fd, const void *data, size_t size) {
    (void)c;
    (void)fd;
    (void)data;
    (void)size;
    aioloop_raise(aioloop_get_running_loop(), -4711, "no use for it");
}

/* The child does not hear of it: it writes twice, and ends well. */
TEST_WITH(subprocess_whose_protocol_raises_goes_on, "PROC-05 ERR-02", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    int reports = 0;
    aioloop_set_exception_handler(loop, child_reported, &reports);
    c.on_data = child_raises;
    child_shell(loop, &c, "echo a; read line; echo b; exit 3", NULL);
    test_run_until(loop, &reports, 1, "a report");
    aioloop_transport_write(aioloop_subprocess_get_pipe_transport(c.transport, 0), "\n", 1);
    child_end(loop, &c);
    CHECK_EQ(c.code, 3);
    CHECK_STR(c.out, "a\nb\n");
    CHECK_EQ(c.pipe_error[1], 0);
    CHECK_EQ(reports, 2);
    test_end(loop);
}

static void child_cancels(child *c) {
    CHECK(aioloop_future_cancel((aioloop_future *)c->user, NULL));
}

TEST_WITH(subprocess_cancelled_while_it_starts, "PROC-19", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"sleep", "1000", NULL};
    child c = AIOLOOP_ZERO;
    child made = AIOLOOP_ZERO;
    aioloop_future *f = aioloop_future_ref(aioloop_subprocess_exec(loop, &child_protocol, &c, args, NULL));
    int tries;
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECANCELED);
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    for (tries = 0; waitpid(-1, NULL, WNOHANG) != -1 && tries < 1000; tries++)
        test_run_for(loop, AIOLOOP_MS(1));
    child_no_zombie();
    CHECK_EQ(strlen(c.calls), 0);
    f = aioloop_future_ref(aioloop_subprocess_exec(loop, &child_protocol, &made, args, NULL));
    CHECK(!aioloop_future_done(f));
    made.user = f;
    made.on_made = child_cancels;
    child_end(loop, &made);
    CHECK_EQ(made.code, -SIGKILL);
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    child_no_zombie();
    test_end(loop);
}

/* ---- what is the child's alone ---- */

TEST_WITH(subprocess_directory_environment_and_the_like, "PROC-13", TEST_REAL_FDS) {
    static const char *const environment[] = {"AIOLOOP_TEST=its own", "PATH=/bin:/usr/bin", NULL};
    aioloop *loop = child_loop();
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child c = AIOLOOP_ZERO;
    char before[512];
    char after[512];
    mode_t mask = umask(022);
    umask(mask);
    CHECK(getcwd(before, sizeof(before)) != NULL);
    o.cwd = "/";
    o.env = environment;
    o.set_umask = true;
    o.umask = 0123;
    o.start_new_session = true;
    child_shell(loop, &c, "pwd; echo $AIOLOOP_TEST; umask; test $(ps -o sid= -p $$) -eq $$ && echo leads", &o);
    child_end(loop, &c);
    CHECK_MEM(c.out, "/\nits own\n0123\nleads\n", 21);
    CHECK(getenv("AIOLOOP_TEST") == NULL);
    CHECK(getcwd(after, sizeof(after)) != NULL);
    CHECK_STR(after, before);
    CHECK_EQ(umask(mask), mask);
    test_end(loop);
}

TEST_WITH(subprocess_process_group, "PROC-13", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"cat", NULL};
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child leader = AIOLOOP_ZERO;
    child member = AIOLOOP_ZERO;
    child session = AIOLOOP_ZERO;
    int pid;
    o.process_group = -1;
    child_exec(loop, &leader, args, &o);
    pid = aioloop_subprocess_get_pid(leader.transport);
    CHECK_EQ(getpgid(pid), pid);
    o.process_group = pid;
    child_exec(loop, &member, args, &o);
    CHECK_EQ(getpgid(aioloop_subprocess_get_pid(member.transport)), pid);
    o.process_group = 0;
    o.start_new_session = true;
    child_exec(loop, &session, args, &o);
    pid = aioloop_subprocess_get_pid(session.transport);
    CHECK_EQ(getsid(pid), pid);
    aioloop_subprocess_close(leader.transport);
    aioloop_subprocess_close(member.transport);
    aioloop_subprocess_close(session.transport);
    child_end(loop, &leader);
    child_end(loop, &member);
    child_end(loop, &session);
    test_end(loop);
}

TEST_WITH(subprocess_user_and_groups, "PROC-13", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const uint32_t groups[] = {7, 12};
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child c = AIOLOOP_ZERO;
    o.set_user = true;
    o.user = 65534;
    o.set_group = true;
    o.group = 65534;
    o.extra_groups = groups;
    o.extra_groups_count = 2;
    if (geteuid() != 0) {
        const char *const args[] = {"true", NULL};
        CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_exec(loop, &child_protocol, &c, args, &o), NULL), AIOLOOP_EPERM);
        test_end(loop);
        return;
    }
    child_shell(loop, &c, "id -u; id -g; id -G", &o);
    child_end(loop, &c);
    CHECK_STR(c.out, "65534\n65534\n65534 7 12\n");
    CHECK_EQ(geteuid(), 0);
    test_end(loop);
}

static int child_hook(void *arg) {
    const char *text = (const char *)arg;
    if (text == NULL)
        return EPERM;
    return write(1, text, 5) == 5 ? 0 : errno;
}

TEST_WITH(subprocess_preexec, "PROC-13 PROC-11", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child c = AIOLOOP_ZERO;
    child refused = AIOLOOP_ZERO;
    char text[] = "hook\n";
    int64_t rc;
    o.preexec = child_hook;
    o.preexec_arg = text;
    child_shell(loop, &c, "echo program", &o);
    child_end(loop, &c);
    CHECK_STR(c.out, "hook\nprogram\n");
    o.preexec_arg = NULL;
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_shell(loop, &child_protocol, &refused, "true", &o), NULL);
    CHECK_EQ(rc, AIOLOOP_EPERM);
    CHECK_STR(aioloop_message(loop, (int)rc), "preexec of \"/bin/sh\": operation not permitted");
    test_end(loop);
}

static void child_handler(int number) {
    (void)number;
}

/* Whether a signal is in a set that /proc/self/status shows. */
static bool child_shows(const child *c, const char *set, int number) {
    const char *at = strstr(c->out, set);
    CHECK(at != NULL);
    return (strtoull(at + strlen(set), NULL, 16) >> (number - 1) & 1) != 0;
}

/* Handlers and the mask are not inherited; what is ignored is, but for SIGPIPE. */
TEST_WITH(subprocess_signals_of_the_child, "PROC-13", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child c = AIOLOOP_ZERO;
    child kept = AIOLOOP_ZERO;
    const char *const args[] = {"cat", "/proc/self/status", NULL};
    sigset_t all;
    sigset_t before;
    if (access("/proc/self/status", R_OK) != 0) {
        test_end(loop);
        SKIP("needs /proc");
    }
    signal(SIGUSR1, child_handler);
    signal(SIGUSR2, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&all);
    sigaddset(&all, SIGTERM);
    sigprocmask(SIG_BLOCK, &all, &before);
    child_exec(loop, &c, args, NULL);
    o.keep_signals = true;
    child_exec(loop, &kept, args, &o);
    sigprocmask(SIG_SETMASK, &before, NULL);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    child_end(loop, &c);
    child_end(loop, &kept);
    CHECK(!child_shows(&c, "SigBlk:\t", SIGTERM));
    CHECK(!child_shows(&c, "SigCgt:\t", SIGUSR1));
    CHECK(!child_shows(&c, "SigIgn:\t", SIGUSR1));
    CHECK(child_shows(&c, "SigIgn:\t", SIGUSR2));
    CHECK(!child_shows(&c, "SigIgn:\t", SIGPIPE));
    CHECK(child_shows(&kept, "SigIgn:\t", SIGPIPE));
    CHECK(!child_shows(&kept, "SigCgt:\t", SIGUSR1));
    test_end(loop);
}

static void child_signal(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

/* The loop has a handler; what its child gets ends the child and is told to nobody else. */
TEST_WITH(subprocess_has_no_handlers_of_the_loop, "SIG-10", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    const char *const args[] = {"sleep", "1000", NULL};
    int signals = 0;
    CHECK_EQ(aioloop_add_signal_handler(loop, SIGTERM, child_signal, &signals), 0);
    child_exec(loop, &c, args, NULL);
    CHECK_EQ(aioloop_subprocess_terminate(c.transport), 0);
    child_end(loop, &c);
    CHECK_EQ(c.code, -SIGTERM);
    CHECK_EQ(signals, 0);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGTERM), 1);
    test_end(loop);
}

/* ---- descriptors ---- */

TEST_WITH(subprocess_inherits_named_descriptors_only, "PROC-14 PROC-13", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child none = AIOLOOP_ZERO;
    child some = AIOLOOP_ZERO;
    char text[64];
    int pass[1];
    int high;
    int ends[2];
    CHECK_EQ(pipe(ends), 0); /* inheritable */
    test_keep_socket(ends[0]);
    test_keep_socket(ends[1]);
    high = test_keep_socket(fcntl(ends[0], F_DUPFD, 200));
    child_shell(loop, &none, "ls /proc/self/fd | tr '\\n' ' '", NULL);
    child_end(loop, &none);
    CHECK_STR(none.out, "0 1 2 3 "); /* the last is the folder that ls reads */
    pass[0] = ends[1];
    o.pass_fds = pass;
    o.pass_fds_count = 1;
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    snprintf(text, sizeof(text), "echo passed >/dev/fd/%d", ends[1]);
    child_shell(loop, &some, text, &o);
    child_end(loop, &some);
    CHECK_EQ(some.code, 0);
    CHECK_EQ(read(ends[0], text, sizeof(text)), 7);
    CHECK((fcntl(ends[1], F_GETFD) & FD_CLOEXEC) != 0); /* here nothing has changed */
    pass[0] = 987;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_subprocess_shell(loop, &child_protocol, &some, "true", &o), NULL), AIOLOOP_EBADF);
    test_close_socket(loop, ends[0]);
    test_close_socket(loop, ends[1]);
    test_close_socket(loop, high);
    test_end(loop);
}

/* ---- flow ---- */

#define CHILD_BIG (1024u * 1024u)
static char child_bytes[CHILD_BIG];

static void child_fill(void) {
    size_t i;
    for (i = 0; i < CHILD_BIG; i++)
        child_bytes[i] = (char)(i * 11 + i / 257 + i / 65536);
}

static void child_compare(child *c, int fd, const void *data, size_t size) {
    CHECK_EQ(fd, 1);
    CHECK_LE(c->out_size, CHILD_BIG);
    CHECK_MEM(data, child_bytes + c->out_size - size, size);
}

TEST_WITH(subprocess_flow_control_of_the_input, "PROC-15 PROC-05", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"cat", NULL};
    child c = AIOLOOP_ZERO;
    aioloop_transport *in;
    child_fill();
    c.on_data = child_compare;
    child_exec(loop, &c, args, NULL);
    in = aioloop_subprocess_get_pipe_transport(c.transport, 0);
    CHECK_EQ(aioloop_transport_write(in, child_bytes, CHILD_BIG), 0);
    CHECK_STR(c.calls, "mp");
    CHECK_EQ(aioloop_transport_write_eof(in), 0);
    child_end(loop, &c);
    CHECK_EQ(c.out_size, CHILD_BIG);
    CHECK_EQ(c.code, 0);
    CHECK_EQ(c.pipe_error[0], 0);
    test_end(loop);
}

TEST_WITH(subprocess_resumes_writing, "PROC-15", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"cat", NULL};
    child c = AIOLOOP_ZERO;
    child_fill();
    child_exec(loop, &c, args, NULL);
    CHECK_EQ(aioloop_transport_write(aioloop_subprocess_get_pipe_transport(c.transport, 0), child_bytes, 300000), 0);
    while (strchr(c.calls, 'r') == NULL && c.lost == 0)
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(100)), 0);
    CHECK(strchr(c.calls, 'r') != NULL);
    aioloop_subprocess_close(c.transport);
    child_end(loop, &c);
    test_end(loop);
}

/* The child goes away with input unread. */
TEST_WITH(subprocess_writing_to_one_that_has_gone, "PROC-05 PIPE-10", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"head", "-c", "1", NULL};
    child c = AIOLOOP_ZERO;
    child_exec(loop, &c, args, NULL);
    CHECK_EQ(aioloop_transport_write(aioloop_subprocess_get_pipe_transport(c.transport, 0), child_bytes, CHILD_BIG), 0);
    child_end(loop, &c);
    CHECK_EQ(c.pipe_error[0], AIOLOOP_EPIPE);
    CHECK_EQ(c.code, 0);
    test_end(loop);
}

TEST_WITH(subprocess_grandchild_holds_the_pipes, "PROC-16", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    child_shell(loop, &c, "exec 3<&0; cat <&3 & exit 4", NULL); /* lives until its input, which is ours, ends */
    test_run_until(loop, &c.exited, 1, "process_exited");
    test_run_for(loop, AIOLOOP_MS(5));
    CHECK_EQ(c.code, 4);
    CHECK_EQ(c.lost, 0);
    CHECK_EQ(c.pipes_lost, 0);
    CHECK_EQ(aioloop_transport_write(aioloop_subprocess_get_pipe_transport(c.transport, 0), "still there", 11), 0);
    aioloop_transport_close(aioloop_subprocess_get_pipe_transport(c.transport, 0));
    child_end(loop, &c);
    CHECK_STR(c.out, "still there");
    test_end(loop);
}

TEST_WITH(subprocess_ignores_the_polite_signal, "PROC-09", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    child_shell(loop, &c, "trap '' TERM; echo ready; while :; do read line || exec sleep 1000; done", NULL);
    while (c.out_size == 0)
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(100)), 0);
    CHECK_EQ(aioloop_subprocess_terminate(c.transport), 0);
    test_run_for(loop, AIOLOOP_MS(5));
    CHECK_EQ(c.exited, 0);
    CHECK_EQ(aioloop_subprocess_kill(c.transport), 0);
    child_end(loop, &c);
    CHECK_EQ(c.code, -SIGKILL);
    test_end(loop);
}

TEST_WITH(subprocess_several_that_end_together, "PROC-17", TEST_REAL_FDS) {
    enum { COUNT = 8 };
    aioloop *loop = child_loop();
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    static child c[COUNT];
    char text[32];
    int go[2];
    int i;
    memset(c, 0, sizeof(c));
    CHECK_EQ(pipe(go), 0);
    test_keep_socket(go[0]);
    test_keep_socket(go[1]);
    o.std_in = AIOLOOP_STDIO_FD(go[0]);
    for (i = 0; i < COUNT; i++) {
        snprintf(text, sizeof(text), "read x; exit %d", 10 + i);
        child_shell(loop, &c[i], text, &o);
    }
    test_close_socket(loop, go[1]);
    for (i = 0; i < COUNT; i++) {
        child_end(loop, &c[i]);
        CHECK_EQ(c[i].code, 10 + i);
    }
    test_close_socket(loop, go[0]);
    child_no_zombie();
    test_end(loop);
}

TEST_WITH(subprocess_leaves_the_children_of_others, "PROC-18", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    siginfo_t info;
    int status = 0;
    pid_t other = fork();
    if (other == 0)
        _exit(9);
    CHECK_GT(other, 0);
    CHECK_EQ(waitid(P_PID, (id_t)other, &info, WEXITED | WNOWAIT), 0);
    child_shell(loop, &c, "exit 1", NULL);
    child_end(loop, &c);
    CHECK_EQ(waitpid(other, &status, 0), other);
    CHECK_EQ(WEXITSTATUS(status), 9);
    test_end(loop);
}

/* Somebody else was faster. */
TEST_WITH(subprocess_reaped_by_somebody_else, "PROC-18", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    aioloop_subprocess_options o = AIOLOOP_ZERO;
    child c = AIOLOOP_ZERO;
    int status = 0;
    int go[2];
    CHECK_EQ(pipe(go), 0);
    test_keep_socket(go[0]);
    test_keep_socket(go[1]);
    o.std_in = AIOLOOP_STDIO_FD(go[0]);
    child_shell(loop, &c, "read x; exit 1", &o);
    test_close_socket(loop, go[0]);
    test_close_socket(loop, go[1]);
    CHECK_GT(waitpid(aioloop_subprocess_get_pid(c.transport), &status, 0), 0);
    child_end(loop, &c);
    CHECK_EQ(c.code, 255);
    CHECK_EQ(test_log_lines(), 1);
    test_end(loop);
}

/* ---- elsewhere ---- */

#include <pthread.h>

static void *child_thread(void *arg) {
    aioloop *loop = test_loop();
    child c = AIOLOOP_ZERO;
    (void)arg;
    child_shell(loop, &c, "echo from a thread; exit 6", NULL);
    child_end(loop, &c);
    CHECK_STR(c.out, "from a thread\n");
    CHECK_EQ(c.code, 6);
    test_end(loop);
    return NULL;
}

TEST_WITH(subprocess_outside_the_main_thread, "PROC-20", TEST_REAL_FDS | TEST_THREADS) {
    aioloop *loop = child_loop();
    pthread_t thread;
    test_needs_threads(loop);
    test_end(loop);
    CHECK_EQ(pthread_create(&thread, NULL, child_thread, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

static const aioloop_context_var child_var = {"child", NULL};
static int child_seen[4];

static int child_value(void) {
    return (int)(intptr_t)aioloop_context_get(&child_var);
}

static void child_made_in(child *c) {
    (void)c;
    child_seen[0] = child_value();
}

static void child_data_in(child *c, int fd, const void *data, size_t size) {
    (void)c;
    (void)fd;
    (void)data;
    (void)size;
    child_seen[1] = child_value();
}

static void child_exited_in(child *c) {
    (void)c;
    child_seen[2] = child_value();
}

/* ---- real programs ---- */

TEST_WITH(subprocess_sort, "PROC-05", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"sort", "-n", NULL};
    child c = AIOLOOP_ZERO;
    aioloop_transport *in;
    child_exec(loop, &c, args, NULL);
    in = aioloop_subprocess_get_pipe_transport(c.transport, 0);
    CHECK_EQ(aioloop_transport_write(in, "10\n9\n", 5), 0);
    CHECK_EQ(aioloop_transport_write(in, "100\n1\n", 6), 0);
    aioloop_transport_close(in);
    child_end(loop, &c);
    CHECK_STR(c.out, "1\n9\n10\n100\n");
    test_end(loop);
}

TEST_WITH(subprocess_gzip_and_back, "PROC-05", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    aioloop_transport *in;
    child_fill();
    c.on_data = child_compare;
    child_shell(loop, &c, "gzip -c | gunzip", NULL);
    in = aioloop_subprocess_get_pipe_transport(c.transport, 0);
    CHECK_EQ(aioloop_transport_write(in, child_bytes, CHILD_BIG), 0);
    aioloop_transport_close(in);
    child_end(loop, &c);
    CHECK_EQ(c.out_size, CHILD_BIG);
    test_end(loop);
}

/* ---- processes with streams ---- */

static aioloop_process *process_exec(aioloop *loop, const char *const *args, const aioloop_process_options *o) {
    aioloop_process *p = NULL;
    int64_t rc = aioloop_run_until_complete(loop, aioloop_create_subprocess_exec(loop, args, o), &p);
    if (rc < 0)
        NOTE("%s", aioloop_message(loop, (int)rc));
    CHECK_GT(rc, 0);
    CHECK_EQ(rc, aioloop_process_pid(p));
    return p;
}

static aioloop_process *process_shell(aioloop *loop, const char *command, const aioloop_process_options *o) {
    aioloop_process *p = NULL;
    CHECK_GT(aioloop_run_until_complete(loop, aioloop_create_subprocess_shell(loop, command, o), &p), 0);
    return p;
}

/* The process object is the last owner's; what the loop still has of it goes soon. */
static void process_end(aioloop *loop, aioloop_process *p) {
    aioloop_process_unref(p);
    test_run_for(loop, AIOLOOP_MS(1));
}

static void process_dialogue(aioloop *loop, await_style style) {
    const char *const args[] = {"cat", NULL};
    aioloop_process *p;
    awaiter a = AIOLOOP_ZERO;
    int code = -1;
    test_needs_real_descriptors(loop);
    CHECK_GT(await_now(&a, loop, style, aioloop_create_subprocess_exec(loop, args, NULL)), 0);
    p = (aioloop_process *)a.pointer;
    CHECK(aioloop_process_stdin(p) != NULL && aioloop_process_stdout(p) != NULL && aioloop_process_stderr(p) != NULL);
    CHECK_EQ(aioloop_stream_write(aioloop_process_stdin(p), "some data", 9), 0);
    CHECK_EQ(await_now(&a, loop, style, aioloop_stream_readexactly(aioloop_process_stdout(p), 9)), 9);
    CHECK_MEM(a.pointer, "some data", 9);
    CHECK(!aioloop_process_returncode(p, &code));
    aioloop_stream_close(aioloop_process_stdin(p));
    CHECK_EQ(await_now(&a, loop, style, aioloop_process_wait(p)), 0);
    CHECK(aioloop_process_returncode(p, &code));
    CHECK_EQ(code, 0);
    CHECK_EQ(await_now(&a, loop, style, aioloop_stream_read(aioloop_process_stdout(p), -1)), 0);
    process_end(loop, p);
}

TEST_WITH(subprocess_streams_in_all_styles, "PAPI-01", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    test_end(loop);
    await_in_all_styles(process_dialogue);
}

TEST_WITH(subprocess_streams_output_is_readable_after_the_end, "PAPI-01", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    aioloop_process *p = process_shell(loop, "echo one; echo two; echo three >&2; exit 2", NULL);
    char *line;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_process_wait(p), NULL), 2);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_readline(aioloop_process_stdout(p)), &line), 4);
    CHECK_STR(line, "one\n");
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_readline(aioloop_process_stdout(p)), &line), 4);
    CHECK_STR(line, "two\n");
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_readline(aioloop_process_stdout(p)), &line), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_readline(aioloop_process_stderr(p)), &line), 6);
    CHECK_EQ(aioloop_process_terminate(p) == 0 || aioloop_process_terminate(p) == AIOLOOP_ESRCH, 1);
    process_end(loop, p);
    test_end(loop);
}

TEST_WITH(subprocess_streams_waits_and_signals, "PAPI-01 PAPI-03", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"sleep", "1000", NULL};
    aioloop_process *p = process_exec(loop, args, NULL);
    aioloop_future *first = aioloop_future_ref(aioloop_process_wait(p));
    aioloop_future *second = aioloop_future_ref(aioloop_process_wait(p));
    aioloop_future *third = aioloop_future_ref(aioloop_process_wait(p));
    int code = 0;
    CHECK(aioloop_future_cancel(third, NULL));
    CHECK_EQ(aioloop_process_send_signal(p, SIGTERM), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, first, NULL), AIOLOOP_SIGNALLED(SIGTERM));
    CHECK_EQ(aioloop_run_until_complete(loop, second, NULL), AIOLOOP_SIGNALLED(SIGTERM));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_process_wait(p), NULL), AIOLOOP_SIGNALLED(SIGTERM));
    CHECK(aioloop_process_returncode(p, &code));
    CHECK_EQ(code, -SIGTERM);
    aioloop_future_unref(first);
    aioloop_future_unref(second);
    aioloop_future_unref(third);
    process_end(loop, p);
    test_end(loop);
}

/* More than the pipes hold, both ways at once, and both outputs. */
TEST_WITH(subprocess_streams_communicate, "PAPI-02", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    aioloop_process *p;
    aioloop_communication *said = NULL;
    child_fill();
    p = process_shell(loop, "tee /dev/stderr", NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_process_communicate(p, child_bytes, CHILD_BIG), &said), 0);
    CHECK_EQ(said->std_out_size, CHILD_BIG);
    CHECK_EQ(said->std_err_size, CHILD_BIG);
    CHECK_MEM(said->std_out, child_bytes, CHILD_BIG);
    CHECK_MEM(said->std_err, child_bytes, CHILD_BIG);
    process_end(loop, p);
    p = process_shell(loop, "echo nothing read; exit 3", NULL); /* ignores what it is given */
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_process_communicate(p, child_bytes, CHILD_BIG), &said), 3);
    CHECK_EQ(said->std_out_size, 13);
    CHECK_STR(said->std_out, "nothing read\n");
    CHECK_EQ(said->std_err_size, 0);
    process_end(loop, p);
    test_end(loop);
}

TEST_WITH(subprocess_streams_communicate_refused_and_cancelled, "PAPI-02", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    aioloop_process_options o = AIOLOOP_ZERO;
    aioloop_communication *said = NULL;
    aioloop_process *p = process_shell(loop, "read line; echo \"got $line\"", NULL);
    aioloop_future *f = aioloop_future_ref(aioloop_process_communicate(p, NULL, 0));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_process_communicate(p, NULL, 0), NULL), AIOLOOP_EMISUSE);
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_process_communicate(p, NULL, 0), &said), 0);
    CHECK_EQ(said->std_out_size, 5);
    process_end(loop, p);
    o.subprocess.std_in = AIOLOOP_STDIO_DEVNULL;
    p = process_shell(loop, "cat; echo done", &o);
    CHECK(aioloop_process_stdin(p) == NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_process_communicate(p, "x", 1), NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_process_communicate(p, NULL, 0), &said), 0);
    CHECK_STR(said->std_out, "done\n");
    process_end(loop, p);
    test_end(loop);
}

/* The last owner goes: so does the child. */
TEST_WITH(subprocess_streams_goes_with_its_owner, "PAPI-01 PROC-10", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    const char *const args[] = {"sleep", "1000", NULL};
    const char *const missing[] = {"aioloop-no-such-program", NULL};
    aioloop_process *p = process_exec(loop, args, NULL);
    aioloop_future *f = aioloop_future_ref(aioloop_process_wait(p));
    aioloop_process_unref(aioloop_process_ref(p));
    aioloop_process_unref(p);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_SIGNALLED(SIGKILL));
    aioloop_future_unref(f);
    aioloop_future_unref(aioloop_create_subprocess_exec(loop, args, NULL)); /* nobody's */
    f = aioloop_future_ref(aioloop_create_subprocess_exec(loop, args, NULL));
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_subprocess_exec(loop, missing, NULL), NULL), AIOLOOP_ENOENT);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_subprocess_shell(loop, NULL, NULL), NULL), AIOLOOP_EINVAL);
    test_end(loop);
    child_no_zombie();
}

/* Letting go is enough: debug mode has nothing to say of it. */
TEST_WITH(subprocess_streams_let_go_are_not_called_unclosed, "DBG-05 PAPI-01", TEST_REAL_FDS) {
    static const char *const args[] = {"sleep", "30", NULL};
    aioloop_config config = AIOLOOP_ZERO;
    aioloop_process *p = NULL;
    aioloop *loop;
    int64_t rc;
    config.debug = 1;
    loop = test_loop_with(&config);
    test_needs_real_descriptors(loop);
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_SECONDS(1000)), 0);
    rc = aioloop_run_until_complete(loop, aioloop_create_subprocess_exec(loop, args, NULL), &p);
    if (rc == AIOLOOP_ENOTAVAILABLE) {
        test_end(loop);
        SKIP("built without subprocesses");
    }
    CHECK_GT(rc, 0);
    aioloop_process_unref(p);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
    CHECK(strstr(test_log_text(), "unclosed") == NULL);
}

TEST_WITH(subprocess_streams_python_line_by_line, "PAPI-01", TEST_REAL_FDS | TEST_SLOW) {
    aioloop *loop = child_loop();
    const char *const args[] = {"python3", "-u", "-c",
                                "import sys\nfor line in sys.stdin: print(int(line) * 2)", NULL};
    aioloop_process *p = NULL;
    int64_t rc = aioloop_run_until_complete(loop, aioloop_create_subprocess_exec(loop, args, NULL), &p);
    char *line;
    int i;
    if (rc == AIOLOOP_ENOENT) {
        test_end(loop);
        SKIP("no python3 here");
    }
    CHECK_GT(rc, 0);
    for (i = 1; i < 5; i++) {
        char text[16];
        int n = snprintf(text, sizeof(text), "%d\n", i * 100);
        CHECK_EQ(aioloop_stream_write(aioloop_process_stdin(p), text, (size_t)n), 0);
        CHECK_GT(aioloop_run_until_complete(loop, aioloop_stream_readline(aioloop_process_stdout(p)), &line), 0);
        CHECK_EQ(atoi(line), i * 200);
    }
    aioloop_stream_close(aioloop_process_stdin(p));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_process_wait(p), NULL), 0);
    process_end(loop, p);
    test_end(loop);
}

/* ---- the context ---- */

TEST_WITH(subprocess_protocol_runs_in_the_context_of_the_call, "CTX-04", TEST_REAL_FDS) {
    aioloop *loop = child_loop();
    child c = AIOLOOP_ZERO;
    aioloop_future *f;
    int err;
    memset(child_seen, 0, sizeof(child_seen));
    c.on_made = child_made_in;
    c.on_data = child_data_in;
    c.on_exited = child_exited_in;
    err = aioloop_context_set(&child_var, (void *)(intptr_t)42, NULL);
    CHECK_EQ(err, 0);
    f = aioloop_subprocess_shell(loop, &child_protocol, &c, "echo", NULL);
    err = aioloop_context_set(&child_var, NULL, NULL);
    CHECK_EQ(err, 0);
    CHECK_GT(aioloop_run_until_complete(loop, f, NULL), 0);
    child_end(loop, &c);
    CHECK_EQ(child_seen[0], 42);
    CHECK_EQ(child_seen[1], 42);
    CHECK_EQ(child_seen[2], 42);
    CHECK_EQ(child_value(), 0);
    test_end(loop);
}

/* ---- quoting ---- */

TEST(shell_quote, "PROC-01") {
    static const char *const words[][2] = {{"plain-1.txt", "plain-1.txt"}, {"", "''"}, {"a b", "'a b'"},
                                           {"it's", "'it'\"'\"'s'"},       {"$(rm)", "'$(rm)'"}, {"a\nb", "'a\nb'"}};
    char room[64];
    size_t i;
    for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        int64_t n = aioloop_shell_quote(words[i][0], room, sizeof(room));
        CHECK_EQ(n, (int64_t)strlen(words[i][1]));
        CHECK_STR(room, words[i][1]);
        CHECK_EQ(aioloop_shell_quote(words[i][0], NULL, 0), n);
    }
    CHECK_EQ(aioloop_shell_quote("a b", room, 3), 5);
    CHECK_STR(room, "'a");
    CHECK_EQ(aioloop_shell_quote(NULL, room, sizeof(room)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_shell_quote("x", NULL, 1), AIOLOOP_EINVAL);
}
