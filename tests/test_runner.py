"""Proves the runner (test.h, test_main.c): compiles small test programs with it and looks at what
they say.

    python3 tests/test_runner.py
"""
import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
MAIN = os.path.join(HERE, "test_main.c")
STRICT = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Werror".split()
FAULTS = ["-include", os.path.join(HERE, "fault.h"),
          "-DAIOLOOP_MALLOC=test_malloc", "-DAIOLOOP_REALLOC=test_realloc",
          "-DAIOLOOP_FREE=test_free", "-DAIOLOOP_FAULT=test_fault"]
CC = os.environ.get("CC", "cc").split()

# Every macro, in the language that C and C++ share.
EVERYTHING = r"""
#include "test.h"

static const char *name_of(long long n) {
    return n == -110 ? "ETIMEDOUT" : NULL;
}

TEST(integers_compare, "ABC-01 ABC-02") {
    const unsigned long long big = 1ull << 40;
    const unsigned char small = 7;
    size_t size = sizeof(big);
    test_number_hook = name_of;
    CHECK(size == sizeof(big));
    CHECK_EQ(size, 8);
    CHECK_EQ(small, 7u);
    CHECK_NE(big, 0);
    CHECK_LT(-1, small);
    CHECK_LE(small, 7);
    CHECK_GT(big, size);
    CHECK_GE(size, 8u);
    CHECK_INT(size == 8, ==, 1);
}

TEST_WITH(memory_compares, "", TEST_REAL_FDS | TEST_SLOW) {
    int here = 0;
    CHECK_STR("abc", "abc");
    CHECK_STR(NULL, NULL);
    CHECK_MEM("abcd", "abce", 3);
    CHECK_PTR(&here, &here);
    CHECK_EQ(test_flags(), TEST_REAL_FDS | TEST_SLOW);
    CHECK_EQ(test_injected(), 0);
    CHECK(test_slowdown() > 0.0);
    test_cleanup_hook = NULL;
    NOTE("here is %d", here);
    if (here > 0)
        FAIL("%d", here);
}

TEST(nothing_to_see, "") {
    SKIP("not on %s", "Tuesdays");
}
"""

OUTCOMES = r"""
#define _GNU_SOURCE 1
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "test.h"

TEST(good_one, "ABC-01") {
    printf("quiet words\n");
    CHECK(1);
}
TEST(bad_number, "ABC-02") {
    printf("loud words\n");
    CHECK_EQ(2 + 2, 5);
}
TEST(bad_string, "") {
    CHECK_STR("a\n", NULL);
}
TEST(bad_bytes, "") {
    CHECK_MEM("abcdefgh", "abcdefgX", 8);
}
TEST(asked_to_fail, "") {
    FAIL("because of %d", 42);
}
TEST(left_early, "ABC-03") {
    SKIP("no %s here", "time");
}
TEST(without_check, "") {
    NOTE("idle");
}
TEST(crashing, "") {
    CHECK(1);
    abort();
}
TEST(exiting, "") {
    CHECK(1);
    exit(0);
}
TEST_WITH(hanging, "", TEST_THREADS) {
    FILE *file;
    CHECK_GE(fork(), 0);
    file = fopen(getenv("PID_FILE"), "a");
    CHECK(file != NULL);
    fprintf(file, "%d\n", (int)getpid());
    fclose(file);
    for (;;)
        pause();
}
TEST(leaves_child, "") {
    FILE *file;
    int child = fork();
    CHECK_GE(child, 0);
    while (child == 0)
        pause();
    file = fopen(getenv("PID_FILE"), "a");
    CHECK(file != NULL);
    fprintf(file, "%d %d\n", (int)getpid(), child);
    fclose(file);
}
TEST(leaves_descriptor, "") {
    CHECK_GE(dup(1), 0);
}
TEST(closes_descriptor, "") {
    CHECK_EQ(close(0), 0);
}
TEST(may_leave_descriptor, "") {
    test_allow_fd_leak();
    CHECK_GE(dup(1), 0);
}
TEST(talkative, "") {
    int i;
    for (i = 0; i < 100000; i++)
        printf("line %d\n", i);
    CHECK(0);
}
static void *check_in_thread(void *arg) {
    CHECK(arg != NULL);
    return NULL;
}
TEST(bad_thread, "") {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, check_in_thread, NULL), 0);
    pthread_join(thread, NULL);
}
TEST(undefined, "") {
    fprintf(stderr, "x.c:1:2: runtime error: signed integer overflow\n");
    CHECK(1);
}
TEST(child_of_test_fails_alone, "") {
    int child = fork();
    if (child == 0)
        FAIL("in the child");
    CHECK_GT(child, 0);
}
"""

