/*
 * fault.h - the functions through which `make torture` makes memory and system calls fail.
 *
 * Only these declarations, so that it can be forced into every file of a test program:
 *
 *     cc -include tests/fault.h -DAIOLOOP_MALLOC=test_malloc -DAIOLOOP_REALLOC=test_realloc
 *        -DAIOLOOP_FREE=test_free -DAIOLOOP_FAULT=test_fault ...
 *
 * It includes nothing but <stddef.h>: a system header here would come before the feature macros
 * (_GNU_SOURCE) that the files themselves define.
 */
#ifndef TESTS_FAULT_H
#define TESTS_FAULT_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* malloc, realloc and free that count, fill, guard and fail on demand; any thread. A damaged guard,
 * a block freed twice and a write after free end the process with a message. test_realloc always
 * moves. */
void *test_malloc(size_t size);
void *test_realloc(void *block, size_t size);
void test_free(void *block);

/* calloc for a library that is linked with the tests (make torture WITH_TLS=1): counted with the blocks above and guarded
 * like them, freed by test_free; to torture a call. */
void *test_calloc(size_t count, size_t size);

/* Asked before each system call: 0 to go on, else the errno to fail with. Any thread. */
int test_fault(const char *system_call_name);

#ifdef __cplusplus
}
#endif

#endif
