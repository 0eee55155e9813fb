/*
 * file.c - files that are read at once, or appended to, and what the environment says.
 */
#ifndef AIOL_SYS_FILE_C
#define AIOL_SYS_FILE_C

#include "sys/sys.h"

/* A file's contents, with a zero behind them. */
typedef struct aiol_file {
    char *data;
    size_t size;
    size_t room; /* of the block */
} aiol_file;

/* Overwrites what nobody may find later; a compiler does not leave out volatile stores. */
AIOLOOP_INTERNAL void aiol_wipe(void *p, size_t size) {
    volatile unsigned char *byte = (volatile unsigned char *)p;
    while (size-- != 0)
        *byte++ = 0;
}

/* Keys leave no trace in memory that was given back. */
AIOLOOP_INTERNAL void aiol_file_free(const aioloop_allocator *a, aiol_file *file) {
    if (file->data == NULL)
        return;
    aiol_wipe(file->data, file->room);
    aiol_free(a, file->data, file->room);
    file->data = NULL;
}

#if AIOL_OS_POSIX

#define AIOL_FILE_MOST ((size_t)64 << 20)

static int aiol_file_open(const char *path, int flags) {
    int fd;
    do {
        fd = AIOL_SYS(open, open(path, flags | O_CLOEXEC, 0600));
    } while (fd < 0 && errno == EINTR);
    return fd < 0 ? aiol_error_from_errno(errno) : fd;
}

/* Twice the room. Not by the allocator's realloc, which would leave a copy. */
static int aiol_file_grow(const aioloop_allocator *a, aiol_file *file) {
    aiol_file grown = *file;
    grown.room = file->room == 0 ? 16384 : file->room * 2;
    if (grown.room > AIOL_FILE_MOST)
        return AIOLOOP_EFBIG;
    grown.data = (char *)aiol_alloc(a, grown.room);
    if (grown.data == NULL)
        return AIOLOOP_ENOMEM;
    if (file->size != 0)
        memcpy(grown.data, file->data, file->size);
    aiol_file_free(a, file);
    *file = grown;
    return 0;
}

/* Reads all of a file, at most some 60 MB (AIOLOOP_EFBIG). Free it with aiol_file_free. 0 or a code. */
AIOLOOP_INTERNAL int aiol_file_read(const aioloop_allocator *a, const char *path, aiol_file *file) {
    int fd = aiol_file_open(path, O_RDONLY);
    int err = fd < 0 ? fd : 0;
    ssize_t n = 1;
    memset(file, 0, sizeof(*file));
    while (err == 0 && n != 0) {
        if (file->room - file->size < 2)
            err = aiol_file_grow(a, file);
        if (err < 0)
            break;
        n = AIOL_SYS(read, read(fd, file->data + file->size, file->room - file->size - 1));
        if (n >= 0)
            file->size += (size_t)n;
        else if (errno != EINTR)
            err = aiol_error_from_errno(errno);
    }
    if (fd >= 0)
        close(fd);
    if (err < 0)
        aiol_file_free(a, file);
    else
        file->data[file->size] = '\0';
    return err;
}

/* Calls fn with the path of each thing in a folder whose name does not begin with a dot, until it answers below 0.
 * That, or 0, or why the folder cannot be read. */
AIOLOOP_INTERNAL int aiol_folder_each(const aioloop_allocator *a, const char *path,
                                      int (*fn)(void *arg, const char *file), void *arg) {
    const size_t room = strlen(path) + 258; /* a name has at most 255 bytes */
    struct dirent *entry;
    char *file;
    DIR *folder;
    int err = 0;
    if (AIOL_SYS(opendir, 0) < 0)
        return aiol_error_from_errno(errno);
    folder = opendir(path);
    if (folder == NULL)
        return aiol_error_from_errno(errno);
    file = (char *)aiol_alloc(a, room);
    if (file == NULL)
        err = AIOLOOP_ENOMEM;
    while (err >= 0 && (entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] == '.' || strlen(entry->d_name) > 255)
            continue;
        snprintf(file, room, "%s/%s", path, entry->d_name);
        err = fn(arg, file);
    }
    closedir(folder);
    aiol_free(a, file, room);
    return err < 0 ? err : 0;
}

/* Opens a file to append to, made for its owner's eyes alone. A descriptor or a code. */
AIOLOOP_INTERNAL int aiol_file_append_to(const char *path) {
    return aiol_file_open(path, O_WRONLY | O_APPEND | O_CREAT);
}

/* In one write, so that lines of several threads stay whole; what a full disk does not take is lost. */
AIOLOOP_INTERNAL void aiol_file_append(int fd, const void *data, size_t size) {
    ssize_t n;
    do {
        n = AIOL_SYS(write, write(fd, data, size));
    } while (n < 0 && errno == EINTR);
}

AIOLOOP_INTERNAL void aiol_file_close(int fd) {
    close(fd);
}

/* A variable of the environment, or NULL; also where the program has more rights than who started it. */
AIOLOOP_INTERNAL const char *aiol_environment(const char *name) {
#if AIOL_OS_LINUX
    return secure_getenv(name);
#else
    return getuid() != geteuid() || getgid() != getegid() ? NULL : getenv(name);
#endif
}

#else

AIOLOOP_INTERNAL int aiol_file_read(const aioloop_allocator *a, const char *path, aiol_file *file) {
    (void)a;
    (void)path;
    (void)file;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL int aiol_folder_each(const aioloop_allocator *a, const char *path,
                                      int (*fn)(void *arg, const char *file), void *arg) {
    (void)a;
    (void)path;
    (void)fn;
    (void)arg;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL int aiol_file_append_to(const char *path) {
    (void)path;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL void aiol_file_append(int fd, const void *data, size_t size) {
    (void)fd;
    (void)data;
    (void)size;
}

AIOLOOP_INTERNAL void aiol_file_close(int fd) {
    (void)fd;
}

AIOLOOP_INTERNAL const char *aiol_environment(const char *name) {
    (void)name;
    return NULL;
}

#endif

#endif