# A library, its bugs, and their tests. The library is compiled as aioloop.h is.
TORTURE = r"""
#define _GNU_SOURCE 1
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "test.h"
#ifndef AIOLOOP_MALLOC
#define AIOLOOP_MALLOC malloc
#define AIOLOOP_REALLOC realloc
#define AIOLOOP_FREE free
#define AIOLOOP_FAULT(name) 0
#endif
#define SYS(name, call) ((errno = AIOLOOP_FAULT(#name)) != 0 ? -1 : (call))

enum { SOUND, LEAKS, CRASHES };

typedef struct thing {
    char *left;
    char *right;
} thing;

static void thing_free(thing *t) {
    if (t == NULL)
        return;
    AIOLOOP_FREE(t->left);
    AIOLOOP_FREE(t->right);
    AIOLOOP_FREE(t);
}

static thing *thing_new(int bug) {
    thing *t = (thing *)AIOLOOP_MALLOC(sizeof(*t));
    if (t == NULL && bug != CRASHES)
        return NULL;
    memset(t, 0, sizeof(*t));
    t->left = (char *)AIOLOOP_MALLOC(10);
    if (t->left == NULL && bug == LEAKS)
        return NULL;
    t->right = (char *)AIOLOOP_REALLOC(NULL, 20);
    if (t->left == NULL || t->right == NULL) {
        thing_free(t);
        return NULL;
    }
    return t;
}

static int sock_new(int bug) {
    int one = 1;
    int fd = SYS(socket, socket(AF_INET, SOCK_STREAM, 0));
    if (fd < 0)
        return -1;
    if (SYS(setsockopt, setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one))) != 0) {
        if (bug != LEAKS)
            close(fd);
        return -1;
    }
    return fd;
}

TEST(sound_thing, "") {
    thing *t = thing_new(SOUND);
    CHECK(t != NULL);
    thing_free(t);
}
TEST(leaking_thing, "") {
    thing *t = thing_new(LEAKS);
    CHECK(t != NULL);
    thing_free(t);
}
TEST(crashing_thing, "") {
    thing *t = thing_new(CRASHES);
    CHECK(t != NULL);
    thing_free(t);
}
TEST(sound_socket, "") {
    int fd = sock_new(SOUND);
    CHECK_GE(fd, 0);
    close(fd);
}
TEST(leaking_socket, "") {
    int fd = sock_new(LEAKS);
    CHECK_GE(fd, 0);
    close(fd);
}
TEST(hanging_on_interrupt, "") {
    int fds[2];
    char byte = 0;
    ssize_t n;
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(write(fds[1], "x", 1), 1);
    do
        n = SYS(read, read(fds[0], &byte, 1));
    while (n < 0 && errno == EAGAIN);
    while (n < 0)
        pause();
    close(fds[0]);
    close(fds[1]);
    CHECK_EQ(byte, 'x');
}

static thing *made[2];
static void free_made(void) {
    size_t i;
    for (i = 0; i < 2; i++) {
        thing_free(made[i]);
        made[i] = NULL;
    }
}
TEST(hook_frees_what_a_given_up_test_made, "") {
    test_cleanup_hook = free_made;
    made[0] = thing_new(SOUND);
    CHECK(made[0] != NULL);
    made[1] = thing_new(SOUND);
    CHECK(made[1] != NULL);
    thing_free(made[0]);
    thing_free(made[1]);
}

static void *allocate_in_thread(void *arg) {
    void *block = AIOLOOP_MALLOC(1);
    CHECK(block != NULL);
    AIOLOOP_FREE(block);
    return arg;
}
TEST_WITH(threads_give_up, "", TEST_THREADS) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, allocate_in_thread, NULL), 0);
    pthread_join(thread, NULL);
}
static void must_not_run(void) {
    abort();
}
TEST(a_thread_of_the_library_gives_up, "") {
    pthread_t thread;
    test_cleanup_hook = must_not_run;
    CHECK_EQ(pthread_create(&thread, NULL, allocate_in_thread, NULL), 0);
    pthread_join(thread, NULL);
}
TEST(only_one_allocation_fails, "") {
    void *first = AIOLOOP_MALLOC(1);
    void *second = AIOLOOP_MALLOC(1);
    if (first == NULL && second == NULL)
        abort();
    AIOLOOP_FREE(first);
    AIOLOOP_FREE(second);
    CHECK(1);
}
TEST_WITH(too_slow, "", TEST_SLOW) {
    CHECK(1);
}
TEST(fails_anyway, "") {
    CHECK(AIOLOOP_FAULT("ioctl") != 0);
}
"""

