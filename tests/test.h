/*
 * test.h - how a test is written: the registry and the assertions. test_main.c is the runner.
 *
 *     #include "test.h"
 *
 *     TEST(cancelled_timer_never_runs, "TIM-04 TIM-05") {
 *         ...
 *         CHECK_EQ(runs, 0);
 *     }
 *
 * The string names the rows of the conformance table that the test proves, "" if none. The test is
 * registered by being written; there is no second list. Link any number of test files with one
 * test_main.c. Names are unique in a program.
 *
 * Each test runs in a process of its own. It fails when a CHECK fails, when it makes no CHECK at
 * all, when it crashes, hangs, or leaves a descriptor or a block of the library's memory behind.
 *
 * Only <stddef.h> is included, so this header may stand before the library's implementation, which
 * has to set feature macros before the first system header.
 */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include "fault.h"

#if defined(__GNUC__) || defined(__clang__)
#define TEST_NORETURN __attribute__((noreturn))
#elif defined(_MSC_VER)
#define TEST_NORETURN __declspec(noreturn)
#else
#define TEST_NORETURN
#endif

/* Not on MinGW: which printf is meant there depends on macros of the including file, but the
 * runner's own is always the standard one. The other compilers check the arguments. */
#if (defined(__GNUC__) || defined(__clang__)) && !defined(__MINGW32__)
#define TEST_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define TEST_PRINTF(text, first)
#endif

/* Sanitizers, as 0 or 1: support code may want to make less of what is slow under them. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define TEST_TSAN 1
#endif
#if __has_feature(memory_sanitizer)
#define TEST_MSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(TEST_ASAN)
#define TEST_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__) && !defined(TEST_TSAN)
#define TEST_TSAN 1
#endif
#ifndef TEST_ASAN
#define TEST_ASAN 0
#endif
#ifndef TEST_TSAN
#define TEST_TSAN 0
#endif
#ifndef TEST_MSAN
#define TEST_MSAN 0
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- registry ---- */

/* Flags of a test. The runner can leave tests with a flag out: --skip-flag real-fds. */
enum {
    TEST_REAL_FDS = 1, /* needs descriptors of the system: meaningless on a simulated one */
    TEST_THREADS = 2,  /* starts threads of its own; in torture, giving up then ends the process at
                          once, because they still run: no clean-up and no search for leaks */
    TEST_SLOW = 4      /* five times the time-out, and left out of torture */
};

typedef struct test_case {
    const char *name;
    const char *rows;
    const char *file;
    int line;
    unsigned flags;
    void (*run)(void);
    struct test_case *next;
} test_case;

void test_register(test_case *test);

/* Without the attribute, a static object registers in C++, and in C the start-up table that MSVC's
 * runtime walks. glibc's headers make __attribute__ vanish under tcc, but not __attribute. */
#if defined(__GNUC__) || defined(__clang__)
#define TEST_AT_START(name)                                                                        \
    __attribute__((constructor)) static void test_register_##name(void) {                         \
        test_register(&test_case_##name);                                                          \
    }
#elif defined(__TINYC__)
#define TEST_AT_START(name)                                                                        \
    __attribute((constructor)) static void test_register_##name(void) {                           \
        test_register(&test_case_##name);                                                          \
    }
