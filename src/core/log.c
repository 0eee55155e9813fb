/*
 * log.c - where errors and warnings go.          (asyncio: base_events.call_exception_handler and its kin)
 *
 * Reporting never takes the loop down: an error of the user's handler goes to the default handler, and what that cannot
 * write is lost. What is written and whom it is given to run on the loop's stack: that of a coroutine may be too small
 * to print.
 */
#ifndef AIOL_CORE_LOG_C
#define AIOL_CORE_LOG_C

#include "core/core.h"

/* ---- where things were made ---- */

/* The site of the call that runs, as an index; 0 when not in debug mode or not known. Forgets it. */
AIOLOOP_INTERNAL uint32_t aiol_site_take(aioloop *loop) {
    const char *file = aiol_thread.site_file;
    int line = aiol_thread.site_line;
    size_t i;
    aiol_thread.site_file = NULL;
    if (!loop->debug || file == NULL)
        return 0;
    for (i = 1; i < loop->site_count; i++)
        if (loop->sites[i].line == line && loop->sites[i].file == file)
            return (uint32_t)i;
    if (loop->site_count == 0)
        loop->site_count = 1;
    if (aiol_grow(&loop->allocator, &loop->sites, &loop->site_capacity, sizeof(loop->sites[0]), loop->site_count + 1) < 0)
        return 0;
    loop->sites[loop->site_count].file = file;
    loop->sites[loop->site_count].line = line;
    return (uint32_t)loop->site_count++;
}

AIOLOOP_INTERNAL const aiol_site *aiol_site_at(const aioloop *loop, uint32_t site) {
    return site == 0 ? NULL : &loop->sites[site];
}

/* ---- raising ---- */

static void aiol_tell(aioloop *loop, int code, const char *format, va_list arguments) {
    struct aioloop_error *last = loop->error_of; /* the arguments may be its message */
    loop->error_of = NULL;
    loop->told = true;
    aiol_error_set(&loop->error, code, format, arguments);
    aiol_error_free(&loop->allocator, last);
}

/* What the thread has to tell the loop that runs in it. */
AIOLOOP_INTERNAL void aiol_tell_running(aioloop *loop, const struct aioloop_error *error) {
    (void)aiol_fail(loop, error->code, error->text[0] == '\0' ? NULL : "%s", error->text);
}

/* Remembers why a call fails, for aioloop_last_error. Returns code. */
AIOLOOP_INTERNAL int aiol_fail(aioloop *loop, int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (loop != NULL)
        aiol_tell(loop, code, format, arguments);
    else
        aiol_thread_tell(code, format, arguments);
    va_end(arguments);
    return code;
}

/* Remembers the error of a future that was awaited, as it is. */
AIOLOOP_INTERNAL void aiol_tell_of(aioloop *loop, int code, struct aioloop_error *error) {
    struct aioloop_error *last = loop->error_of;
    loop->error_of = aiol_error_ref(error);
    aiol_error_clear(&loop->error);
    if (error != NULL)
        loop->error.error = *error;
    loop->error.error.code = code;
    loop->told = true;
    aiol_error_free(&loop->allocator, last);
}

AIOLOOP_API int aioloop_raise(aioloop *loop, int code, const char *format, ...) {
    va_list arguments;
    if (code >= 0)
        code = AIOLOOP_EINVAL;
    va_start(arguments, format);
    if (loop != NULL)
        aiol_tell(loop, code, format, arguments);
    else
        aiol_thread_tell(code, format, arguments);
    va_end(arguments);
    if (loop != NULL) {
        loop->raised = code;
        loop->attention = true;
    }
    return code;
}

AIOLOOP_API const char *aioloop_message(aioloop *loop, int64_t code) {
    const aioloop_error *last = aioloop_last_error(loop);
    if (code >= 0)
        return "success";
    if (code != (int)code)
        return "unknown error";
    return last->code == (int)code ? aioloop_error_message(last) : aioloop_strerror((int)code);
}

AIOLOOP_API aioloop_error *aioloop_save_error(aioloop *loop) {
    int code = loop == NULL ? 0 : loop->error.error.code;
    if (code == 0)
        return NULL;
    if (loop->error_of != NULL && loop->error_of->code == code)
        return aiol_error_ref(loop->error_of);
    return aiol_error_new(&loop->allocator, code, aiol_detail(loop, code), 0);
}

AIOLOOP_API void aioloop_restore_error(aioloop *loop, aioloop_error *error) {
    if (loop == NULL || error == NULL)
        return;
    aiol_tell_of(loop, error->code, error);
    aiol_error_free(&loop->allocator, error);
}

AIOLOOP_API const aioloop_error *aioloop_last_error(aioloop *loop) {
    return loop != NULL ? &loop->error.error : &aiol_thread.error.error;
}

/* True in debug mode if another thread runs the loop: nothing of the loop may be touched. */
AIOLOOP_INTERNAL bool aiol_wrong_thread(aioloop *loop) {
    return loop->debug && aiol_load(&loop->running) != 0 && aiol_thread.running != loop;
}