MEMORY = r"""
#include <string.h>
#include "test.h"

TEST(balanced, "") {
    char *p = (char *)test_malloc(3);
    CHECK_MEM(p, "\xA5\xA5\xA5", 3);
    memcpy(p, "ab", 3);
    p = (char *)test_realloc(p, 1000);
    CHECK_STR(p, "ab");
    p = (char *)test_realloc(p, 2);
    CHECK_MEM(p, "ab", 2);
    test_free(p);
    test_free(NULL);
    CHECK(test_malloc((size_t)-1) == NULL);
}
TEST(leaks_two, "") {
    CHECK(test_malloc(10) != NULL);
    CHECK(test_malloc(22) != NULL);
}
TEST(frees_twice, "") {
    void *p = test_malloc(10);
    CHECK(p != NULL);
    test_free(p);
    test_free(p);
}
TEST(writes_past_end, "") {
    char *p = (char *)test_malloc(10);
    CHECK(p != NULL);
    p[10] = 1;
    test_free(p);
}
TEST(writes_before_start, "") {
    char *p = (char *)test_malloc(10);
    CHECK(p != NULL);
    p[-1] = 1;
    test_free(p);
}
TEST(writes_after_free, "") {
    char *p = (char *)test_malloc(10);
    CHECK(p != NULL);
    test_free(p);
    p[3] = 1;
}
"""

work = None
objects = {}


def setUpModule():
    global work
    work = tempfile.mkdtemp(prefix="aioloop-runner-")


def tearDownModule():
    shutil.rmtree(work)


def write(name, text):
    path = os.path.join(work, name)
    with open(path, "w") as file:
        file.write(text)
    return path


