/*
 * error.c - codes, their texts, and errors with a message.
 */
#ifndef AIOL_BASE_ERROR_C
#define AIOL_BASE_ERROR_C

#include "base/mem.c"

typedef struct aiol_error_entry {
    int code;
    const char *name;
    const char *text;
} aiol_error_entry;

static const aiol_error_entry aiol_error_table[] = {
#define AIOL_ERROR_ENTRY(name, code, text) {code, #name, text},
    AIOLOOP_ERRORS(AIOL_ERROR_ENTRY)
#undef AIOL_ERROR_ENTRY
};

static const aiol_error_entry *aiol_error_find(int code) {
    size_t i;
    for (i = 0; i < sizeof(aiol_error_table) / sizeof(aiol_error_table[0]); i++)
        if (aiol_error_table[i].code == code)
            return &aiol_error_table[i];
    return NULL;
}

AIOLOOP_API const char *aioloop_strerror(int code) {
    const aiol_error_entry *entry = aiol_error_find(code);
    if (code >= 0)
        return "success";
    return entry != NULL ? entry->text : "unknown error";
}

AIOLOOP_API const char *aioloop_error_name(int code) {
    const aiol_error_entry *entry = aiol_error_find(code);
    if (code >= 0)
        return "OK";
    return entry != NULL ? entry->name : "EUNKNOWN";
}

#if AIOL_OS_POSIX
/* Translates errno. Its numbers differ between systems, ours do not; one that has no name here keeps its number, out of
 * the way of the others. */
AIOLOOP_INTERNAL int aiol_error_from_errno(int number) {
    switch (number) {
#define AIOL_ERRNO_CASE(name, code, text)                                                          \
    case name:                                                                                     \
        return AIOLOOP_##name;
        AIOLOOP_SYSTEM_ERRORS(AIOL_ERRNO_CASE)
#undef AIOL_ERRNO_CASE
    case ETIMEDOUT:
        return AIOLOOP_ETIMEDOUT;
#if EWOULDBLOCK != EAGAIN
    case EWOULDBLOCK:
        return AIOLOOP_EAGAIN;
#endif
    default:
        return number > 0 ? -10000 - number : AIOLOOP_EIO;
    }
}
#endif

/* ---- errors with a message ---- */

#define AIOL_ERROR_TEXT_SIZE 256

struct aioloop_error {
    int code;
    uint32_t refs;               /* of one that aiol_error_new made */
    size_t count;                /* of errors */
    struct aioloop_error **list; /* owned */
    char *text;                  /* "": nothing to add. Behind the struct in the same block, or the owner's buffer */
};

/* An error in a place that never allocates: a loop's or a thread's last one. */
typedef struct aiol_error_slot {
    struct aioloop_error error;
    char buffer[AIOL_ERROR_TEXT_SIZE];
} aiol_error_slot;

AIOLOOP_API int aioloop_error_code(const aioloop_error *error) {
    return error == NULL ? 0 : error->code;
}

AIOLOOP_API const char *aioloop_error_message(const aioloop_error *error) {
    if (error == NULL)
        return "success";
    if (error->text == NULL || error->text[0] == '\0')
        return aioloop_strerror(error->code);
    return error->text;
}

AIOLOOP_API size_t aioloop_error_count(const aioloop_error *error) {
    return error == NULL ? 0 : error->count;
}

AIOLOOP_API const aioloop_error *aioloop_error_at(const aioloop_error *error, size_t i) {
    if (error == NULL || i >= error->count)
        return NULL;
    return error->list[i];
}

AIOLOOP_INTERNAL void aiol_error_set(aiol_error_slot *slot, int code, const char *format, va_list arguments) {
    char text[AIOL_ERROR_TEXT_SIZE]; /* the arguments may be the message that is replaced */
    text[0] = '\0';
    if (format != NULL)
        vsnprintf(text, sizeof(text), format, arguments);
    memcpy(slot->buffer, text, strlen(text) + 1);
    slot->error.code = code;
    slot->error.count = 0;
    slot->error.text = slot->buffer;
}

/* Nothing is known of what failed last. */
AIOLOOP_INTERNAL void aiol_error_clear(aiol_error_slot *slot) {
    slot->error.code = 0;
    slot->error.count = 0;
    slot->error.text = slot->buffer;
    slot->buffer[0] = '\0';
}

/* An error of its own block with room for count others; NULL when there is no memory, and then the code alone has to
 * do. */
AIOLOOP_INTERNAL struct aioloop_error *aiol_error_new(const aioloop_allocator *a, int code, const char *text,
                                                      size_t count) {
    size_t length = text == NULL ? 0 : strlen(text);
    size_t list_size = count * sizeof(struct aioloop_error *);
    struct aioloop_error *e = (struct aioloop_error *)aiol_alloc(a, sizeof(*e) + list_size + length + 1);
    if (e == NULL)
        return NULL;
    e->code = code;
    e->refs = 1;
    e->count = 0;
    e->list = (struct aioloop_error **)(void *)(e + 1);
    e->text = (char *)(e + 1) + list_size;
    if (length != 0)
        memcpy(e->text, text, length);
    e->text[length] = '\0';
    return e;
}

/* Another owner; NULL is none. */
AIOL_INLINE struct aioloop_error *aiol_error_ref(struct aioloop_error *e) {
    if (e != NULL)
        e->refs++;
    return e;
}

/* An owner less. */
AIOLOOP_INTERNAL void aiol_error_free(const aioloop_allocator *a, struct aioloop_error *e) {
    size_t i;
    if (e == NULL || --e->refs != 0)
        return;
    for (i = 0; i < e->count; i++)
        aiol_error_free(a, e->list[i]);
    aiol_free(a, e, (size_t)(e->text - (char *)e) + strlen(e->text) + 1);
}

#endif