#elif defined(__cplusplus)
#define TEST_AT_START(name) static test_registrar test_register_##name(&test_case_##name);
#elif defined(_MSC_VER)
#pragma section(".CRT$XCU", read)
#define TEST_AT_START(name)                                                                        \
    static void __cdecl test_register_##name(void) {                                              \
        test_register(&test_case_##name);                                                          \
    }                                                                                              \
    __declspec(allocate(".CRT$XCU")) void(__cdecl * test_start_##name)(void) =                     \
        test_register_##name;
#else
#error "test.h: how does this compiler run a function before main?"
#endif

#define TEST_WITH(name, rows, flags)                                                               \
    static void test_body_##name(void);                                                            \
    static test_case test_case_##name = {#name,   rows, __FILE__, __LINE__,                        \
                                         (flags), test_body_##name, NULL};                         \
    TEST_AT_START(name)                                                                            \
    static void test_body_##name(void)

#define TEST(name, rows) TEST_WITH(name, rows, 0)

/* ---- assertions ----
 *
 * A failed one prints file, line, expressions and values, and ends the test. They work in any
 * thread and on any stack. Each argument is evaluated once. */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        test_checked();                                                                            \
        if (!(condition))                                                                          \
            test_fail(__FILE__, __LINE__, "CHECK(%s) failed", #condition);                         \
    } while (0)

/* CHECK_INT(n, >=, 3). Any integers; `| 0` refuses pointers and numbers with a fraction, which the
 * cast would cut. Unsigned values of 2^63 and more are compared as negative ones. */
#define CHECK_INT(a, op, b) TEST_INT(a, op, b, "CHECK_INT(" #a ", " #op ", " #b ")")
#define CHECK_EQ(a, b) TEST_INT(a, ==, b, "CHECK_EQ(" #a ", " #b ")")
#define CHECK_NE(a, b) TEST_INT(a, !=, b, "CHECK_NE(" #a ", " #b ")")
#define CHECK_LT(a, b) TEST_INT(a, <, b, "CHECK_LT(" #a ", " #b ")")
#define CHECK_LE(a, b) TEST_INT(a, <=, b, "CHECK_LE(" #a ", " #b ")")
#define CHECK_GT(a, b) TEST_INT(a, >, b, "CHECK_GT(" #a ", " #b ")")
#define CHECK_GE(a, b) TEST_INT(a, >=, b, "CHECK_GE(" #a ", " #b ")")

#define TEST_INT(a, op, b, text)                                                                   \
    do {                                                                                           \
        const long long test_left_ = (long long)((a) | 0);                                         \
        const long long test_right_ = (long long)((b) | 0);                                        \
        test_checked();                                                                            \
        if (!(test_left_ op test_right_))                                                          \
            test_fail_int(__FILE__, __LINE__, text, test_left_, test_right_);                      \
    } while (0)

/* Strings; NULL equals only NULL. */
#define CHECK_STR(a, b)                                                                            \
    test_check_str(__FILE__, __LINE__, "CHECK_STR(" #a ", " #b ")", (a), (b))

/* The first n bytes. */
#define CHECK_MEM(a, b, n)                                                                         \
    test_check_mem(__FILE__, __LINE__, "CHECK_MEM(" #a ", " #b ", " #n ")", (a), (b), (n))

/* Pointers to objects. */
#define CHECK_PTR(a, b)                                                                            \
    test_check_ptr(__FILE__, __LINE__, "CHECK_PTR(" #a ", " #b ")", (a), (b))

/* All three take what printf takes. SKIP ends the test without a verdict; NOTE is seen when the
 * test fails, and with -v. */
#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)
#define SKIP(...) test_skip(__FILE__, __LINE__, __VA_ARGS__)
#define NOTE(...) test_note(__FILE__, __LINE__, __VA_ARGS__)

void test_checked(void);
TEST_NORETURN void test_fail(const char *file, int line, const char *format, ...) TEST_PRINTF(3, 4);
TEST_NORETURN void test_skip(const char *file, int line, const char *format, ...) TEST_PRINTF(3, 4);
void test_note(const char *file, int line, const char *format, ...) TEST_PRINTF(3, 4);
TEST_NORETURN void test_fail_int(const char *file, int line, const char *text, long long a,
                                 long long b);
void test_check_str(const char *file, int line, const char *text, const char *a, const char *b);
void test_check_mem(const char *file, int line, const char *text, const void *a, const void *b,
                    size_t n);
void test_check_ptr(const char *file, int line, const char *text, const void *a, const void *b);

/* Where every failed assertion ends: a place for a debugger's breakpoint. Without an injected fault
 * the test has failed. With one it has only noticed the fault: the test is left by longjmp,
 * test_cleanup_hook runs, and what is still there after it is a leak. */
TEST_NORETURN void test_give_up(void);

/* ---- for support code ---- */

/* Set by the support code; frees all loops that the test made and closes the descriptors that the
 * test itself opened. Called after a test was given up, on the runner's stack and with injection
 * off. A test that returns by itself cleans up by itself. */
extern void (*test_cleanup_hook)(void);

/* May be set by a test: lets go, after it, of what a library keeps for the whole process, before leaks are searched. */
extern void (*test_forget_hook)(void);

/* May be set by the support code: the name of a number for CHECK_EQ and its like to print beside it
 * (of an error code), or NULL. */
extern const char *(*test_number_hook)(long long number);

/* May be set by a test before anything that it watches begins: called before each system call of the library, in the
 * thread that makes it, which may be kept there. */
extern void (*test_call_hook)(const char *system_call_name);

/* From now on each call of that name fails with that errno, in this process; NULL: none does. The table of faults in
 * test_main.c has the name. */
void test_fail_calls(const char *system_call_name, int error);

/* For a test that has let go of threads which nobody joins: waits until what it allocated is freed, some seconds at
 * most. */
void test_wait_until_freed(void);

/* This test may end with other descriptors open than it began with. */
void test_allow_fd_leak(void);

/* The flags of the running test. */
unsigned test_flags(void);

/* Whether a fault has been injected in this run. */
int test_injected(void);

/* How many times slower than usual the program may be: sanitizers, valgrind, $TEST_SLOWDOWN.
 * Support code multiplies waiting times in real time by it. */
double test_slowdown(void);

#ifdef __cplusplus
}

struct test_registrar {
    explicit test_registrar(test_case *test) {
        test_register(test);
    }
};
#endif

#endif