/* What may make a call on the loop refused, when loop->careful says to look. 0, or the code with its message stored. */
AIOLOOP_INTERNAL int aiol_check(aioloop *loop) {
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    return aiol_wrong_thread(loop) ? AIOLOOP_EMISUSE : 0;
}

/* ---- logging ---- */

/* The log while none is set. Each line says where it comes from: the program's own go to the same place. */
static void aiol_log_print(const char *text) {
    for (;;) {
        size_t length = strcspn(text, "\n");
        fprintf(stderr, "aioloop: %.*s\n", (int)length, text);
        if (text[length] == '\0')
            return;
        text += length + 1;
    }
}

/* What the log raises is lost: there is nobody left to tell. */
static void aiol_log_write(aioloop *loop, aioloop_log_level level, const char *text) {
    int raised = loop->raised;
    aiol_task *task = loop->task;
    loop->task = NULL;
    if (loop->log != NULL)
        loop->log(loop, level, text, loop->log_arg);
    else
        aiol_log_print(text);
    loop->task = task;
    loop->raised = raised;
}

AIOLOOP_API void aioloop_set_log(aioloop *loop, aioloop_log fn, void *arg) {
    if (loop == NULL)
        return;
    loop->log = fn;
    loop->log_arg = arg;
}

typedef struct aiol_warning {
    aioloop *loop;
    uint32_t site;
    const char *format;
    va_list *arguments;
} aiol_warning;

static void aiol_warn_write(void *arg) {
    const aiol_warning *warning = (const aiol_warning *)arg;
    const aiol_site *at = aiol_site_at(warning->loop, warning->site);
    char text[512];
    size_t length;
    vsnprintf(text, sizeof(text), warning->format != NULL ? warning->format : "", *warning->arguments);
    length = strlen(text);
    if (at != NULL)
        snprintf(text + length, sizeof(text) - length, " (made at %s:%d)", at->file, at->line);
    aiol_log_write(warning->loop, AIOLOOP_LOG_WARNING, text);
}

AIOLOOP_INTERNAL void aiol_warn(aioloop *loop, uint32_t site, const char *format, ...) {
    aiol_warning warning;
    va_list arguments;
    va_start(arguments, format);
    warning.loop = loop;
    warning.site = site;
    warning.format = format;
    warning.arguments = &arguments;
    aiol_on_loop_stack(loop, aiol_warn_write, &warning);
    va_end(arguments);
}

/* Debug mode: what ran took from `since` until now; said if that was long. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_slow(aioloop *loop, uint32_t site, aioloop_time since, const char *what) {
    aioloop_time took = aiol_loop_now(loop) - since;
    if (took >= loop->slow)
        aiol_warn(loop, site, "%s took %lld ms", what, (long long)(took / 1000000));
}

/* A line of the default handler's text: "name: value". */
static size_t aiol_log_line(char *text, size_t size, size_t length, const char *format, ...) AIOLOOP_PRINTF(4, 5);
static size_t aiol_log_line(char *text, size_t size, size_t length, const char *format, ...) {
    va_list arguments;
    int n;
    if (length >= size)
        return length;
    va_start(arguments, format);
    n = vsnprintf(text + length, size - length, format, arguments);
    va_end(arguments);
    return n < 0 ? length : length + (size_t)n;
}

/* What is reported, and to which loop. */
typedef struct aiol_reported {
    aioloop *loop;
    const aioloop_exception_context *context;
} aiol_reported;

static void aiol_report_on_loop_stack(aioloop *loop, const aioloop_exception_context *context, void (*fn)(void *reported)) {
    aiol_reported reported;
    if (loop == NULL || context == NULL)
        return;
    reported.loop = loop;
    reported.context = context;
    aiol_on_loop_stack(loop, fn, &reported);
}

