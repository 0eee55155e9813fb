/*
 * hello.c - the smallest program: one callback, which stops the loop.
 *
 *     cc examples/hello.c -o hello && ./hello
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>

static void hello(aioloop *loop, void *arg) {
    printf("Hello, %s!\n", (const char *)arg);
    aioloop_stop(loop);
}

int main(void) {
    char name[] = "world";
    aioloop *loop = aioloop_new_event_loop(NULL);
    aioloop_handle handle = aioloop_call_soon(loop, hello, name);
    int error;
    if (aioloop_handle_is_null(&handle)) { /* also when there is no loop */
        fprintf(stderr, "hello: %s\n", aioloop_error_message(aioloop_last_error(loop)));
        return 1;
    }
    error = aioloop_run_forever(loop);
    if (error < 0)
        fprintf(stderr, "hello: %s\n", aioloop_strerror(error));
    aioloop_free(loop);
    return error < 0;
}