def compile(compiler, *arguments):
    """Compiles; the messages, which are empty for a file without fault."""
    done = subprocess.run([*compiler, "-I", HERE, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, cwd=work)
    return done.stdout + ("" if done.returncode == 0 else "exit code %d" % done.returncode)


def build(name, sources, flags=()):
    """A test program of these sources (name: text) and the runner, compiled once for each set of
    flags."""
    key = tuple(flags)
    if key not in objects:
        objects[key] = "main%d.o" % len(objects)
        said = compile(CC, "-std=c99", "-g", *flags, "-c", MAIN, "-o", objects[key])
        if said:
            raise AssertionError(said)
    paths = [write(file, text) for file, text in sources.items()]
    said = compile(CC, "-std=c99", "-g", *flags, *paths, objects[key], "-o", name, "-pthread")
    if said:
        raise AssertionError(said)
    return Program(os.path.join(work, name))


class Program:
    def __init__(self, path):
        self.path = path

    def __call__(self, *arguments, **environment):
        env = {k: v for k, v in os.environ.items() if not k.startswith("TEST_")}
        env.update(environment)
        done = subprocess.run([self.path, "-j2", *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env=env, timeout=60)
        return Answer(done.returncode, done.stdout)


class Answer:
    def __init__(self, code, text):
        self.code = code
        self.text = text
        self.lines = text.splitlines()
        self.last = self.lines[-1] if self.lines else ""

    def about(self, test):
        """The line that tells how a test failed, and what is indented below it."""
        found = re.search(r"^(?:\[\d+/\d+\] )?FAIL %s.*\n(?:    .*\n)*" % test, self.text, re.M)
        return found.group(0) if found else ""


class Compilers(unittest.TestCase):
    """Silent under every warning we use, in every language and compiler that is installed."""

    def check(self, compilers):
        write("everything.c", EVERYTHING)
        jobs = []
        for command in compilers:
            words = command.split()
            if shutil.which(words[0]):
                for source in (MAIN, "everything.c"):
                    jobs.append((words, source))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            said = list(pool.map(lambda job: compile(
                job[0][:1], *job[0][1:], *STRICT, "-c", job[1], "-o", os.devnull), jobs))
        for (words, source), text in zip(jobs, said):
            with self.subTest(" ".join(words), source=os.path.basename(source)):
                self.assertEqual(text, "")

    def test_c(self):
        self.check(["gcc -std=c99", "gcc -std=c11 -O2", "clang -std=c99", "clang -std=c11"])

    def test_c_as_libraries_are_compiled(self):
        self.check(["gcc -std=c99 -Wstrict-prototypes -Wmissing-prototypes -Wc++-compat "
                    "-Wjump-misses-init -Wvla " + " ".join(FAULTS)])

    def test_cplusplus(self):
        self.check(["g++ -x c++ -std=c++11", "g++ -x c++ -std=c++17 -O2",
                    "clang++ -x c++ -std=c++17"])

    def test_windows(self):
        self.check(["x86_64-w64-mingw32-gcc -std=c99", "i686-w64-mingw32-gcc -std=c11"])

    def test_a_system_without_processes(self):
        self.check(["gcc -std=c99 -DTEST_POSIX=0"])

    @unittest.skipUnless(shutil.which("tcc"), "no tcc")
    def test_tcc(self):
        write("everything.c", EVERYTHING)
        self.assertEqual(compile(["tcc"], "-Wall", "-Werror", *FAULTS, "everything.c", MAIN,
                                 "-o", "tcc-program", "-lpthread"), "")
        answer = Program(os.path.join(work, "tcc-program"))()
        self.assertEqual(answer.last, "2 passed, 0 failed, 1 skipped")

    @unittest.skipUnless(shutil.which("g++"), "no g++")
    def test_registration_in_cplusplus(self):
        write("everything.c", EVERYTHING)
        self.assertEqual(compile(["g++", "-x", "c++"], "everything.c", MAIN, "-o", "cxx-program",
                                 "-pthread"), "")
        answer = Program(os.path.join(work, "cxx-program"))()
        self.assertEqual(answer.last, "2 passed, 0 failed, 1 skipped")

    def test_a_fraction_is_refused_as_an_integer(self):
        write("fraction.c", '#include "test.h"\nTEST(t, "") { CHECK_EQ(0.5, 0); }\n')
        self.assertIn("error", compile(CC, "-c", "fraction.c", "-o", os.devnull))

    def test_fault_header_comes_before_feature_macros_unharmed(self):
        write("features.c", "#ifdef _FEATURES_H\n#error too late\n#endif\nint main(void);\n")
        self.assertEqual(compile(CC, *FAULTS, "-c", "features.c", "-o", os.devnull), "")


class Outcomes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.program = build("outcomes", {"outcomes.c": OUTCOMES})
        cls.left = os.path.join(work, "left-pids")
        cls.all = cls.program("--skip-flag", "threads", PID_FILE=cls.left)

    def test_counts_and_last_line(self):
        self.assertEqual(self.all.last, "4 passed, 12 failed, 2 skipped")
        self.assertEqual(self.all.code, 1)
        answer = self.program("good_one", "left_early")
        self.assertEqual((answer.code, answer.text), (0, "1 passed, 0 failed, 1 skipped\n"))
        answer = self.program("good_one")
        self.assertEqual((answer.code, answer.text), (0, "1 passed, 0 failed\n"))

    def test_output_is_shown_on_failure_only(self):
        self.assertIn("loud words", self.all.about("bad_number"))
        self.assertNotIn("quiet words", self.all.text)
        self.assertIn("quiet words", self.program("-v", "good_one").text)
        self.assertIn("0 failed", self.program("-v", "good_one").last)
        self.assertIn("slowest", self.program("-v", "good_one").text)

    def test_failed_assertions_show_place_expression_and_values(self):
        self.assertRegex(self.all.about("bad_number"),
                         r"outcomes\.c:15: CHECK_EQ\(2 \+ 2, 5\) failed: left is 4, right is 5")
        self.assertIn(r'left is "a\n", right is NULL', self.all.about("bad_string"))
        self.assertIn("at byte 7 of 8", self.all.about("bad_bytes"))
        self.assertIn("because of 42", self.all.about("asked_to_fail"))
        self.assertIn("CHECK(arg != NULL) failed", self.all.about("bad_thread"))

    def test_a_test_that_cannot_fail_fails(self):
        self.assertIn("no CHECK was made", self.all.about("without_check"))

    def test_ending_the_process_is_a_failure(self):
        self.assertIn("killed by signal 6", self.all.about("crashing"))
        self.assertIn("exit code 0", self.all.about("exiting"))

    def test_descriptors_are_compared(self):
        self.assertRegex(self.all.about("leaves_descriptor"), r"left descriptors open: \d")
        self.assertIn("closed descriptor 0", self.all.about("closes_descriptor"))
        self.assertEqual(self.all.about("may_leave_descriptor"), "")

    def test_a_sanitizer_message_is_a_failure(self):
        self.assertIn("sanitizer", self.all.about("undefined"))

    def test_long_output_is_cut_at_its_start(self):
        text = self.all.about("talkative")
        self.assertIn("bytes are left out here", text)
        self.assertIn("line 99999", text)
        self.assertLess(len(text), 200000)

    def test_a_failure_in_a_forked_child_does_not_run_the_parent_s_end(self):
        self.assertEqual(self.all.about("child_of_test_fails_alone"), "")

    @staticmethod
    def pids(path):
        """The two processes of the hanging test, once both have said who they are."""
        for _ in range(500):
            if os.path.exists(path):
                with open(path) as file:
                    words = file.read().split()
                if len(words) == 2:
                    return [int(word) for word in words]
            time.sleep(0.01)
        raise AssertionError("the hanging test did not start")

    @staticmethod
    def is_gone(pid):
        """Whether it has ended; where nobody reaps orphans, it stays as a zombie."""
        for _ in range(200):
            try:
                os.kill(pid, 0)
                with open("/proc/%d/stat" % pid) as file:
                    if file.read().rpartition(")")[2].split()[0] == "Z":
                        return True
            except ProcessLookupError:
                return True
            except FileNotFoundError:
                pass
            time.sleep(0.02)
        return False

    def test_timeout_kills_the_test_and_its_children(self):
        path = os.path.join(work, "timeout-pids")
        start = time.monotonic()
        answer = self.program("hanging", "--timeout", "1", PID_FILE=path)
        self.assertLess(time.monotonic() - start, 10)
        self.assertIn("timed out after 1 s", answer.text)
        self.assertEqual(answer.last, "0 passed, 1 failed")
        for pid in self.pids(path):
            self.assertTrue(self.is_gone(pid))

    def test_children_left_behind_are_killed(self):
        self.assertEqual(self.all.about("leaves_child"), "")
        for pid in self.pids(self.left):
            self.assertTrue(self.is_gone(pid))

    def test_timeout_from_the_environment(self):
        scratch = os.path.join(work, "more-pids")
        self.assertIn("after 0.2 s", self.program("hanging", TEST_TIMEOUT="0.2",
                                                  PID_FILE=scratch).text)
        self.assertIn("after 0.4 s", self.program("hanging", "--timeout=0.1", TEST_SLOWDOWN="4",
                                                  PID_FILE=scratch).text)

    def test_interrupting_the_runner_ends_its_tests(self):
        path = os.path.join(work, "interrupt-pids")
        runner = subprocess.Popen([self.program.path, "hanging"], stdout=subprocess.PIPE,
                                  env=dict(os.environ, PID_FILE=path))
        pids = self.pids(path)
        runner.send_signal(signal.SIGTERM)
        runner.communicate(timeout=10)
        self.assertEqual(runner.returncode, -signal.SIGTERM)
        for pid in pids:
            self.assertTrue(self.is_gone(pid))

    def test_one_test_in_this_process(self):
        answer = self.program("--run", "bad_number")
        self.assertEqual((answer.code, answer.last), (1, "0 passed, 1 failed"))
        answer = self.program("--run", "good_one")
        self.assertEqual((answer.code, answer.last), (0, "1 passed, 0 failed"))
        self.assertEqual(self.program("--run", "good").code, 2)

    def test_all_tests_in_this_process(self):
        answer = self.program("--no-fork", "good_one", "bad_number", "left_early", "leaves_desc")
        self.assertEqual((answer.code, answer.last), (1, "1 passed, 2 failed, 1 skipped"))

    def test_fork_without_exec(self):
        self.assertEqual(self.program("--fork", "good_one", "bad_number").last,
                         "1 passed, 1 failed")

    def test_wrap(self):
        answer = self.program("--wrap", "env TEST_X=1", "good_one")
        self.assertEqual(answer.text, "1 passed, 0 failed\n")

    def test_reports(self):
        tap = os.path.join(work, "report.tap")
        lines = os.path.join(work, "report.txt")
        for label in ("first", "second time"):
            self.program("good_one", "bad_number", "left_early", "--tap", tap, "--results", lines,
                         "--label", label)
        with open(tap) as file:
            text = file.read()
        self.assertRegex(text, r"^TAP version 13\n1\.\.3\nok 1 - good_one\nnot ok 2 - bad_number\n")
        self.assertIn("# loud words", text)
        self.assertRegex(text, r"ok 3 - left_early # SKIP .*no time here\n$")
        with open(lines) as file:
            rows = [line.rstrip("\n").split("\t") for line in file]
        self.assertEqual([row[:3] + row[4:] for row in rows[:3]],
                         [["pass", "good_one", "ABC-01", "first"],
                          ["fail", "bad_number", "ABC-02", "first"],
                          ["skip", "left_early", "ABC-03", "first"]])
        self.assertRegex(rows[0][3], r"^\d+\.\d+$")
        self.assertEqual([row[4] for row in rows[3:]], ["second time"] * 3)


class Listing(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.program = build("listing", {
            "b.c": '#include "test.h"\n'
                   'TEST(second, "XY-02 XY-11") { CHECK(0); }\nTEST(third, "") { CHECK(0); }\n',
            "a.c": '#include "test.h"\nTEST(first, "XY-01") { CHECK(0); }\n'})

    def test_names_in_order_of_file_and_line(self):
        self.assertEqual(self.program("--list").lines, ["first", "second", "third"])

    def test_rows(self):
        self.assertEqual(self.program("--rows").lines,
                         ["XY-01 first", "XY-02 second", "XY-11 second"])

    def test_filter_by_name_or_row(self):
        self.assertEqual(self.program("--list", "ir").lines, ["first", "third"])
        self.assertEqual(self.program("--list", "XY-11", "first").lines, ["first", "second"])
        answer = self.program("fourth")
        self.assertEqual((answer.code, answer.lines),
                         (0, ["no test selected", "0 passed, 0 failed"]))

    def test_a_name_used_twice_is_refused(self):
        twin = '#include "test.h"\nTEST(twin, "") { CHECK(1); }\n'
        answer = build("twins", {"c.c": twin, "d.c": twin})()
        self.assertEqual(answer.code, 2)
        self.assertIn("two tests are called twin", answer.text)

    def test_rows_that_are_none_are_refused(self):
        for rows in ("XY-01,XY-02", "XY-01  XY-02", "xy-1", "XY", "XY-01 "):
            with self.subTest(rows):
                program = build("rows", {"e.c": '#include "test.h"\n'
                                         'TEST(t, "%s") { CHECK(1); }\n' % rows})
                self.assertEqual(program("--list").code, 2)

    def test_options_that_are_none_are_refused(self):
        self.assertEqual(self.program("--colour").code, 2)
        self.assertEqual(self.program("--timeout", "soon").code, 2)
        self.assertEqual(self.program("--fail-alloc", "1").code, 2)


class Memory(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.program = build("memory", {"memory.c": MEMORY})
        cls.all = cls.program()

    def test_leaks(self):
        self.assertEqual(self.all.about("balanced"), "")
        self.assertIn("leaked 2 blocks, 32 bytes: 22 (allocation 2), 10 (allocation 1)",
                      self.all.about("leaks_two"))

    def test_damage(self):
        for test, message in (("frees_twice", "freed twice"),
                              ("writes_past_end", "written past its end"),
                              ("writes_before_start", "written before its start"),
                              ("writes_after_free", "written after it was freed")):
            self.assertIn(message, self.all.about(test))


class Torture(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.program = build("torture", {"torture.c": TORTURE}, FAULTS)
        cls.all = cls.program("--torture", "--timeout", "1.5")

    def test_without_torture_all_is_well(self):
        self.assertEqual(self.program().last, "11 passed, 1 failed")

    def test_counts(self):
        self.assertEqual(self.all.last, "6 passed, 5 failed, 1 skipped")
        self.assertEqual(self.all.code, 1)
        # Allocations: 3 for each of the three things, 6 with the hook, 1 in each of the two
        # threads, 2. Calls: 3 errors of socket and 1 of setsockopt, in two tests, and 2 of read.
        self.assertEqual(self.all.lines[-2],
                         "29 faults injected: 19 allocations, 10 system calls")

    def test_sound_code_passes(self):
        for test in ("sound_thing", "sound_socket", "hook_frees", "threads_give_up",
                     "a_thread_of_the_library", "only_one_allocation"):
            self.assertEqual(self.all.about(test), "")

    def test_a_leak_after_a_failed_allocation(self):
        text = self.all.about("leaking_thing")
        self.assertIn("leaking_thing: allocation 2: leaked 1 block", text)
        self.assertIn("CHECK(t != NULL) failed", text)
        self.assertEqual(self.all.text.count("FAIL leaking_thing"), 1)
        again = re.search(r"again: \S+ (.*)", text).group(1)
        self.assertEqual(again, "--run leaking_thing --fail-alloc 2")
        answer = self.program(*again.split())
        self.assertEqual((answer.code, answer.last), (1, "0 passed, 1 failed"))
        self.assertIn("leaked 1 block", answer.text)
        self.assertEqual(self.program("--run", "leaking_thing", "--fail-alloc", "3").code, 0)

    def test_a_leak_after_a_failed_call(self):
        text = self.all.about("leaking_socket")
        self.assertIn("setsockopt call 1 with ENOPROTOOPT: left descriptors open", text)
        again = re.search(r"again: \S+ (.*)", text).group(1)
        self.assertEqual(again, "--run leaking_socket --fail-call setsockopt:ENOPROTOOPT:1")
        self.assertEqual(self.program(*again.split()).code, 1)

    def test_crashes_and_hangs(self):
        self.assertIn("allocation 1: killed by signal 11", self.all.about("crashing_thing"))
        self.assertIn("read call 1 with EINTR: timed out after 1.5 s",
                      self.all.about("hanging_on_interrupt"))

    def test_a_test_that_fails_without_a_fault(self):
        self.assertIn("without a fault: ", self.all.about("fails_anyway"))

    def test_unknown_calls_are_named(self):
        self.assertIn("torture knows no errors for the system call ioctl", self.all.text)

    def test_cap(self):
        answer = self.program("--torture", "--torture-cap", "0", "sound_socket")
        self.assertIn("0 faults injected", answer.text)

    def test_a_program_compiled_without_faults_says_so(self):
        program = build("no-faults", {"no-faults.c": TORTURE})
        self.assertEqual(program("sound", "leaking").last, "4 passed, 0 failed")
        self.assertIn("nothing was made to fail", program("--torture", "sound").text)


class Sanitizers(unittest.TestCase):
    def test_torture_under_address_sanitizer(self):
        sanitize = "-fsanitize=address,undefined"
        write("trivial.c", "int main(void) { return 0; }\n")
        if compile(CC, sanitize, "trivial.c", "-o", "trivial"):
            self.skipTest("no ASan")
        program = build("asan", {"asan.c": TORTURE}, [*FAULTS, sanitize])
        answer = program("--torture", "thing", "hook", "socket")
        self.assertEqual(answer.last, "3 passed, 3 failed")
        self.assertIn("leaked 1 block", answer.about("leaking_thing"))
        self.assertIn("AddressSanitizer", answer.about("crashing_thing"))


if __name__ == "__main__":
    unittest.main()