static void aiol_report_write(void *reported) {
    aioloop *loop = ((aiol_reported *)reported)->loop;
    const aioloop_exception_context *context = ((aiol_reported *)reported)->context;
    char text[1024];
    size_t n;
    n = aiol_log_line(text, sizeof(text), 0, "%s",
                      context->message != NULL ? context->message : "Unhandled error in event loop");
    if (context->asyncgen != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nasyncgen: %p", context->asyncgen);
    if (context->error != 0)
        n = aiol_log_line(text, sizeof(text), n, "\nerror: %s: %s", aioloop_error_name(context->error),
                          context->detail != NULL ? context->detail : aioloop_strerror(context->error));
    if (context->future != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nfuture: %p", (void *)context->future);
    if (context->handle.slot != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nhandle: %llu", (unsigned long long)context->handle.sequence);
    if (context->protocol != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nprotocol: %p", (const void *)context->protocol);
    if (context->server != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nserver: %p", (void *)context->server);
    if (context->socket != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nsocket: %ld", (long)*context->socket);
    if (context->source_file != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nsource: %s:%d", context->source_file, context->source_line);
    if (context->task != NULL && (context->task->flags & AIOL_FUTURE_TASK) != 0) {
        char name[64];
        n = aiol_log_line(text, sizeof(text), n, "\ntask: %s",
                          aiol_task_name((aiol_task *)(void *)context->task, name, sizeof(name)));
    }
    if (context->transport != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\ntransport: %p", (void *)context->transport);
    (void)n;
    aiol_log_write(loop, AIOLOOP_LOG_ERROR, text);
}

AIOLOOP_API void aioloop_default_exception_handler(aioloop *loop, const aioloop_exception_context *context) {
    aiol_report_on_loop_stack(loop, context, aiol_report_write);
}

/* Calls the handler in the context of the task that failed, if it is one and has not entered it already. It cannot
 * wait. Returns what it raised. */
static int aiol_handler_call(aioloop *loop, const aioloop_exception_context *context) {
    aiol_map **place = aiol_task_place(context->task);
    aiol_context_frame frame = {NULL, NULL};
    aiol_task *failed = place == NULL ? NULL : (aiol_task *)(void *)context->task;
    aiol_task *task = loop->task;
    int outer = loop->raised;
    int raised;
    if (failed != NULL && (failed->flags & AIOL_TASK_RUNS) != 0)
        failed = NULL;
    if (failed != NULL) {
        aiol_future_hold(&failed->future);
        failed->flags |= AIOL_TASK_RUNS;
        frame = aiol_context_enter(place);
    }
    loop->raised = 0;
    loop->task = NULL;
    loop->handler(loop, context, loop->handler_arg);
    raised = loop->raised;
    loop->raised = outer;
    loop->task = task;
    if (failed != NULL) {
        aiol_context_leave(&frame);
        failed->flags &= (uint16_t)~AIOL_TASK_RUNS;
        aiol_future_release(&failed->future);
    }
    return raised;
}

static void aiol_report_handle(void *reported) {
    aioloop *loop = ((aiol_reported *)reported)->loop;
    const aioloop_exception_context *context = ((aiol_reported *)reported)->context;
    int raised;
    if (loop->handler == NULL) {
        aioloop_default_exception_handler(loop, context);
        return;
    }
    raised = aiol_handler_call(loop, context);
    if (raised == AIOLOOP_EFATAL) {
        aiol_loop_halt(loop);
    } else if (raised != 0) {
        aioloop_exception_context own;
        memset(&own, 0, sizeof(own));
        own.message = "Unhandled error in exception handler";
        own.error = raised;
        own.detail = aioloop_error_message(aioloop_last_error(loop));
        aioloop_default_exception_handler(loop, &own);
        aioloop_default_exception_handler(loop, context);
    }
}

AIOLOOP_API void aioloop_call_exception_handler(aioloop *loop, const aioloop_exception_context *context) {
    aiol_report_on_loop_stack(loop, context, aiol_report_handle);
}

/* Hands the error of user code to the exception handler; a fatal one ends the run instead. The caller has filled in
 * what it concerns. The error's message is the loop's last one, if the code is the same. */
AIOLOOP_INTERNAL void aiol_report(aioloop *loop, int code, uint32_t site, aioloop_exception_context *context) {
    char detail[AIOL_ERROR_TEXT_SIZE];
    const aiol_site *at = aiol_site_at(loop, site);
    if (code == AIOLOOP_EFATAL) {
        aiol_loop_halt(loop);
        return;
    }
    context->error = code;
    if (context->detail == NULL && aiol_detail(loop, code) != NULL) {
        snprintf(detail, sizeof(detail), "%s", aiol_detail(loop, code)); /* the handler may fail, and then store another */
        context->detail = detail;
    }
    if (at != NULL) {
        context->source_file = at->file;
        context->source_line = at->line;
    }
    aioloop_call_exception_handler(loop, context);
}

AIOLOOP_API void aioloop_set_exception_handler(aioloop *loop, aioloop_exception_handler fn, void *arg) {
    if (loop == NULL)
        return;
    loop->handler = fn;
    loop->handler_arg = arg;
}

AIOLOOP_API aioloop_exception_handler aioloop_get_exception_handler(aioloop *loop, void **arg) {
    if (loop == NULL)
        return NULL;
    if (arg != NULL)
        *arg = loop->handler_arg;
    return loop->handler;
}

/* ---- debug mode ---- */

AIOLOOP_API int aioloop_set_debug(aioloop *loop, bool enabled) {
    if (loop == NULL)
        return AIOLOOP_EINVAL;
#if AIOLOOP_USE_DEBUG
    loop->debug = enabled;
    loop->careful = enabled || loop->closed;
    aiol_thread.site_file = NULL;
    return 0;
#else
    return enabled ? AIOLOOP_ENOTAVAILABLE : 0;
#endif
}

AIOLOOP_API bool aioloop_get_debug(aioloop *loop) {
    return loop != NULL && loop->debug;
}

AIOLOOP_API int aioloop_set_slow_callback_duration(aioloop *loop, aioloop_time duration) {
    if (loop == NULL || duration < 0)
        return AIOLOOP_EINVAL;
    loop->slow = duration;
    return 0;
}

AIOLOOP_API aioloop_time aioloop_get_slow_callback_duration(aioloop *loop) {
    return loop == NULL ? 0 : loop->slow;
}

#endif
